"""The habit of a category: that regular customers clicked in it before."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import (
    Found,
    Kind,
    at_own_category,
    cleared,
    register_kind,
)
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.regulars.population import RegularsShopper


@register_kind("habit")
class Habit(Kind):
    """Remembered clicks in a category, which draw one and repel another; a key is the category."""

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether familiarity counts."""
        return isinstance(shopper, RegularsShopper)

    def find(self, case: Case) -> Found:
        """Find the familiar categories of the slate."""
        category = case.categories
        familiar = case.state.clicked.gather(1, category) > 0
        return Found.pairs(category, case.question.shown & familiar)

    def remove(self, world: World, keys: Tensor) -> None:
        """Forget the clicks in the category."""
        world.state.clicked = cleared(world.state.clicked, keys)

    def speaks(self, case: Case, found: Found) -> Tensor:
        """Tell that a category counts for its own items."""
        return at_own_category(case, found)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Name the category to a person."""
        return f"used to {case.category(key)}"
