"""The slope of a training is that of a hand calculation, and each verdict has its case."""

from __future__ import annotations

import pytest

from agents.ppo.convergence import Verdict, slope_of, verdict_of

VISITS = [0, 100, 200, 300, 400]


def told(
    returns: list[float], kl: float = 0.01, explained: float = 0.9, search: int = 0
) -> Verdict:
    return verdict_of(
        VISITS,
        returns,
        total=400,
        kl=kl,
        explained_variance=explained,
        learning_rate=0.012,
        search=search,
    )


def test_the_slope_is_that_of_least_squares_with_students_interval() -> None:
    # x - mean = -1.5, -.5, .5, 1.5, whose squares add up to 5; y = 1, 2, 2, 3 has the slope
    # (-1.5 - 1 + 1 + 4.5) / 5 = .6, and leaves -.1, .3, -.3, .1
    found = slope_of([0, 1, 2, 3], [1, 2, 2, 3])
    assert found.value == pytest.approx(0.6)
    margin = 4.30265273 * (2 * (0.1**2 + 0.3**2) / 2 / 5) ** 0.5  # t of two degrees of freedom
    assert (found.low, found.high) == pytest.approx((0.6 - margin, 0.6 + margin), abs=1e-6)


def test_a_line_has_no_margin_and_too_few_points_are_refused() -> None:
    found = slope_of([0, 10, 20], [5, 6, 7])
    assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="hold 2 and 2 numbers, but a slope needs at least 3"):
        slope_of([0, 1], [0, 1])
    with pytest.raises(ValueError, match="visits are all 5, but a slope needs several"):
        slope_of([5, 5, 5], [1, 2, 3])


def test_a_return_that_rises_is_still_learning_and_is_given_twice_the_visits() -> None:
    found = verdict_of(
        list(range(0, 801, 100)),
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
        total=800,
        kl=0.01,
        explained_variance=0.9,
        learning_rate=0.012,
    )
    assert (found.converged, found.advice) == (False, "--visits 1600")
    # one more for every 100 visits: 8 over 800 visits
    assert found.line.startswith("Still learning: the return changes by +8.00 [8.00, 8.00] over as")


def test_a_return_that_stands_has_converged() -> None:
    visits = list(range(0, 801, 100))
    returns = [1, 5, 9, 10, 10.01, 10, 9.99, 10, 10.01]
    found = verdict_of(
        visits, returns, total=800, kl=0.01, explained_variance=0.9, learning_rate=0.012
    )
    assert (found.converged, found.advice) == (True, "")
    assert found.line.endswith("KL 0.01, explained variance 0.90.")
    wild = [1, 5, 9, 10, 12, 8, 13, 7, 12]
    assert (
        verdict_of(
            visits, wild, total=800, kl=0.01, explained_variance=0.9, learning_rate=0.012
        ).converged
        is None
    )
    for kl, explained, word in ((1e-6, 0.9, "next to nothing"), (0.01, 0.1, "explains little")):
        found = verdict_of(
            visits, returns, total=800, kl=kl, explained_variance=explained, learning_rate=0.01
        )
        assert found.converged is None
        assert word in found.line


def test_a_return_that_falls_and_large_steps_ask_for_smaller_ones() -> None:
    visits = list(range(0, 801, 100))
    falls = verdict_of(
        visits,
        [9, 9, 9, 9, 8, 7, 6, 5, 4],
        total=800,
        kl=0.01,
        explained_variance=0.9,
        learning_rate=0.012,
    )
    assert (falls.converged, falls.advice) == (False, "--ppo.learning-rate 0.004")
    assert falls.line.startswith("It has become worse: ")
    large = told([1, 2, 3, 4, 5], kl=0.2)
    assert (large.converged, large.advice) == (False, "--ppo.learning-rate 0.004")
    broken = told([1, 2, 3, 4, 5], kl=float("nan"))
    assert broken.line == "Broken: KL nan, explained variance 0.90."


def test_few_points_tell_nothing() -> None:
    found = told([1, 2, 3, 4, 5])  # three of them in the second half
    assert found.converged is None
    assert "cannot be told from 3 points" in found.line
    assert found.advice == "--visits 800"
    # of 600 visits that were asked for, the last 200 were those of a search
    assert told([1, 2, 3, 4, 5], search=200).advice == "--visits 1200"
