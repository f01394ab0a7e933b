"""Scores of predicted chances: by hand, by scikit-learn, and in any order of the rows."""

import itertools
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from recsim_env.metrics import (
    auc,
    calibration_error,
    curve,
    curve_error,
    log_loss,
    ndcg,
    normalised_entropy,
    ratio,
)

ONE_SLATE = np.zeros(4, dtype=np.int64)


def some_rows(
    seed: int = 0, slates: int = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chance, label, weight and slate of rows with ties."""
    rng = np.random.default_rng(seed)
    chance = rng.integers(1, 9, slates * 10) / 10
    label = (rng.random(slates * 10) < chance).astype(np.float64)
    return (
        chance,
        label,
        rng.integers(1, 4, slates * 10).astype(np.float64),
        np.repeat(np.arange(slates), 10),
    )


# ---- ranking ----


def test_auc_by_hand_ties_count_half() -> None:
    # pairs of a response (.4, .8) and a non-response (.1, .4): .4 > .1, .4 = .4, .8 > .1, .8 > .4
    assert auc([0.1, 0.4, 0.4, 0.8], [0, 1, 0, 1]) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert auc(torch.tensor([0.5, 0.5]), torch.tensor([True, False])) == 0.5


def test_a_weight_is_that_of_repeated_rows() -> None:
    chance, label, weight, _ = some_rows()
    repeated = np.repeat(chance, weight.astype(np.int64)), np.repeat(label, weight.astype(np.int64))
    for score in (auc, log_loss, normalised_entropy, ratio, calibration_error):
        assert score(chance, label, weight) == pytest.approx(score(*repeated))
    assert auc(chance, label, weight) == pytest.approx(roc_auc_score(repeated[1], repeated[0]))
    assert log_loss(chance, label, weight) == pytest.approx(
        reference_log_loss(label, chance, sample_weight=weight)
    )


def test_ndcg_of_tied_items_is_the_mean_over_their_orders() -> None:
    discounts = [1 / math.log2(rank + 2) for rank in range(4)]
    assert ndcg(np.full(4, 0.5), [1, 0, 0, 0], ONE_SLATE) == pytest.approx(
        sum(discounts) / 4
    )  # .640
    assert sum(discounts) / 4 == pytest.approx(0.640, abs=1e-3)
    label, chance = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.5, 0.5, 0.5])
    places = itertools.permutations(
        range(1, 4)
    )  # of the three that tie; the responding one is the second of them
    gains = [discounts[0] + discounts[place[1]] for place in places]
    assert ndcg(chance, label, ONE_SLATE) == pytest.approx(
        np.mean(gains) / (discounts[0] + discounts[1])
    )


def test_ndcg_is_that_of_scikit_learn_over_slates_with_a_response() -> None:
    chance, label, _, slate = some_rows()
    table, scores = label.reshape(-1, 10), chance.reshape(-1, 10)
    has = table.sum(1) > 0
    assert ndcg(chance, label, slate) == pytest.approx(ndcg_score(table[has], scores[has]))
    assert ndcg(chance, label, slate, cut=3) == pytest.approx(
        ndcg_score(table[has], scores[has], k=3)
    )


def test_ndcg_cuts() -> None:
    chance, label = np.linspace(0.9, 0.1, 20), np.zeros(20)
    label[19] = 1  # the last of twenty
    slate = np.zeros(20, dtype=np.int64)
    assert ndcg(chance, label, slate) == 0.0
    assert ndcg(chance, label, slate, cut=20) == pytest.approx(1 / math.log2(21))
    tied = np.full(20, 0.5)  # ten of twenty places count
    assert ndcg(tied, label, slate) == pytest.approx(
        sum(1 / math.log2(rank + 2) for rank in range(10)) / 20
    )
    label[:] = 1  # the best slate is cut as well
    assert ndcg(chance, label, slate) == pytest.approx(1.0)


@pytest.mark.parametrize("order_of", [0, 1, 2])
def test_no_order_of_rows_matters(order_of: int) -> None:
    chance, label, weight, slate = some_rows()
    order = np.random.default_rng(order_of).permutation(len(chance))
    whole = np.ones_like(weight)  # a slate weighs as much as its first row
    for score in (auc, log_loss, normalised_entropy, ratio, calibration_error):
        assert score(chance[order], label[order], weight[order]) == pytest.approx(
            score(chance, label, weight)
        )
    assert ndcg(chance[order], label[order], slate[order], whole) == pytest.approx(
        ndcg(chance, label, slate, whole)
    )


# ---- calibration ----


def test_calibration_error_by_hand() -> None:
    chance, label = [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]
    by_hand = (2 * abs(0.15 - 0.5) + 2 * abs(0.35 - 0.5)) / 4
    assert by_hand == pytest.approx(0.25)
    assert calibration_error(chance, label, bins=2) == pytest.approx(by_hand)
    each = (0.1 + 0.8 + 0.3 + 0.6) / 4  # as many bins as rows: each row is a bin
    assert calibration_error(chance, label, bins=4) == pytest.approx(each)
    assert calibration_error(chance, label, bins=1) == pytest.approx(abs(0.25 - 0.5))


def test_equal_chances_lie_in_one_bin() -> None:
    assert calibration_error(np.full(4, 0.5), [0, 0, 1, 1], bins=2) == 0.0
    assert calibration_error(np.full(4, 0.5), [0, 0, 1, 1]) == 0.0
    # the two .4 fill the second and third quarter, whose middle is the half: the second bin
    found = calibration_error([0.1, 0.4, 0.4, 0.8], [0, 1, 0, 1], bins=2)
    assert found == pytest.approx(1 / 4 * 0.1 + 3 / 4 * abs(1.6 / 3 - 2 / 3))


def test_the_base_rate_has_normalised_entropy_one_and_ratio_one() -> None:
    _, label, weight, _ = some_rows()
    constant = np.full_like(label, (weight * label).sum() / weight.sum())
    assert normalised_entropy(constant, label, weight) == pytest.approx(1.0)
    assert ratio(constant, label, weight) == pytest.approx(1.0)
    assert ratio(constant / 2, label, weight) == pytest.approx(0.5)
    assert calibration_error(constant, label, weight) == pytest.approx(0.0)


# ---- curves ----


def test_a_curve_is_the_mean_of_each_bin_and_ten_per_cent_too_high_is_an_error_of_a_tenth() -> None:
    chance, label, weight, _ = some_rows()
    value = np.arange(len(label)) % 5
    observed, predicted, positive = curve(chance, label, value, (1, 2, 4, 9), weight)
    for place, inside in enumerate((value == 1, (value == 2) | (value == 3), value == 4)):
        total = weight[inside].sum()
        assert observed[place] == pytest.approx((weight * label)[inside].sum() / total)
        assert predicted[place] == pytest.approx((weight * chance)[inside].sum() / total)
        assert positive[place] == (weight * label)[inside].sum()
    assert math.isnan(observed[3])
    assert positive[3] == 0
    assert curve_error(observed, 1.1 * observed, positive) == pytest.approx(0.1)


# ---- what is not defined, and what is no chance ----


@pytest.mark.parametrize("label", [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
def test_scores_that_one_kind_of_label_does_not_define_are_nan_without_a_warning(
    label: list[float],
) -> None:
    chance = [0.1, 0.2, 0.3, 0.4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(auc(chance, label))
        assert math.isnan(normalised_entropy(chance, label))
        assert math.isnan(ratio(chance, label)) == (label[0] == 0)
        assert math.isnan(ndcg(chance, label, ONE_SLATE)) == (label[0] == 0)
        nothing = np.zeros(4)
        assert all(
            math.isnan(score(chance, label, nothing))
            for score in (auc, log_loss, calibration_error, ratio)
        )


@pytest.mark.parametrize("score", [auc, log_loss, normalised_entropy, ratio, calibration_error])
def test_what_is_no_chance_is_named(score: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="chance reaches from nan to nan"):
        score([0.5, math.nan], [0, 1])
    with pytest.raises(
        ValueError, match=r"chance reaches from 0\.5 to 1.5, but every number must be from 0 to 1"
    ):
        score([0.5, 1.5], [0, 1])
    with pytest.raises(ValueError, match=r"label reaches from 0\.0 to 2\.0"):
        score([0.5, 0.5], [0, 2])
    with pytest.raises(ValueError, match=r"label has shape \(1,\), but it must have \(2,\)"):
        score([0.5, 0.5], [1])
    with pytest.raises(ValueError, match=r"weight reaches from -1\.0 to 1\.0"):
        score([0.5, 0.5], [0, 1], [1, -1])
    with pytest.raises(ValueError, match=r"chance has shape \(0,\)"):
        score([], [])
