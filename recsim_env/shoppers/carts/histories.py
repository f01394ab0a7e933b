"""Households as they are before chosen visits of a log, in the memory that a simulation uses."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recsim_env.shoppers.household.memory import Keys, Memory
from recsim_env.shoppers.household.replay import Visits

EARLIER = 3
"""Visits that a household made before the first one that is scored."""


def before(
    visits: Visits, keys: Keys, chosen: Tensor, remembered: int
) -> Iterator[tuple[Tensor, Memory]]:
    """Replay a log, and stop before the chosen visits, those of one rank together.

    Args:
        visits: the log
        keys: the counters of the items
        chosen: (V,) bool which visits are wanted
        remembered: number of items that a memory remembers

    Yields:
        The wanted visits (R,) int64, one of each household, and the memory of all households,
        numbered as in the log. The memory is changed once the next ones are asked for.
    """
    memory = Memory.empty(keys, int(visits.shopper.max()) + 1, remembered)
    order = visits.rank.argsort(stable=True)
    sizes = torch.bincount(visits.rank).tolist()
    last = int(visits.rank[chosen].max()) if bool(chosen.any()) else -1
    for now in order.split(sizes)[: last + 1]:
        wanted = now[chosen[now]]
        if len(wanted):
            yield wanted, memory
        memory.record(visits.shopper[now], visits.padded(now), visits.day[now].float())
