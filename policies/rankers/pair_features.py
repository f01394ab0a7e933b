"""Pair features: what a CTR model sees of a shopper and an item, chosen by the observation's keys.

The same functions serve the log and the decision: a logged slate is an observation whose candidates
are the slate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from policies.features import (
    HABIT_DAYS,
    LONGEST_DAYS,
    Recent,
    lookup_of_bought,
    mean_vector,
    principal,
    squashed,
)
from policies.observations import candidates_of
from recsim_env.catalog import Catalog
from recsim_env.logs.placements import display_of, mailer_of
from recsim_env.registry import Registry
from recsim_env.tensors import looked_up
from recsim_env.types import Observation

ALIGNED = ("candidates", "placement", "popularity")
"""Observation keys (B, C) with one value for each candidate."""
TASTE_DIMS = 32
"""Number of components of the item embedding in which taste and item are compared."""
DAYS = (2.0, 7.0, 21.0, 90.0)
"""Time constants in days of the recency features."""


@dataclass(frozen=True)
class RankerCatalog:
    """What the features of pairs know of the catalogue and its shop.

    Shapes: N items, D components.
        category: (N,) int64
        vectors:  (N, D) float32 of unit length
    """

    category: Tensor
    vectors: Tensor
    placements: tuple[int, int] | None = None
    """Numbers of display and of mailer codes, as `LogFacts.placements`; None where a shop has no
    placements."""

    @classmethod
    def of(cls, catalog: Catalog, placements: tuple[int, int] | None = None) -> RankerCatalog:
        """Look at a catalogue, on its device."""
        vectors = torch.nn.functional.normalize(principal(catalog.embedding, TASTE_DIMS), dim=1)
        return cls(catalog.category, vectors, placements)

    def need_placements(self) -> tuple[int, int]:
        """Numbers of display and of mailer codes.

        Raises:
            ValueError: If the shop has no placements.
        """
        if self.placements is None:
            raise ValueError(
                "The codes 'display' and 'mailer' need the numbers of placement codes, but "
                "placements is None."
            )
        return self.placements


@dataclass(frozen=True)
class Pairs:
    """Pairs of a shopper and an item: the candidates of B shoppers without the padding.

    Shapes: Q pairs.
        row:    (Q,) int64, the shopper
        column: (Q,) int64, the place among the candidates
        item:   (Q,) int64
    """

    observation: Observation
    items: RankerCatalog
    row: Tensor
    column: Tensor
    item: Tensor
    shape: tuple[int, int]
    """Numbers of shoppers B and of candidates C, padding included."""

    @classmethod
    def of(cls, observation: Observation, items: RankerCatalog) -> Pairs:
        """Pair every shopper with every candidate."""
        candidates = candidates_of(observation, len(items.category))
        row, column = (candidates >= 0).nonzero().unbind(dim=1)
        shape = len(candidates), candidates.shape[1]
        item = looked_up(candidates.reshape(-1), row * shape[1] + column)
        return cls(observation, items, row, column, item, shape)

    @cached_property
    def place(self) -> Tensor:
        """Places (Q,) of the pairs among the B * C candidates, row after row."""
        return self.row * self.shape[1] + self.column

    def aligned(self, name: str) -> Tensor:
        """Values of an aligned key (B, C) at every pair (Q,)."""
        return looked_up(self.observation[name].reshape(-1), self.place)

    def spread(self, values: Tensor) -> Tensor:
        """Put values (Q,) at their place among the candidates (B, C), -inf at padding."""
        full = values.new_full((self.shape[0] * self.shape[1],), -torch.inf)
        return full.index_copy_(0, self.place, values).view(self.shape)


def of_slates(observation: Observation, slates: Tensor) -> Observation:
    """The observation as it would be if the slates (B, K) were the candidates.

    A shown slate thus becomes a row of training data for a model of candidates. Items of it that
    were no candidates become padding.
    """
    candidates = observation.get("candidates")
    if candidates is None:
        return {**observation, "candidates": slates}
    same = slates.unsqueeze(2) == candidates.unsqueeze(1)  # (B, K, C)
    place = same.to(torch.int8).argmax(dim=2)
    narrow = {name: observation[name].gather(1, place) for name in ALIGNED if name in observation}
    return {**observation, **narrow, "candidates": slates.where(same.any(dim=2), -1)}


# ---- numbers ----


@dataclass(frozen=True)
class PairFeature:
    """Some numbers of a pair, and the observation keys that they need."""

    keys: tuple[str, ...]
    """Observation keys that it needs."""
    values: Callable[[Pairs], Tensor]
    """Computes them: (Q, some) float32."""


PAIR_FEATURES: Registry[PairFeature] = Registry("pair feature")
"""Every feature of pairs by name."""


def pair_feature(
    name: str, *keys: str
) -> Callable[[Callable[[Pairs], Tensor]], Callable[[Pairs], Tensor]]:
    """Register a feature: `@pair_feature("own", "bought_items")` above a function of `Pairs`.

    Args:
        name: of the feature
        keys: observation keys that the function needs

    Raises:
        ValueError: If other code took the name.
    """

    def add(values: Callable[[Pairs], Tensor]) -> Callable[[Pairs], Tensor]:
        PAIR_FEATURES.add(name, PairFeature(keys, values), values)
        return values

    return add


def pair_features_for(keys: set[str]) -> tuple[str, ...]:
    """Names of the features whose keys are all there."""
    return tuple(name for name, feature in PAIR_FEATURES.items() if set(feature.keys) <= keys)


@pair_feature("own", "bought_items", "bought_counts", "bought_days")
def own_history(pairs: Pairs) -> Tensor:
    """Purchases of the item itself: (Q, 7), as `counted_history`."""
    observation, items = pairs.observation, len(pairs.items.category)
    candidates = candidates_of(observation, items).clamp(min=0)
    count, days = (
        lookup_of_bought(candidates, observation["bought_items"], observation[name], items)
        for name in ("bought_counts", "bought_days")
    )
    return counted_history(
        looked_up(count.view(-1), pairs.place), looked_up(days.view(-1), pairs.place)
    )


@pair_feature("category", "category_counts", "category_days")
def category_history(pairs: Pairs) -> Tensor:
    """Purchases in the item's category: (Q, 7), as `counted_history`."""
    counts, days = pairs.observation["category_counts"], pairs.observation["category_days"]
    at = pairs.row * counts.shape[1] + looked_up(pairs.items.category, pairs.item)
    return counted_history(looked_up(counts.reshape(-1), at), looked_up(days.reshape(-1), at))


@pair_feature("popularity", "popularity")
def log_popularity(pairs: Pairs) -> Tensor:
    """Log of the item's popularity: (Q, 1)."""
    return log_of(pairs.aligned("popularity")).unsqueeze(1)


@pair_feature("context", "context")
def visit_context(pairs: Pairs) -> Tensor:
    """Numbers of the visit, which are the same for all its items: (Q, width)."""
    return looked_up(squashed(pairs.observation["context"]), pairs.row)


@pair_feature("taste", "bought_items", "bought_counts", "bought_days")
def purchase_taste(pairs: Pairs) -> Tensor:
    """Similarity of the item to what was bought lately and to what was bought ever: (Q, 2)."""
    observation, vectors = pairs.observation, pairs.items.vectors
    bought = observation["bought_items"]
    ever = (bought >= 0) * observation["bought_counts"].clamp(min=0).sqrt()
    lately = ever * torch.exp(-observation["bought_days"].clamp(0, LONGEST_DAYS) / HABIT_DAYS)
    weights = torch.stack([lately, ever], dim=1)
    tastes = torch.bmm(weights, looked_up(vectors, bought.clamp(min=0)))  # (B, 2, D)
    tastes /= weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
    return torch.stack([_similarity(pairs, taste) for taste in tastes.unbind(dim=1)], dim=1)


@pair_feature("recent", "recent_slates", "recent_clicks")
def recent_exposure(pairs: Pairs) -> Tensor:
    """Recent exposures and responses of the item and of its category, and similarity: (Q, 5).

    The similarity is to the recent responses. This serves environments that tell nothing else of a
    shopper; a log whose slates were never shown cannot teach it.
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


def counted_history(count: Tensor, days: Tensor) -> Tensor:
    """Log count, whether any, log days since, exp(-days / t) for t in `DAYS`: (..) to (.., 7)."""
    bought = (count > 0).float()
    days = days.clamp(0, LONGEST_DAYS)
    decayed = [bought * torch.exp(-days / scale) for scale in DAYS]
    return torch.stack(
        [torch.log1p(count.clamp(min=0)), bought, bought * torch.log1p(days), *decayed], dim=-1
    )


def log_of(popularity: Tensor) -> Tensor:
    """Log of a popularity, which may be 0."""
    return popularity.clamp(min=0).add_(1e-4).log_()


def _similarity(pairs: Pairs, taste: Tensor) -> Tensor:
    """Dot product of each shopper's taste (B, D) with the item: (Q,).

    All items are compared at once, which is cheaper than pair by pair.
    """
    similar = (taste @ pairs.items.vectors.T).view(-1)
    return looked_up(similar, pairs.row * len(pairs.items.vectors) + pairs.item)


# ---- codes ----


@dataclass(frozen=True)
class PairCode:
    """A whole number of a pair, for a table of learned values."""

    keys: tuple[str, ...]
    """Observation keys that it needs."""
    size: Callable[[RankerCatalog], int]
    """Number of values that it can take."""
    values: Callable[[Pairs], Tensor]
    """Computes it: (Q,) int64."""


PAIR_CODES: Registry[PairCode] = Registry("pair code")
"""Every code by name."""


def pair_code(
    name: str, *keys: str, size: Callable[[RankerCatalog], int]
) -> Callable[[Callable[[Pairs], Tensor]], Callable[[Pairs], Tensor]]:
    """Register a code: `@pair_code("item", size=number_of_items)` above a function of `Pairs`.

    Args:
        name: of the code
        keys: observation keys that the function needs
        size: number of values that the code can take

    Raises:
        ValueError: If other code took the name.
    """

    def add(values: Callable[[Pairs], Tensor]) -> Callable[[Pairs], Tensor]:
        PAIR_CODES.add(name, PairCode(keys, size, values), values)
        return values

    return add


def pair_codes_for(keys: set[str]) -> tuple[str, ...]:
    """Names of the codes whose keys are all there."""
    return tuple(name for name, code in PAIR_CODES.items() if set(code.keys) <= keys)


def code_sizes(items: RankerCatalog, names: tuple[str, ...]) -> tuple[int, ...]:
    """Number of values that each of the codes can take.

    Raises:
        ValueError: If one of them reads placements and the catalogue does not know their sizes.
    """
    return tuple(PAIR_CODES[name].size(items) for name in names)


@pair_code("item", size=lambda items: len(items.category))
def item_code(pairs: Pairs) -> Tensor:
    """Number of the item."""
    return pairs.item


@pair_code("category", size=lambda items: int(items.category.max()) + 1)
def category_code(pairs: Pairs) -> Tensor:
    """Number of the item's category."""
    return pairs.items.category[pairs.item]


@pair_code("display", "placement", size=lambda items: items.need_placements()[0])
def display_code(pairs: Pairs) -> Tensor:
    """Display code of the item's placement."""
    mailers = pairs.items.need_placements()[1]
    return display_of(pairs.aligned("placement").long(), mailers)


@pair_code("mailer", "placement", size=lambda items: items.need_placements()[1])
def mailer_code(pairs: Pairs) -> Tensor:
    """Mailer code of the item's placement."""
    mailers = pairs.items.need_placements()[1]
    return mailer_of(pairs.aligned("placement").long(), mailers)
