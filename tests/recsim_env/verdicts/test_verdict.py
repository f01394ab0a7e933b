"""Verdicts say yes where the model is right, no where it is wrong, and nothing where data are few."""

import numpy as np
import pytest

from recsim_env.estimates import Estimate
from recsim_env.verdicts import verdict as judge
from recsim_env.verdicts.baselines import ITEM_USER, LEAVING
from recsim_env.verdicts.ratios import Ratio, by_policy, by_visit
from recsim_env.verdicts.rows import Rows, item_rows
from recsim_env.verdicts.scores import Score
from tests.support.verdict_toys import rates, toy_log, verdict_catalog


def first_rows(policies: tuple[str, ...], users: int = 3000) -> Rows:
    """First slates, predicted by the truth, and by someone who does not know what policies knew."""
    sessions, chance = toy_log(users, 1, policies=policies)
    rows = item_rows(sessions, verdict_catalog())
    rows = rows.with_prediction("true", chance[sessions.real.numpy()].reshape(-1))
    alike = rates()[rows.item]
    alike = alike * rows.label.sum() / alike.sum()
    return rows.with_prediction("unknowing", np.clip(alike, 0, 1))


def test_levels_fail_where_policies_knew_what_the_model_does_not() -> None:
    rows = first_rows(("blind", "clever"))
    right = judge.levels(rows, "true", by_policy(rows, "true"))
    wrong = judge.levels(rows, "unknowing", by_policy(rows, "unknowing"))
    assert right.holds is True
    assert wrong.holds is False
    assert wrong.figure is not None
    assert abs(wrong.figure.value) < 0.05  # nothing is explained
    assert "blind" in wrong.sentence


def test_the_explained_share_is_the_slope_over_policies() -> None:
    """A model that knows half of what a policy knew, on the scale of logarithms, explains half."""
    rows = first_rows(("blind", "clever"), 8000)
    observed = np.array([rows.label[rows.policy == p].mean() for p in (0, 1)])
    share = np.array([rows.label[rows.policy == p].sum() for p in (0, 1)]) / rows.label.sum()
    middle = (share * np.log(observed)).sum()
    halfway = np.exp(middle + 0.5 * (np.log(observed) - middle))
    rows = rows.with_prediction("half", halfway[rows.policy])
    found = judge.policy_levels(rows, "half")
    assert found.explained.value == pytest.approx(0.5, abs=0.03)
    assert found.explained.low < 0.5 < found.explained.high + 0.02
    deviations = np.log(observed) - middle
    spread = np.sqrt((share * deviations**2).sum())
    assert found.observed == pytest.approx(spread, rel=0.05)
    assert found.misjudged.value == pytest.approx(0.5 * spread, rel=0.1)


def test_policies_that_do_not_differ_are_no_reason_for_alarm() -> None:
    alarms = 0
    for seed in range(10):
        sessions, _ = toy_log(500, 1, seed=seed, policies=("blind", "also blind", "third"))
        rows = item_rows(sessions, verdict_catalog())
        rows = rows.with_prediction("m", np.full(len(rows), rows.label.mean()))
        alarms += judge.levels(rows, "m", by_policy(rows, "m")).holds is not True
    assert alarms == 0


def test_one_policy_tells_nothing_about_levels_or_order() -> None:
    rows = first_rows(("blind",))
    assert judge.levels(rows, "true", by_policy(rows, "true")).holds is None
    assert judge.order_of_policies(rows, "true").holds is None


def test_order_of_policies_compares_pairs_that_differ() -> None:
    rows = first_rows(("blind", "clever", "also blind"))
    right = judge.order_of_policies(rows, "true")
    assert right.holds is True
    assert right.figure is not None
    assert right.figure.n == 2  # clever against the two others
    upside_down = rows.with_prediction("m", np.where(rows.policy == 1, 0.1, 0.4))
    assert judge.order_of_policies(upside_down, "m").holds is False


def scores(
    auc: tuple[float, float, float], base: float, ne: tuple[float, float, float] = (0.9, 0.88, 0.92)
) -> list[Score]:
    """A model's AUC with its lead over a baseline and the lead's interval."""
    value, low, high = auc
    lead = Estimate(value - base, low, high, 100)
    return [
        Score("m", "auc", Estimate(value, value - 0.01, value + 0.01, 100), None),
        Score("m", "ne", Estimate(*ne, 100), None),
        Score("m", "ratio", Estimate(1.0, 0.95, 1.05, 100), None),
        *(Score(name, "auc", Estimate(base, n=100), lead) for name in (ITEM_USER, LEAVING)),
    ]


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (scores((0.74, 0.01, 0.03), 0.72), True),
        (scores((0.74, -0.01, 0.05), 0.72), None),  # users are too few to tell
        (scores((0.747, -0.02, -0.01), 0.760), False),  # MovieLens-100k
        (scores((0.76, -0.01, 0.01), 0.76), None),  # two means may be the truth
        (scores((0.999, -0.0011, -0.0009), 1.0), None),
        (scores((0.74, 0.01, 0.03), 0.72, ne=(1.2, 1.1, 1.3)), False),  # the level is wild
        (scores((0.74, 0.01, 0.03), 0.72, ne=(1.02, 0.95, 1.1)), None),  # or may be
        (scores((0.74, 0.01, 0.03), 0.72, ne=(0.98, 0.9, 1.05)), None),
        (scores((0.70, -0.05, 0.02), 0.72), None),  # behind, but perhaps by chance
    ],
)
def test_clicks_must_be_ranked_better_than_two_means(
    found: list[Score], holds: bool | None
) -> None:
    verdict = judge.clicks(found, "m")
    assert verdict.holds is holds
    assert f"{found[0].value.value:.3f}" in verdict.sentence


def test_levels_fail_where_all_policies_are_underrated_alike() -> None:
    rows = first_rows(("blind", "other"))
    rows = rows.with_prediction("low", 0.4 * rows.predicted["true"])
    found = judge.levels(rows, "low", by_policy(rows, "low"))
    assert found.holds is False
    assert found.figure is not None
    assert found.figure.value == pytest.approx(0.4, abs=0.03)


def test_leaving_needs_leavers_a_lead_and_the_right_number() -> None:
    good = scores((0.8, -0.01, 0.05), 0.78)
    assert judge.leaving(good, "m", 29, 500).holds is None
    assert judge.leaving(good, "m", 100, 500).holds is True
    assert judge.leaving(scores((0.7, -0.2, -0.1), 0.8), "m", 100, 500).holds is False
    good[2] = Score("m", "ratio", Estimate(1.5, 1.3, 1.7, 100), None)
    assert judge.leaving(good, "m", 100, 500).holds is False
    good[2] = Score("m", "ratio", Estimate(1.5, 0.9, 2.1, 100), None)  # may be by chance
    assert judge.leaving(good, "m", 100, 500).holds is True


def after_slates(users: int, chance: tuple[float, float]) -> list[Ratio]:
    """All users leave after two slates; some model has these chances after each of them."""
    second = np.tile([False, True], users)
    nothing = np.full(2 * users, -1)
    rows = Rows(
        user=np.repeat(np.arange(users), 2),
        visit=second.astype(np.int64),
        policy=nothing,
        activity=nothing,
        position=nothing,
        item=nothing,
        category=nothing,
        label=second,
    )
    return by_visit(rows.with_prediction("m", np.where(second, chance[1], chance[0])), "m")


def test_leaving_must_come_after_the_right_slates() -> None:
    """The total is right where 11 % leave after the first slate and 89 % after the second."""
    good = scores((0.95, 0.01, 0.03), 0.93)
    soft = after_slates(200, (0.11, 0.83))
    assert [one.ratio.value for one in soft] == pytest.approx([(22 + 10) / 10, 176 / 210])
    found = judge.leaving(good, "m", 200, 200, soft)
    assert found.holds is False
    assert "after slate 1 22 users are expected to leave and 0 did, 3.20" in found.sentence
    assert found.figure == soft[0].ratio
    assert judge.leaving(good, "m", 200, 200, after_slates(200, (0.01, 0.99))).holds is True
    assert judge.leaving(good, "m", 50, 50, after_slates(50, (0.11, 0.83))).holds is True  # few
    assert judge.leaving(good, "m", 200, 200, after_slates(200, (0.6, 0.4))).holds is False


@pytest.mark.parametrize(
    ("lead", "gaps", "distinct", "holds"),
    [
        (Estimate(-0.2, -0.3, -0.1), 500, 20, True),
        (Estimate(0.2, 0.1, 0.3), 500, 20, False),
        (Estimate(-0.1, -0.3, 0.1), 500, 20, None),
        (None, 500, 20, None),
        (Estimate(-0.2, -0.3, -0.1), 29, 20, None),
        (Estimate(0.0, 0.0, 0.0), 500, 1, None),
    ],
)
def test_returning_is_compared_with_all_gaps(
    lead: Estimate | None, gaps: int, distinct: int, holds: bool | None
) -> None:
    assert judge.returning(lead, gaps, distinct).holds is holds


def test_positions_fail_where_clicks_are_misplaced_beyond_chance() -> None:
    def table(*values: tuple[float, float, float]) -> list[Ratio]:
        return [
            Ratio(str(place + 1), 100, 50, 50.0, Estimate(*value, 30))
            for place, value in enumerate(values)
        ]

    assert judge.positions(table((1.0, 0.9, 1.1), (1.1, 1.0, 1.2))).holds is True
    assert judge.positions(table((1.0, 0.9, 1.1), (1.4, 1.2, 1.6))).holds is False
    assert judge.positions(table((1.0, 0.9, 1.1), (1.4, 0.8, 2.0))).holds is True  # by chance
    assert judge.positions(table((1.0, 0.9, 1.1))).holds is None
    # The sentence names the position that decided, not one that is further off by chance.
    decided = judge.positions(table((1.4, 1.2, 1.6), (1.6, 0.8, 3.0)))
    assert decided.holds is False
    assert "position 1, predicted over observed 1.40" in decided.sentence
    assert decided.figure == Estimate(1.4, 1.2, 1.6, 30)
