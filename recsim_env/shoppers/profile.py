"""What a shop with impression logs remembers beyond the last few slates: running counters.

They are a pure function of the slates shown and the responses, so that a logged episode and a
simulated one give the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.tensors import constant, looked_up
from recsim_env.types import Observation

DECAYS = (0.7, 0.9, 1.0)
"""Decay per visit of the category counters: memories of about three, of ten, and of all visits."""
LAST_VISITS, LATELY, EVER = range(len(DECAYS))
"""Columns of `category_shown` and `category_clicked`: the memory of each of `DECAYS`."""
TASTE_DECAYS = (0.9, 1.0)
"""The same for the mean vector of the responses."""
FAMILIAR = 1.0
"""Responses of the last ten visits or so (decay 0.9) from which on a category is familiar to the
shopper."""
MOST = 1e6
"""Upper bound of every counter in an observation space."""


@dataclass
class Profile:
    """Counters of B shoppers.

    Shapes: G categories, K positions, E embedding width, D = len(DECAYS).
    """

    shown: Tensor
    """(B, G, D) float32, positions that held the category, decayed by visit with each of
    `DECAYS`."""
    clicked: Tensor
    """(B, G, D) float32, responses in the category, likewise."""
    taste: Tensor
    """(B, 2, E) float32, sum of the embeddings responded to, decayed with each of
    `TASTE_DECAYS`."""
    exposed: Tensor
    """(B, 2, E) float32, sum of the embeddings shown, position j (from 0) counting 1 / log2(j + 2),
    likewise."""
    position_clicks: Tensor
    """(B, K) float32, responses at each position so far."""
    familiarity: Tensor
    """(B, 4) float32: positions shown and responded to in familiar categories, and in all others,
    so far."""
    visits: Tensor
    """(B,) float32, visits so far."""

    @classmethod
    def empty(cls, batch: int, catalog: Catalog, slate_size: int, device: torch.device) -> Profile:
        """Make the counters of newcomers."""
        groups, width = len(catalog.categories), catalog.embedding.shape[1]

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=torch.float32, device=device)

        counters = (groups, len(DECAYS))
        return cls(
            shown=zeros(*counters),
            clicked=zeros(*counters),
            taste=zeros(len(TASTE_DECAYS), width),
            exposed=zeros(len(TASTE_DECAYS), width),
            position_clicks=zeros(slate_size),
            familiarity=zeros(4),
            visits=zeros(),
        )

    def record(
        self, slates: Tensor, shown: Tensor, clicks: Tensor, category: Tensor, embedding: Tensor
    ) -> None:
        """Add a visit to the counters, in place.

        Args:
            slates: (B, K) int64.
            shown: (B, K) bool.
            clicks: (B, K) bool.
            category: (N,) int64, the catalogue's.
            embedding: (N, E), the catalogue's.
        """
        of_item = looked_up(category, slates)
        shown, clicks = shown.float(), clicks.float()
        familiar = (self.clicked[:, :, LATELY].gather(1, of_item) >= FAMILIAR).float()
        both = torch.stack([shown, clicks], dim=1)  # (B, 2, K)
        known = (both @ familiar.unsqueeze(2)).squeeze(2)
        self.familiarity += torch.cat([known, both.sum(dim=2) - known], dim=1)
        for counter, weight in ((self.shown, shown), (self.clicked, clicks)):
            new = weight.new_zeros(counter.shape[:2]).scatter_add_(1, of_item, weight)
            counter.mul_(constant(DECAYS, counter)).add_(new.unsqueeze(2))
        vectors = looked_up(embedding, slates)
        looks = shown * constant(_looks(slates.shape[1]), shown)
        new = torch.stack([clicks, looks], dim=1) @ vectors  # (B, 2, E)
        decays = constant(TASTE_DECAYS, new).unsqueeze(1)
        self.taste.mul_(decays).add_(new[:, :1])
        self.exposed.mul_(decays).add_(new[:, 1:])
        self.position_clicks += clicks
        self.visits += 1

    def observe(self) -> Observation:
        """Return the keys of `profile_spaces`, as copies."""
        return {
            "category_shown": self.shown.clone(),
            "category_clicked": self.clicked.clone(),
            "taste": self.taste.clone(),
            "exposed": self.exposed.clone(),
            "position_clicks": self.position_clicks.clone(),
            "familiarity": self.familiarity.clone(),
            "visits": self.visits.unsqueeze(1).clone(),
        }


def _looks(positions: int) -> tuple[float, ...]:
    """Return how much each position counts in `exposed`, top first."""
    return tuple(1 / math.log2(position + 2) for position in range(positions))


def profile_spaces(catalog: Catalog, slate_size: int) -> dict[str, gymnasium.Space[Any]]:
    """Return the space of each key that `Profile.observe` gives, for one shopper."""
    groups, width = len(catalog.categories), catalog.embedding.shape[1]

    def box(low: float, *shape: int) -> spaces.Box:
        return spaces.Box(low, MOST, shape, np.float32)

    return {
        "category_shown": box(0, groups, len(DECAYS)),
        "category_clicked": box(0, groups, len(DECAYS)),
        "taste": box(-MOST, len(TASTE_DECAYS), width),
        "exposed": box(-MOST, len(TASTE_DECAYS), width),
        "position_clicks": box(0, slate_size),
        "familiarity": box(0, 4),
        "visits": box(0, 1),
    }
