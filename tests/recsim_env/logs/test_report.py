"""What can be learned from a log is told without training, each case for its own reason."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import polars as pl
import pytest

import recsim_env
from recsim_env.logs.findings import BANDIT_KIND, FEEDBACK_KIND, IMPRESSIONS_KIND, TOPICS
from recsim_env.logs.report import check_log
from recsim_env.logs.schema import LogError
from tests.support.plain_logs import CATEGORIES, START, catalog, log

GREEDY = [3, 7, 11, 15, 19, 23]


def popular(generator: np.random.Generator, user: int, visit: int) -> Any:
    """The best items for even users, any items for the others."""
    return GREEDY[:5] if user % 2 == 0 else generator.permutation(40)[:5]


def named(user: int, visit: int) -> str:
    return "greedy" if user % 2 == 0 else "uniform"


def good(users: int = 240, visits: int = 8, **options: Any) -> pl.DataFrame:
    """Users who leave after one to eight visits in a log that goes on for two weeks."""
    rows = log(users, visits, **{"slate": popular, "policy": named, "every": 1, **options})
    stay = pl.col("user").str.slice(1).cast(pl.Int32) * 7 % 8
    visit = (pl.col("timestamp") - START).dt.total_days() - pl.col("user").str.slice(1).cast(
        pl.Int32
    ) % 3
    last = pl.col("user") == pl.col("user").max()
    end = (
        pl.when(last).then(pl.col("timestamp") + datetime.timedelta(days=14)).otherwise("timestamp")
    )
    return rows.filter(visit <= stay).with_columns(end.alias("timestamp"))


def test_a_good_log_can_teach_everything() -> None:
    report = check_log(good(), catalog())
    assert report.kind == IMPRESSIONS_KIND
    assert {topic: report.can(topic) for topic in TOPICS} == dict.fromkeys(TOPICS, True)
    assert {who.name: who.random for who in report.policies} == {"greedy": False, "uniform": True}
    assert report.counts["users"] == 240
    assert not report.warnings


def test_counts_are_those_of_the_log() -> None:
    rows = log(users=30, visits=4)
    counts = check_log(rows, catalog()).counts
    assert counts["rows"] == counts["shown"] == 600
    assert counts["slates"] == counts["visits"] == 120
    assert counts["clicks"] == int(rows["click"].sum())
    assert counts["slate_size"] == [5, 5, 5]
    assert counts["slates_a_user"] == [4.0, 4.0, 4.0]
    assert (counts["items"], counts["items_shown"], counts["categories"]) == (40, 40, 4)
    assert (counts["first"], counts["days"]) == ("2024-03-01 10:00:00", 9)
    positions = check_log(rows, catalog()).by_position
    assert [shown for _, shown, _ in positions] == [120] * 5
    by_hand = rows.group_by("position").agg(pl.col("click").sum()).sort("position")["click"]
    assert [clicks for _, _, clicks in positions] == by_hand.to_list()


def test_few_clicks_teach_nothing_about_slates() -> None:
    report = check_log(good(users=40), catalog())
    assert not report.can("clicks")
    assert "about 1,000 are needed" in report.finding("clicks").sentence
    assert not report.can("levels")
    assert report.can("returning")


def test_ratings_are_told_from_impressions() -> None:
    """Every user rates every item at most once, most of them well."""

    def once(generator: np.random.Generator, user: int, visit: int) -> Any:
        return (np.arange(5) + 5 * visit + user) % 40

    rows = log(60, 8, slate=once, rate=lambda user, item: 0.55).drop("position")
    report = check_log(rows, catalog())
    assert report.kind == FEEDBACK_KIND
    assert not any(report.can(topic) for topic in TOPICS)
    assert "look like ratings" in " ".join(report.warnings)
    # The same rates with repeated exposures are an impression log.
    assert (
        check_log(log(60, 8, rate=lambda user, item: 0.55).drop("position"), catalog()).kind
        == IMPRESSIONS_KIND
    )


def test_purchases_without_exposures() -> None:
    rows = log(60, 8).filter(pl.col("click") == 1)
    assert check_log(rows, catalog()).kind == FEEDBACK_KIND
    bought = rows.drop("click").with_columns(quantity=2)
    report = check_log(bought, catalog())
    assert report.kind == FEEDBACK_KIND
    assert "not what was shown beside it" in report.finding("clicks").sentence
    with pytest.raises(LogError, match="column 'click': found no such column"):
        check_log(rows.drop("click"), catalog())


def test_bandit_rows_without_users() -> None:
    rows = log(60, 8, size=1).drop("user").with_columns(propensity=1 / 40)
    report = check_log(rows, catalog())
    assert report.kind == BANDIT_KIND
    assert not any(report.can(topic) for topic in TOPICS)
    assert "IPS, SNIPS and DR" in report.finding("clicks").sentence
    assert "only with propensities" not in report.finding("clicks").sentence
    alone = log(60, 8, size=1).with_columns(user=pl.int_range(pl.len()))
    found = check_log(alone, catalog())
    assert found.kind == BANDIT_KIND
    assert "only with propensities" in found.finding("clicks").sentence


def test_one_session_a_user_tells_nothing_that_comes_later() -> None:
    report = check_log(log(1500, 1, slate=popular, policy=named), catalog())
    assert report.kind == IMPRESSIONS_KIND
    assert report.can("clicks")
    assert report.can("positions")
    for topic in ("leaving", "returning"):
        assert not report.can(topic)
        assert "one visit a user" in report.finding(topic).sentence


def test_one_policy_that_leaves_nothing_to_chance() -> None:
    def best(generator: np.random.Generator, user: int, visit: int) -> Any:
        return generator.permutation(GREEDY)[:5]

    rows = good(slate=best, policy=None)
    report = check_log(rows, catalog())
    assert report.can("clicks")
    assert not report.can("order")
    assert not report.can("levels")
    assert "no policy's slates look drawn at random" in report.finding("levels").sentence
    # Propensities say what chance had to do with it.
    assert check_log(rows.with_columns(propensity=0.3), catalog()).can("levels")
    assert not check_log(rows.with_columns(propensity=1.0), catalog()).can("levels")


def test_two_policies_can_be_ordered_but_not_measured() -> None:
    def two(generator: np.random.Generator, user: int, visit: int) -> Any:
        return generator.permutation(GREEDY if user % 2 else [0, 1, 2, 4, 5, 6])[:5]

    report = check_log(good(slate=two), catalog())
    assert report.can("order")
    assert "among policies like the 2 of the log" in report.finding("order").sentence
    assert not report.can("levels")


def hidden_taste(generator: np.random.Generator, user: int, visit: int) -> Any:
    """Even users get what they like; nothing in the log tells their taste."""
    if user % 2:
        return generator.permutation(40)[:5]
    liked = np.arange(40)[np.arange(40) % CATEGORIES == user // 2 % CATEGORIES]
    return generator.permutation(liked)[:5]


def tasteful(user: int, item: int) -> float:
    return 0.5 if item % CATEGORIES == user // 2 % CATEGORIES else 0.1


def test_a_policy_that_knew_more_than_the_log_is_found_out() -> None:
    rows = log(800, 2, slate=hidden_taste, rate=tasteful, policy=named)
    report = check_log(rows, catalog())
    greedy, uniform = report.policies
    # All items are shown equally often, and only the slates themselves tell.
    assert (greedy.name, greedy.random) == ("greedy", False)
    assert (uniform.name, uniform.random) == ("uniform", True)
    # In random slates an item is clicked with probability (0.5 + 3 * 0.1) / 4 = 0.2.
    assert greedy.lift == pytest.approx(0.5 / 0.2, rel=0.15)
    assert not report.can("levels")
    assert "'greedy' knew something that the log does not tell" in report.finding("levels").sentence
    assert report.can("order")
    # With what the policy knew, a model can tell.
    known = rows.with_columns(
        user_taste=pl.col("user").str.slice(1).cast(pl.Int32) // 2 % CATEGORIES
    )
    assert check_log(known, catalog()).can("levels")


def test_a_policy_that_shows_the_same_good_items_to_all_knew_nothing_more() -> None:
    assert check_log(log(800, 2, slate=popular, policy=named), catalog()).policies[0].lift is None


def test_positions_need_positions() -> None:
    assert (
        "no column `position`"
        in check_log(good().drop("position"), catalog()).finding("positions").sentence
    )
    gaps = good().filter((pl.col("position") != 2) | (pl.int_range(pl.len()) % 3 > 0))
    assert "lack rows of some positions" in check_log(gaps, catalog()).finding("positions").sentence
    fixed = good(
        slate=lambda generator, user, visit: [0, 1, 2, 3, 4] if user % 2 else [5, 6, 7, 8, 9]
    )
    assert "more than one position" in check_log(fixed, catalog()).finding("positions").sentence


def test_a_log_that_ends_too_soon_does_not_tell_who_left() -> None:
    first_day = pl.col("user").str.slice(1).cast(pl.Int32) % 3
    rows = log(240, 8, every=1, slate=popular, policy=named).with_columns(
        pl.col("timestamp") - pl.duration(days=first_day)
    )
    report = check_log(rows, catalog())
    assert report.can("returning")
    assert not report.can("leaving")
    assert "before the log ended" in report.finding("leaving").sentence


def test_times_that_are_wrong_are_told() -> None:
    same = check_log(log(600, 1).with_columns(timestamp=pl.lit(START)), catalog())
    assert "they tell nothing" in same.warnings[0]
    assert not same.can("returning")
    dates = check_log(good().with_columns(pl.col("timestamp").dt.date()), catalog())
    assert any("midnights" in warning for warning in dates.warnings)
    late = check_log(
        good().with_columns(pl.col("timestamp") + datetime.timedelta(days=36500)), catalog()
    )
    assert any("later than today" in warning for warning in late.warnings)


def test_rows_that_nothing_puts_together_are_told() -> None:
    apart = good().with_columns(pl.col("timestamp") + pl.duration(seconds=pl.col("position")))
    alone = check_log(apart.drop("position"), catalog())
    assert "or `position` must tell which of them" in " ".join(alone.warnings)
    assert not check_log(apart, catalog()).warnings


def test_what_read_plain_refuses_is_reported() -> None:
    for rows, words in (
        (log().with_columns(click=pl.lit(0)), "no click in 600 rows"),
        (log(users=10), "found 10 users"),
        (log(users=1), "found 1 user,"),
        (log(users=2), "found 2 users"),
    ):
        report = check_log(rows, catalog())
        assert words in report.warnings[0]
        assert not report.can("clicks")


def test_the_text_and_the_json_say_the_same() -> None:
    rows = good().with_columns(device=pl.lit("phone"), user_age=pl.lit(3), scenario=pl.lit("home"))
    report = check_log(rows, catalog().with_columns(stock=pl.lit(1)), most_rows=3000)
    text = str(report)
    for words in (
        "Clicks by position",
        "Unknown columns of the log, ignored: device",
        "Unknown columns of the catalogue, ignored: stock",
        "user_age (1 number)",
        "Slates by scenario: home",
        "were drawn at random",
        "slates look drawn at random",
        *TOPICS,
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {finding["topic"]: finding["holds"] for finding in told["findings"]} == {
        topic: report.can(topic) for topic in TOPICS
    }
    assert told["scenarios"] == {"home": report.counts["slates"]}
    with pytest.raises(ValueError, match="topic is 'love', but it must be one of"):
        report.can("love")


def test_the_package_offers_it() -> None:
    assert recsim_env.check_log is check_log
    assert isinstance(check_log(log(), catalog()), recsim_env.LogReport)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = recsim_env.nothing


def test_many_small_policies_are_judged_together() -> None:
    """Ten policies of forty first slates each say nothing alone; together they do."""
    rows = log(
        800,
        2,
        slate=hidden_taste,
        rate=tasteful,
        policy=lambda user, visit: f"arm {user // 2 % 10}" if user % 2 == 0 else "uniform",
    )
    report = check_log(rows, catalog())
    assert all(who.lift is None for who in report.policies)
    assert not report.can("levels")
    assert "the policies that were not random knew something" in report.finding("levels").sentence
