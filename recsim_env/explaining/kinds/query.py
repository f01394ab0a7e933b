"""The query: what is searched for on this page."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.carts.population import CartShopper
from recsim_env.shoppers.visits.pages import HOME, SEARCH
from recsim_env.shoppers.visits.population import VisitsShopper


@register_kind("query")
class Query(Kind):
    """A search, as if the page were the home page; there is one key, 0."""

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether there are searches."""
        return isinstance(shopper, (CartShopper, VisitsShopper))

    def find(self, case: Case) -> Found:
        """Find the shoppers who search."""
        return Found.ones(_held(case.shopper, case.state).scenario == SEARCH)

    def remove(self, world: World, keys: Tensor) -> None:
        """Let the page be the home page."""
        held, out = _held(world.case.shopper, world.state), keys >= 0
        held.scenario = held.scenario.where(~out, HOME)
        held.sought = held.sought.where(~out, -1)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say what is searched for."""
        sought = int(_held(case.shopper, case.state).sought[row])
        searched = (
            case.category(sought) if isinstance(case.shopper, VisitsShopper) else case.title(sought)
        )
        return f"searched for {searched}"


def _held(shopper: Shopper[Any], state: Any) -> Any:
    """Return the part of a state that holds page and search."""
    return state.visit if isinstance(shopper, VisitsShopper) else state
