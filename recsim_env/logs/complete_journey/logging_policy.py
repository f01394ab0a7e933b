"""The policy that chose the slates of the `policy` log, for the log and for simulations.

It draws from a Plackett-Luce model whose scores are a shopper's own counts and recent popularity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsim_env import noise
from recsim_env.catalog import Catalog
from recsim_env.logs.complete_journey.recipe import Recipe
from recsim_env.types import Observation

Scalar = TypeVar("Scalar", bound=np.generic)
Numbers = TypeVar("Numbers", NDArray[np.float64], Tensor)


def preference(
    own: Numbers,
    in_category: Numbers,
    popular: Numbers,
    recipe: Recipe,
    log1p: Callable[[Numbers], Numbers],
) -> Numbers:
    """Score items by the weighted sum of the logs of counts, which are arrays or tensors.

    Args:
        own: The shopper's earlier visits that bought the item.
        in_category: The shopper's earlier purchases in the category of the item.
        popular: Visits of all shoppers that bought the item in the four weeks before.
        recipe: Holds the weights.
        log1p: The logarithm of one plus a number, for this kind of numbers.
    """
    score = recipe.item_weight * log1p(own) + recipe.category_weight * log1p(in_category)
    return score + recipe.popularity_weight * log1p(popular)


class LoggingPolicy:
    """The policy of the log as a policy of a simulation (`recsim_env.types.Policy`).

    Args:
        catalog: The catalogue, on the device of the observations.
        visits_of_four_weeks: Visits of all shoppers in four weeks, by which popularity becomes a
            count again.
        draws: Length of the list of candidates; each of them takes a uniform number.
        slate_size: Number of positions.
        recipe: Holds the weights of the scores; None = the default recipe.
    """

    def __init__(
        self,
        catalog: Catalog,
        visits_of_four_weeks: float,
        draws: int,
        slate_size: int,
        recipe: Recipe | None = None,
    ) -> None:
        self.category = catalog.category
        self.visits = visits_of_four_weeks
        self.draws = draws
        self.slate_size = slate_size
        self.recipe = recipe or Recipe()

    def scores(self, observation: Observation) -> Tensor:
        """Score the candidates: (B, C), -inf where the list is padded."""
        candidates = observation["candidates"]
        at = candidates.clamp(min=0)
        bought = observation["bought_items"]
        counts = torch.zeros(len(at), len(self.category) + 1)
        counts.scatter_(
            1, bought.where(bought >= 0, len(self.category)), observation["bought_counts"]
        )
        own = counts.gather(1, at)
        in_category = observation["category_counts"].gather(1, self.category[at])
        popular = observation["popularity"] * self.visits
        score = preference(own, in_category, popular, self.recipe, torch.log1p)
        return score.where(candidates >= 0, -torch.inf)

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Draw slates (B, K) with uniform numbers (B, C), by the Gumbel trick.

        Where there are fewer than K candidates, the first item is repeated; where there are none,
        item 0, which is no candidate, so that nothing is shown.
        """
        gumbel = noise.gumbel(draws.clamp(1e-7, 1 - 1e-7))
        top = (self.scores(observation) + gumbel).topk(self.slate_size, dim=1).indices
        slates = observation["candidates"].gather(1, top)
        return slates.where(slates >= 0, slates[:, :1]).clamp(min=0)


def policy_score(
    bought: NDArray[np.bool_],
    at: NDArray[np.int64],
    items: NDArray[np.int32],
    category: NDArray[np.int64],
    weekly: NDArray[np.float64],
    recipe: Recipe,
) -> NDArray[np.float64]:
    """Score the exposed items in some visits of a shopper, from the past alone.

    Shapes: V visits of the shopper, Q of them with slates, W exposed items, N catalogue items.
        bought: (V, N + 1) what each visit bought
        at: (Q,) the visits with slates
        items: (Q, W) the exposed items
        weekly: (Q, W) visits that bought each of them in the four weeks before
        category: (N + 1,)
        returns: (Q, W)
    """
    own, own_category = past_counts(bought, category)
    counts = take_columns(own[at], items).astype(np.float64)
    in_category = take_columns(own_category[at], category[items]).astype(np.float64)
    return preference(counts, in_category, weekly, recipe, np.log1p)


def past_counts(
    bought: NDArray[np.bool_], category: NDArray[np.int64]
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Count purchases in the shopper's earlier visits, by item (V, N + 1), category (V, G + 1).

    `bought` (V, N + 1) are the shopper's visits in order; row v counts rows 0..v-1 only.
    """
    visit, item = bought[:-1].nonzero()
    by_item = np.zeros(bought.shape, dtype=np.int16)
    by_item[visit + 1, item] = 1
    by_category = np.zeros((len(bought), category.max() + 1), dtype=np.int16)
    np.add.at(by_category, (visit + 1, category[item]), 1)
    return by_item.cumsum(axis=0, dtype=np.int16), by_category.cumsum(axis=0, dtype=np.int16)


def take_columns(values: NDArray[Scalar], columns: NDArray[np.integer[Any]]) -> NDArray[Scalar]:
    """Take the given columns row by row: (V, W) and (V, k) to (V, k)."""
    return np.asarray(np.take_along_axis(values, columns, axis=1))
