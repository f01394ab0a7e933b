"""What the session model counts of each shopper: the inputs that carry satiation and fatigue.

Unlike `recsim_env.shoppers.profile`, which is what the shop remembers, this is what the user model
knows: it also counts each item by itself, and weights positions by how likely they were looked at.

Counters age with the days between two slates: as much as a visit from one day to the next, and with
the logarithm of the days beyond, so that a week is three visits long (`age_of`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.shoppers.profile import DECAYS, TASTE_DECAYS
from recsim_env.tensors import constant, looked_up

ITEM_DECAYS = (0.7, 0.9)
"""Decay per visit of the counters of an item: memories of about three and of ten visits."""
SAME_DAY = 0.5
"""Age of counters between two slates of a day, in visits: what stood on the page before is fresher
than what was seen the day before, and pages fade too."""
FADE = 0.8
"""Weight of a position relative to the one above it, in counters of what was looked at. It only
shapes inputs; how far a shopper looks is learned (`SessionShopper.log_looks`)."""
KINDS = 3  # shown, shown weighted by position, responded to
CATEGORY_COUNTERS = KINDS * len(DECAYS)
ITEM_COUNTERS = (KINDS - 1) * len(ITEM_DECAYS)
COUNTERS = CATEGORY_COUNTERS + ITEM_COUNTERS
ALL_DECAYS = DECAYS * KINDS + ITEM_DECAYS * (KINDS - 1)
"""Decay of each of the counters."""


def age_of(days: Tensor) -> Tensor:
    """Return how much counters age in so many days: 1 in a day, 2 in three, 3 in a week."""
    return torch.log2(1 + days).clamp(min=SAME_DAY)


def context_size(width: int) -> int:
    """Return the length of `SessionMemory.context` with item embeddings of this width."""
    return 2 * len(TASTE_DECAYS) * (width + 1) + 1


@dataclass
class SessionMemory:
    """Counters of B shoppers.

    Shapes: G categories, N items, E embedding width, A = len(TASTE_DECAYS).
    """

    category: Tensor
    """(B, CATEGORY_COUNTERS, G) float32: shown, shown weighted by position, responded to, each with
    every one of `DECAYS`."""
    item: Tensor
    """(B, ITEM_COUNTERS, N) float32: shown weighted by position, responded to, each with every one
    of `ITEM_DECAYS`."""
    liked: Tensor
    """(B, A, E + 1) float32: sum of the embeddings responded to, and their number."""
    seen: Tensor
    """(B, A, E + 1) float32: the same of what was shown, weighted by position."""
    visits: Tensor
    """(B,) float32, slates so far."""
    age: Tensor
    """(B,) float32, `age_of` the days since the last slate."""

    @classmethod
    def empty(
        cls, batch: int, items: int, categories: int, width: int, device: torch.device
    ) -> SessionMemory:
        """Make the memory of shoppers without visits."""
        taste = (batch, len(TASTE_DECAYS), width + 1)
        return cls(
            torch.zeros(batch, CATEGORY_COUNTERS, categories, dtype=torch.float32, device=device),
            torch.zeros(batch, ITEM_COUNTERS, items, dtype=torch.float32, device=device),
            torch.zeros(taste, dtype=torch.float32, device=device),
            torch.zeros(taste, dtype=torch.float32, device=device),
            torch.zeros(batch, dtype=torch.float32, device=device),
            torch.ones(batch, dtype=torch.float32, device=device),
        )

    def look(self, slates: Tensor, category: Tensor) -> Tensor:
        """Look up the counters of shown items before this visit.

        Shapes: slates (B, K) int64, category (N,) int64 -> (B, K, COUNTERS) float32.
        """
        of_category = looked_up(category, slates).unsqueeze(1).expand(-1, CATEGORY_COUNTERS, -1)
        of_item = slates.unsqueeze(1).expand(-1, ITEM_COUNTERS, -1)
        found = torch.cat(
            [self.category.gather(2, of_category), self.item.gather(2, of_item)], dim=1
        )
        faded = constant(ALL_DECAYS, found) ** (self.age - 1).unsqueeze(1)
        return (found * faded.unsqueeze(2)).transpose(1, 2)

    def record(
        self, slates: Tensor, shown: Tensor, clicks: Tensor, category: Tensor, embedding: Tensor
    ) -> None:
        """Add a slate that is followed by another one a day later, in place; see `wait`.

        Shapes: slates (B, K) int64; shown, clicks (B, K) bool; category (N,) int64; embedding (N,
        E).
        """
        clicks = clicks.float()
        weight = shown * position_weights(slates.shape[1], slates.device)
        kinds = torch.stack([shown.float(), weight, clicks], dim=1)
        self._count(self.category, kinds, looked_up(category, slates), DECAYS)
        self._count(self.item, kinds[:, 1:], slates, ITEM_DECAYS)
        vectors = torch.cat(
            [looked_up(embedding, slates), torch.ones_like(weight).unsqueeze(2)], dim=2
        )
        decays = (constant(TASTE_DECAYS, self.liked) ** self.age.unsqueeze(1)).unsqueeze(2)
        self.liked.mul_(decays).add_(torch.einsum("bk,bke->be", clicks, vectors).unsqueeze(1))
        self.seen.mul_(decays).add_(torch.einsum("bk,bke->be", weight, vectors).unsqueeze(1))
        self.visits += 1
        self.age = torch.ones_like(self.age)

    def wait(self, days: Tensor) -> None:
        """Let the shoppers come back after so many days (B,)."""
        self.age = age_of(days)

    def _count(
        self, counters: Tensor, kinds: Tensor, group: Tensor, decays: tuple[float, ...]
    ) -> None:
        """Decay counters, and add a visit at the groups of its positions.

        Shapes: M kinds, D decays.
            counters: (B, M * D, G), those of one kind side by side
            kinds: (B, M, K) what to add for each position
            group: (B, K) int64 category or item of each position
        """
        faded = constant(decays * kinds.shape[1], counters) ** self.age.unsqueeze(1)
        counters.mul_(faded.unsqueeze(2))
        added = kinds.repeat_interleave(len(decays), dim=1)
        counters.scatter_add_(2, group.unsqueeze(1).expand(-1, added.shape[1], -1), added)

    def context(self) -> Tensor:
        """Summarise a shopper: mean vectors of what was liked and seen, log counts, log visits.

        Returns:
            (B, context_size(E)) float32 of order 1.
        """
        liked, seen = self.liked, self.seen
        counts = torch.stack([liked[:, :, -1], seen[:, :, -1]], dim=1).flatten(1)
        means = torch.cat(
            [liked[:, :, :-1] / (1 + liked[:, :, -1:]), seen[:, :, :-1] / (1 + seen[:, :, -1:])],
            dim=1,
        )
        logs = torch.log1p(torch.cat([counts, self.visits.unsqueeze(1)], dim=1)) / 3.0
        return torch.cat([means.flatten(1) * 2.0, logs], dim=1)


def position_weights(positions: int, device: torch.device) -> Tensor:
    """Weight the positions (K,): 1 at the top, times `FADE` at each position below."""
    return FADE ** torch.arange(positions, device=device, dtype=torch.float32)
