"""A visit from page to page: where the shopper is, what is searched for, and the cart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.noise import normal
from recsim_env.shoppers.visits.config import VisitsConfig
from recsim_env.tensors import looked_up

HOME, SEARCH, CART = range(3)
SCENARIOS = ("home", "search", "cart")
"""What a page can be, by the number that an observation holds."""


@dataclass
class Visit:
    """Where B shoppers are in their visits.

    Shapes: D interest width, L places of a cart.
    """

    scenario: Tensor
    """(B,) int64, place in `SCENARIOS`."""
    page: Tensor
    """(B,) int64, 0 for the first page of a visit."""
    sought: Tensor
    """(B,) int64, the category that is searched for; -1 outside of searches."""
    query: Tensor
    """(B, D) float32 of unit length, what the shop understands of the search; 0 outside."""
    cart: Tensor
    """(B, L) int64 distinct items in the order in which they came, padded with -1."""
    sated: Tensor
    """(B,) float32, satiation that the pages of the visit were met with, weighted by looks."""
    looks: Tensor
    """(B,) float32, looks at the pages of the visit."""
    clicked: Tensor
    """(B,) bool, whether anything was clicked in the visit."""

    @classmethod
    def arriving(cls, batch: int, config: VisitsConfig, device: torch.device) -> Visit:
        """Make visits that begin on the home page with an empty cart."""
        none = torch.zeros(batch, dtype=torch.int64, device=device)
        width = config.market.width
        return cls(
            scenario=none,
            page=none.clone(),
            sought=none - 1,
            query=torch.zeros(batch, width, dtype=torch.float32, device=device),
            cart=torch.full((batch, config.cart_size), -1, dtype=torch.int64, device=device),
            sated=torch.zeros(batch, dtype=torch.float32, device=device),
            looks=torch.zeros(batch, dtype=torch.float32, device=device),
            clicked=torch.zeros(batch, dtype=torch.bool, device=device),
        )


class Pages:
    """Says what the next page of a visit is.

    Args:
        config: The parameters.
        centres: (G, D) float32 of unit length, where the items of each category lie.
    """

    def __init__(self, config: VisitsConfig, centres: Tensor) -> None:
        self.config, self.centres = config, centres
        self.draws = 2 + config.market.width
        """Uniform numbers that the next page takes."""

    def turn(self, visit: Visit, interest: Tensor, draws: Tensor) -> None:
        """Choose home, search or cart for the page that comes, in place.

        Args:
            visit: The visits; their carts are as they stand now.
            interest: (B, D) float32, what searches come from.
            draws: (B, `draws`) float32, uniform in [0, 1).
        """
        config = self.config
        which, what, noise = draws.split([1, 1, config.market.width], dim=1)
        which = which.squeeze(1)
        searches = which < config.search
        beside = (which < config.search + config.cart_page) & (visit.cart[:, 0] >= 0) & ~searches
        visit.scenario = SEARCH * searches.long() + CART * beside.long()
        visit.sought = self._sought(interest, what).where(searches, -1)
        heard = looked_up(self.centres, visit.sought.clamp(min=0))
        heard = heard + config.query_noise * normal(noise) / config.market.width**0.5
        heard = torch.nn.functional.normalize(heard, dim=1).clamp(-1, 1)  # rounding may go beyond
        visit.query = heard * searches.unsqueeze(1)

    def _sought(self, interest: Tensor, draws: Tensor) -> Tensor:
        """Draw the category (B,) that each shopper searches for, from uniform numbers (B, 1)."""
        centres = self.centres.expand(len(interest), -1, -1)
        liked = torch.bmm(centres, interest.unsqueeze(2)).squeeze(2)
        chance = torch.softmax(self.config.search_taste * liked, dim=1)
        below = (chance.cumsum(dim=1) <= draws).sum(dim=1)
        return below.clamp(max=len(self.centres) - 1)

    def interest(self, visit: Visit, interest: Tensor) -> Tensor:
        """Return what moves shoppers on this page: (B, D) of unit length.

        During a search the interest goes over to the category searched for.
        """
        share = self.config.search_focus * (visit.scenario == SEARCH).to(interest.dtype)
        sought = looked_up(self.centres, visit.sought.clamp(min=0))
        moved = interest + share.unsqueeze(1) * (sought - interest)
        return torch.nn.functional.normalize(moved, dim=1)


def put_into(cart: Tensor, slates: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Put items into carts, top position first, as long as there is room.

    Args:
        cart: (B, L) int64, padded at the end with -1.
        slates: (B, K) int64, distinct where `wanted`.
        wanted: (B, K) bool.

    Returns:
        The new carts (B, L), and which items went into them, (B, K) bool: not those that were there
        already.
    """
    room = cart.shape[1]
    there = (slates.unsqueeze(2) == cart.unsqueeze(1)).any(dim=2)
    new = wanted & ~there
    place = (cart >= 0).sum(dim=1, keepdim=True) + new.cumsum(dim=1) - 1
    new = new & (place < room)
    wide = torch.cat([cart, torch.full_like(cart[:, :1], -1)], dim=1)  # a last place, cut off
    wide.scatter_(1, place.where(new, room), slates.where(new, -1))
    return wide[:, :room], new
