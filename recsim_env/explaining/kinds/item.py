"""The purchases of an item, as if it had never been bought."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.households import drop, too_many_visits
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.shoppers.base import Shopper, ago
from recsim_env.shoppers.household.memory import COUNT, SINCE
from recsim_env.shoppers.household.population import LearnedShopper
from recsim_env.tensors import looked_up

MOST = 12
"""Items of a shopper that are looked at: those on the slate, then those bought most often of the
categories on the slate. Others move a response only through what the encoder read."""


@register_kind("item")
class BoughtItem(Kind):
    """The purchases of an item; a key is the item."""

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether there are baskets."""
        return isinstance(shopper, LearnedShopper)

    def missing(self, case: Case) -> str:
        """Say that the episode is longer than what the simulator remembers, if it is."""
        return too_many_visits(case)

    def find(self, case: Case) -> Found:
        """Find what was bought of the slate, and of its categories."""
        memory, question = case.state.memory, case.question
        category, count = case.simulator.catalog.category, memory.purchases()
        slates = question.slates.where(question.shown, -1)
        own = (memory.items.unsqueeze(2) == slates.unsqueeze(1)).any(dim=2)
        alike = looked_up(category, memory.items.clamp(min=0)).unsqueeze(2) == looked_up(
            category, question.slates
        ).unsqueeze(1)
        alike = (alike & question.shown.unsqueeze(1)).any(dim=2)
        bought = (memory.items >= 0) & (count > 0)
        rank = torch.where(own, count + 1e6, count).masked_fill(~(bought & alike), -1.0)
        best = rank.topk(min(MOST, rank.shape[1]), dim=1)
        return Found.pairs(memory.items.gather(1, best.indices), best.values > 0)

    def remove(self, world: World, keys: Tensor) -> None:
        """Take the item out of every basket."""
        items = torch.arange(len(world.case.simulator.catalog), device=keys.device)
        drop(world, items == keys.unsqueeze(1))

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say when it was bought last, and how often."""
        state, one = case.state, torch.tensor([key], device=case.simulator.device)
        stats = state.memory.stats(torch.full_like(one, row), one, state.day[row : row + 1])[0, 0]
        count = int(stats[COUNT])
        when = ago(int(stats[SINCE]))
        often = "twice" if count == 2 else f"{count} times"
        return f"bought {when}" if count == 1 else f"bought {often}, last {when}"

    def item(self, case: Case, row: int, key: int) -> int:
        """Return the item itself."""
        return key
