"""What a CTR model sees of a shopper and an item: blocks of numbers, picked by the observation keys that are there.

The same functions serve the log and the decision: a logged slate is an observation whose candidates
are the slate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.features import HABIT_DAYS, Recent, mean_vector, principal, squashed
from policies.observations import candidates_of
from policies.placements import MAILERS
from recsim_env.catalog import Catalog
from recsim_env.registry import Registry
from recsim_env.types import Observation

ALIGNED = ("candidates", "placement", "popularity")
"""Observation keys (B, C) that are aligned with the candidates."""
TASTE_DIMS = 32
"""Components of the item embedding in which taste and item are compared."""
DAYS = (2.0, 7.0, 21.0, 90.0)
"""Time constants of the recency features."""


@dataclass(frozen=True)
class Items:
    """What the blocks know of the catalogue.

    Shapes: N items, D components.
        category: (N,) int64
        vectors:  (N, D) float32 of unit length
    """

    category: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, catalog: Catalog) -> Items:
        """From a catalogue, on its device."""
        return cls(
            catalog.category,
            torch.nn.functional.normalize(principal(catalog.embedding, TASTE_DIMS), dim=1),
        )


@dataclass(frozen=True)
class Pairs:
    """Shopper-item pairs, Q of them: the candidates of B shoppers without the padding.

    Shapes: row, column, item (Q,) int64 each: the shopper, the place among the candidates, the
    item.
    """

    observation: Observation
    items: Items
    row: Tensor
    column: Tensor
    item: Tensor
    shape: tuple[int, int]
    """(B, C)."""

    @classmethod
    def of(cls, observation: Observation, items: Items) -> Pairs:
        """Every candidate of every shopper."""
        candidates = candidates_of(observation, len(items.category))
        row, column = (candidates >= 0).nonzero().unbind(dim=1)
        return cls(
            observation,
            items,
            row,
            column,
            candidates[row, column],
            (len(candidates), candidates.shape[1]),
        )

    def aligned(self, name: str) -> Tensor:
        """An aligned key (B, C) at every pair (Q,)."""
        return self.observation[name][self.row, self.column]

    def spread(self, values: Tensor) -> Tensor:
        """Values (Q,) at their place among the candidates (B, C), -inf at padding."""
        full = values.new_full(self.shape, -torch.inf)
        full[self.row, self.column] = values
        return full


def of_slates(observation: Observation, slates: Tensor) -> Observation:
    """The observation as it would be if the slates (B, K) were the candidates; an item that was none becomes padding.

    So a shown slate is a row of training data for a model of candidates.
    """
    candidates = observation.get("candidates")
    if candidates is None:
        return {**observation, "candidates": slates}
    same = slates.unsqueeze(2) == candidates.unsqueeze(1)  # (B, K, C)
    place = same.to(torch.int8).argmax(dim=2)
    narrow = {name: observation[name].gather(1, place) for name in ALIGNED if name in observation}
    return {**observation, **narrow, "candidates": slates.where(same.any(dim=2), -1)}


# ---- numbers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Some numbers of a pair."""

    keys: tuple[str, ...]
    """Observation keys it needs."""
    values: Callable[[Pairs], Tensor]
    """(Q, some) float32."""


BLOCKS: Registry[Block] = Registry("block")
"""Every block by name."""


def block(
    name: str, *keys: str
) -> Callable[[Callable[[Pairs], Tensor]], Callable[[Pairs], Tensor]]:
    """Register a block: `@block("own", "bought_items")` above a function of `Pairs`.

    Raises:
        ValueError: If other code took the name.
    """

    def add(values: Callable[[Pairs], Tensor]) -> Callable[[Pairs], Tensor]:
        BLOCKS.add(name, Block(keys, values), values)
        return values

    return add


def blocks_for(keys: set[str]) -> tuple[str, ...]:
    """Names of the blocks whose keys are all there."""
    return tuple(name for name, block in BLOCKS.items() if set(block.keys) <= keys)


@block("own", "bought_items", "bought_counts", "bought_days")
def own_history(pairs: Pairs) -> Tensor:
    """Of the item itself: (Q, 7) as `_history`."""
    bought = pairs.observation["bought_items"]
    place = bought.where(
        bought >= 0, len(pairs.items.category)
    )  # padding writes one column past the catalogue
    batch, width = len(bought), len(pairs.items.category) + 1
    counts = torch.zeros(batch, width, device=bought.device, dtype=torch.float32).scatter_(
        1, place, pairs.observation["bought_counts"]
    )
    days = torch.zeros(batch, width, device=bought.device, dtype=torch.float32).scatter_(
        1, place, pairs.observation["bought_days"]
    )
    at = pairs.row * width + pairs.item
    return _history(counts.view(-1)[at], days.view(-1)[at])


@block("category", "category_counts", "category_days")
def category_history(pairs: Pairs) -> Tensor:
    """Of the item's category: (Q, 7) as `_history`."""
    at = (pairs.row, pairs.items.category[pairs.item])
    return _history(
        pairs.observation["category_counts"][at], pairs.observation["category_days"][at]
    )


@block("popularity", "popularity")
def log_popularity(pairs: Pairs) -> Tensor:
    """Log popularity: (Q, 1)."""
    return torch.log(pairs.aligned("popularity").clamp(min=0) + 1e-4).unsqueeze(1)


@block("context", "context")
def visit_context(pairs: Pairs) -> Tensor:
    """What surrounds the visit, the same for all its items: (Q, width)."""
    return squashed(pairs.observation["context"])[pairs.row]


@block("taste", "bought_items", "bought_counts", "bought_days")
def purchase_taste(pairs: Pairs) -> Tensor:
    """Similarity of the item's text to what was bought lately and ever: (Q, 2)."""
    observation, vectors = pairs.observation, pairs.items.vectors
    bought = observation["bought_items"]
    ever = (bought >= 0) * observation["bought_counts"].clamp(min=0).sqrt()
    lately = ever * torch.exp(-observation["bought_days"].clamp(0, 365) / HABIT_DAYS)
    return torch.stack(
        [_similarity(pairs, mean_vector(vectors, bought.clamp(min=0), w)) for w in (lately, ever)],
        1,
    )


@block("recent", "recent_slates", "recent_clicks")
def recent_exposure(pairs: Pairs) -> Tensor:
    """Recent exposures and responses of the item and of its category, and similarity to the responses: (Q, 5).

    For environments that tell nothing else of a shopper. Not for the Complete Journey log: its
    slates were never shown.
    """
    recent = Recent.of(pairs.observation)
    category = pairs.items.category
    of_item = torch.arange(len(category), device=category.device)
    columns = [
        recent.by_group(group, int(group.max()) + 1, weight)[pairs.row, group[pairs.item]]
        for group in (of_item, category)
        for weight in (recent.shown, recent.clicked)
    ]
    liked = mean_vector(pairs.items.vectors, recent.items, recent.clicked)
    return torch.stack([*columns, _similarity(pairs, liked)], dim=1)


def _history(count: Tensor, days: Tensor) -> Tensor:
    """Counters as features: log count, whether any, log days since, and e^(-days/t) for t in `DAYS`; (Q,) to (Q, 7)."""
    bought = (count > 0).float()
    days = days.clamp(0, 365)
    decayed = [bought * torch.exp(-days / scale) for scale in DAYS]
    return torch.stack(
        [torch.log1p(count.clamp(min=0)), bought, bought * torch.log1p(days), *decayed], dim=1
    )


def _similarity(pairs: Pairs, taste: Tensor) -> Tensor:
    """Dot product of a taste (B, D) with every item of its shopper: (Q,). All items at once: cheaper than by pair."""
    return (taste @ pairs.items.vectors.T).view(-1)[
        pairs.row * len(pairs.items.vectors) + pairs.item
    ]


# ---- codes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """A whole number of a pair, for a learned table."""

    keys: tuple[str, ...]
    values: Callable[[Pairs], Tensor]
    """(Q,) int64."""


CODES: dict[str, Code] = {
    "item": Code((), lambda pairs: pairs.item),
    "category": Code((), lambda pairs: pairs.items.category[pairs.item]),
    "display": Code(("placement",), lambda pairs: pairs.aligned("placement").long() // MAILERS),
    "mailer": Code(("placement",), lambda pairs: pairs.aligned("placement").long() % MAILERS),
}
"""Every code by name. A placement code is a display and a mailer."""


def codes_for(keys: set[str]) -> tuple[str, ...]:
    """Names of the codes whose keys are all there."""
    return tuple(name for name, code in CODES.items() if set(code.keys) <= keys)


def code_sizes(items: Items) -> dict[str, int]:
    """How many values each code can take."""
    return {
        "item": len(items.category),
        "category": int(items.category.max()) + 1,
        "display": MAILERS,
        "mailer": MAILERS,
    }
