"""Lift: which categories are bought together more often than their items alone would be.

From every slate of a log, pairs of shown items are counted by their categories. With the chance p
of each item to be bought whatever stands beside it, the log lift of two categories is

    lift(a, b) = log((bought together + PRIOR) / (expected together + PRIOR))

where a pair is bought together if both items were, and is expected to be with the chance p_i p_j.
Lift is usually taken against how often each item is bought by anybody (Brin et al. 1997, "Dynamic
itemset counting and implication rules for market basket data", section 2). Whoever likes two
categories buys both, and that is no complement: p is therefore that of the shopper, how often items
of the category were bought of those shown to that shopper, shrunk to the item's own share in the
log. Pairs that were never shown have no lift.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions

PRIOR = 5.0
"""Pairs bought together, and expected to be, that are added to both counts."""


OWN = 10.0
"""Exposures that what is known of everybody counts for beside an item's, or a shopper's own."""


@torch.no_grad()
def category_lift(log: Sessions, catalog: Catalog) -> Tensor:
    """Learn the log lift of each pair of categories: (G, G) float32, symmetric.

    Args:
        log: the episodes; what was clicked counts as bought where purchases are not told
        catalog: the items

    Raises:
        TypeError: If an argument is of another class.
    """
    checks.instance("log", log, Sessions)
    checks.instance("catalog", catalog, Catalog)
    slates, groups = log.slates.cpu(), len(catalog.categories)
    bought = (log.clicks if log.purchases is None else log.purchases).cpu() & (slates >= 0)
    chance = _chances(slates, bought, catalog)
    category = catalog.category.cpu()[slates.clamp(min=0)]

    # pairs of positions, each way round
    together, expected = torch.zeros(2, groups * groups, dtype=torch.float64)
    for one in range(slates.shape[2]):
        for other in range(slates.shape[2]):
            if one == other:
                continue
            shown = (slates[:, :, one] >= 0) & (slates[:, :, other] >= 0)
            pair = (category[:, :, one] * groups + category[:, :, other])[shown]
            both = (bought[:, :, one] & bought[:, :, other])[shown]
            together.index_add_(0, pair, both.double())
            expected.index_add_(0, pair, (chance[:, :, one] * chance[:, :, other])[shown])
    lift: Tensor = ((together + PRIOR) / (expected + PRIOR)).log().view(groups, groups)
    symmetric: Tensor = (lift + lift.T) / 2
    return symmetric.float().to(catalog.device)


def _chances(slates: Tensor, bought: Tensor, catalog: Catalog) -> Tensor:
    """The chance (S, T, K) float64 that each shown item is bought, whatever stands beside it."""
    items, groups = len(catalog), len(catalog.categories)
    ids, shown = slates.clamp(min=0), slates >= 0

    # of the item in the log, shrunk to the mean
    count = torch.bincount(ids[shown], minlength=items).double()
    sold = torch.bincount(ids[bought], minlength=items).double()
    mean = sold.sum() / count.sum().clamp(min=1)
    of_item = ((sold + OWN * mean) / (count + OWN))[ids]

    # of the shopper in the category, by how much it differs from what its items would sell
    category = catalog.category.cpu()[ids].flatten(1)
    known = torch.zeros(2, len(slates), groups, dtype=torch.float64)
    known[0].scatter_add_(1, category, bought.double().flatten(1))
    known[1].scatter_add_(1, category, (of_item * shown).flatten(1))
    factor = (known[0] + OWN * mean) / (known[1] + OWN * mean)
    chance: Tensor = of_item * factor.gather(1, category).view_as(of_item)
    return chance.clamp(max=1)
