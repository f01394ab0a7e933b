"""The interest in a category: what points from the middle of all items towards it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.explaining.markets import CLOSED, WITH_MARKET, market_of
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.session.population import SessionPopulation
from recsim_env.shoppers.worlds import category_centres
from recsim_env.tensors import looked_up


@register_kind("interest")
class CategoryInterest(Kind):
    """The part of the interest along the centre of a category; a key is the category.

    Without it the interest u becomes u - (u . m) m, where m is the centre (`category_centres`). Of
    fitted shoppers of impression logs it is what is known of the interest
    (`recsim_env.shoppers.session.interest`), along the same direction.
    """

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether there is an interest as a vector."""
        return isinstance(shopper, (*CLOSED, SessionPopulation))

    def find(self, case: Case) -> Found:
        """Find the categories of the slate."""
        return Found.pairs(case.categories, case.question.shown)

    def remove(self, world: World, keys: Tensor) -> None:
        """Take the part along the category's centre out of the interest."""
        shopper, state = world.case.shopper, world.state
        centre = looked_up(category_centres(shopper.catalog), keys.clamp(min=0))
        centre = centre * (keys >= 0).unsqueeze(1)
        if isinstance(shopper, SessionPopulation):
            for member, known in zip(shopper.members, state.interests, strict=True):
                width = member.directions.shape[1]
                along = centre @ member.directions
                along = along / along.norm(dim=1, keepdim=True).clamp(min=1e-9)
                known.mean[:, :width] = _less(known.mean[:, :width], along)
            return
        held = market_of(shopper, state) if isinstance(shopper, WITH_MARKET) else state
        held.interest = _less(held.interest, centre)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Name the category to a person."""
        return f"interest in {case.category(key)}"


def _less(interest: Tensor, centre: Tensor) -> Tensor:
    """Return the interest (R, D) without what lies along a centre (R, D) of length 1 or 0."""
    return interest - (interest * centre).sum(dim=1, keepdim=True) * centre
