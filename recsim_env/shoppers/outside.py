"""Shoppers of somebody else: a Gymnasium slate environment as a `Shopper`.

With this, every policy and agent made for `SlateSimulator` runs on an outsider's environment as it
is. The shop gets to know the items and their embeddings, what it showed and what was clicked, and
nothing of the outsider's observation.
"""

from __future__ import annotations

import math
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
from recsim_env.belief.base import Belief
from recsim_env.catalog import Catalog
from recsim_env.registration import ShopperFactory, register
from recsim_env.rewards import Reward
from recsim_env.shoppers.base import Description, Shopper, counted
from recsim_env.shoppers.profile import Profile, profile_spaces
from recsim_env.simulator import SlateSimulator
from recsim_env.trees import pick, put
from recsim_env.types import MAX_DAYS, Observation, Response, best_device

Environment = gymnasium.Env[Any, Any]
Clicks = Callable[[Any, Mapping[str, Any]], ArrayLike]
"""Reads the clicks (K,), 0 or 1 each, from the observation and the info of a step."""
Candidates = Callable[[Any, Mapping[str, Any]], ArrayLike]
"""Reads the items that may be shown next, distinct ids, from the observation and the info of
`reset` or of a step."""


def clicks_in_info(observation: Any, info: Mapping[str, Any]) -> ArrayLike:
    """Read the clicks of a step whose info holds them under `clicks`."""
    clicks: ArrayLike = info["clicks"]
    return clicks


@dataclass(frozen=True)
class OutsideSpec:
    """What must be said of an environment that was not made for this package.

    Its action is a slate, top position first: `MultiDiscrete` of K item ids 0..N-1, or, where
    `places` says so, of K places in the list of candidates.

    Raises:
        ValueError: If a field is not as said.
    """

    make: Callable[[], Environment]
    """Makes the environment; called once a shopper."""
    catalog: Catalog
    """The items; `topical_catalog` and `clustered_catalog` make it from embeddings alone."""
    visits: int
    """Steps of an episode. One that ends there, `terminated` or not, was cut off by the clock;
    before, the shopper left."""
    clicks: Clicks = clicks_in_info
    """Reads the clicks of a step."""
    candidates: Candidates | None = None
    """Reads the items that may be shown at the next visit, where they change; None means that every
    item always may."""
    most_candidates: int | None = None
    """The most candidates that a visit has; needed where `candidates` is given."""
    places: bool = False
    """Whether an action names places in the list that `candidates` gave last, 0 the first one, as
    in RecSim; otherwise it names items."""

    def __post_init__(self) -> None:
        for name in ("make", "clicks", "candidates"):
            if name == "candidates" and self.candidates is None:
                continue
            if not callable(getattr(self, name)):
                raise ValueError(
                    f"{name} is {checks.told(getattr(self, name))}, but it must be a function."
                )
        if not isinstance(self.catalog, Catalog):
            raise ValueError(f"catalog is {checks.told(self.catalog)}, but it must be a Catalog.")
        object.__setattr__(self, "visits", checks.whole("visits", self.visits, 1, int(MAX_DAYS)))
        object.__setattr__(self, "places", checks.flag("places", self.places))
        if (self.candidates is None) != (self.most_candidates is None):
            told = checks.told(self.most_candidates)
            needed = (
                "None without `candidates`"
                if self.candidates is None
                else "given beside `candidates`"
            )
            raise ValueError(f"most_candidates is {told}, but it must be {needed}.")
        if self.places and self.candidates is None:
            raise ValueError("places is True, but it must be False without `candidates`.")
        if self.most_candidates is not None:
            most = checks.whole("most_candidates", self.most_candidates, 1, len(self.catalog))
            object.__setattr__(self, "most_candidates", most)

    @property
    def choices(self) -> int:
        """How many numbers a position of an action chooses from."""
        return self.most_candidates or 0 if self.places else len(self.catalog)


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
    offers: NDArray[np.int64]
    """(B, C) what may be shown at the next visit, padded at the end with -1; (B, 0) where
    everything may."""
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
        return OutsideState(
            environments,
            self.visit[numbers],
            self.over[numbers],
            self.offers[numbers],
            profile,
        )

    def put(self, rows: Tensor, fresh: OutsideState) -> None:
        """Write new shoppers into rows (R,), and close the environments that stood there."""
        numbers = rows.tolist()
        for row, environment in zip(numbers, fresh.environments, strict=True):
            self.environments[row].close()
            self.environments[row] = environment
        self.visit[numbers] = fresh.visit
        self.over[numbers] = fresh.over
        self.offers[numbers] = fresh.offers
        put(self.profile, rows, fresh.profile)


class OutsideShopper(Shopper[OutsideState]):
    """The population of an outside environment.

    They come once a day. The candidates are those of `OutsideSpec.candidates`, or every item.
    Observation: the keys of `recsim_env.shoppers.profile.profile_spaces`. An environment is seeded
    once, by `reset`, from the simulator's noise; what it draws in its visits is its own affair.
    What it pays is `Response.outside_reward`, for the reward term of that name.

    `Response.probability` is the clicks as 0 and 1: the chance before the noise is not known here,
    and of all that is known only the clicks have the right mean. Where an item is repeated within a
    slate the outsider sees the slate as it is, but a click on the repetition does not count. An
    item that is no candidate is replaced by the first one of the slate that is, or by the first
    candidate, and a click on it does not count either.

    Raises:
        ValueError: If `spec` is none, `make` makes no environment, or its action space is no slate
            of the catalogue's items or, with `places`, of the list of candidates.
    """

    tells_outside_reward = True
    replayable = False

    def __init__(self, spec: OutsideSpec, device: torch.device) -> None:
        size = _slate_size(spec)
        super().__init__(
            spec.catalog,
            size,
            device=best_device(device),
            start_draws=2,
            visit_draws=0,
            max_candidates=spec.most_candidates,
        )
        self.spec = spec

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the spaces of `observe` for one shopper."""
        return profile_spaces(self.catalog, self.slate_size)

    def start(self, draws: Tensor) -> OutsideState:
        """Make an environment for every shopper and reset it with `environment_seeds`.

        Raises:
            RuntimeError: If `reset` or `OutsideSpec.candidates` does not give what it must.
        """
        environments = [self.spec.make() for _ in range(len(draws))]
        offers = np.full((len(draws), self.spec.most_candidates or 0), -1, dtype=np.int64)
        for row, seed in enumerate(environment_seeds(draws)):
            given = environments[row].reset(seed=seed)
            if not isinstance(given, tuple) or len(given) != 2:
                raise RuntimeError(
                    f"OutsideSpec.make().reset(seed=..) gave {checks.told(given)}, but it must "
                    "give an observation and an info, as in Gymnasium: put a wrapper around an "
                    "environment of the older gym."
                )
            self._offer(offers[row], *given, visit=0)
        return OutsideState(
            environments=environments,
            visit=np.zeros(len(draws), dtype=np.int64),
            over=np.zeros(len(draws), dtype=np.bool_),
            offers=offers,
            profile=Profile.empty(len(draws), self.catalog, self.slate_size, self.device),
        )

    def candidates(self, state: OutsideState) -> Tensor:
        """Return the items that may be shown at this visit: (B, C) int64, padded with -1."""
        if self.spec.candidates is None:
            return super().candidates(state)
        return torch.from_numpy(state.offers.copy()).to(self.device)

    def observe(self, state: OutsideState) -> Observation:
        """Return what the shop remembers of its slates and the clicks."""
        return state.profile.observe()

    def respond(
        self, state: OutsideState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        """Step every environment; moves `state` in place.

        Raises:
            RuntimeError: If an environment ends in another way than `OutsideSpec` says, pays what
                is no finite number, or where a function of `OutsideSpec` does not give what it
                must.
        """
        actions = self._actions(state, slates.cpu().numpy())
        answers = [self._step(state, row, action) for row, action in enumerate(actions)]
        clicks, gone, paid = zip(*answers, strict=True)
        clicked = torch.from_numpy(np.stack(clicks)).to(self.device) & shown
        left = torch.tensor(gone, dtype=torch.bool, device=self.device)
        state.profile.record(slates, shown, clicked, self.catalog.category, self.catalog.embedding)
        none = torch.zeros(len(left), dtype=torch.float32, device=self.device)
        return Response(
            clicked,
            clicked.to(torch.float32),
            left,
            days=torch.ones_like(none),
            elsewhere=none,
            outside_reward=torch.tensor(paid, dtype=torch.float32, device=self.device),
        )

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

    def _actions(self, state: OutsideState, slates: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the actions (B, K) that show these slates (B, K)."""
        if self.spec.candidates is None:
            return slates
        same = slates[:, :, None] == state.offers[:, None, :]  # (B, K, C)
        there, place = same.any(axis=2), same.argmax(axis=2)
        first = np.take_along_axis(place, there.argmax(axis=1)[:, None], axis=1)  # else place 0
        place = np.where(there, place, np.where(there.any(axis=1)[:, None], first, 0))
        return place if self.spec.places else np.take_along_axis(state.offers, place, axis=1)

    def _step(
        self, state: OutsideState, row: int, action: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], bool, float]:
        """Step the environment of one shopper.

        Once the episode is over nothing happens any more.

        Returns:
            The clicks (K,), whether that was the last of the shopper, and what was paid.
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
            return np.zeros(self.slate_size, dtype=np.bool_), False, 0.0
        given = state.environments[row].step(action)
        if not isinstance(given, tuple) or len(given) != 5:
            found = f"{len(given)} values" if isinstance(given, tuple) else checks.told(given)
            raise RuntimeError(
                f"An outside environment gave {found} at step {visit}, but it must give five, as "
                "in Gymnasium: put a wrapper around an environment of the older gym."
            )
        observation, reward, terminated, truncated, info = given
        if truncated and visit < self.spec.visits:
            raise RuntimeError(
                f"An outside episode was cut off at visit {visit}, but OutsideSpec.visits is "
                f"{self.spec.visits}."
            )
        state.over[row] = terminated or truncated or visit >= self.spec.visits
        if not state.over[row]:
            self._offer(state.offers[row], observation, info, visit)
        clicks = self._clicks(self.spec.clicks(observation, info), visit)
        return clicks, bool(terminated) and visit < self.spec.visits, _paid(reward, visit)

    def _clicks(self, found: ArrayLike, visit: int) -> NDArray[np.bool_]:
        """Return the clicks of a step: (K,) bool.

        Raises:
            RuntimeError: As `respond`.
        """
        size, told = self.slate_size, checks.told(found)
        expected = f"it must give {size} numbers of 0 and 1, one a position"
        try:
            clicks = np.asarray(found)
        except ValueError:  # rows of different length
            clicks = np.empty(0)
        if clicks.shape != (size,):
            raise RuntimeError(f"OutsideSpec.clicks gave {told} at step {visit}, but {expected}.")
        for place in np.flatnonzero(~np.isin(clicks, (0, 1)))[:1].tolist():
            told = checks.told(clicks.tolist()[place])
            raise RuntimeError(
                f"OutsideSpec.clicks gave {told} at position {place} of step {visit}, but "
                f"{expected}."
            )
        return clicks.astype(np.bool_)

    def _offer(
        self, offer: NDArray[np.int64], observation: Any, info: Mapping[str, Any], visit: int
    ) -> None:
        """Write the candidates after a step into `offer` (C,); step 0 is `reset`.

        Raises:
            RuntimeError: If they are no distinct items, none, or too many.
        """
        if self.spec.candidates is None:
            return
        given = self.spec.candidates(observation, info)
        try:
            found = np.asarray(given)
        except ValueError:  # rows of different length
            found = np.empty((0, 0))
        when = f"after step {visit}" if visit else "after reset"
        most, items = len(offer), len(self.catalog)
        if found.ndim != 1 or found.dtype.kind not in "iu" or not 1 <= len(found) <= most:
            raise RuntimeError(
                f"OutsideSpec.candidates gave {checks.told(given)} {when}, but it must give from 1 "
                f"to {most} whole numbers."
            )
        for place in np.flatnonzero((found < 0) | (found >= items))[:1].tolist():
            raise RuntimeError(
                f"OutsideSpec.candidates gave {found[place]} at place {place} {when}, but an item "
                f"is a number from 0 to {items - 1}."
            )
        values, counts = np.unique(found, return_counts=True)
        if (counts > 1).any():
            raise RuntimeError(
                f"OutsideSpec.candidates gave {values[counts > 1][0]} twice {when}, but candidates "
                "must be distinct."
            )
        offer[: len(found)], offer[len(found) :] = found, -1


def _paid(reward: Any, visit: int) -> float:
    """Return the reward of a step.

    Raises:
        RuntimeError: If it is no finite number.
    """
    try:
        paid = float(reward)
    except (TypeError, ValueError):
        paid = math.nan
    if not math.isfinite(paid) or abs(paid) > MOST_PAID:
        raise RuntimeError(
            f"An outside environment gave the reward {checks.told(reward)} at step {visit}, but it "
            "must be one finite number."
        )
    return paid


MOST_PAID = float(np.finfo(np.float32).max)
"""The largest reward of a step that float32 holds."""


def outside_simulator(
    spec: OutsideSpec,
    reward: Reward | None = None,
    *,
    device: torch.device | str = "cpu",
    history: int = 10,
    belief: Belief[Any] | None = None,
) -> SlateSimulator:
    """Make a simulator over an outside environment.

    The reward is the number of clicks unless another is given. A belief about its users, where one
    is given, is part of what is observed.

    Raises:
        ValueError: If the environment does not fit `spec`, or the belief is about other items.
    """
    reward = Reward({"clicks": 1.0}) if reward is None else reward
    shopper = OutsideShopper(spec, best_device(device))
    return SlateSimulator(
        shopper, reward, horizon_days=float(spec.visits), history=history, belief=belief
    )


def outside_shopper(spec: OutsideSpec) -> ShopperFactory:
    """Return the factory of an outside environment's shoppers, for `recsim_env.register`.

    `register_outside` does both.

    Raises:
        ValueError: If the environment does not fit `spec`.
    """
    size = _slate_size(spec)

    def factory(device: torch.device, slate_size: int) -> OutsideShopper:
        if slate_size != size:
            raise ValueError(
                f"slate_size is {slate_size}, but the outside environment shows {size} items."
            )
        return OutsideShopper(spec, device)

    return factory


def register_outside(
    id: str,
    spec: OutsideSpec,
    *,
    reward: Reward | Mapping[str, float] | None = None,
    history: int = 10,
    strict: bool = False,
) -> None:
    """Register an outside environment as `recsim_env.register` does one of your own.

    Slate size and horizon are those of the environment.

        register_outside("songs/Radio-v0", spec, reward={"outside_reward": 1.0})

    Args:
        id: `namespace/name-v0`.
        spec: What must be said of the environment.
        reward: The weighted reward terms; None means the number of clicks.
        history: How many slates the shop remembers.
        strict: Whether an item that would not be shown raises an error.

    Raises:
        ValueError: If the environment does not fit `spec`, or an argument is out of its range.
        gymnasium.error.Error: If Gymnasium does not accept the id.
    """
    register(
        id,
        outside_shopper(spec),
        reward={"clicks": 1.0} if reward is None else reward,
        slate_size=_slate_size(spec),
        horizon_days=float(spec.visits),
        history=history,
        strict=strict,
    )


def environment_seeds(draws: Tensor) -> list[int]:
    """Return the seed of each environment, 31 bits from two uniform numbers: draws (B, 2).

    Some environments take no more than 32 bits.
    """
    high, low = (
        (draws * draws.new_tensor([2.0**24, 2.0**7])).long().unbind(dim=1)
    )  # exact: powers of two
    seeds: list[int] = (high * 2**7 + low).tolist()
    return seeds


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
        or (space.nvec != spec.choices).any()
        or (space.start != 0).any()
    ):
        what = "places of candidates" if spec.places else "items of the catalogue"
        raise ValueError(
            f"The action space is {space}, but it must be MultiDiscrete with {spec.choices} {what} "
            "at every position."
        )
    return len(space.nvec)
