"""The closed loop: behaviour by hand, and simulated shoppers of a toy log beside the log itself."""

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.lab.heldout import ITEM_BINS
from benchmarks.lab.logs import Log
from benchmarks.shopper import closed_loop
from benchmarks.shopper.closed_loop import Periods, Roll, behaviour, roll, start_day
from recsim_env.catalog import Catalog
from recsim_env.logs.complete_journey import FACTS as JOURNEY
from tests.support.fake_log import DAYS, FACTS, SHOPPERS, write_shop
from tests.support.fake_shoppers import member


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a shopper in its folder."""
    path = tmp_path_factory.mktemp("log")
    write_shop(path)
    member(path, 1).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def log(folder: Path) -> Log:
    return Log.load(folder)


@pytest.fixture(scope="module")
def rolled(folder: Path, log: Log) -> Roll:
    return roll(folder, log, store_promotions=True, batch=25)


# ---- when it is measured -------------------------------------------------------------------------


def test_periods_come_from_the_facts_of_the_log(log: Log) -> None:
    """Half a year before the last week, which is cut; held out from the valid split on."""
    assert Periods.of(JOURNEY) == Periods(held_out=(45, 52), all=(27, 52))
    assert Periods.of(FACTS) == Periods(held_out=(20, 27), all=(2, 27))
    assert log.n_days == DAYS == 200
    assert start_day(log) == 200 - 26 * 7


def test_a_log_of_half_a_year_is_too_short(log: Log) -> None:
    short = replace(log, baskets=log.baskets.filter(pl.col("day") < 182))
    with pytest.raises(ValueError, match="the log has 182 days, but a closed loop of 26 weeks"):
        start_day(short)


# ---- behaviour -----------------------------------------------------------------------------------


def table(rows: list[dict[str, object]]) -> pl.DataFrame:
    noon = datetime.datetime(2020, 1, 1, 12)
    frame = pl.DataFrame(
        [
            {"time": noon + datetime.timedelta(days=int(str(row["day"]))), "store": 0}
            | {"week": int(str(row["day"])) // 7, "gap": None, "follow_up": 0}
            | row
            for row in rows
        ]
    )
    return frame.with_columns(pl.col("gap").cast(pl.Int64))


def test_behaviour_by_hand() -> None:
    """Two shoppers, four visits of weeks 1 and 2, and slates of three, two and one items."""
    catalog = Catalog.synthetic(6, 2, 4, torch.Generator().manual_seed(0))
    visits = [(0, 0, 0, [1, 2]), (0, 1, 7, [1]), (0, 2, 10, [1, 3]), (1, 3, 14, [])]
    names = ("shopper", "visit", "day", "items")
    rows: list[dict[str, object]] = [dict(zip(names, row, strict=True)) for row in visits]
    baskets = table(rows)
    shown = [(1, [1, 4, 5], [True, False, False]), (2, [3, 2], [True, False]), (3, [0], [False])]
    slates = baskets.join(
        pl.DataFrame(shown, schema=["visit", "slate", "purchase"], orient="row"), on="visit"
    )
    found = behaviour(catalog, baskets[:1], baskets[1:], slates, (1, 2))
    assert found.values == pytest.approx(
        {
            "CTR of the slates": 2 / 6,
            "slates with a purchase": 2 / 3,
            "items bought per visit": (1 + 2 + 0) / 3,
            "visits per shopper-week": 3 / 2 / 2,
            "days to the next visit, mean": 10 - 7,  # the last visit of a shopper has no next one
            "repeat share of purchases": 2 / 3,  # item 1 twice, item 3 is new
        }
    )
    gaps = found.shares["days to the next visit"]
    assert gaps[closed_loop.GAP_BINS.index(3)] == gaps.sum() == 1
    mix = torch.bincount(catalog.category[torch.tensor([1, 1, 3])], minlength=2)
    assert found.shares["category mix"].tolist() == mix.tolist()
    weekly = dict(found.weekly.select("week", "ctr").iter_rows())
    assert weekly == pytest.approx({0: None, 1: (1 / 3 + 1 / 2) / 2, 2: 0.0})


def test_a_recency_curve_is_of_items_bought_often_by_days_since() -> None:
    catalog = Catalog.synthetic(6, 2, 4, torch.Generator().manual_seed(0))
    days = [0, 2, 4, 9]
    rows: list[dict[str, object]] = [
        {"shopper": 0, "visit": at, "day": day, "items": [1]} for at, day in enumerate(days)
    ]
    baskets = table(rows)
    slates = baskets.with_columns(
        pl.Series("slate", [[1, 2]] * 4), pl.Series("purchase", [[True, False]] * 4)
    )
    rate, responses = behaviour(catalog, baskets[:0], baskets, slates, (0, 1)).shares[
        "item recency curve"
    ]
    # Only the last visit finds an item that was bought three times, five days ago; it was bought.
    assert responses.sum() == responses[ITEM_BINS.index(5)] == rate[ITEM_BINS.index(5)] == 1.0
    assert rate.sum() == 1.0


def test_errors_of_a_closed_loop_by_hand() -> None:
    weekly = pl.DataFrame()
    curve = np.array([[0.1, 0.2, 0.0], [3.0, 1.0, 0.0]])
    logged = closed_loop.Behaviour(
        {"CTR": 0.04}, {"mix": np.array([1.0, 3.0]), "a curve": curve}, weekly
    )
    other = np.array([[0.12, 0.1, 0.3], [9.0, 9.0, 9.0]])
    simulated = closed_loop.Behaviour(
        {"CTR": 0.03}, {"mix": np.array([2.0, 2.0]), "a curve": other}, weekly
    )
    found = {
        str(line["what"]): float(line["error"]) for line in closed_loop.errors(simulated, logged)
    }
    assert found["CTR"] == pytest.approx(0.25)
    assert found["mix"] == pytest.approx(abs(0.5 - 0.25) + abs(0.5 - 0.75))
    assert found["a curve"] == pytest.approx(
        (3 * 0.2 + 1 * 0.5) / 4
    )  # the last bin has no response in the log


def test_what_equals_the_log_has_no_error(log: Log) -> None:
    nobody = log.baskets[:0]
    found = behaviour(log.catalog, nobody, log.baskets, log.impressions["policy"], (20, 27))
    assert {float(line["error"]) for line in closed_loop.errors(found, found)} == {0.0}
    # The toy's truth: shoppers return after two to nine days, and visits buy what they love.
    assert 2 <= found.values["days to the next visit, mean"] <= 9
    assert found.values["visits per shopper-week"] == pytest.approx(7 / 5.5, rel=0.1)
    assert found.values["items bought per visit"] == pytest.approx(4 * 0.5 + 36 * 0.01, rel=0.1)


# ---- the roll ------------------------------------------------------------------------------------


def test_shoppers_live_from_their_first_day_to_the_end_of_the_log(rolled: Roll, log: Log) -> None:
    first = rolled.baskets.group_by("shopper").agg(first=pl.col("day").min())
    assert first["shopper"].sort().to_list() == list(range(SHOPPERS))
    assert min(first["first"]) >= start_day(log)
    for _, visits in rolled.baskets.group_by("shopper"):
        assert max(visits["day"]) - min(visits["day"]) < log.n_days - start_day(log)
    assert rolled.baskets["visit"].n_unique() == len(rolled.baskets)
    assert max(rolled.baskets["visit"]) < 0  # no visit of the log
    assert set(rolled.slates["visit"]) <= set(rolled.baskets["visit"])


def test_beside_them_stands_the_log_of_their_households(rolled: Roll, log: Log) -> None:
    """Every simulated shopper has the history and the later visits of one household."""
    first = dict(rolled.baskets.group_by("shopper").agg(first=pl.col("day").min()).iter_rows())
    stride = closed_loop.VISIT_STRIDE
    for shopper, start in first.items():
        own = [
            frame.filter(pl.col("shopper") == shopper)
            for frame in (rolled.history, rolled.logged_baskets, rolled.logged_slates)
        ]
        history, later, slates = own
        visits = {
            frame_name: {visit - stride * (shopper + 1) for visit in frame["visit"]}
            for frame_name, frame in (("all", pl.concat([history, later])), ("slates", slates))
        }
        household = log.baskets.filter(pl.col("visit").is_in(list(visits["all"])))["shopper"]
        assert household.n_unique() == 1
        assert len(household) == len(history) + len(later)
        assert len(household) == len(log.baskets.filter(pl.col("shopper") == household[0]))
        assert max(history["day"]) < start <= min(later["day"])
        assert visits["slates"] == {visit - stride * (shopper + 1) for visit in later["visit"]}


def test_slates_are_the_shoppers_candidates_without_repeats(rolled: Roll, log: Log) -> None:
    promoted = {
        (store, week): set(items)
        for store, week, items in pl.DataFrame(
            [{"store": store, "week": week, "item": item} for store, week, item in _promotions(log)]
        )
        .group_by("store", "week")
        .agg("item")
        .iter_rows()
    }
    assert len(rolled.slates) == len(rolled.baskets)
    for store, week, slate in rolled.slates.select("store", "week", "slate").iter_rows():
        assert len(set(slate)) == len(slate) == 10
        assert set(slate) <= promoted[store, week]


def _promotions(log: Log) -> list[tuple[int, int, int]]:
    """What each store promotes in each week, from the table of the shop."""
    found = []
    for store in range(log.promotions.store_week.shape[0]):
        for week in range(log.promotions.store_week.shape[1]):
            row = log.promotions.placement[log.promotions.store_week[store, week]]
            found += [(store, week, item) for item in row.nonzero().flatten().tolist()]
    return found


def test_a_seed_repeats_and_another_differs(rolled: Roll, folder: Path, log: Log) -> None:
    """And so does another number of shoppers side by side, but for their order in time."""
    again = roll(folder, log, store_promotions=True, batch=60)
    for name in ("slates", "baskets", "logged_slates", "logged_baskets", "history"):
        one, other = (
            getattr(found, name).sort("shopper", "day", "time") for found in (rolled, again)
        )
        assert one.drop("visit").equals(other.drop("visit"))
    differs = roll(folder, log, store_promotions=True, seed=1, batch=60)
    assert not differs.slates.drop("visit").equals(again.slates.drop("visit"))


def test_the_worst_error_is_told_with_and_without_what_a_season_moves() -> None:
    table: list[dict[str, float | str]] = [
        {"what": "visits", "error": 0.03},
        {"what": closed_loop.SEASONAL, "error": 0.2},
        {"what": "item recency curve", "error": 0.08},
    ]
    found = closed_loop.worst_errors(table)
    assert found == {"worst_error": 0.2, "worst_error_without_season": 0.08}
