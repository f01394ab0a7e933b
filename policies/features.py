"""What the shop remembers of a shopper, as a few numbers: the state that a learning agent's network sees.

Parts are picked by the keys that an environment's observation has, so any slate environment with
the generic keys (`recent_slates`, `recent_clicks`, `recent_days`, `candidates`) works, and one that
says more is used more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import torch
from torch import Tensor

from policies.pool import Pool
from recsim_env.catalog import Catalog
from recsim_env.registry import Registry
from recsim_env.tensors import looked_up
from recsim_env.types import Observation

DECAYS = (0.5, 0.8, 0.95)
"""How much less a slate counts than the one after it, for the response rates."""
MEMORY_DECAY = 0.8
"""The same for what was shown and responded to."""
SMALL = 32
"""A float key of the observation with at most this many numbers goes in, squashed by sign(x) log(1
+ |x|)."""
HABIT_DAYS = 28.0
"""Time constant of the purchases that make a shopper's taste."""


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
    """The remembered slates, laid flat, with how much each position counts.

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
        """From an observation; the newest slate counts 1, the one before `decay`, and so on."""
        slates = observation["recent_slates"]
        ages = torch.arange(slates.shape[1], device=slates.device, dtype=torch.float32)
        shown = (decay**ages).view(1, -1, 1) * (slates >= 0)
        clicked = shown * observation["recent_clicks"]
        return cls(
            slates.clamp(min=0).flatten(1), shown.flatten(1).float(), clicked.flatten(1).float()
        )

    def by_group(self, group: Tensor, groups: int, weight: Tensor) -> Tensor:
        """Sum of weight (B, R) over the items of each group: group (N,) int64 of an item; returns (B, groups)."""
        return weight.new_zeros(len(weight), groups).scatter_add_(
            1, looked_up(group, self.items), weight
        )

    def of_items(self, items: Tensor, weight: Tensor, catalogue: int) -> Tensor:
        """Sum of weight (B, R) over the positions that held each of items (B, P), 0 at -1; returns (B, P).

        catalogue: N.
        """
        if (
            catalogue <= items.shape[1] * self.items.shape[1]
        ):  # a table of all items is less than all pairs
            table = weight.new_zeros(len(weight), catalogue).scatter_add_(1, self.items, weight)
            return table.gather(1, items.clamp(min=0)).where(items >= 0, 0.0)
        same = (items.unsqueeze(2) == self.items.unsqueeze(1)).to(weight.dtype)
        return (same @ weight.unsqueeze(2)).squeeze(2)


def mean_vector(vectors: Tensor, items: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of item vectors (N, D): items (B, R), weight (B, R); returns (B, D), 0 where all weights are."""
    return _mean(looked_up(vectors, items), weight)


def _mean(vectors: Tensor, weight: Tensor) -> Tensor:
    """Of vectors (B, R, D): (B, D)."""
    total = torch.einsum("br,brd->bd", weight, vectors)
    return total / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)


@dataclass(frozen=True)
class Seen:
    """What a part of the summary is computed from: the observation, its recent slates, the pool and the items.

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
class Part:
    """Some numbers of the summary, and the observation keys they need."""

    keys: tuple[str, ...]
    values: Callable[[Seen], Tensor]
    """(B, some) float32."""


PARTS: Registry[Part] = Registry("part of the summary")
"""Every part of the summary by name; those whose keys an environment has are used."""


def part(name: str, *keys: str) -> Callable[[Callable[[Seen], Tensor]], Callable[[Seen], Tensor]]:
    """Register a part: `@part("rates", "recent_slates")` above a function of `Seen`.

    Raises:
        ValueError: If other code took the name.
    """

    def add(values: Callable[[Seen], Tensor]) -> Callable[[Seen], Tensor]:
        PARTS.add(name, Part(keys, values), values)
        return values

    return add


@part("rates", "recent_slates", "recent_clicks")
def response_rates(seen: Seen) -> Tensor:
    """Responses per position shown at each of `DECAYS`, and the share of the memory that is filled: (B, 4)."""
    slates, clicks = seen.observation["recent_slates"], seen.observation["recent_clicks"]
    shown, responded = (slates >= 0).sum(dim=2).float(), clicks.sum(dim=2).float()
    ages = torch.arange(slates.shape[1], device=slates.device, dtype=torch.float32)
    weights = torch.stack([decay**ages for decay in DECAYS], dim=1).float()  # (H, decays)
    rates = (responded @ weights) / (shown @ weights).clamp(min=1e-6)
    return torch.cat([rates, (shown > 0).float().mean(dim=1, keepdim=True)], dim=1)


@part("rhythm", "recent_slates", "recent_days")
def visit_rhythm(seen: Seen) -> Tensor:
    """Log days since the last visit, and log of the mean days between remembered visits: (B, 2)."""
    days = seen.observation["recent_days"]
    visits = (seen.observation["recent_slates"] >= 0).any(dim=2).sum(dim=1)
    mean = days.amax(dim=1) / visits.clamp(min=1)
    return torch.stack([torch.log1p(days[:, 0]), torch.log1p(mean)], dim=1)


@part("taste", "recent_slates", "recent_clicks")
def recent_taste(seen: Seen) -> Tensor:
    """Mean vector of what was responded to and of what was shown: (B, 2 D)."""
    recent = seen.recent
    vectors = looked_up(seen.vectors, recent.items)
    return torch.cat([_mean(vectors, recent.clicked), _mean(vectors, recent.shown)], dim=1)


@part("variety", "recent_slates")
def recent_variety(seen: Seen) -> Tensor:
    """Share of distinct categories and the norm of the mean vector in the last slate: (B, 2); 0 where there is none."""
    last = seen.observation["recent_slates"][:, 0]
    shown = (last >= 0).float()
    distinct = _distinct(looked_up(seen.category, last.clamp(min=0)), last >= 0)
    size = shown.sum(dim=1).clamp(min=1)
    norm = (
        mean_vector(seen.vectors, last.clamp(min=0), shown).norm(dim=1)
        / seen.vectors.shape[1] ** 0.5
    )
    return torch.stack([distinct / size, norm], dim=1)


@part("pool", "recent_slates")
def pool_summary(seen: Seen) -> Tensor:
    """Best, K-th, mean and spread of the pool's logits, and distinct categories in its first K: (B, 5)."""
    present = seen.pool.items >= 0
    logits = seen.pool.logits.where(present, 0.0)
    count = present.sum(dim=1).clamp(min=1)
    mean = logits.sum(dim=1) / count
    spread = ((logits - mean.unsqueeze(1)).square() * present).sum(dim=1).div(count).sqrt()
    top = slice(0, seen.slate_size)
    distinct = _distinct(looked_up(seen.category, seen.pool.ids[:, top]), present[:, top])
    nth = logits[:, top][:, -1]
    return torch.stack([logits[:, 0], nth, mean, spread, distinct / seen.slate_size], dim=1)


@part("habit", "bought_items", "bought_counts", "bought_days")
def purchase_habit(seen: Seen) -> Tensor:
    """Mean vector of what was bought lately, how much and how varied: (B, D + 3)."""
    items, counts = seen.observation["bought_items"], seen.observation["bought_counts"]
    days = seen.observation["bought_days"]
    known = (items >= 0).float()
    weight = known * counts.clamp(min=0).sqrt() * torch.exp(-days.clamp(0, 365) / HABIT_DAYS)
    vector = mean_vector(seen.vectors, items.clamp(min=0), weight)
    many, lately = known.sum(dim=1), (known * (days < 7)).sum(dim=1)
    depth = (known * torch.log1p(counts.clamp(min=0))).sum(dim=1) / many.clamp(min=1)
    return torch.cat(
        [vector, torch.stack([torch.log1p(many), torch.log1p(lately), depth], dim=1)], dim=1
    )


@part("behaviour", "category_clicked", "category_shown", "familiarity", "position_clicks", "visits")
def shopper_behaviour(seen: Seen) -> Tensor:
    """What tells shoppers apart: response rates in familiar and in other categories and their log
    ratio, responses a visit, how far down they respond, how much of the responses is one
    category's, how worn the pool's best are: (B, 8).
    """
    observation = seen.observation
    shown_familiar, clicked_familiar, shown_other, clicked_other = observation[
        "familiarity"
    ].unbind(dim=1)
    familiar = (clicked_familiar + 1) / (shown_familiar + 10)
    other = (clicked_other + 1) / (shown_other + 10)
    by_position = observation["position_clicks"]
    clicks = by_position.sum(dim=1)
    positions = torch.arange(by_position.shape[1], device=by_position.device)
    depth = (by_position @ positions.float() + 2) / (clicks + 1) / by_position.shape[1]
    clicked, lately = (
        observation["category_clicked"][:, :, 2],
        observation["category_clicked"][:, :, 1],
    )
    top_share = clicked.amax(dim=1) / clicks.clamp(min=1)
    best = looked_up(seen.category, seen.pool.ids[:, : seen.slate_size])
    worn = lately.gather(1, best).mean(dim=1)
    flooded = observation["category_shown"][:, :, 1].gather(1, best).mean(dim=1) / seen.slate_size
    rate = clicks / observation["visits"].squeeze(1).clamp(min=1)
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
    """The flat state: every registered part whose keys are there, then the small float keys of the observation.

    Args:
        catalog: the items
        space: the observation space of one shopper
        slate_size: K
        dims: D, components of the item vectors
    """

    def __init__(
        self, catalog: Catalog, space: gymnasium.spaces.Dict, slate_size: int, dims: int
    ) -> None:
        self.vectors = principal(catalog.embedding, dims)
        self.category = catalog.category
        self._slate_size = slate_size
        self.parts = {name: part for name, part in PARTS.items() if set(part.keys) <= space.keys()}
        self.small = sorted(
            name for name, box in space.items() if name != "recent_days" and _is_small(box)
        )

    def __call__(
        self, observation: Observation, pool: Pool, recent: Recent | None = None
    ) -> Tensor:
        """(B, F) float32, every number of the order of 1."""
        recent = Recent.of(observation) if recent is None else recent
        seen = Seen(observation, recent, pool, self.vectors, self.category, self._slate_size)
        values = [part.values(seen) for part in self.parts.values()]
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
    size = 1
    for length in space.shape:
        size *= length
    return size <= SMALL


def squashed(values: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): counts and days come down to the order of 1."""
    return values.sign() * torch.log1p(values.abs())


def _distinct(groups: Tensor, present: Tensor) -> Tensor:
    """How many different groups (B, R) stand at present (B, R) positions: (B,) float32."""
    alike = (groups.unsqueeze(2) == groups.unsqueeze(1)) & present.unsqueeze(1)
    return (present & ~alike.tril(-1).any(dim=2)).sum(dim=1).float()
