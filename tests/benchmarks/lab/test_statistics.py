"""Estimates equal values worked out by hand, and intervals hold the truth as they promise."""

import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from agents.statistics import (
    around,
    by_training_seed,
    critical,
    estimate_mean,
    over_training_seeds,
    paired_difference,
)
from benchmarks.lab.statistics import iqm, iqm_estimate
from recsim_env.estimates import Estimate

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
TOYS: dict[str, Draw] = {  # of mean 0
    "normal": lambda random, shape: random.normal(size=shape),
    "uniform": lambda random, shape: random.uniform(-1, 1, shape),
    "exponential": lambda random, shape: random.exponential(size=shape) - 1,
    "minus exponential": lambda random, shape: 1 - random.exponential(size=shape),
}
LEAST = 0.93
"""Coverage that 95 % intervals have at least."""
TRIALS = 2_000
TOLERANCE = 3 * math.sqrt(LEAST * (1 - LEAST) / TRIALS)
"""Three standard errors of a coverage that is simulated by so many trials."""


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def half_width(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


def covered(estimates: list[Estimate], truth: float = 0.0) -> float:
    return float(np.mean([found.low <= truth <= found.high for found in estimates]))


# ---- coverage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_of_intervals_over_few_seeds_at_least_93_in_100_hold_the_mean(seeds: int, toy: str) -> None:
    samples = TOYS[toy](generator(), (TRIALS, seeds))
    assert covered([estimate_mean(sample) for sample in samples]) >= LEAST - TOLERANCE


@pytest.mark.parametrize("toy", ["normal", "exponential"])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_paired_differences_cover_as_often(seeds: int, toy: str) -> None:
    random = generator()
    shopper, gain = 50 * random.normal(size=(TRIALS, seeds)), TOYS[toy](random, (TRIALS, seeds))
    found = [paired_difference(base + more, base) for base, more in zip(shopper, gain, strict=True)]
    assert covered(found) >= LEAST - TOLERANCE


@pytest.mark.parametrize("share", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("toy", ["normal", "exponential"])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_seeds_and_shared_episodes_are_covered_together(seeds: int, toy: str, share: float) -> None:
    """`share`: standard error that the 40 episodes bring, over the one that the seeds bring."""
    random, draw, episodes = generator(), TOYS[toy], 40
    of_seed = draw(random, (TRIALS, seeds, 1))
    of_episode = share * math.sqrt(episodes / seeds) * draw(random, (TRIALS, 1, episodes))
    noise = random.normal(size=(TRIALS, seeds, episodes))
    tables = of_seed + of_episode + noise
    assert covered([over_training_seeds(table) for table in tables]) >= LEAST - TOLERANCE


@pytest.mark.parametrize("toy", ["normal", "exponential"])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_seeds_with_episodes_of_their_own_are_covered_together(seeds: int, toy: str) -> None:
    random, draw = generator(), TOYS[toy]
    tables = draw(random, (TRIALS, seeds, 1)) + 5 * draw(random, (TRIALS, seeds, 20))
    assert (
        covered([over_training_seeds(table, same_episodes=False) for table in tables])
        >= LEAST - TOLERANCE
    )


@pytest.mark.parametrize("toy", ["normal", "exponential"])
@pytest.mark.parametrize(("runs", "worlds"), [(3, 2), (5, 1), (5, 2)])
def test_interquartile_means_over_few_runs_are_covered(runs: int, worlds: int, toy: str) -> None:
    random, trials = generator(), 400
    level = np.arange(
        worlds, dtype=np.float64
    )  # worlds differ by one standard deviation of their runs
    truth = float(iqm((TOYS[toy](random, (200_000, worlds)) + level).reshape(-1)))
    scores = TOYS[toy](random, (trials, runs, worlds)) + level
    found = [iqm_estimate(one, random, 300) for one in scores]
    least = LEAST - 3 * math.sqrt(LEAST * (1 - LEAST) / trials)
    assert covered([one for one in found if one is not None], truth) >= least


def test_over_many_values_the_interval_is_the_normal_one() -> None:
    values = generator().normal(3.0, 2.0, size=900)
    estimate = estimate_mean(values)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.n == 900
    assert half_width(estimate) == pytest.approx(
        1.96 * values.std(ddof=1) / math.sqrt(900), rel=0.005
    )
    assert critical(10_000) == pytest.approx(1.96, rel=1e-3)


# ---- by hand -------------------------------------------------------------------------------------


def test_three_values_by_hand() -> None:
    # mean 2, standard deviation 2, error 2 / sqrt(3); t at 2 degrees is 4.3027, widened by 1 + 1.08
    # * 1.4^2 / 3
    half = 4.3027 * (1 + 1.08 * 1.96 / 3) * 2 / math.sqrt(3)
    assert critical(3) == pytest.approx(4.3027 * (1 + 1.08 * 1.96 / 3), rel=1e-4)
    found = estimate_mean([0.0, 2.0, 4.0])
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (2.0, 2 - half, 2 + half, 3), rel=1e-4
    )


def test_weights_by_hand() -> None:
    found = estimate_mean([1.0, 0.0, 5.0], weights=[1.0, 3.0, 1.0])
    mean = (1 * 1 + 3 * 0 + 1 * 5) / (1 + 3 + 1)
    residuals = [1 * (1 - mean), 3 * (0 - mean), 1 * (5 - mean)]
    error = math.sqrt(3 / 2 * sum(residual**2 for residual in residuals)) / 5
    assert found.value == pytest.approx(mean)
    assert half_width(found) == pytest.approx(critical(3) * error)


def test_integer_weights_equal_repeated_rows_of_one_cluster() -> None:
    values, weights, clusters = [1.0, 0.0, 5.0, 2.0], [1, 3, 2, 1], [7, 7, 8, 9]
    weighted = estimate_mean(values, weights=weights, clusters=clusters)
    repeated = estimate_mean(np.repeat(values, weights), clusters=np.repeat(clusters, weights))
    assert (weighted.value, weighted.low, weighted.high) == pytest.approx(
        (repeated.value, repeated.low, repeated.high)
    )


def test_copies_of_a_cluster_do_not_inform() -> None:
    values = generator().normal(size=400)
    once = estimate_mean(values)
    copied = estimate_mean(np.tile(values, 9), clusters=np.tile(np.arange(400), 9))
    assert (copied.low, copied.high, copied.n) == pytest.approx((once.low, once.high, 400))


def test_clusters_that_weigh_nothing_do_not_count() -> None:
    assert estimate_mean([1.0, 2.0, 6.0, 9.0], weights=[1, 1, 1, 0]) == estimate_mean(
        [1.0, 2.0, 6.0]
    )


def test_cluster_ids_may_be_text() -> None:
    assert estimate_mean([1.0, 2.0, 6.0], clusters=["a", "b", "a"]).n == 2


def test_one_unit_has_no_interval() -> None:
    estimate = estimate_mean([1.0, 3.0], clusters=[5, 5])
    assert (estimate.value, estimate.n) == (2.0, 1)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    one_seed = over_training_seeds([[1.0, 3.0]])
    assert (one_seed.value, one_seed.n) == (2.0, 1)
    assert math.isnan(one_seed.low)


def test_sources_of_error_are_added_as_squares() -> None:
    found = around(1.0, (0.3, 5), (0.4, 9), n=5)
    half = math.sqrt((0.3 * critical(5)) ** 2 + (0.4 * critical(9)) ** 2)
    assert found == Estimate(1.0, 1 - half, 1 + half, 5)


def test_an_interval_is_cut_to_what_its_figure_can_be() -> None:
    assert Estimate(0.9, 0.7, 1.1, 3).within(-1, 1) == Estimate(0.9, 0.7, 1.0, 3)
    assert math.isnan(Estimate(0.9).within(-1, 1).high)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_samples_that_are_none(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        estimate_mean(bad)


def test_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match="clusters"):
        estimate_mean([1.0, 2.0], clusters=[1])
    with pytest.raises(ValueError, match="weights"):
        estimate_mean([1.0, 2.0], weights=[1.0])
    with pytest.raises(ValueError, match="control"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="weights sum to zero"):
        estimate_mean([1.0, 2.0], weights=[0.0, 0.0])


def test_pairing_removes_what_shoppers_share() -> None:
    shopper = generator().normal(0, 50, size=200)
    estimate = paired_difference(shopper + 1.5, shopper)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize("same_episodes", [True, False])
def test_seeds_without_spread_within_equal_their_means_alone(same_episodes: bool) -> None:
    means = np.array([0.0, 1.0, 5.0])
    found = over_training_seeds(np.repeat(means[:, None], 6, axis=1), same_episodes=same_episodes)
    assert found == estimate_mean(means)


def test_errors_of_both_designs_are_the_analytic_ones() -> None:
    seeds, episodes = 40, 300
    random = generator()
    between, shared = random.normal(0, 1.0, (seeds, 1)), random.normal(0, 5.0, (1, episodes))
    values = between + shared
    of_seeds = critical(seeds) * math.sqrt(between.var(ddof=1) / seeds)
    of_episodes = critical(episodes) * math.sqrt(shared.var(ddof=1) / episodes)
    crossed, nested = (over_training_seeds(values, same_episodes=same) for same in (True, False))
    assert half_width(crossed) == pytest.approx(math.hypot(of_seeds, of_episodes))
    assert half_width(nested) == pytest.approx(of_seeds)
    assert crossed.n == nested.n == seeds


def test_rows_become_seeds_by_episodes_in_any_order() -> None:
    rows = pl.DataFrame({"seed": [1, 0, 1, 0], "episode": [7, 9, 9, 7], "return": [17, 9, 19, 7]})
    assert by_training_seed(rows, "return").tolist() == [[7.0, 9.0], [17.0, 19.0]]


def test_rows_that_are_missing_or_double() -> None:
    rows = pl.DataFrame({"seed": [0, 0, 1], "episode": [7, 9, 7], "return": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="found 3 rows, 3 of them distinct"):
        by_training_seed(rows, "return")
    double = pl.concat([rows, rows[:1]])
    with pytest.raises(ValueError, match="found 4 rows, 3 of them distinct"):
        by_training_seed(double, "return")
