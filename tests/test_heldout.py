"""Held-out scores: values worked out by hand, and a bootstrap that is paired by household."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from benchmarks.heldout import (
    Rows,
    auc,
    bootstrap,
    calibration_error,
    curve,
    curve_error,
    ndcg,
    normalised_entropy,
    ratio,
)


def some_rows(seed: int = 0, slates: int = 60) -> Rows:
    rng = np.random.default_rng(seed)
    chance = rng.random(slates * 10)
    label = (rng.random(slates * 10) < chance).astype(np.float64)
    slate = np.repeat(np.arange(slates), 10)
    return Rows(label, rng.integers(1, 4, slates * 10).astype(np.float64), chance, slate // 4, slate)


def test_auc_is_that_of_repeated_rows_and_ties_count_half() -> None:
    rows = some_rows()
    times = rows.weight.astype(np.int64)
    expected = roc_auc_score(np.repeat(rows.label, times), np.repeat(rows.chance, times))
    assert auc(rows, rows.weight) == pytest.approx(expected)
    tied = Rows(np.array([1.0, 0.0]), np.ones(2), np.array([0.5, 0.5]), np.zeros(2, np.int64), np.zeros(2, np.int64))
    assert auc(tied, tied.weight) == 0.5


def test_the_base_rate_has_normalised_entropy_one_and_ratio_one() -> None:
    rows = some_rows()
    base = (rows.weight * rows.label).sum() / rows.weight.sum()
    constant = Rows(rows.label, rows.weight, np.full_like(rows.chance, base), rows.shopper, rows.slate)
    assert normalised_entropy(constant, constant.weight) == pytest.approx(1.0)
    assert ratio(constant, constant.weight) == pytest.approx(1.0)
    assert calibration_error(constant, constant.weight, bins=1) == pytest.approx(0.0)


def test_ndcg_is_that_of_scikit_learn_over_slates_with_a_response() -> None:
    rows = some_rows()
    label, chance = rows.label.reshape(-1, 10), rows.chance.reshape(-1, 10)
    has = label.sum(1) > 0
    one = np.ones_like(rows.weight)
    assert ndcg(rows, one) == pytest.approx(ndcg_score(label[has], chance[has]))


def test_a_model_against_itself_in_another_order_differs_by_nothing() -> None:
    rows = some_rows()
    shuffled = rows.only(np.ones(len(rows.label), dtype=bool))
    order = np.random.default_rng(1).permutation(len(rows.label))
    shuffled = Rows(*(column[order] for column in vars(rows).values()))
    found = bootstrap({"a": rows, "b": shuffled}, ("auc", "ne"), samples=20)
    for metric in ("auc", "ne"):
        np.testing.assert_allclose(found["a"][metric][1], found["b"][metric][1])
        assert found["a"][metric][1].std() > 0


def test_a_curve_that_is_ten_per_cent_too_high_has_an_error_of_a_tenth() -> None:
    rows = some_rows()
    value = np.arange(len(rows.label)) % 5
    observed, _, positive = curve(rows, value.astype(np.float64), (0, 2, 4))
    by_hand = (rows.weight * rows.label)[value < 2].sum() / rows.weight[value < 2].sum()
    assert observed[0] == pytest.approx(by_hand)
    assert curve_error(observed, 1.1 * observed, positive) == pytest.approx(0.1)
