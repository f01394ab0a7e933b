"""Held-out scores: a bootstrap that is paired by household, intervals and curves."""

import math

import numpy as np
import pytest

from agents.statistics import critical
from benchmarks.lab.heldout import METRICS, Rows, bootstrap, estimate


def some_rows(seed: int = 0, slates: int = 60) -> Rows:
    rng = np.random.default_rng(seed)
    chance = rng.random(slates * 10)
    label = (rng.random(slates * 10) < chance).astype(np.float64)
    slate = np.repeat(np.arange(slates), 10)
    return Rows(
        label, rng.integers(1, 4, slates * 10).astype(np.float64), chance, slate // 4, slate
    )


def test_a_model_against_itself_in_another_order_differs_by_nothing() -> None:
    rows = some_rows()
    order = np.random.default_rng(1).permutation(len(rows.label))
    shuffled = Rows(*(column[order] for column in vars(rows).values()))
    found = bootstrap({"a": rows, "b": shuffled}, ("auc", "ne"), samples=20)
    for metric in ("auc", "ne"):
        np.testing.assert_allclose(found["a"][metric][1], found["b"][metric][1])
        assert found["a"][metric][1].std() > 0


def test_a_sample_weighs_households_by_how_often_they_were_drawn() -> None:
    rows = some_rows(slates=8)  # two households
    _, samples = bootstrap({"": rows}, ("ratio",), samples=50)[""]["ratio"]
    parts = [rows.only(rows.shopper == who) for who in (0, 1)]
    values = {
        (weight * part.chance).sum() / (weight * part.label).sum()
        for part, weight in [(part, part.weight) for part in parts] + [(rows, rows.weight)]
    }
    assert {round(float(sample), 9) for sample in samples} == {
        round(float(value), 9) for value in values
    }


def test_one_undefined_sample_does_not_spoil_the_interval() -> None:
    samples = np.array([0.5, 0.7, math.nan, 0.6, 0.6])
    found = estimate(0.6, samples, households=10)
    spread = np.std([0.5, 0.7, 0.6, 0.6], ddof=1) * math.sqrt(10 / 9)
    assert (found.low, found.high) == pytest.approx(
        (0.6 - critical(10) * spread, 0.6 + critical(10) * spread)
    )
    assert found.n == 10


def test_few_defined_samples_are_an_error() -> None:
    samples = np.array([0.5, math.nan, math.nan, 0.6, math.nan])
    with pytest.raises(
        ValueError,
        match="2 of 5 bootstrap samples define the score, but at least half of them must",
    ):
        estimate(0.6, samples, households=10)


def test_ten_households_with_one_response_have_intervals_all_the_same() -> None:
    rng = np.random.default_rng(0)
    label = np.zeros(100)
    label[5] = 1
    household = np.repeat(np.arange(10), 10)
    rows = Rows(label, np.ones(100), rng.random(100), household, household)
    for metric, (value, samples) in bootstrap({"": rows}, tuple(METRICS), samples=100)[""].items():
        assert 50 < np.isfinite(samples).sum() <= 100
        found = estimate(value, samples, 10)
        assert found.low <= found.value <= found.high, metric
