"""Fronts of two goals: how much of what is possible some policies reach between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The area that points (P, 2) dominate beyond a reference point (2,), both goals maximised.

    See Zitzler and Thiele 1998, "Multiobjective optimization using evolutionary algorithms". A
    point that is not better than the reference in both goals adds nothing.
    """
    low = np.asarray(reference, dtype=np.float64)
    above = np.asarray(points, dtype=np.float64).reshape(-1, 2) - low
    above = above[(above > 0).all(axis=1)]
    total, reached = 0.0, 0.0
    for first, second in above[np.argsort(-above[:, 0], kind="stable")]:
        total += first * max(second - reached, 0.0)
        reached = max(reached, second)
    return total


def utilities(points: ArrayLike, weights: ArrayLike) -> Floats:
    """The most that any of some points (P, 2) is worth at each of some weights (W, 2): (W,)."""
    worth = np.asarray(weights, dtype=np.float64) @ np.asarray(points, dtype=np.float64).T
    best: Floats = worth.max(axis=1)
    return best


def expected_utility(points: ArrayLike, weights: ArrayLike) -> float:
    """The mean of `utilities` over the weights (Zintgraf et al. 2015)."""
    return float(utilities(points, weights).mean())


def most_lost(points: ArrayLike, others: ArrayLike, weights: ArrayLike) -> float:
    """The most that is lost at any of the weights with some points and not with others.

    It is the maximum utility loss of Zintgraf et al. 2015, "Quality assessment of MORL algorithms",
    and 0 where the points are as good everywhere.
    """
    lost = utilities(others, weights) - utilities(points, weights)
    return float(np.maximum(lost, 0).max())
