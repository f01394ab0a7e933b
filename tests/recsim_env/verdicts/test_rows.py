"""Rows stand for shown items and slates, in the order in which models predict them."""

import numpy as np
import pytest
import torch

from recsim_env.logs.sessions import Sessions
from recsim_env.verdicts.assess import clicks_of, first_slates, gaps_of, joined, watched_on
from recsim_env.verdicts.rows import Rows, item_rows, shown_of, slate_rows
from tests.support.verdict_toys import toy_log, verdict_catalog


def two_users() -> Sessions:
    """The first saw two slates and stayed; the second saw one with a gap in it, and left."""
    return Sessions(
        slates=torch.tensor([[[3, 1], [2, 3]], [[4, -1], [-1, -1]]]),
        clicks=torch.tensor([[[True, False], [True, True]], [[False, False], [False, False]]]),
        length=torch.tensor([2, 1]),
        left=torch.tensor([False, True]),
        propensity=torch.full((2, 2), torch.nan),
        policy=torch.tensor([[1, 0], [-1, -1]]),
        declared=torch.zeros(2, 0),
        policies=("a", "b"),
    )


def test_one_row_for_each_shown_item() -> None:
    rows, catalog = item_rows(two_users(), verdict_catalog()), verdict_catalog()
    assert rows.user.tolist() == [0, 0, 0, 0, 1]
    assert rows.visit.tolist() == [0, 0, 1, 1, 0]
    assert rows.policy.tolist() == [1, 1, 0, 0, -1]
    assert rows.position.tolist() == [0, 1, 0, 1, 0]
    assert rows.item.tolist() == [3, 1, 2, 3, 4]
    assert rows.category.tolist() == catalog.category[torch.tensor([3, 1, 2, 3, 4])].tolist()
    assert rows.activity.tolist() == [0, 0, 1, 1, 0]  # one click in the first slate
    assert rows.label.tolist() == [True, False, True, True, False]
    assert rows.first.tolist() == [True, True, False, False, True]
    assert shown_of(two_users()).tolist() == [[True, True], [True, True], [True, False]]


def test_one_row_for_each_slate() -> None:
    rows = slate_rows(two_users())
    assert rows.label.tolist() == [False, False, True]  # only the second user left
    assert watched_on(two_users()).tolist() == [True, False, True]
    # Days of silence that are fewer than most gaps last tell nothing.
    assert watched_on(two_users(), quiet=1.0).tolist() == [True, False, True]
    assert watched_on(two_users(), quiet=2.0).tolist() == [True, False, False]
    assert clicks_of(two_users()).tolist() == [1, 2, 0]
    assert gaps_of(two_users()).tolist() == [1, -1, -1]


def test_predictions_are_checked_and_follow_the_rows() -> None:
    rows = item_rows(two_users(), verdict_catalog())
    rows = rows.with_prediction("m", [0.1, 0.2, 0.3, 0.4, 0.5])
    assert rows.only(rows.label).predicted["m"].tolist() == [0.1, 0.3, 0.4]
    with pytest.raises(ValueError, match=r"'m' has shape \(2,\), but it must have \(5,\)"):
        rows.with_prediction("m", [0.1, 0.2])
    with pytest.raises(ValueError, match="'m' is nan in row 1"):
        rows.with_prediction("m", [0.1, np.nan, 0.3, 0.4, 0.5])


def test_first_slates_keep_nothing_of_what_came_later() -> None:
    cut = first_slates(two_users())
    assert cut.slates.tolist() == [[[3, 1]], [[4, -1]]]
    assert cut.length.tolist() == [1, 1]
    assert cut.left.tolist() == [False, True]
    assert cut.policy.tolist() == [[1], [-1]]
    whole = item_rows(toy_log(50)[0], verdict_catalog())
    first = item_rows(first_slates(toy_log(50)[0]), verdict_catalog())
    assert first.item.tolist() == whole.only(whole.first).item.tolist()


def test_joined_rows_keep_users_and_policies_apart() -> None:
    part = item_rows(two_users(), verdict_catalog()).with_prediction("m", np.full(5, 0.5))
    other = Rows(**{**vars(part), "policies": ("b", "c")})
    both = joined([part, other])
    names = np.array([*both.policies, "unknown"])[both.policy]
    assert names.tolist() == ["b", "b", "a", "a", "unknown", "c", "c", "b", "b", "unknown"]
    assert both.users == 4
    assert len(both.predicted["m"]) == 10
