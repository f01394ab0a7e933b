"""The estimates equal values worked out by hand or known in closed form."""

import math

import numpy as np
import polars as pl
import pytest

from benchmarks.statistics import Estimate, bootstrap, by_training_seed, over_training_seeds, paired_difference


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def half_width(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


def test_mean_and_normal_interval() -> None:
    values = generator().normal(3.0, 2.0, size=900)
    estimate = bootstrap(values, generator=generator())
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.n == 900
    assert half_width(estimate) == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(900), rel=0.03)


def test_two_values_by_hand() -> None:
    # the resampled mean of {0, 4} is 0, 2 or 4 with chances 1/4, 1/2, 1/4: the 2.5 % and 97.5 % points are 0 and 4;
    # two units scale the deviations from 2 by sqrt(2 / 1)
    assert bootstrap([0.0, 4.0], generator=generator()) == Estimate(2.0, 2 - 2 * math.sqrt(2), 2 + 2 * math.sqrt(2), 2)


def test_weights_by_hand() -> None:
    estimate = bootstrap([1.0, 0.0, 5.0], weights=[1.0, 3.0, 1.0], generator=generator())
    assert estimate.value == pytest.approx((1 * 1 + 3 * 0 + 1 * 5) / (1 + 3 + 1))


def test_integer_weights_equal_repeated_rows_of_one_cluster() -> None:
    values, weights, clusters = [1.0, 0.0, 5.0, 2.0], [1, 3, 2, 1], [7, 7, 8, 9]
    weighted = bootstrap(values, weights=weights, clusters=clusters, generator=generator())
    repeated = bootstrap(np.repeat(values, weights), clusters=np.repeat(clusters, weights), generator=generator())
    assert weighted == repeated


def test_clusters_widen_the_interval_as_copies_do_not_inform() -> None:
    values = generator().normal(size=400)
    once = bootstrap(values, generator=generator())
    copied = bootstrap(np.tile(values, 9), clusters=np.tile(np.arange(400), 9), generator=generator())
    assert (copied.low, copied.high, copied.n) == pytest.approx((once.low, once.high, 400))


def test_cluster_ids_may_be_text() -> None:
    assert bootstrap([1.0, 2.0, 6.0], clusters=["a", "b", "a"], generator=generator()).n == 2


def test_chunks_do_not_change_how_many_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values = generator().normal(size=50)
    whole = bootstrap(values, generator=generator(), resamples=1_000)
    monkeypatch.setattr("benchmarks.statistics._CHUNK", 50 * 77)  # 77 does not divide 1,000
    assert bootstrap(values, generator=generator(), resamples=1_000) == whole


def test_one_unit_has_no_interval() -> None:
    estimate = bootstrap([1.0, 3.0], clusters=[5, 5], generator=generator())
    assert (estimate.value, estimate.n) == (2.0, 1)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_the_same_generator_gives_the_same_interval() -> None:
    values = generator().normal(size=30)
    assert bootstrap(values, generator=generator()) == bootstrap(values, generator=generator())


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_samples_that_are_none(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        bootstrap(bad, generator=generator())


def test_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match="clusters"):
        bootstrap([1.0, 2.0], clusters=[1], generator=generator())
    with pytest.raises(ValueError, match="weights"):
        bootstrap([1.0, 2.0], weights=[1.0], generator=generator())
    with pytest.raises(ValueError, match="control"):
        paired_difference([1.0, 2.0], [1.0], generator=generator())


def test_pairing_removes_what_shoppers_share() -> None:
    shopper = generator().normal(0, 50, size=200)
    estimate = paired_difference(shopper + 1.5, shopper, generator=generator())
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize("same_episodes", [True, False])
def test_seeds_without_spread_within_equal_a_bootstrap_of_seed_means(same_episodes: bool) -> None:
    means = np.array([0.0, 4.0])
    estimate = over_training_seeds(
        np.repeat(means[:, None], 6, axis=1), generator=generator(), same_episodes=same_episodes
    )
    assert estimate == Estimate(2.0, 2 - 2 * math.sqrt(2), 2 + 2 * math.sqrt(2), 2)


def test_variance_of_both_designs_is_the_analytic_one() -> None:
    seeds, episodes = 40, 300
    random = generator()
    between, shared, noise = random.normal(0, 1.0, (seeds, 1)), random.normal(0, 5.0, (1, episodes)), 0.0
    values = between + shared + noise
    seed_part = between.var(ddof=1) / seeds
    episode_part = shared.var(ddof=1) / episodes
    crossed = over_training_seeds(values, generator=generator(), same_episodes=True)
    assert half_width(crossed) == pytest.approx(1.96 * math.sqrt(seed_part + episode_part), rel=0.05)
    nested = over_training_seeds(values, generator=generator(), same_episodes=False)
    assert half_width(nested) == pytest.approx(1.96 * math.sqrt(seed_part + episode_part / seeds), rel=0.05)
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
