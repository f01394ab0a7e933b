"""The cart: what lies in it already."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.carts.population import CartShopper
from recsim_env.shoppers.household.memory import packed
from recsim_env.shoppers.visits.pages import CART
from recsim_env.shoppers.visits.population import VisitsShopper
from recsim_env.tensors import among


@register_kind("cart")
class InTheCart(Kind):
    """An item in the cart; a key is the item.

    It moves what is shown on a cart page, and households put nothing twice into it.
    """

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether there is a cart."""
        return isinstance(shopper, (CartShopper, VisitsShopper))

    def find(self, case: Case) -> Found:
        """Find what is in the cart of shoppers who look at it, and what is shown again."""
        held = _held(case.shopper, case.state)
        counts = (held.scenario == CART).unsqueeze(1)
        if isinstance(case.shopper, CartShopper):
            shown = case.question.slates.where(case.question.shown, -1)
            counts = counts | among(held.cart, shown, len(case.simulator.catalog))
        return Found.pairs(held.cart, (held.cart >= 0) & counts)

    def remove(self, world: World, keys: Tensor) -> None:
        """Take the item out of the cart."""
        held = _held(world.case.shopper, world.state)
        left = packed(held.cart.where(held.cart != keys.unsqueeze(1), -1))
        held.cart = held.cart.clone().fill_(-1)
        held.cart[:, : left.shape[1]] = left

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say where it is."""
        return "in the cart"

    def item(self, case: Case, row: int, key: int) -> int:
        """Return the item itself."""
        return key


def _held(shopper: Shopper[Any], state: Any) -> Any:
    """Return the part of a state that holds page and cart."""
    return state.visit if isinstance(shopper, VisitsShopper) else state
