"""The parameters of shoppers who are offered bundles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recsim_env.shoppers.market import CONTROL, MARKET, MarketConfig
from recsim_env.shoppers.worlds import MOST, check_numbers, of_kind

_RANGES = {
    **dict.fromkeys(("complement", "substitute", "sensitivity"), (0.0, MOST)),
    "partners": (0.0, 1.0),
    "sensitivity_spread": (0.0, 5.0),
}

MARKET_OF_BUNDLES = replace(MARKET, base=-3.0, examination=1.0, examination_spread=0.0)
"""Items are taken alone less often than they are clicked, and a bundle is looked at as a whole."""


@dataclass(frozen=True)
class BundleConfig:
    """Every parameter of the bundle market, in log-odds unless another unit is given.

    Raises:
        ValueError: If a number is none, or is out of its range.
    """

    market: MarketConfig = MARKET_OF_BUNDLES
    """What items are worth one by one, what tires, and who leaves. A bundle is looked at as a
    whole, so that the examination of positions plays no part."""
    complement: float = 1.5
    """What a basket gains by each pair of items whose categories go together."""
    partners: float = 0.15
    """Share of the pairs of categories that go together: about three partners a category."""
    substitute: float = 1.0
    """What a basket loses by each pair of items of one category."""
    sensitivity: float = 1.5
    """What the median shopper loses of the utility of an item per unit of the logarithm of the
    price paid. Weekly purchases of one item in the Complete Journey data rise by 3.3 in logarithm
    per unit of the discount, together with displays and mailers; about half of it is taken for the
    price alone."""
    sensitivity_spread: float = 0.7
    """Standard deviation over shoppers of the logarithm of the sensitivity. It is an assumption."""

    def __post_init__(self) -> None:
        of_kind("market", self.market, MarketConfig)
        check_numbers(self, {}, _RANGES, parts=("market",))

    def alike(self) -> BundleConfig:
        """Return the same market with shoppers who all behave as the median one does."""
        return replace(self, market=self.market.alike(), sensitivity_spread=0.0)


BUNDLES = BundleConfig()
"""Combinations matter: what goes together sells together, and some wait for a discount."""
BUNDLES_CONTROL = BundleConfig(
    market=replace(CONTROL, base=-3.0, examination=1.0, examination_spread=0.0),
    complement=0.0,
    substitute=0.0,
    sensitivity=0.0,
)
"""Nothing goes together, no price counts, and nothing that is shown changes anything later: the
best single items without a discount are optimal."""
