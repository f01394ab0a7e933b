"""What a shop knows of an item that nobody has bought yet: kind, price and promotion.

A new item has no popularity and no purchases. What stands for them is how popular the other items
of its kind are, how many of them there are to share that, how much of the week's promotion it gets,
and whether it is dear for its kind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.logs.placements import display_of
from recsim_env.shoppers.household.features import ITEM_CONTEXT
from recsim_env.shoppers.household.promotions import StorePromotions

PROSPECT = ITEM_CONTEXT + 4
"""Numbers of an item in a week: popularity and discount of its kind, shares of the stores that
promote and that display it, log number of items of its kind, log price over that of its kind."""
CHEAPEST = 0.05
"""Lowest price that counts: those below it are errors of a log, or given away."""


def prospects(
    catalog: Catalog,
    promotions: StorePromotions,
    mailers: int,
    hidden: Tensor | None = None,
) -> Tensor:
    """Compute what is expected of every item in every week if nobody knew it.

    Means of a kind leave the item itself out. Items alone in their kind have the mean of their
    category, and those alone in that the mean of all items.

    Args:
        catalog: the items; those without a price count as of the price of their kind
        promotions: what the stores promote, and the popularity of items
        mailers: number of mailer codes in a placement
        hidden: (N,) bool items that nobody knows, which count in no mean

    Returns:
        (weeks, N, PROSPECT) float32.
    """
    seen = torch.ones(len(catalog)) if hidden is None else (~hidden).float()
    groups = (catalog.category, catalog.kind)
    of_kind = _of_others(promotions.item_context, groups, seen)
    size = torch.bincount(catalog.kind).float().log()[catalog.kind].view(1, -1, 1)
    priced = ~catalog.price.isnan()
    price = catalog.price.nan_to_num(CHEAPEST).clamp(min=CHEAPEST).log().view(1, -1, 1)
    dear = (price - _of_others(price, groups, priced.float())) * priced.view(1, -1, 1)
    shared = [value.expand(len(of_kind), -1, -1) for value in (size, dear)]
    return torch.cat([of_kind, _promoting(promotions, mailers), *shared], dim=2)


def _of_others(values: Tensor, groups: tuple[Tensor, ...], seen: Tensor) -> Tensor:
    """Average values (W, N, F) over the other items of each item's group, the last that has any.

    Args:
        values: of each item
        groups: (N,) int64 each, from wide to narrow
        seen: (N,) 0 where an item does not count
    """
    known = values * seen.view(-1, 1)
    found = (known.sum(1, keepdim=True) / seen.sum().clamp(min=1)).expand_as(known)
    for group in groups:
        count = int(group.max()) + 1
        total = known.new_zeros(len(known), count, known.shape[2]).index_add_(1, group, known)
        others = torch.zeros(count).index_add_(0, group, seen)[group] - seen
        mean = (total[:, group] - known) / others.clamp(min=1).unsqueeze(1)
        found = torch.where((others > 0).unsqueeze(1), mean, found)
    return found


def _promoting(promotions: StorePromotions, mailers: int) -> Tensor:
    """Compute the shares (weeks, N, 2) of the stores with promotions that promote, and display."""
    shares: list[Tensor] = []
    for rows in promotions.store_week.unbind(1):
        codes = promotions.placement[rows[rows < len(promotions.placement) - 1]].int()
        each = torch.stack([codes > 0, display_of(codes, mailers) > 0], dim=2).float()
        shares.append(each.sum(0) / max(len(codes), 1))
    return torch.stack(shares)
