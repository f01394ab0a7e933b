"""The shopping list: what a household came for, whatever it is shown."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, at_own_items, register_kind
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.carts.population import CartShopper
from recsim_env.tensors import among


@register_kind("list")
class Listed(Kind):
    """That an item is on the list of the visit; a key is the item."""

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether there are lists."""
        return isinstance(shopper, CartShopper)

    def find(self, case: Case) -> Found:
        """Find the items of the slate that are on the list."""
        question, items = case.question, len(case.simulator.catalog)
        listed = among(question.slates, case.state.wanted, items)
        return Found.pairs(question.slates, question.shown & listed)

    def remove(self, world: World, keys: Tensor) -> None:
        """Take the item off the list."""
        wanted = world.state.wanted
        world.state.wanted = wanted.where(wanted != keys.unsqueeze(1), -1)

    def speaks(self, case: Case, found: Found) -> Tensor:
        """Tell that an item counts at its own position."""
        return at_own_items(case, found)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say that the household came for it."""
        return "on the shopping list"

    def item(self, case: Case, row: int, key: int) -> int:
        """Return the item itself."""
        return key
