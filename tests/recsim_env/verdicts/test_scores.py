"""Scores and ratios equal those worked out by hand, with intervals over users that hold the truth."""

import math
from dataclasses import replace

import numpy as np
import pytest

from recsim_env import metrics
from recsim_env.estimates import from_samples, resamples, units_of
from recsim_env.verdicts.ratios import OTHERS, policy_groups, ratio_tables, ratios
from recsim_env.verdicts.rows import Rows, item_rows
from recsim_env.verdicts.scores import found_of, mean_over_users, score
from tests.support.verdict_toys import toy_log, verdict_catalog


def predicted_rows(users: int = 300, policies: tuple[str, ...] = ("blind",)) -> Rows:
    """Rows with the true chances, with the same for everybody, and with too high ones."""
    sessions, chance = toy_log(users, policies=policies)
    rows = item_rows(sessions, verdict_catalog())
    true = chance[sessions.real.numpy()].reshape(-1)
    rows = rows.with_prediction("true", true)
    rows = rows.with_prediction("same", np.full(len(rows), rows.label.mean()))
    return rows.with_prediction("double", np.clip(2 * true, 0, 1))


def test_scores_are_those_of_the_metrics_on_all_rows() -> None:
    rows = predicted_rows()
    scores = score(rows, "true", samples=50)
    for one in scores:
        measure = {"auc": metrics.auc, "ne": metrics.normalised_entropy, "ratio": metrics.ratio}
        expected = measure[one.metric](rows.predicted[one.model], rows.label)
        assert one.value.value == pytest.approx(expected)
        assert one.value.n == 300
    assert [one.model for one in scores[:3]] == ["true"] * 3


def test_leads_are_paired_over_users() -> None:
    rows = predicted_rows()
    rows = rows.with_prediction("twin", rows.predicted["true"])
    scores = score(rows, "true", samples=100)
    twin, same = (found_of(scores, name, "auc") for name in ("twin", "same"))
    own = found_of(scores, "true", "auc")
    assert own is not None
    assert own.lead is None
    assert twin is not None
    assert twin.lead is not None
    assert (twin.lead.value, twin.lead.low, twin.lead.high) == (0, 0, 0)
    assert same is not None
    assert same.lead is not None
    assert same.lead.low > 0.1
    assert same.value.value == 0.5  # ties count half


def test_a_score_needs_rows_and_predictions() -> None:
    rows = predicted_rows(20)
    with pytest.raises(ValueError, match="judged is 'nobody', but the rows were predicted by true"):
        score(rows, "nobody")
    with pytest.raises(ValueError, match="rows is empty"):
        score(rows.only(np.zeros(len(rows), dtype=bool)), "true")


def test_ratios_by_group_by_hand() -> None:
    rows = predicted_rows(100)
    found = {one.group: one for one in ratios(rows, "double", rows.position, list("abcd"))}
    for place, name in enumerate("abcd"):
        here = rows.position == place
        assert found[name].rows == here.sum()
        assert found[name].observed == rows.label[here].sum()
        expected = rows.predicted["double"][here].sum() / rows.label[here].sum()
        assert found[name].ratio.value == pytest.approx(expected)
        assert found[name].ratio.low < expected < found[name].ratio.high
    assert ratios(rows, "true", np.full(len(rows), -1), ["none"]) == []


def test_a_group_without_responses_has_no_ratio() -> None:
    rows = predicted_rows(30)
    rows = replace(rows, label=rows.label & (rows.position > 0))
    first = ratios(rows, "true", rows.position, list("abcd"))[0]
    assert first.observed == 0
    assert math.isnan(first.ratio.value)


def test_tables_hold_every_row_once() -> None:
    rows = predicted_rows(200, ("blind", "clever"))
    tables = ratio_tables(rows, "true", verdict_catalog().categories)
    first, later = (tables[f"policy at {when}"] for when in ("the first slate", "later slates"))
    assert sum(one.rows for one in first) == rows.first.sum()
    assert sum(one.rows for one in (*first, *later)) == len(rows)
    for title in ("position", "category", "clicks so far"):
        assert sum(one.rows for one in tables[title]) == len(rows), title
    assert [one.group for one in first] == ["blind", "clever"]


def test_policies_with_few_responses_are_taken_together() -> None:
    rows = predicted_rows(200, ("blind", "clever"))
    rare = np.flatnonzero((rows.policy == 1) & rows.label)[9:]
    rows = replace(rows, label=np.where(np.isin(np.arange(len(rows)), rare), False, rows.label))
    assert policy_groups(rows, few=9)[1] == ["blind", "clever", OTHERS]
    group, names = policy_groups(rows, few=10)
    assert names == ["blind", OTHERS]
    assert (group == rows.policy).all()
    nameless = replace(rows, policy=np.full(len(rows), -1))
    assert policy_groups(nameless)[1] == ["unknown", OTHERS]


def test_intervals_hold_the_truth_as_often_as_promised() -> None:
    """Users differ, so rows of one user go together."""
    random, held = np.random.default_rng(0), 0
    for _ in range(200):
        user = np.repeat(np.arange(80), 5)
        value = random.normal(size=80)[user] + random.normal(size=400)
        estimate = mean_over_users(value, user, samples=200)
        held += estimate.low < 0 < estimate.high
    assert 0.89 * 200 < held < 0.99 * 200


def test_a_mean_leaves_out_what_is_not_defined() -> None:
    estimate = mean_over_users(np.array([1.0, np.nan, 4.0]), np.array([0, 0, 1]))
    assert estimate.value == 2.5
    assert math.isnan(mean_over_users(np.array([np.nan]), np.array([0])).value)


def test_bootstrap_samples_hold_as_many_users_as_there_are() -> None:
    draws = resamples(7, 100, seed=3)
    assert draws.sum(axis=1).tolist() == [7] * 100
    assert (draws == resamples(7, 100, seed=3)).all()
    assert math.isnan(from_samples(1.0, [1.0, 2.0], 1).low)  # one user
    assert math.isnan(from_samples(1.0, [np.nan, np.nan, 2.0], 5).low)  # mostly undefined
    assert units_of([7, 5, 7])[0].tolist() == [1, 0, 1]
