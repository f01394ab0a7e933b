"""Fronts of several goals: how much of what is possible some policies reach between them."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The volume that points (P, n) dominate beyond a reference point (n,), all goals maximised.

    See Zitzler and Thiele 1998, "Multiobjective optimization using evolutionary algorithms". A
    point that is not better than the reference in every goal adds nothing. It is exact, by slices
    along one goal after another (Knowles 2002, "Local-search and hybrid evolutionary algorithms for
    Pareto optimization", section 4.2.4), which suits fronts of tens of points and up to four goals.

    Args:
        points: (P, n), n of 2 or more
        reference: (n,)
    """
    low = np.asarray(reference, dtype=np.float64)
    above = np.asarray(points, dtype=np.float64).reshape(-1, len(low)) - low
    return _volume(above[(above > 0).all(axis=1)])


def _volume(above: Floats) -> float:
    """The volume between the origin and points (P, n) that are above it in every goal."""
    if above.shape[1] > 2:
        above = above[np.argsort(-above[:, -1], kind="stable")]
        depths = above[:, -1] - np.append(above[1:, -1], 0.0)
        return sum(
            float(depth) * _volume(above[: at + 1, :-1]) for at, depth in enumerate(depths) if depth
        )
    total, reached = 0.0, 0.0
    for first, second in above[np.argsort(-above[:, 0], kind="stable")]:
        total += first * max(second - reached, 0.0)
        reached = max(reached, second)
    return total


def simplex_grid(goals: int, parts: int) -> tuple[tuple[float, ...], ...]:
    """All weights of some goals that are multiples of 1 / parts and have the sum 1.

    The first goal has most of the weight first.
    """
    found = []
    for bars in combinations(range(parts + goals - 1), goals - 1):
        edges = (-1, *bars, parts + goals - 1)
        found.append(tuple((high - low - 1) / parts for low, high in pairwise(edges)))
    assert len(found) == math.comb(parts + goals - 1, goals - 1)
    return tuple(sorted(found, reverse=True))


def utilities(points: ArrayLike, weights: ArrayLike) -> Floats:
    """The most that any of some points (P, n) is worth at each of some weights (W, n): (W,)."""
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
