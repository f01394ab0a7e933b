"""Shoppers of somebody else: a Gymnasium slate environment as a `Shopper`.

With this, every policy and agent made for `SlateSimulator` runs on an outsider's environment as it
is. The shop gets to know the items and their embeddings, what it showed and what was clicked, and
nothing of the outsider's observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.rewards import Reward
from recsim_env.shoppers.base import Description, Shopper, counted
from recsim_env.shoppers.profile import Profile, profile_spaces
from recsim_env.simulator import SlateSimulator
from recsim_env.trees import pick, put
from recsim_env.types import MAX_DAYS, Observation, Response, best_device

Environment = gymnasium.Env[Any, Any]
Clicks = Callable[[Any, Mapping[str, Any]], ArrayLike]
"""Reads the clicks (K,), 0 or 1 each, from the observation and the info of a step."""


def clicks_in_info(observation: Any, info: Mapping[str, Any]) -> ArrayLike:
    """Read the clicks of a step whose info holds them under `clicks`."""
    clicks: ArrayLike = info["clicks"]
    return clicks


@dataclass(frozen=True)
class OutsideSpec:
    """What must be said of an environment that was not made for this package.

    Its action is a slate: `MultiDiscrete` of K item ids 0..N-1, top position first.

    Raises:
        ValueError: If a field is not as said.
    """

    make: Callable[[], Environment]
    """Makes the environment; called once a shopper."""
    catalog: Catalog
    """The items; `clustered_catalog` makes it from embeddings alone."""
    visits: int
    """Steps of an episode. One that ends there, `terminated` or not, was cut off by the clock;
    before, the shopper left."""
    clicks: Clicks = clicks_in_info
    """Reads the clicks of a step."""

    def __post_init__(self) -> None:
        for name in ("make", "clicks"):
            if not callable(getattr(self, name)):
                raise ValueError(
                    f"{name} is {checks.told(getattr(self, name))}, but it must be a function."
                )
        if not isinstance(self.catalog, Catalog):
            raise ValueError(f"catalog is {checks.told(self.catalog)}, but it must be a Catalog.")
        object.__setattr__(self, "visits", checks.whole("visits", self.visits, 1, int(MAX_DAYS)))


@dataclass
class OutsideState:
    """The hidden state of B shoppers.

    Environments are moved and never copied: a state of which rows were picked is used no more.
    """

    environments: list[Environment]
    """The environments of B shoppers, one each."""
    visit: NDArray[np.int64]
    """(B,) visits so far."""
    over: NDArray[np.bool_]
    """(B,) the outsider's episode has ended."""
    profile: Profile
    """What the shop remembers."""

    def __len__(self) -> int:
        """The number of shoppers B."""
        return len(self.visit)

    def pick(self, rows: Tensor) -> OutsideState:
        """Move some rows (R,) into a state of their own, environments included.

        Raises:
            ValueError: If a row is named twice: an environment cannot be copied.
        """
        numbers = rows.tolist()
        if len(set(numbers)) < len(numbers):
            raise ValueError(
                f"rows is {numbers}, but each must stand there once: an outside shopper has no "
                "copies."
            )
        environments = [self.environments[row] for row in numbers]
        profile = pick(self.profile, rows)
        return OutsideState(environments, self.visit[numbers], self.over[numbers], profile)

    def put(self, rows: Tensor, fresh: OutsideState) -> None:
        """Write new shoppers into rows (R,), and close the environments that stood there."""
        numbers = rows.tolist()
        for row, environment in zip(numbers, fresh.environments, strict=True):
            self.environments[row].close()
            self.environments[row] = environment
        self.visit[numbers] = fresh.visit
        self.over[numbers] = fresh.over
        put(self.profile, rows, fresh.profile)


class OutsideShopper(Shopper[OutsideState]):
    """The population of an outside environment.

    They come once a day. Every item is a candidate at every visit. Observation: the keys of
    `recsim_env.shoppers.profile.profile_spaces`. An environment is seeded once, by `reset`, from
    the simulator's noise; what it draws in its visits is its own affair.

    `Response.probability` is the clicks as 0 and 1: the chance before the noise is not known here,
    and of all that is known only the clicks have the right mean. Where an item is repeated within a
    slate the outsider sees the slate as it is, but a click on the repetition does not count.

    Raises:
        ValueError: If `spec` is none, `make` makes no environment, or its action space is no slate
            of the catalogue's items.
    """

    def __init__(self, spec: OutsideSpec, device: torch.device) -> None:
        size = _slate_size(spec)
        super().__init__(
            spec.catalog, size, device=best_device(device), start_draws=2, visit_draws=0
        )
        self.spec = spec

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the spaces of `observe` for one shopper."""
        return profile_spaces(self.catalog, self.slate_size)

    def start(self, draws: Tensor) -> OutsideState:
        """Make an environment for every shopper and reset it with `environment_seeds`."""
        environments = [self.spec.make() for _ in range(len(draws))]
        for environment, seed in zip(environments, environment_seeds(draws), strict=True):
            environment.reset(seed=seed)
        return OutsideState(
            environments=environments,
            visit=np.zeros(len(draws), dtype=np.int64),
            over=np.zeros(len(draws), dtype=np.bool_),
            profile=Profile.empty(len(draws), self.catalog, self.slate_size, self.device),
        )

    def observe(self, state: OutsideState) -> Observation:
        """Return what the shop remembers of its slates and the clicks."""
        return state.profile.observe()

    def respond(
        self, state: OutsideState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        """Step every environment; moves `state` in place.

        Raises:
            RuntimeError: If an environment ends in another way than `OutsideSpec` says, or where
                `OutsideSpec.clicks` does not give K numbers of 0 and 1.
        """
        actions = slates.cpu().numpy()
        answers = [self._step(state, row, action) for row, action in enumerate(actions)]
        clicked = (
            torch.from_numpy(np.stack([clicks for clicks, _ in answers])).to(self.device) & shown
        )
        left = torch.tensor([gone for _, gone in answers], dtype=torch.bool, device=self.device)
        state.profile.record(slates, shown, clicked, self.catalog.category, self.catalog.embedding)
        none = torch.zeros(len(left), dtype=torch.float32, device=self.device)
        one = torch.ones_like(none)
        return Response(clicked, clicked.to(torch.float32), left, days=one, elsewhere=none)

    def describe(self, state: OutsideState, row: int) -> Description:
        """Tell what was clicked in each category so far."""
        clicks = state.profile.clicked[row, :, -1]
        best = clicks.argsort(descending=True, stable=True)[:8].tolist()
        names = self.catalog.categories
        lines = [
            f"{counted(int(clicks[group]), 'click')} · {names[group]}"
            for group in best
            if clicks[group]
        ]
        who = str(state.environments[row].unwrapped)
        return {
            "shopper": who,
            "date": f"visit {state.visit[row] + 1}",
            "store": "outside",
            "history": lines,
        }

    def _step(
        self, state: OutsideState, row: int, action: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], bool]:
        """Return the clicks (K,) of one shopper, and whether that was the last of them.

        There are none once the episode is over.
        """
        state.visit[row] += 1
        visit = int(state.visit[row])
        if state.over[row]:
            if visit > self.spec.visits + 1:
                raise RuntimeError(
                    f"An outside episode is asked for visit {visit}, but it has "
                    f"{self.spec.visits}: the simulator's "
                    "horizon_days must not be longer."
                )
            return np.zeros(self.slate_size, dtype=np.bool_), False
        observation, _, terminated, truncated, info = state.environments[row].step(action)
        if truncated and visit < self.spec.visits:
            raise RuntimeError(
                f"An outside episode was cut off at visit {visit}, but OutsideSpec.visits is "
                f"{self.spec.visits}."
            )
        state.over[row] = terminated or truncated or visit >= self.spec.visits
        clicks = self._clicks(self.spec.clicks(observation, info))
        return clicks, bool(terminated) and visit < self.spec.visits

    def _clicks(self, found: ArrayLike) -> NDArray[np.bool_]:
        """Return the clicks of a step: (K,) bool.

        Raises:
            RuntimeError: As `respond`.
        """
        clicks = np.asarray(found)
        if clicks.shape != (self.slate_size,) or not bool(np.isin(clicks, (0, 1)).all()):
            told = checks.told(found)
            raise RuntimeError(
                f"OutsideSpec.clicks gave {told}, but it must give {self.slate_size} numbers of 0 "
                "and 1."
            )
        return clicks.astype(np.bool_)


def outside_simulator(
    spec: OutsideSpec,
    reward: Reward | None = None,
    *,
    device: torch.device | str = "cpu",
    history: int = 10,
) -> SlateSimulator:
    """Make a simulator over an outside environment.

    The reward is the number of clicks unless another is given.

    Raises:
        ValueError: If the environment does not fit `spec`.
    """
    reward = Reward({"clicks": 1.0}) if reward is None else reward
    shopper = OutsideShopper(spec, best_device(device))
    return SlateSimulator(shopper, reward, horizon_days=float(spec.visits), history=history)


def environment_seeds(draws: Tensor) -> list[int]:
    """Return the seed of each environment, 31 bits from two uniform numbers: draws (B, 2).

    Some environments take no more than 32 bits.
    """
    high, low = (
        (draws * draws.new_tensor([2.0**24, 2.0**7])).long().unbind(dim=1)
    )  # exact: powers of two
    seeds: list[int] = (high * 2**7 + low).tolist()
    return seeds


# ---- a catalogue from embeddings alone -----------------------------------------------------------


def clustered_catalog(embedding: Tensor, clusters: int, seed: int = 0) -> Catalog:
    """Make a catalogue of embeddings alone; the categories are clusters of them.

    Args:
        embedding: (N, E) float; it is brought to unit length.
        clusters: How many categories.
        seed: The seed of the clusters.

    Raises:
        ValueError: If `embedding` is no matrix of finite rows above zero, or has fewer rows than
            clusters.
    """
    dense = (
        isinstance(embedding, Tensor)
        and embedding.layout == torch.strided
        and not embedding.is_meta
    )
    if not dense or embedding.ndim != 2 or not embedding.is_floating_point():
        raise ValueError(
            f"embedding is {checks.told(embedding)}, but it must be a float tensor of shape (N, E)."
        )
    length = embedding.float().norm(dim=1)
    for row in (~(length.isfinite() & (length > 0))).nonzero().flatten()[:1].tolist():
        raise ValueError(
            f"embedding has the length {float(length[row])} in row {row}, but it must be finite, "
            "above 0."
        )
    clusters = checks.whole("clusters", clusters, 1, len(embedding))
    seed = checks.whole("seed", seed, 0, checks.LARGEST_SEED)
    unit = torch.nn.functional.normalize(embedding.float(), dim=1)
    group = spherical_k_means(unit, clusters, torch.Generator().manual_seed(seed)).tolist()
    width = len(str(clusters - 1))
    return Catalog(
        text=tuple(f"item {item}" for item in range(len(unit))),
        path=tuple(f"outside/cluster {number:0{width}d}/any" for number in group),
        price=torch.full((len(unit),), torch.nan, dtype=torch.float32),
        embedding=unit,
    )


def spherical_k_means(
    points: Tensor, clusters: int, generator: torch.Generator, *, starts: int = 32, rounds: int = 50
) -> Tensor:
    """Return the cluster of each point, from the best of some starts: (N,) int64.

    It maximises the sum of cosines of points and centres (Dhillon & Modha 2001, "Concept
    decompositions for large sparse text data using clustering", section 3.1): every point is
    assigned to the nearest centre, and every centre moves to the direction of its points' sum. A
    cluster left without points keeps its centre.

    Args:
        points: (N, E) of unit length, on the CPU.
        clusters: How many clusters.
        generator: A CPU generator.
        starts: How many starts are tried.
        rounds: How often the points of a start are assigned.
    """
    best, groups = -torch.inf, torch.zeros(len(points), dtype=torch.int64)
    for _ in range(starts):
        centres = _spread_centres(points, clusters, generator)
        for _ in range(rounds):
            group = (points @ centres.T).argmax(dim=1)
            total = torch.zeros_like(centres).index_add_(0, group, points)
            moved = torch.nn.functional.normalize(total, dim=1)
            centres = moved.where(total.norm(dim=1, keepdim=True) > 0, centres)
        cosine, group = (points @ centres.T).max(dim=1)
        if float(cosine.sum()) > best:
            best, groups = float(cosine.sum()), group
    return groups


def _spread_centres(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return points to start from, each drawn by its squared distance to those before: (G, E).

    The distance is 2 (1 - cosine). Arthur & Vassilvitskii 2007, "k-means++: the advantages of
    careful seeding", section 2.2.
    """
    chosen = torch.randint(len(points), (1,), generator=generator)
    while len(chosen) < clusters:
        distance = (1 - (points @ points[chosen].T).amax(dim=1)).clamp(min=1e-9)
        chosen = torch.cat([chosen, torch.multinomial(distance, 1, generator=generator)])
    return points[chosen]


def _slate_size(spec: OutsideSpec) -> int:
    """Return K, as the environment's action space tells.

    Raises:
        ValueError: As `OutsideShopper`.
    """
    if not isinstance(spec, OutsideSpec):
        raise ValueError(f"spec is {checks.told(spec)}, but it must be an OutsideSpec.")
    environment = spec.make()
    if not isinstance(environment, gymnasium.Env):
        raise ValueError(
            f"OutsideSpec.make() is {checks.told(environment)}, but it must be a gymnasium.Env."
        )
    space = environment.action_space
    environment.close()
    if (
        not isinstance(space, spaces.MultiDiscrete)
        or space.nvec.ndim != 1
        or (space.nvec != len(spec.catalog)).any()
    ):
        raise ValueError(
            f"The action space is {space}, but it must be MultiDiscrete with {len(spec.catalog)} "
            "items of the "
            "catalogue at every position."
        )
    return len(space.nvec)
