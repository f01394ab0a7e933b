"""Cues and features of whole visits: what is searched for, what is in the cart, and the page.

The shop sees scenario, query and cart (`recsim_env.shoppers.visits`). Which categories go together
it has to learn: `together_lift` counts it in a log. Clicks on two categories in one visit may come
from a taste for both, so they are compared with the clicks of the same shoppers in different visits
nearby, where taste is the same and the cart is another:

    lift_cd = log((same_cd + PRIOR) / (expected_cd + PRIOR))

where same_cd counts pairs of clicks on c and d on two pages of one visit, and expected_cd those on
two pages of different visits, times the number of all pairs in one visit over that in different
ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.cues import CueInputs, cue
from policies.features import StateInputs, mean_vector, state_feature
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.visits.pages import CART, SCENARIOS
from recsim_env.shoppers.visits.pairs import inside
from recsim_env.tensors import looked_up

PRIOR = 10.0
"""Pairs of clicks that count as seen at the expected rate before a log is looked at."""
APART = 8
"""Steps of an episode that two pages of a pair lie apart at most."""


@torch.no_grad()
def together_lift(log: Sessions, catalog: Catalog) -> Tensor:
    """Learn which categories are clicked together in one visit: (G, G) float32, symmetric.

    Above 0 they go together, below 0 one replaces the other, and 0 where nothing is known. Steps
    that no day lies between are pages of one visit.

    Args:
        log: the episodes
        catalog: the items

    Raises:
        TypeError: If an argument is of another class.
        ValueError: If the log holds an item beyond the catalogue.
    """
    checks.instance("log", log, Sessions)
    checks.instance("catalog", catalog, Catalog)
    groups, clicks = len(catalog.categories), (log.clicks & (log.slates >= 0)).cpu()
    if log.slates.numel() and int(log.slates.max()) >= len(catalog):
        raise ValueError(
            f"log holds item {int(log.slates.max())}, but the catalogue has the items 0 to "
            f"{len(catalog) - 1}."
        )

    # clicks of every step by category
    of_item = catalog.category.cpu()[log.slates.cpu().clamp(min=0)]
    counts = torch.zeros(*of_item.shape[:2], groups, dtype=torch.float32)
    counts.scatter_add_(2, of_item, clicks.float())

    # pairs of steps in one visit, and in two
    real, days = log.real.cpu(), log.days.cpu()
    seen = torch.zeros(2, groups, groups, dtype=torch.float64)
    for lag in range(1, min(APART, counts.shape[1] - 1) + 1):
        both = real[:, lag:]
        same = days[:, lag:] == days[:, :-lag]
        for at, pairs in enumerate((both & same, both & ~same)):
            seen[at] += (counts[:, :-lag][pairs].T @ counts[:, lag:][pairs]).double()
    seen += seen.transpose(1, 2).clone()
    total = seen.sum(dim=(1, 2))
    expected = seen[1] * total[0] / total[1].clamp(min=1)
    lift = ((seen[0] + PRIOR) / (expected + PRIOR)).log()
    return (lift * (total.min() > 0)).float().to(catalog.device)


@cue("searched", 2.0, "query", tuned=(-1.0, 6.0))
def searched_item(inputs: CueInputs) -> Tensor:
    """Cosine of the item and the query, 0 outside of searches."""
    assert inputs.embedding is not None  # the composer made sure
    vectors = looked_up(inputs.embedding, inputs.pool.ids)
    return torch.bmm(vectors, inputs.observation["query"].unsqueeze(2)).squeeze(2)


@cue("beside_cart", 2.0, "cart", "scenario", tuned=(-1.0, 6.0), needs_lift=True)
def item_beside_cart(inputs: CueInputs) -> Tensor:
    """Lift of the item's category with those in the cart, summed; 0 on other pages than the cart's.

    The sum is cut at 3, so that a full cart says no more than one that is clear.
    """
    assert inputs.lift is not None  # the composer made sure
    held = inside(inputs.observation["cart"], inputs.category, inputs.categories)
    beside = torch.einsum("bg,gh->bh", held, inputs.lift).clamp(-3, 3)
    on_cart_page = (inputs.observation["scenario"] == CART).to(beside.dtype)
    return (beside * on_cart_page).gather(1, inputs.category_of_pool)


@state_feature("page", "scenario", "page")
def page_of_visit(inputs: StateInputs) -> Tensor:
    """Which scenario it is, one number each that is 1 or 0, and the log of the page: (B, 4)."""
    scenario = inputs.observation["scenario"]
    kinds = torch.arange(len(SCENARIOS), device=scenario.device)
    page = torch.log1p(inputs.observation["page"].float())
    return torch.cat([(scenario == kinds).float(), page], dim=1)


@state_feature("cart", "cart")
def cart_so_far(inputs: StateInputs) -> Tensor:
    """Mean vector of the items in the cart, and the log of one plus their number: (B, D + 1)."""
    cart = inputs.observation["cart"]
    held = (cart >= 0).float()
    vector = mean_vector(inputs.vectors, cart.clamp(min=0), held)
    return torch.cat([vector, torch.log1p(held.sum(dim=1, keepdim=True))], dim=1)
