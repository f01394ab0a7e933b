"""Where closed-form shoppers of several kinds keep the same things."""

from __future__ import annotations

from typing import Any

from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.bundles.population import BundleShopper
from recsim_env.shoppers.market import ClosedMarket, MarketState
from recsim_env.shoppers.regulars.population import RegularsShopper

WITH_MARKET = (ClosedMarket, BundleShopper)
"""Shoppers whose state holds that of a market."""
CLOSED = (*WITH_MARKET, RegularsShopper)
"""Shoppers of a closed form."""


def market_of(shopper: Shopper[Any], state: Any) -> MarketState:
    """Return the part of a state of `WITH_MARKET` that is a market's; it may be written into."""
    if isinstance(shopper, ClosedMarket):
        found: MarketState = shopper.market_state(state)
        return found
    inside: MarketState = state.market
    return inside
