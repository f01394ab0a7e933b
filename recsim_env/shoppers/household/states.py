"""The hidden state of fine-tuned shoppers between two visits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.shoppers.encoder import Cache
from recsim_env.shoppers.household.features import visit_context
from recsim_env.shoppers.household.memory import Memory

REMEMBERED = 192  # items bought before that a shopper can buy again outside the slate


@dataclass
class LearnedState:
    """The hidden state of B shoppers at a visit.

    Shapes: B shoppers.
        who: (B,) int64 start state
        memory: the counters, which all members see
        caches: the visits so far, encoded by each member of the ensemble
        day, since: (B,) float32 day, and days since the last visit
        store, week: (B,) int64 of this visit
        row: (B,) int64 of store and week in the shop's tables
        rhythm: (B, RHYTHM) of the memory as of this day
        portrait: (B, `len(PORTRAIT)`) float32 what the shop is told of the household; zeros where
            it is told nothing
    """

    who: Tensor
    memory: Memory
    caches: list[Cache]
    day: Tensor
    since: Tensor
    store: Tensor
    week: Tensor
    row: Tensor
    rhythm: Tensor
    portrait: Tensor

    @property
    def cache(self) -> Cache:
        """The cache of the first member."""
        return self.caches[0]

    def context(self) -> Tensor:
        """Describe the circumstances of this visit: (B, CONTEXT)."""
        return visit_context(self.rhythm, self.day, self.since)

    def inside(self, context: Tensor) -> list[Tensor]:
        """Join each member's states with the context (B, CONTEXT): what the heads read.

        Returns:
            (B, D + CONTEXT), one tensor a member.
        """
        return [torch.cat([cache.state, context], dim=1) for cache in self.caches]
