"""How whole visits of households go: what is assumed, because the log has no pages."""

from __future__ import annotations

from dataclasses import dataclass

from recsim_env import checks
from recsim_env.settings import put


@dataclass(frozen=True)
class CartVisitsConfig:
    """The assumptions of whole visits; everything else is fitted to the log.

    Raises:
        ValueError: If a number is none, or is out of its range.
    """

    pages: int = 8
    """Most pages of a visit, after which the household checks out in any case."""
    cart_size: int = 40
    """Most items in a cart; what is clicked beyond is not put into it."""
    search: float = 0.3
    """Chance that a page after the first is a search, while something that the household came for
    is not in the cart."""
    cart_page: float = 0.3
    """Chance that a page after the first is the cart, while something is in it."""
    stray: float = 0.2
    """Chance to look, during a search, at an item of another category than the one searched for."""

    def __post_init__(self) -> None:
        values = {
            "pages": checks.whole("pages", self.pages, 1, 100),
            "cart_size": checks.whole("cart_size", self.cart_size, 1, 1000),
            "search": checks.number("search", self.search, 0, 1),
            "cart_page": checks.number("cart_page", self.cart_page, 0, 1),
            "stray": checks.number("stray", self.stray, 0, 1),
        }
        put(self, **values)
        if self.search + self.cart_page > 1:
            raise ValueError(
                f"search is {self.search:g} and cart_page is {self.cart_page:g}, but together they "
                "must be 1 at most."
            )
