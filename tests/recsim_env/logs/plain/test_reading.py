"""A plain log becomes the tables of the schema, whatever its values are written like."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsim_env.logs.plain import PlainLog, read_plain
from recsim_env.logs.plain.columns import column_names
from recsim_env.logs.schema import IMPRESSIONS, check_table
from recsim_env.logs.sessions import Sessions
from tests.support.plain_logs import START, catalog, edited, log

DAY = datetime.timedelta(days=1)


def table(plain: PlainLog) -> pl.DataFrame:
    return plain.impressions


def said(plain: PlainLog, *words: str) -> bool:
    return any(all(word in note for word in words) for note in plain.notes)


def hand_made() -> pl.DataFrame:
    """Thirty users of two visits; user u00's rows are written by hand."""
    rows = log(users=30, visits=2, size=2)
    mine = pl.DataFrame(
        {
            "user": ["u00"] * 5,
            "timestamp": [START, START, START + 3 * DAY, START + 3 * DAY, START + 3 * DAY],
            "item": ["i003", "i001", "i000", "i002", "i001"],
            "click": [0, 1, 0, 0, 1],
            "position": [1, 2, 1, 2, 3],
        },
        schema=rows.schema,
    )
    return pl.concat([mine, rows.filter(pl.col("user") != "u00")])


def test_rows_become_slates_by_hand() -> None:
    plain = read_plain(hand_made(), catalog())
    mine = table(plain).filter(pl.col("shopper") == 0)
    assert mine["slate"].to_list() == [[3, 1], [0, 2, 1]]
    assert mine["click"].to_list() == [[False, True], [False, False, True]]
    assert mine["day"].to_list() == [0, 3]
    assert mine["gap"].to_list() == [3, None]
    # The last users of `log` come at days 2 and 4, so that the log ends on day 4.
    assert mine["follow_up"].to_list() == [4, 1]
    assert mine["page"].to_list() == [0, 0]
    assert mine["visit"].n_unique() == 2
    assert plain.facts.day_zero == START.date()
    assert plain.users["user"][0] == "u00"
    assert Sessions.of(table(plain).filter(pl.col("shopper") > 0)).n_slates == 58


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_files_of_every_kind_give_the_same_tables(suffix: str, tmp_path: Path) -> None:
    rows, items = hand_made(), catalog()
    file, goods = tmp_path / f"log.{suffix}", tmp_path / f"items.{suffix}"
    for frame, path in ((rows, file), (items, goods)):
        if suffix == "parquet":
            frame.write_parquet(path)
        else:
            frame.write_csv(path, separator="\t" if suffix == "tsv" else ",")
    before = sorted(tmp_path.iterdir())
    plain, expected = read_plain(file, goods), read_plain(rows, items)
    assert table(plain).equals(table(expected))
    assert plain.items.equals(expected.items)
    assert plain.name == str(file)
    assert sorted(tmp_path.iterdir()) == before


def test_the_order_of_rows_does_not_matter() -> None:
    rows = log()
    order = np.random.default_rng(1).permutation(len(rows))
    mixed = read_plain(rows[order], catalog())
    assert table(mixed).equals(table(read_plain(rows, catalog())))
    assert said(mixed, "were sorted")


def test_users_are_split_by_their_ids_into_exact_shares() -> None:
    plain = read_plain(log(users=40), catalog())
    counts = dict(plain.users["split"].value_counts().iter_rows())
    assert counts == {"train": 32, "valid": 4, "test": 4}
    again = read_plain(log(users=40, visits=2, seed=5), catalog())
    assert plain.users.equals(again.users)
    other = read_plain(log(users=40), catalog(), seed=1)
    assert not plain.users["split"].equals(other.users["split"])
    rows = table(plain).select("shopper", "split").unique()
    assert len(rows) == 40
    assert rows.join(plain.users, on=["shopper", "split"]).height == 40


# ---- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", [pl.Int64, pl.Float64, pl.String])
def test_numbers_since_1970_are_times(unit: str, kind: Any) -> None:
    rows = log()
    seconds = rows["timestamp"].dt.epoch("s")
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    plain = read_plain(
        rows.with_columns((seconds * factor).cast(kind).alias("timestamp")), catalog()
    )
    assert table(plain)["time"].equals(table(read_plain(rows, catalog()))["time"])
    assert said(plain, f"numbers of {unit} since 1970", "UTC")


@pytest.mark.parametrize("as_text", [False, True])
def test_times_with_a_zone_become_the_clock_of_the_shop(as_text: bool) -> None:
    """Ten o'clock UTC is eleven in Berlin before the clocks change on 31 March, and twelve after."""
    rows = log(visits=20)
    zoned = rows.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    if as_text:
        zoned = zoned.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%z"))
    plain = read_plain(zoned, catalog(), time_zone="Europe/Berlin")
    changed = pl.col("time") >= datetime.datetime(2024, 3, 31)
    assert table(plain).filter(~changed)["time"].dt.hour().unique().to_list() == [11]
    assert table(plain).filter(changed)["time"].dt.hour().unique().to_list() == [12]
    assert said(plain, "converted to the clock of Europe/Berlin")
    assert table(read_plain(zoned, catalog()))["time"].dt.hour().unique().to_list() == [10]


def test_times_of_several_offsets_are_one_clock() -> None:
    rows = log().with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    first = rows["timestamp"][0]
    shifted = first.replace("T10:", "T12:").replace("Z", "+02:00")
    mixed = rows.with_columns(
        pl.when(pl.col("user") == "u00")
        .then(pl.col("timestamp").replace(first, shifted))
        .otherwise("timestamp")
    )
    assert table(read_plain(mixed, catalog())).equals(table(read_plain(rows, catalog())))


def test_an_hour_that_the_clock_repeats_stays_two() -> None:
    """On 27 October 2024, 00:10 and 01:10 UTC are both 02:10 in Berlin."""
    rows = log(visits=2).with_columns(
        timestamp=datetime.datetime(2024, 10, 27, 0, 10)
        + pl.duration(hours=pl.int_range(pl.len()) // 5 % 2)
    )
    zoned = rows.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC")).drop("position")
    plain = read_plain(zoned, catalog(), time_zone="Europe/Berlin")
    assert table(plain).equals(
        table(read_plain(rows.drop("position"), catalog())).with_columns(
            time=datetime.datetime(2024, 10, 27, 2, 10)
        )
    )
    # Ten minutes before and after the clock goes back: time stands still in the table.
    around = zoned.with_columns(
        timestamp=pl.datetime(2024, 10, 27, 0, 50, time_zone="UTC")
        + pl.duration(minutes=pl.int_range(pl.len()) // 5 % 2 * 20)
    )
    found = table(read_plain(around, catalog(), time_zone="Europe/Berlin"))
    assert len(found) == 60
    assert found["time"].unique().to_list() == [datetime.datetime(2024, 10, 27, 2, 50)]
    assert found["visit"].n_unique() == 30  # twenty minutes are no silence


def test_dates_alone_are_days() -> None:
    rows = log().with_columns(pl.col("timestamp").dt.date())
    plain = read_plain(rows, catalog())
    assert table(plain)["day"].equals(table(read_plain(log(), catalog()))["day"])
    assert said(plain, "without a time of day")


# ---- clicks and purchases ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("no", "yes", "word"),
    [
        ("false", "true", "words"),
        ("no", "YES", "words"),
        ("0", "1", ""),
        ("0", "2", "counts"),
        ("0.0", "1.0", ""),
    ],
)
def test_clicks_may_be_texts(no: str, yes: str, word: str) -> None:
    rows = log()
    texts = rows.with_columns(
        pl.when(pl.col("click") == 1).then(pl.lit(yes)).otherwise(pl.lit(no)).alias("click")
    )
    plain = read_plain(texts, catalog())
    assert table(plain).equals(table(read_plain(rows, catalog())))
    assert said(plain, word) if word else not said(plain, "words") and not said(plain, "counts")


@pytest.mark.parametrize(
    "change",
    [pl.col("click") * 3, pl.col("click").cast(pl.Boolean), pl.col("click").cast(pl.Float32)],
)
def test_clicks_may_be_numbers(change: pl.Expr) -> None:
    plain = read_plain(log().with_columns(change), catalog())
    assert table(plain).equals(table(read_plain(log(), catalog())))


def test_a_purchase_is_a_click_too() -> None:
    rows = log().with_columns(purchase=pl.lit(None, pl.Int8))
    row = int(rows["click"].arg_min() or 0)
    plain = read_plain(edited(rows, row, purchase=1), catalog())
    assert said(plain, "1 purchases without a click")
    bought = table(plain).explode("slate", "click", "purchase").filter("purchase")
    assert bought["click"].to_list() == [True]
    assert bought["slate"].to_list() == [int(rows["item"][row][1:])]


# ---- visits, pages and positions -----------------------------------------------------------------


def test_half_an_hour_of_silence_ends_a_visit() -> None:
    rows = log(visits=3)
    visit = pl.int_range(pl.len()).over("user") // 5
    for apart, pages in ((30, [0, 1, 2]), (31, [0, 0, 0])):
        times = [START + number * datetime.timedelta(minutes=apart) for number in range(3)]
        near = rows.with_columns(visit.replace_strict([0, 1, 2], times).alias("timestamp"))
        mine = table(read_plain(near, catalog())).filter(pl.col("shopper") == 0)
        assert mine["page"].to_list() == pages
        assert mine["visit"].n_unique() == len(pages) - max(pages)


def test_sessions_and_pages_are_those_of_the_log() -> None:
    """Two pages of one session, two hours apart and written backwards."""
    rows = log(visits=2).with_columns(
        session=pl.when(pl.col("user") == "u00")
        .then(pl.lit("s"))
        .otherwise(pl.col("timestamp").cast(pl.String)),
        page=pl.when((pl.col("user") == "u00") & (pl.col("timestamp") > START + DAY))
        .then(8)
        .otherwise(3),
    )
    mine = table(read_plain(rows.reverse(), catalog())).filter(pl.col("shopper") == 0)
    assert mine["visit"].n_unique() == 1
    assert mine["page"].to_list() == [0, 1]
    assert mine["time"].to_list() == [START, START]
    plain = read_plain(rows, catalog())
    assert mine["slate"].equals(table(plain).filter(pl.col("shopper") == 0)["slate"])


def test_pages_that_begin_again_begin_a_visit() -> None:
    rows = log(visits=3)
    times = [START, START + datetime.timedelta(minutes=1), START + datetime.timedelta(minutes=2)]
    visit = pl.int_range(pl.len()).over("user") // 5
    rows = rows.with_columns(
        visit.replace_strict([0, 1, 2], times).alias("timestamp"),
        visit.replace_strict([0, 1, 2], [1, 2, 1]).alias("page"),
    )
    mine = table(read_plain(rows, catalog())).filter(pl.col("shopper") == 7)
    assert mine["page"].to_list() == [0, 1, 0]
    assert mine["visit"].n_unique() == 2


def test_rows_with_times_of_their_own_are_put_together_by_position() -> None:
    rows = log()
    apart = rows.with_columns(pl.col("timestamp") + pl.duration(seconds=pl.col("position")))
    plain = read_plain(apart, catalog())
    assert table(plain)["slate"].equals(table(read_plain(rows, catalog()))["slate"])
    assert said(plain, "a time of its own")


def test_bandit_rows_are_not_put_together() -> None:
    """One random position a round, of which only that one was logged."""
    rows = log(size=1, visits=30)
    rows = rows.with_columns(position=pl.Series(np.random.default_rng(0).integers(1, 4, len(rows))))
    plain = read_plain(rows, catalog())
    assert table(plain)["slate"].list.len().unique().to_list() == [1]
    assert plain.by_position["position"].to_list() == [0, 1, 2]
    assert int(plain.by_position["shown"].sum()) == len(rows)


@pytest.mark.parametrize("first", [0, 1])
def test_positions_begin_at_0_or_1(first: int) -> None:
    rows = log()
    plain = read_plain(rows.with_columns(pl.col("position") - 1 + first), catalog())
    assert table(plain).equals(table(read_plain(rows, catalog())))
    assert said(plain, f"begin at {first}")
    assert plain.by_position["position"].to_list() == [0, 1, 2, 3, 4]


def test_slates_may_be_shorter_than_others() -> None:
    rows = log()
    cut = rows.filter((pl.col("user") != "u03") | (pl.col("position") <= 2))
    plain = read_plain(cut, catalog())
    assert table(plain)["slate"].list.len().unique().sort().to_list() == [2, 5]
    assert plain.uneven == 0
    gap = read_plain(rows.filter((pl.col("user") != "u03") | (pl.col("position") != 2)), catalog())
    assert gap.uneven == 4
    assert said(gap, "4 slates have gaps")


def test_without_positions_rows_stand_in_order() -> None:
    plain = read_plain(log().drop("position"), catalog())
    assert table(plain).equals(table(read_plain(log(), catalog())))
    assert said(plain, "no positions")


def test_rows_that_repeat_are_dropped_and_a_click_is_kept() -> None:
    rows = log()
    row = int(rows["click"].arg_min() or 0)
    twice = pl.concat([rows, rows[row].with_columns(click=pl.lit(1).cast(rows.schema["click"]))])
    plain = read_plain(twice, catalog())
    assert [(dropped.rows, "repeat" in dropped.reason) for dropped in plain.dropped] == [(1, True)]
    assert table(plain).equals(table(read_plain(edited(rows, row, click=1), catalog())))


def test_scenarios_policies_and_propensities() -> None:
    rows = log().with_columns(
        policy=pl.when(pl.col("user") < "u10").then(pl.lit("a")).otherwise(pl.lit("b")),
        propensity=pl.when(pl.col("user") == "u00").then(None).otherwise(0.5),
        scenario=pl.lit("home"),
    )
    rows = edited(rows, 25, policy="b")  # one row of u01's second slate
    plain = read_plain(rows, catalog())
    mine = table(plain).filter(pl.col("shopper") < 2)
    assert mine["policy"].to_list() == ["a"] * 5 + [None] + ["a"] * 2
    assert mine["propensity"].to_list() == [None] * 4 + [pytest.approx(5 * np.log(0.5))] * 4
    assert table(plain)["scenario"].unique().to_list() == ["home"]
    assert said(plain, "1 slates name several policies")
    blank = edited(rows, 25, policy=None)  # a row that does not say is none that says otherwise
    plain = read_plain(blank, catalog())
    assert table(plain).filter(pl.col("shopper") < 2)["policy"].to_list() == ["a"] * 8


# ---- columns, users and items --------------------------------------------------------------------


@pytest.mark.parametrize(
    "told", ["user=uid,item=sku,user_age=age", {"user": "uid", "item": "sku", "user_age": "age"}]
)
def test_columns_may_have_other_names(told: Any) -> None:
    rows = log().with_columns(age=pl.lit(30)).rename({"user": "uid", "item": "sku"})
    rows = rows.with_columns(device=pl.lit("phone"), user_id=pl.int_range(pl.len()))
    goods = catalog().rename({"item": "sku"}).with_columns(stock=pl.lit(1))
    plain = read_plain(rows, goods, columns=told)
    assert table(plain).equals(table(read_plain(log(), catalog())))
    assert plain.ignored == ("device", "user_id")
    assert plain.ignored_of_catalog == ("stock",)
    assert plain.declared_names == ("user_age",)


def test_ids_may_be_numbers() -> None:
    rows = log().with_columns(
        pl.col("user").str.slice(1).cast(pl.Int64), pl.col("item").str.slice(1).cast(pl.Float64)
    )
    goods = catalog().with_columns(item=pl.int_range(pl.len()))
    plain = read_plain(rows, goods)
    by_user = plain.users.select("shopper", number=pl.col("user").cast(pl.Int64))
    numbered = table(plain).join(by_user, on="shopper").sort("number", "time")
    assert numbered["slate"].equals(table(read_plain(log(), catalog()))["slate"])


def test_what_was_known_of_users_is_what_stood_in_their_first_row() -> None:
    rows = log(users=40).with_columns(
        user_tier=pl.when(pl.col("timestamp") > START + 3 * DAY)
        .then(pl.lit("gold"))
        .otherwise(pl.lit("new")),
        user_age=pl.col("user").str.slice(1).cast(pl.Float64) * 2,
        user_taste=pl.col("user").str.slice(1).cast(pl.Float64) / 40,
    )
    plain = read_plain(rows.reverse(), catalog())
    assert plain.declared is not None
    said_of = np.array(plain.declared["declared"].to_list())
    assert plain.declared_names == ("user_tier=new", "user_tier=other", "user_age", "user_taste")
    assert said(plain, "'user_tier' changes for 40 users")
    np.testing.assert_allclose(said_of[:, 0], 1)
    np.testing.assert_allclose(said_of[:, 1], 0)
    # Ages are standardised by the training users and squashed; numbers in [-1, 1] stay as they are.
    ages = np.arange(40) * 2.0
    train = ages[(plain.users["split"] == "train").to_numpy()]
    np.testing.assert_allclose(
        said_of[:, 2], np.tanh((ages - train.mean()) / (2 * train.std(ddof=1))), rtol=1e-5
    )
    np.testing.assert_allclose(said_of[:, 3], np.arange(40) / 40, rtol=1e-6)
    assert np.abs(said_of).max() <= 1


def test_categories_unseen_in_training_are_others() -> None:
    rows = log(users=40)
    split = read_plain(rows, catalog()).users
    held = split.filter(pl.col("split") == "test")["user"].to_list()
    rows = rows.with_columns(
        user_city=pl.when(pl.col("user").is_in(held)).then(pl.lit("far")).otherwise(pl.lit("near"))
    )
    plain = read_plain(rows, catalog())
    assert plain.declared_names == ("user_city=near", "user_city=other")
    assert plain.declared is not None
    told = plain.declared.join(plain.users, on="shopper")
    assert told.filter(pl.col("split") == "test")["declared"].to_list() == [[0.0, 1.0]] * 4
    assert told.filter(pl.col("split") != "test")["declared"].to_list() == [[1.0, 0.0]] * 36


def test_a_text_that_no_training_user_has_is_a_missing_number() -> None:
    rows = log(users=40)
    split = read_plain(rows, catalog()).users
    held = split.filter(pl.col("split") == "test")["user"].to_list()
    rows = rows.with_columns(
        user_city=pl.when(pl.col("user").is_in(held)).then(pl.lit("far")), user_taste=0.5
    )
    plain = read_plain(rows, catalog())
    assert plain.declared_names == ("user_city", "user_taste")
    assert plain.declared is not None
    assert plain.declared["declared"].to_list() == [[0.0, 0.5]] * 40


@pytest.mark.parametrize("told", ["user=uid,user=item", "user=uid, item=sku, user =uid"])
def test_a_column_is_named_once(told: str) -> None:
    with pytest.raises(ValueError, match=f"columns is '{told}', but it must name 'user' once"):
        column_names(told)


def test_a_large_log_is_sampled_by_user_and_says_so() -> None:
    rows = log(users=60)
    by_rows = read_plain(rows, catalog(), most_rows=600)
    by_slates = read_plain(rows, catalog(), most_slates=120)
    for plain in (by_rows, by_slates):
        assert len(plain.users) == 30  # of twenty rows and four slates each
        assert table(plain)["shopper"].unique().to_list() == list(range(30))
        reason = plain.dropped[0]
        assert reason.rows == 600
        assert "30 of 60 users were drawn at random" in reason.reason
        whole = read_plain(rows, catalog())
        back = table(plain).join(plain.users, on="shopper")
        same = (
            table(whole)
            .join(whole.users, on="shopper")
            .filter(pl.col("user").is_in(plain.users["user"].to_list()))
        )
        assert back["slate"].equals(same["slate"])


def test_the_catalogue_has_three_levels_and_texts() -> None:
    goods = catalog(4).with_columns(
        category=pl.Series(["a/b", "c", None, "c"]),
        category2=pl.Series(["x", None, None, "y"]),
        brand=pl.Series(["B", None, "", "B"]),
        title=pl.Series(["T; 1", "T2", None, "T4"]),
        price=pl.Series(["1.5", "", None, "0"]),
    )
    plain = read_plain(log(items=4, size=3), goods)
    assert plain.items["path"].to_list() == ["a-b/x/x", "c/c/c", "unknown/unknown/unknown", "c/y/y"]
    assert plain.items["title"].to_list() == ["T, 1", "T2", "i002", "T4"]
    assert plain.items["price"].to_list() == [1.5, None, None, 0.0]
    for words in ("slash", "without a title", "without a category"):
        assert said(plain, words)


def test_tables_are_those_of_the_schema() -> None:
    plain = read_plain(log(), catalog())
    check_table(IMPRESSIONS, plain.impressions, "log", 40)


def test_a_frame_may_hold_empty_texts_and_nan() -> None:
    rows = log().with_columns(
        purchase=pl.lit(""), propensity=pl.lit(float("nan")), policy=pl.lit("")
    )
    plain = read_plain(rows, catalog())
    assert table(plain)["propensity"].null_count() == len(table(plain))
    assert table(plain)["policy"].null_count() == len(table(plain))
    assert not table(plain)["purchase"].explode().any()


def test_numbers_of_users_may_be_as_large_as_numbers_are() -> None:
    high = pl.col("user") > "u14"
    rows = log().with_columns(user_x=pl.when(high).then(1.7e308).otherwise(-1.7e308))
    plain = read_plain(rows, catalog())
    assert plain.declared is not None
    told = plain.declared["declared"].explode().to_numpy()
    # Half the users each: about one standard deviation from the mean, so tanh(1/2).
    np.testing.assert_allclose(np.abs(told), np.tanh(0.5), atol=0.05)
    assert (told > 0).sum() == 15


def test_a_column_of_vectors_may_be_empty() -> None:
    for empty in (pl.lit(None), pl.lit(""), pl.lit(None, dtype=pl.List(pl.Float64))):
        plain = read_plain(log(), catalog().with_columns(embedding=empty))
        assert plain.items["embedding"].null_count() == 40
        assert said(plain, "Column 'embedding' of the catalogue is empty")
