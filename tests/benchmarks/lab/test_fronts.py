"""Fronts of several goals: volumes and utilities by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from benchmarks.lab.fronts import (
    expected_utility,
    hypervolume,
    most_lost,
    simplex_grid,
    utilities,
)


def test_hypervolume_is_the_area_by_hand() -> None:
    # two steps of a stair, a point below it, and points that are no better than the reference
    points = [[3.0, 1.0], [1.0, 2.0], [0.5, 0.5], [9.0, 0.0], [-1.0, 9.0]]
    assert hypervolume(points, (0, 0)) == 3 * 1 + 1 * 1
    assert hypervolume(points[::-1], (0, 0)) == 4
    assert hypervolume([[3.0, 1.0], [3.0, 2.0]], (1, 0)) == 4
    assert hypervolume([[1.0, 1.0]], (1, 0)) == hypervolume([], (0, 0)) == 0


def test_hypervolume_is_the_share_of_random_points_below_the_front() -> None:
    generator = np.random.default_rng(0)
    front = generator.random((12, 2))
    drawn = generator.random((200_000, 2))
    inside = np.all(drawn[:, None, :] <= front[None], axis=2)
    below = np.mean(np.any(inside, axis=1))
    assert hypervolume(front, (0, 0)) == pytest.approx(below, abs=0.005)


def test_hypervolume_of_three_goals_is_the_volume_by_hand() -> None:
    # three beams of 2 x 1 x 1 with one unit cube in common, and a point that adds nothing
    points = [[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 2.0], [5.0, 5.0, 0.0]]
    assert hypervolume(points, (0, 0, 0)) == 2 + 2 + 2 - 2
    assert hypervolume(points[::-1], (0, 0, 0)) == 4
    assert hypervolume(points, (1, 0, 0)) == 1
    assert hypervolume([], (0, 0, 0, 0)) == 0
    assert hypervolume([[2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0]], (1, 1, 1, 1)) == 1 * 2 * 3 * 4


@pytest.mark.parametrize("goals", [2, 3, 4])
def test_hypervolume_is_that_of_inclusion_and_exclusion(goals: int) -> None:
    front = np.random.default_rng(goals).random((8, goals))
    expected = 0.0
    for count in range(1, 9):
        for some in combinations(front, count):
            expected += (-1) ** (count + 1) * float(np.prod(np.min(some, axis=0)))
    assert hypervolume(front, np.zeros(goals)) == pytest.approx(expected)


def test_a_grid_on_the_simplex_has_every_multiple_once() -> None:
    assert simplex_grid(2, 2) == ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    assert simplex_grid(3, 1) == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = simplex_grid(4, 4)
    assert len(set(grid)) == 35  # 7 choose 3
    assert all(sum(weights) == 1 for weights in grid)


def test_utilities_are_those_of_the_best_point_at_each_weight() -> None:
    points, weights = [[4.0, 0.0], [1.0, 2.0]], [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    assert utilities(points, weights).tolist() == [4, 2, 2]
    assert expected_utility(points, weights) == pytest.approx(8 / 3)
    assert most_lost(points[:1], points, weights) == 2
    assert most_lost(points, points[:1], weights) == 0
