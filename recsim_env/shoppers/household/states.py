"""Hidden state of fine-tuned shoppers between two visits, and how rows of it are taken and put."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def take(state: Any, rows: Any, device: torch.device) -> Any:
    """Rows of a state (a dataclass of tensors with the shoppers in front, or second in a cache's
    layers) or of a list of them.
    """
    if isinstance(state, list):
        return [take(part, rows, device) for part in state]
    if isinstance(state, Cache):
        return Cache(
            state.keys[:, rows].to(device),
            state.values[:, rows].to(device),
            state.day[rows].to(device),
            state.count[rows].to(device),
            state.state[rows].to(device),
        )
    if isinstance(state, Memory):
        parts = {
            name: value[rows].to(device)
            for name, value in vars(state).items()
            if isinstance(value, Tensor)
        }
        return Memory(state.keys.to(device), **parts)
    parts = {
        name: take(value, rows, device)
        if isinstance(value, Memory | list)
        else value[rows].to(device)
        for name, value in vars(state).items()
    }
    return type(state)(**parts)


def put(state: Any, rows: Tensor, fresh: Any) -> None:
    """Write the rows of `fresh` into `rows` (R,) of a state, in place."""
    for name, value in vars(state).items():
        new = getattr(fresh, name)
        if isinstance(value, list):
            for part, new_part in zip(value, new, strict=True):
                put(part, rows, new_part)
        elif isinstance(value, Memory):
            put(value, rows, new)
        elif isinstance(state, Cache) and name in ("keys", "values"):
            value[:, rows] = new
        elif isinstance(value, Tensor):
            value[rows] = new
