"""State features: what the shop remembers of a shopper, as numbers for an agent's network.

Features are chosen by the keys that an environment's observation has. Any slate environment with
the generic keys (`recent_slates`, `recent_clicks`, `recent_days`, `candidates`) works, and further
keys add further features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import torch
from torch import Tensor

from policies.pool import Pool
from recsim_env.catalog import Catalog
from recsim_env.registry import Registry
from recsim_env.shoppers.profile import EVER, LATELY
from recsim_env.tensors import looked_up
from recsim_env.types import Observation

DECAYS = (0.5, 0.8, 0.95)
"""Weights of a slate relative to the one after it, in the response rates: three memories."""
MEMORY_DECAY = 0.8
"""The same in the counts of what was shown and responded to."""
SMALL = 32
"""Float keys of the observation with at most this many numbers join the state, as they are but for
`squashed`."""
HABIT_DAYS = 28.0
"""Time constant of the purchases that make a shopper's taste."""
FEATURED = ("recent_days", "portrait")
"""Small keys that do not join as they are, because a feature tells them."""
LONGEST_DAYS = 365.0
"""Days since a purchase are cut here: a longer time tells no more."""
LAST_WEEK = 7.0
"""Purchases of fewer days ago count as recent."""


def principal(embedding: Tensor, dims: int) -> Tensor:
    """The first principal components of items, each scaled to a mean square of 1.

    Shapes: embedding (N, E); returns (N, min(dims, E)) float32. Signs are fixed: the largest entry
    is positive.
    """
    centred = embedding.double() - embedding.double().mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    vectors = vectors.flip(1)[:, :dims]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    scores = centred @ (vectors * largest.sign())
    scaled: Tensor = scores / scores.square().mean(dim=0).sqrt().clamp(min=1e-9)
    return scaled.float()


@dataclass(frozen=True)
class Recent:
    """The remembered slates, laid flat, with the weight of each position.

    Shapes: B shoppers, R = H * K remembered positions.
        items:   (B, R) int64, 0 where nothing was shown
        shown:   (B, R) float32, the decay of its slate, 0 where nothing was shown
        clicked: (B, R) float32, the same where it was responded to
    """

    items: Tensor
    shown: Tensor
    clicked: Tensor

    @classmethod
    def of(cls, observation: Observation, decay: float = MEMORY_DECAY) -> Recent:
        """Lay the slates of an observation flat; each counts `decay` times the one after it."""
        slates = observation["recent_slates"]
        ages = torch.arange(slates.shape[1], device=slates.device, dtype=torch.float32)
        shown = (decay**ages).view(1, -1, 1) * (slates >= 0)
        clicked = shown * observation["recent_clicks"]
        return cls(
            slates.clamp(min=0).flatten(1), shown.flatten(1).float(), clicked.flatten(1).float()
        )

    def by_group(self, group: Tensor, groups: int, weight: Tensor) -> Tensor:
        """Sum weights (B, R) over the items of each group; `group` (N,) by item: (B, groups)."""
        return weight.new_zeros(len(weight), groups).scatter_add_(
            1, looked_up(group, self.items), weight
        )

    def of_items(self, items: Tensor, weight: Tensor, catalogue: int) -> Tensor:
        """Sum weights (B, R) over the positions that held each of items (B, P), 0 at -1: (B, P).

        Args:
            items: items to look for, -1 padded
            weight: of each remembered position
            catalogue: number of items N
        """
        if (
            catalogue <= items.shape[1] * self.items.shape[1]
        ):  # a table of all items is less than all pairs
            table = weight.new_zeros(len(weight), catalogue).scatter_add_(1, self.items, weight)
            return table.gather(1, items.clamp(min=0)).where(items >= 0, 0.0)
        same = (items.unsqueeze(2) == self.items.unsqueeze(1)).to(weight.dtype)
        return (same @ weight.unsqueeze(2)).squeeze(2)


def mean_vector(vectors: Tensor, items: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the vectors (N, D) of items (B, R): (B, D), 0 where all weights are 0."""
    return _mean(looked_up(vectors, items), weight)


def _mean(vectors: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of vectors (B, R, D): (B, D)."""
    total = torch.einsum("br,brd->bd", weight, vectors)
    return total / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)


def lookup_of_bought(items: Tensor, bought: Tensor, values: Tensor, catalogue: int) -> Tensor:
    """Look up values (B, M) of the items bought (B, M) at items (B, C); 0 where never bought.

    Args:
        items: items to look for, 0 or more
        bought: distinct items, -1 padded
        values: of each item bought
        catalogue: number of items N
    """
    # padding goes to a column behind the catalogue
    table = torch.zeros(len(bought), catalogue + 1, device=bought.device, dtype=torch.float32)
    return table.scatter_(1, bought.where(bought >= 0, catalogue), values).gather(1, items)


@dataclass(frozen=True)
class StateInputs:
    """What a state feature is computed from.

    Shapes: N items, D components.
        vectors:  (N, D) float32, `principal`
        category: (N,) int64
    """

    observation: Observation
    recent: Recent
    pool: Pool
    vectors: Tensor
    category: Tensor
    slate_size: int


@dataclass(frozen=True)
class StateFeature:
    """Some numbers of the state, and the observation keys that they need."""

    keys: tuple[str, ...]
    """Observation keys that it needs."""
    values: Callable[[StateInputs], Tensor]
    """Computes them: (B, some) float32."""


STATE_FEATURES: Registry[StateFeature] = Registry("state feature")
"""Every state feature by name; those whose keys an environment has are used, in this order."""


def state_feature(
    name: str, *keys: str
) -> Callable[[Callable[[StateInputs], Tensor]], Callable[[StateInputs], Tensor]]:
    """Register a state feature: `@state_feature("rates", "recent_slates")` above its function.

    Args:
        name: of the feature
        keys: observation keys that the function of `StateInputs` needs

    Raises:
        ValueError: If other code took the name.
    """

    def add(values: Callable[[StateInputs], Tensor]) -> Callable[[StateInputs], Tensor]:
        STATE_FEATURES.add(name, StateFeature(keys, values), values)
        return values

    return add


@state_feature("rates", "recent_slates", "recent_clicks")
def response_rates(inputs: StateInputs) -> Tensor:
    """Responses per position shown at each of `DECAYS`, and share of the memory in use: (B, 4)."""
    slates, clicks = inputs.observation["recent_slates"], inputs.observation["recent_clicks"]
    shown, responded = (slates >= 0).sum(dim=2).float(), clicks.sum(dim=2).float()
    ages = torch.arange(slates.shape[1], device=slates.device, dtype=torch.float32)
    weights = torch.stack([decay**ages for decay in DECAYS], dim=1).float()  # (H, decays)
    rates = (responded @ weights) / (shown @ weights).clamp(min=1e-6)
    return torch.cat([rates, (shown > 0).float().mean(dim=1, keepdim=True)], dim=1)


@state_feature("rhythm", "recent_slates", "recent_days")
def visit_rhythm(inputs: StateInputs) -> Tensor:
    """Log days since the last visit, and log of the mean days between remembered visits: (B, 2)."""
    days = inputs.observation["recent_days"]
    visits = (inputs.observation["recent_slates"] >= 0).any(dim=2).sum(dim=1)
    mean = days.amax(dim=1) / visits.clamp(min=1)
    return torch.stack([torch.log1p(days[:, 0]), torch.log1p(mean)], dim=1)


@state_feature("taste", "recent_slates", "recent_clicks")
def recent_taste(inputs: StateInputs) -> Tensor:
    """Mean vector of what was responded to and of what was shown: (B, 2 D)."""
    recent = inputs.recent
    vectors = looked_up(inputs.vectors, recent.items)
    return torch.cat([_mean(vectors, recent.clicked), _mean(vectors, recent.shown)], dim=1)


@state_feature("variety", "recent_slates")
def recent_variety(inputs: StateInputs) -> Tensor:
    """Share of distinct categories and norm of the mean vector in the last slate, or 0: (B, 2)."""
    last = inputs.observation["recent_slates"][:, 0]
    shown = (last >= 0).float()
    distinct = _distinct(looked_up(inputs.category, last.clamp(min=0)), last >= 0)
    size = shown.sum(dim=1).clamp(min=1)
    norm = (
        mean_vector(inputs.vectors, last.clamp(min=0), shown).norm(dim=1)
        / inputs.vectors.shape[1] ** 0.5
    )
    return torch.stack([distinct / size, norm], dim=1)


@state_feature("pool", "recent_slates")
def pool_summary(inputs: StateInputs) -> Tensor:
    """Best, K-th, mean and spread of the pool's logits, and categories among its K best: (B, 5)."""
    present = inputs.pool.items >= 0
    logits = inputs.pool.logits.where(present, 0.0)
    count = present.sum(dim=1).clamp(min=1)
    mean = logits.sum(dim=1) / count
    spread = ((logits - mean.unsqueeze(1)).square() * present).sum(dim=1).div(count).sqrt()
    top = slice(0, inputs.slate_size)
    distinct = _distinct(looked_up(inputs.category, inputs.pool.ids[:, top]), present[:, top])
    nth = logits[:, top][:, -1]
    return torch.stack([logits[:, 0], nth, mean, spread, distinct / inputs.slate_size], dim=1)


@state_feature("habit", "bought_items", "bought_counts", "bought_days")
def purchase_habit(inputs: StateInputs) -> Tensor:
    """Mean vector of recent purchases, items bought ever and lately, mean log count: (B, D + 3)."""
    items, counts = inputs.observation["bought_items"], inputs.observation["bought_counts"]
    days = inputs.observation["bought_days"]
    known = (items >= 0).float()
    weight = (
        known * counts.clamp(min=0).sqrt() * torch.exp(-days.clamp(0, LONGEST_DAYS) / HABIT_DAYS)
    )
    vector = mean_vector(inputs.vectors, items.clamp(min=0), weight)
    many, lately = known.sum(dim=1), (known * (days < LAST_WEEK)).sum(dim=1)
    depth = (known * torch.log1p(counts.clamp(min=0))).sum(dim=1) / many.clamp(min=1)
    return torch.cat(
        [vector, torch.stack([torch.log1p(many), torch.log1p(lately), depth], dim=1)], dim=1
    )


@state_feature(
    "behaviour", "category_clicked", "category_shown", "familiarity", "position_clicks", "visits"
)
def shopper_behaviour(inputs: StateInputs) -> Tensor:
    """Numbers that tell shoppers apart: (B, 8).

    They are the response rates in familiar and in other categories and the log of their ratio,
    responses per visit, how far down the slate they respond, the share of the largest category in
    the responses, and recent responses and exposures in the categories of the pool's K best items.
    """
    observation = inputs.observation

    # Response rates, shrunk by ten exposures with one response
    shown_familiar, clicked_familiar, shown_other, clicked_other = observation[
        "familiarity"
    ].unbind(dim=1)
    familiar = (clicked_familiar + 1) / (shown_familiar + 10)
    other = (clicked_other + 1) / (shown_other + 10)
    clicks = observation["position_clicks"].sum(dim=1)
    rate = clicks / observation["visits"].squeeze(1).clamp(min=1)

    # Where in the slate, and in how many categories they respond
    by_position = observation["position_clicks"]
    positions = torch.arange(by_position.shape[1], device=by_position.device)
    depth = (by_position @ positions.float() + 2) / (clicks + 1) / by_position.shape[1]
    clicked, lately = (
        observation["category_clicked"][:, :, EVER],
        observation["category_clicked"][:, :, LATELY],
    )
    top_share = clicked.amax(dim=1) / clicks.clamp(min=1)

    # Recent responses and exposures in the categories that the pool's best items have
    best = looked_up(inputs.category, inputs.pool.ids[:, : inputs.slate_size])
    worn = lately.gather(1, best).mean(dim=1)
    flooded = (
        observation["category_shown"][:, :, LATELY].gather(1, best).mean(dim=1) / inputs.slate_size
    )
    columns = [
        familiar,
        other,
        (familiar / other).log(),
        rate,
        depth,
        top_share,
        torch.log1p(worn),
        flooded,
    ]
    return torch.stack(columns, dim=1)


class Summary:
    """The flat state: every state feature whose keys are there, then the small float keys.

    Args:
        catalog: the items
        space: observation space of one shopper
        slate_size: number of slate positions K
        dims: number D of components of the item vectors
    """

    def __init__(
        self, catalog: Catalog, space: gymnasium.spaces.Dict, slate_size: int, dims: int
    ) -> None:
        self.vectors = principal(catalog.embedding, dims)
        self.category = catalog.category
        self._slate_size = slate_size
        self.state_features = {
            name: feature
            for name, feature in STATE_FEATURES.items()
            if set(feature.keys) <= space.keys()
        }
        self.small = sorted(
            name for name, box in space.items() if name not in FEATURED and _is_small(box)
        )

    def __call__(
        self, observation: Observation, pool: Pool, recent: Recent | None = None
    ) -> Tensor:
        """Compute the state (B, F) float32, every number of the order of 1."""
        recent = Recent.of(observation) if recent is None else recent
        inputs = StateInputs(
            observation, recent, pool, self.vectors, self.category, self._slate_size
        )
        values = [feature.values(inputs) for feature in self.state_features.values()]
        if self.small:
            values.append(
                squashed(torch.cat([observation[name].flatten(1) for name in self.small], dim=1))
            )
        return torch.cat(values, dim=1)


def _is_small(space: gymnasium.Space[object]) -> bool:
    if (
        not isinstance(space, gymnasium.spaces.Box)
        or space.dtype is None
        or space.dtype.kind != "f"
    ):
        return False
    return math.prod(space.shape) <= SMALL


def squashed(values: Tensor) -> Tensor:
    """sign(x) log(1 + |x|), which brings counts and days down to the order of 1."""
    return values.sign() * torch.log1p(values.abs())


def _distinct(groups: Tensor, present: Tensor) -> Tensor:
    """Count the different groups (B, R) at present (B, R) positions: (B,) float32."""
    alike = (groups.unsqueeze(2) == groups.unsqueeze(1)) & present.unsqueeze(1)
    return (present & ~alike.tril(-1).any(dim=2)).sum(dim=1).float()
