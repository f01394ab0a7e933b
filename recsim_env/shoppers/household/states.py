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
    """Hidden state of B shoppers at a visit: who (B,) int64 start state, day and since (B,) float32, store (B,).

    Of this day: week (B,) int64, row (B,) int64 of the store's week in the shop's tables, rhythm
    (B, RHYTHM) of the memory. `caches` hold what each member of the ensemble makes of the visits so
    far; all see the counters of `memory`.
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

    @property
    def cache(self) -> Cache:
        """The first member's."""
        return self.caches[0]

    def context(self) -> Tensor:
        """Of this visit: (B, CONTEXT)."""
        return visit_context(self.rhythm, self.day, self.since)

    def inside(self, context: Tensor) -> list[Tensor]:
        """What each member's heads see of the shoppers, with the context of this visit: (B, D + CONTEXT) each."""
        return [torch.cat([cache.state, context], dim=1) for cache in self.caches]
