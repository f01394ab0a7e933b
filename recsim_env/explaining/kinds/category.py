"""The purchases of a category, as if none of its items had ever been bought."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.households import drop, too_many_visits
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.shoppers.base import Shopper, counted
from recsim_env.shoppers.household.memory import COUNT
from recsim_env.shoppers.household.population import LearnedShopper


def purchases(case: Case) -> Tensor:
    """Return the purchases of each category, (B, G) float32."""
    memory = case.state.memory
    counts: Tensor = memory.table[:, memory.keys.categories, COUNT]
    return counts


@register_kind("category")
class BoughtCategory(Kind):
    """The purchases of a category; a key is the category."""

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether there are baskets."""
        return isinstance(shopper, LearnedShopper)

    def missing(self, case: Case) -> str:
        """Say that the episode is longer than what the simulator remembers, if it is."""
        return too_many_visits(case)

    def find(self, case: Case) -> Found:
        """Find the categories of the slate in which something was bought."""
        category = case.categories
        return Found.pairs(
            category, case.question.shown & (purchases(case).gather(1, category) > 0)
        )

    def remove(self, world: World, keys: Tensor) -> None:
        """Take every item of the category out of every basket."""
        drop(world, world.case.simulator.catalog.category == keys.unsqueeze(1))

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say how many items of the category were bought."""
        count = int(torch.round(purchases(case)[row, key]))
        return f"{counted(count, 'purchase')} of {case.category(key)}"
