"""Lasting value: what a click on an item brings later, learned from a log.

What is clicked now may change how much is clicked later: a shopper who is served well stays longer,
and one who is served what is sweet and bad leaves sooner. A slate that is greedy in the reward of
the visit cannot know that. The log can: over all its steps t, the clicks that came afterwards are
regressed on the categories of what was clicked at t,

    clicks after t = sum_c w_c [clicks at t in c] + sum_c v_c [shown at t in c]
                     + u [clicks before t] + [mean of all shoppers after t] + noise,

by ridge regression (Hoerl & Kennard 1970). Everything but w is there to take out what has nothing
to do with the click itself: how long the episode still is, how much the shopper clicks anyway, and
what the slates were made of. An item's own deviation from its category is the mean residual of its
clicks, shrunk likewise.

The values are those under the policies that wrote the log, so using them is one step of policy
improvement. They are no proof of a cause: whoever likes a category may also be one who stays.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions

PRIOR = 1.0
"""Standard deviation, in later clicks a click, that values are expected to have before a log is
seen. With noise of variance s2, n clicks count as n / (n + s2 / PRIOR ** 2) of their mean."""


@torch.no_grad()
def lasting_value(log: Sessions, catalog: Catalog) -> Tensor:
    """Learn what a click on each item brings later: (N,) float32, in clicks.

    Values are differences from the mean over the clicks of the log, because what all items have in
    common changes no slate. Clicks after the last logged step of an episode count as none, which is
    right where an episode ends there, and makes values too small where only the log does.

    Args:
        log: the episodes; those of one step tell nothing
        catalog: the items

    Raises:
        TypeError: If an argument is of another class.
        ValueError: If the log holds an item beyond the catalogue.
    """
    checks.instance("log", log, Sessions)
    checks.instance("catalog", catalog, Catalog)
    items, groups = len(catalog), len(catalog.categories)
    if log.slates.numel() and int(log.slates.max()) >= items:
        raise ValueError(
            f"log holds item {int(log.slates.max())}, but the catalogue has the items 0 to "
            f"{items - 1}."
        )

    # normal equations over all steps
    category = catalog.category.cpu()
    width = 2 * groups + 1
    squares = torch.zeros(width, width, dtype=torch.float64)
    products = torch.zeros(width, dtype=torch.float64)
    noise, rows = 0.0, 0
    for known, later, _ in _steps(log, category, groups):
        squares += known.T @ known
        products += known.T @ later
        noise, rows = noise + float(later.square().sum()), rows + len(later)
    if noise == 0:  # no click came after another step
        return torch.zeros(items, dtype=torch.float32, device=catalog.device)
    shrinkage = noise / rows / PRIOR**2
    weights = torch.linalg.solve(
        squares + shrinkage * torch.eye(width, dtype=torch.float64), products
    )

    # what is an item's own
    total, clicks = torch.zeros(2, items, dtype=torch.float64)
    for known, later, clicked in _steps(log, category, groups):
        row, item = clicked
        total.index_add_(0, item, (later - known @ weights)[row])
        clicks.index_add_(0, item, torch.ones(len(item), dtype=torch.float64))
    value = weights[:groups][category] + total / (clicks + shrinkage)
    centred: Tensor = value - (value * clicks).sum() / clicks.sum().clamp(min=1)
    return centred.float().to(catalog.device)


def _steps(
    log: Sessions, category: Tensor, groups: int
) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, Tensor]]]:
    """Give what is regressed at every step, less its mean over the shoppers who have that step.

    Shapes: R shoppers, G groups, J clicks at the step.
        known: (R, 2 G + 1) float64, clicks and exposures by category, and clicks before
        later: (R,) float64, clicks after the step
        clicked: (J,) row and (J,) item of each click
    """
    slates, clicks = log.slates.cpu(), log.clicks.cpu() & (log.slates >= 0).cpu()
    number = clicks.sum(dim=2).double()  # (S, T)
    upto, length = number.cumsum(dim=1), log.length.cpu()
    for step in range(slates.shape[1]):
        going = (length > step).nonzero().squeeze(1)
        shown, hit = slates[going, step], clicks[going, step]
        of_item = category[shown.clamp(min=0)]
        counts = torch.zeros(2, len(going), groups, dtype=torch.float64)
        counts[0].scatter_add_(1, of_item, hit.double())
        counts[1].scatter_add_(1, of_item, (shown >= 0).double())
        before = upto[going, step] - number[going, step]
        known = torch.cat([counts[0], counts[1], before.unsqueeze(1)], dim=1)
        later = upto[going, -1] - upto[going, step]
        row, position = hit.nonzero().unbind(dim=1)
        yield known - known.mean(dim=0), later - later.mean(), (row, shown[row, position])
