"""Budget: clicks of a category beyond which a shopper is expected to have had enough of it.

Knobs on counts and memories are linear: every further click of a category weighs as much as the one
before. Boredom often is not. It sets in at some number of clicks within some time, and costs little
before. The budget adds to the log-odds of item i

    height sigmoid(slope (n_i / place - 1))

where n_i are the clicks of i's category in a window of slates: those of the slates that the shop
remembers, and those that are expected from the slate so far (look times the ranker's chance, item
by item). The intent moves all four numbers,

    height = u a_budget                        in log-odds; 0 leaves everything as it is
    place  = PLACE exp(u a_budget_place)       in clicks
    slope  = SLOPE exp(u a_budget_slope)       per share of the place
    window = WINDOW exp(u a_budget_slates)     in slates, the one that is filled included

A window of 2.5 slates counts the slate that is filled, the one before, and half the clicks of the
one before that. Dimensions: B shoppers, P items of the pool, H remembered slates, K positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policies.filling import SlateCue, SlateSoFar
from recsim_env.tensors import looked_up
from recsim_env.types import Observation

PLACE, SLOPE, WINDOW = 2.0, 4.0, 2.0
"""Place, slope and window where the intent is 0."""
FARTHEST_FACTOR = 10.0
"""Largest absolute logarithm of a factor on one of them."""


@dataclass(frozen=True)
class Remembered:
    """The clicks that the shop remembers, by slate.

    Shapes: R = H * K.
        category: (B, R) int64, of the item at each position
        clicks:   (B, H, K) float32, the latest slate first
    """

    category: Tensor
    clicks: Tensor

    @classmethod
    def of(cls, observation: Observation, category: Tensor) -> Remembered:
        """Read the remembered slates of an observation; `category` (N,) is that of each item."""
        slates = observation["recent_slates"]
        clicks = (observation["recent_clicks"] * (slates >= 0)).float()
        return cls(looked_up(category, slates.clamp(min=0)).flatten(1), clicks)

    def rows(self, part: slice | Tensor) -> Remembered:
        """Those of some of the shoppers."""
        return Remembered(self.category[part], self.clicks[part])

    def of_pool(self, category: Tensor, window: Tensor, groups: int) -> Tensor:
        """Clicks of the category of each item of a pool in the last slates: (B, P).

        Args:
            category: (B, P) of the items of the pool
            window: (B, 1) number of slates, the next one included
            groups: number of categories
        """
        ages = torch.arange(
            1, self.clicks.shape[1] + 1, device=self.clicks.device, dtype=torch.float32
        )
        counted = (window - ages).clamp(0, 1)  # (B, H), the share of each slate
        weight = (self.clicks * counted.unsqueeze(2)).flatten(1)
        by_category = weight.new_zeros(len(weight), groups).scatter_add_(1, self.category, weight)
        found: Tensor = by_category.gather(1, category)
        return found


class Budget(SlateCue):
    """The budget as the slate fills.

    Args:
        slate: the slate so far
        remembered: the clicks that the shop remembers
        looks: (B, K) or (1, K) chance that each position is looked at
        settings: (B, 4) height in log-odds, and the logarithms of the factors on place, slope and
            window
    """

    def __init__(
        self, slate: SlateSoFar, remembered: Remembered, looks: Tensor, settings: Tensor
    ) -> None:
        self._slate, self._looks = slate, looks
        self._height = settings[:, :1]
        factors = settings[:, 1:].clamp(-FARTHEST_FACTOR, FARTHEST_FACTOR).exp()
        self._place, self._slope = PLACE * factors[:, :1], SLOPE * factors[:, 1:2]
        self._chance = torch.sigmoid(slate.pool.logits)
        groups = len(slate.catalog.categories)
        self.clicks = remembered.of_pool(slate.category, WINDOW * factors[:, 2:], groups)
        """(B, P) clicks of each item's category, those expected from the slate so far included."""

    def log_odds(self) -> Tensor:
        """What the budget adds to the log-odds of each item as the next one: (B, P)."""
        beyond = self.clicks / self._place - 1
        return self._height * torch.sigmoid(self._slope * beyond)

    def add(self, places: Tensor) -> None:
        """Expect the clicks of the items at places (B,) of the pool, which come next."""
        at, category = places.unsqueeze(1), self._slate.category
        look = self._looks[:, self._slate.length].unsqueeze(1)
        expected = look * self._chance.gather(1, at)
        self.clicks = self.clicks + expected * (category == category.gather(1, at))
