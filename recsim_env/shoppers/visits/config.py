"""Parameters of a market of whole visits, and where they come from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from recsim_env.shoppers.market import CONTROL, MARKET, MarketConfig
from recsim_env.shoppers.worlds import check_numbers, of_kind

_COUNTS = {"pages": 1000, "cart_size": 1000}  # from 1 to this
_SHARES = ("search", "cart_page", "search_focus")
_LENGTHS = ("search_taste", "query_noise", "sensitivity_spread")
_RANGES = {
    **dict.fromkeys(_SHARES, (0.0, 1.0)),
    **dict.fromkeys(_LENGTHS, (0.0, 100.0)),
}


@dataclass(frozen=True)
class VisitsConfig:
    """Every parameter of a market of whole visits, in log-odds unless another unit is given.

    Interests, satiation, examination and leaving are those of `market`. Everything else is an
    assumption, unless a source is named.

    Raises:
        ValueError: If a number is none, or is out of its range, or if `market` is no MarketConfig.
    """

    market: MarketConfig = field(default_factory=MarketConfig)
    """Catalogue, interests, boredom and leaving, as in a market whose visits have one page."""
    pages: int = 8
    """Most pages of a visit, after which it ends in any case."""
    cart_size: int = 20
    """Most items in a cart; what is clicked beyond is not put into it."""
    end: float = -1.0
    """Log-odds that the visit ends with a page on which something was clicked: by default about one
    in four does."""
    end_unsatisfied: float = 0.7
    """Log-odds of ending that a page without a click adds."""
    checkout: float = 0.5
    """Log-odds that a visit that ends with one item in the cart ends with the checkout; otherwise
    the cart is abandoned."""
    checkout_item: float = 0.3
    """Log-odds of the checkout that each further item in the cart adds."""
    search: float = 0.3
    """Chance that a page is a search; it is the same for the first page of a visit."""
    cart_page: float = 0.3
    """Chance that a page is the cart, which is only looked at where something is in it."""
    search_focus: float = 0.9
    """Share of the interest that the category searched for takes over during a search. In the
    KuaiSAR data what is clicked after a search is less similar to the click before it, 4.9 instead
    of 8.0 % (Shi et al. 2024, "UniSAR"): 61 % of it. This number and the next one are chosen so
    that it is 60 % here."""
    search_taste: float = 1.0
    """How much a search follows taste: the log of a category's chance to be searched for grows by
    this number per unit of the cosine between interest and category."""
    query_noise: float = 0.5
    """Length of the noise in the query's vector, which has length 1."""
    complement: float = 2.5
    """Log-odds that a click on the cart page gains where the item's category goes together with one
    in the cart. In the Complete Journey data, 1,939 pairs of items of different categories are
    bought together more than three times as often as by chance; which pairs go together is drawn
    here."""
    substitute: float = 1.5
    """Log-odds that a click on the cart page loses where the item's category is in the cart
    already."""
    put: float = 0.5
    """Log-odds that an item of usual price that was clicked is put into the cart."""
    put_together: float = 1.0
    """Log-odds of putting an item into the cart, on any page, that an item of a category that goes
    together adds; one of the same category takes as much away."""
    price_click: float = 0.5
    """Log-odds of a click that a price takes away, per unit of the log of the price over the usual
    one of its category, for the median shopper."""
    price_put: float = 1.0
    """The same for putting what was clicked into the cart. In the Complete Journey data the log of
    the quantity sold rises by 3.3 per unit of the share taken off the price, which is 2.8 per unit
    of the log of the price at 30 % off. Part of that is the placement that goes with a discount, so
    both numbers together stay below it."""
    sensitivity_spread: float = 0.5
    """Standard deviation over shoppers of the log of how much prices move them."""

    def __post_init__(self) -> None:
        of_kind("market", self.market, MarketConfig)
        check_numbers(self, _COUNTS, _RANGES, parts=("market",))
        if self.search + self.cart_page > 1:
            raise ValueError(
                f"search is {self.search:g} and cart_page is {self.cart_page:g}, but together they "
                "must be 1 at most."
            )

    def alike(self) -> VisitsConfig:
        """Return the same market with shoppers who all behave as the median one does."""
        return dataclasses.replace(self, market=self.market.alike(), sensitivity_spread=0.0)


VISITS = VisitsConfig(market=MARKET)
"""Searches and carts change what is clicked, and categories go together."""
VISITS_CONTROL = VisitsConfig(
    market=CONTROL,
    end_unsatisfied=0.0,
    checkout_item=0.0,
    search_focus=0.0,
    complement=0.0,
    substitute=0.0,
    put_together=0.0,
    price_put=0.0,
)
"""Neither scenario nor cart changes what is clicked or put into the cart, and nothing that is shown
changes anything later: showing what is most likely to be clicked is optimal."""
