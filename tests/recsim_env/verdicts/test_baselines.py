"""Baselines see what was known before a slate, and find what is there to be found."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from recsim_env.metrics import auc, ratio
from recsim_env.verdicts import baselines
from recsim_env.verdicts.baselines import (
    BOOSTING,
    ITEM,
    ITEM_USER,
    LOGISTIC,
    Means,
    click_baselines,
    features,
    leaving_baseline,
    shrinkage,
)
from recsim_env.verdicts.history import before, in_last_slate, in_slate, taste_match
from recsim_env.verdicts.rows import Rows, item_rows, slate_rows
from tests.support.verdict_toys import ITEMS, rates, toy_log, verdict_catalog


def log_rows(users: int = 400, seed: int = 0) -> Rows:
    return item_rows(toy_log(users, 5, seed=seed)[0], verdict_catalog())


def test_sums_over_earlier_slates_equal_those_by_hand() -> None:
    rows, value = log_rows(30), np.random.default_rng(0).random(len(log_rows(30)))
    groups = (rows.user, rows.category)
    by_hand = [
        sum(
            value[other]
            for other in range(len(rows))
            if rows.user[other] == rows.user[row]
            and rows.category[other] == rows.category[row]
            and rows.visit[other] < rows.visit[row]
        )
        for row in range(len(rows))
    ]
    np.testing.assert_allclose(before(rows.visit, groups, value), by_hand, atol=1e-12)

    # The same whatever order the rows stand in.
    shuffled = np.random.default_rng(1).permutation(len(rows))
    moved = before(rows.visit[shuffled], tuple(one[shuffled] for one in groups), value[shuffled])
    np.testing.assert_allclose(moved, np.array(by_hand)[shuffled], atol=1e-12)


def test_counts_of_this_slate_and_of_the_last_one() -> None:
    rows = log_rows(30)
    same_user = rows.user[:, None] == rows.user
    same_category = rows.category[:, None] == rows.category
    ahead = rows.visit[:, None] - rows.visit
    last = (same_user & same_category & (ahead == 1)) @ rows.label.astype(float)
    now = (same_user & same_category & (ahead == 0)).sum(axis=1)
    np.testing.assert_array_equal(
        in_last_slate(rows, rows.category, rows.label.astype(np.float64)), last
    )
    np.testing.assert_array_equal(in_slate(rows, rows.category), now)


def test_taste_is_the_direction_of_earlier_clicks() -> None:
    rows, embedding = log_rows(20), verdict_catalog().embedding.double().numpy()
    found = taste_match(rows, embedding)
    for row in range(len(rows)):
        earlier = (rows.user == rows.user[row]) & (rows.visit < rows.visit[row]) & rows.label
        taste = embedding[rows.item[earlier]].sum(axis=0)
        expected = 0.0
        if earlier.any():
            expected = taste @ embedding[rows.item[row]] / np.linalg.norm(taste)
        assert found[row] == pytest.approx(expected, abs=1e-9)


def test_no_feature_changes_with_what_comes_later() -> None:
    rows = log_rows(60)
    later = rows.visit >= 2
    changed = replace(rows, label=np.where(later, ~rows.label, rows.label))
    rate, embedding = rates()[rows.item], verdict_catalog().embedding.double().numpy()
    known, moved = (features(one, rate, 20.0, embedding) for one in (rows, changed))
    early = rows.visit <= 2
    np.testing.assert_allclose(known[early], moved[early], atol=1e-9)
    assert np.abs(known[~early] - moved[~early]).max() > 0.1


def test_item_rates_and_shrinkage_by_hand() -> None:
    assert shrinkage(np.array([2.0, -2.0]), np.array([10.0, 10.0]), 0.2) == pytest.approx(
        0.2 / ((4 / 10 + 4 / 10 - 2 * 0.2) / (20 - 200 / 20))
    )
    assert shrinkage(np.zeros(3), np.full(3, 10.0), 0.2) == 1e4  # groups do not differ
    rows = log_rows(3000)
    means = Means.of(rows, ITEMS)
    np.testing.assert_allclose(means.item, rates() * 0.97, atol=0.07)  # 1.5 is cut at .98
    assert means.user_strength < 10  # users differ by a factor of three


def test_user_means_and_fitted_models_rank_better_than_item_means() -> None:
    pytest.importorskip("sklearn")
    train, test = log_rows(1500), log_rows(2000, seed=1)  # enough users for a ratio
    embedding = verdict_catalog().embedding.double().numpy()
    found = click_baselines(train, test, embedding)
    scores = {name: auc(chance, test.label) for name, chance in found.items()}
    assert list(scores) == [ITEM, ITEM_USER, LOGISTIC, BOOSTING]
    assert scores[ITEM] > 0.65
    assert scores[ITEM_USER] > scores[ITEM] + 0.02
    assert scores[LOGISTIC] > scores[ITEM] + 0.03
    assert scores[BOOSTING] > scores[ITEM] + 0.03
    for name, chance in found.items():
        assert 0.93 < ratio(chance, test.label) < 1.07, name
    again = click_baselines(train, test, embedding)
    assert all((found[name] == again[name]).all() for name in found)


def test_missing_scikit_learn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "sklearn" else found(name),
    )
    assert "scikit-learn is not installed" in str(baselines.without_extra())
    assert list(click_baselines(log_rows(50), log_rows(20))) == [ITEM, ITEM_USER]


def test_one_class_is_refused() -> None:
    rows = log_rows(20)
    for label in (np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)):
        with pytest.raises(ValueError, match=f"train has {label.sum()} clicks in {len(rows)} rows"):
            click_baselines(replace(rows, label=label), rows)


def test_leave_rates_by_visit_and_click() -> None:
    sessions, _ = toy_log(2000, 4)
    slates = slate_rows(sessions)
    clicked = np.zeros(len(slates))
    chance = leaving_baseline(slates, clicked, slates, clicked)
    first = slates.first
    left, seen, rate = slates.label[first].sum(), first.sum(), slates.label.mean()
    assert chance[first][0] == pytest.approx((left + 10 * rate) / (seen + 10))
