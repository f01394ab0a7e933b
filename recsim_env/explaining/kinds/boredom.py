"""Boredom with a category: that it was shown and clicked before."""

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
from recsim_env.explaining.markets import CLOSED, WITH_MARKET, market_of
from recsim_env.shoppers.base import Shopper, counted
from recsim_env.shoppers.profile import EVER
from recsim_env.shoppers.session.population import SessionPopulation


@register_kind("boredom")
class Boredom(Kind):
    """Satiation with a category; a key is the category.

    Of fitted shoppers of impression logs it is what they count of the category: what was shown and
    clicked, which makes them weary.
    """

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether categories satiate."""
        return isinstance(shopper, (*CLOSED, SessionPopulation))

    def find(self, case: Case) -> Found:
        """Find the categories of the slate that were met before."""
        category = case.categories
        sated = _sated(case).gather(1, category) > 0
        return Found.pairs(category, case.question.shown & sated)

    def remove(self, world: World, keys: Tensor) -> None:
        """Let the category be as if it had never been met."""
        shopper, state = world.case.shopper, world.state
        if isinstance(shopper, SessionPopulation):
            hit = (keys >= 0).nonzero().flatten()
            state.memory.category[hit, :, keys[hit]] = 0
        elif isinstance(shopper, WITH_MARKET):
            market = market_of(shopper, state)
            market.satiation = cleared(market.satiation, keys)
        else:
            state.sated = cleared(state.sated, keys)

    def speaks(self, case: Case, found: Found) -> Tensor:
        """Tell that a category counts for its own items."""
        return at_own_category(case, found)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Name the category, and how often it was clicked so far."""
        shopper, state = case.shopper, case.state
        held = market_of(shopper, state) if isinstance(shopper, WITH_MARKET) else state
        clicks = int(held.profile.clicked[row, key, EVER])
        return f"{case.category(key)} met before" + (
            f" with {counted(clicks, 'click')}" if clicks else ""
        )


def _sated(case: Case) -> Tensor:
    """Return how much of each category was met, (B, G) float32."""
    if isinstance(case.shopper, SessionPopulation):
        amounts: Tensor = case.state.memory.category.sum(dim=1)
        return amounts
    if isinstance(case.shopper, WITH_MARKET):
        return market_of(case.shopper, case.state).satiation
    sated: Tensor = case.state.sated
    return sated
