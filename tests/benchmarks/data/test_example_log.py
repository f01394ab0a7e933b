"""The log and catalogue that ship in `examples/`, and the command that makes them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from benchmarks.data.example_log import CATALOG_FILE, LOG_FILE, Config, main
from benchmarks.data.shelves import BRANDS, SHELVES
from recsim_env import check_log
from recsim_env.logs.findings import TOPICS
from tests.test_layout import ROOT

EXAMPLES = ROOT / "examples"


def test_the_command_writes_a_log_that_can_be_read(tmp_path: Path) -> None:
    main(Config(shoppers=30, output=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [CATALOG_FILE, LOG_FILE]
    report = check_log(tmp_path / LOG_FILE, tmp_path / CATALOG_FILE)
    assert report.counts["users"] == 30
    assert report.counts["slate_size"] == [6, 6, 6]
    assert {who.name for who in report.policies} == {"uniform", "favourites", "noisy"}
    # The catalogue does not depend on who shops.
    assert (tmp_path / CATALOG_FILE).read_bytes() == (EXAMPLES / CATALOG_FILE).read_bytes()


def test_shoppers_come_at_a_pace_of_their_own(tmp_path: Path) -> None:
    main(Config(shoppers=30, output=tmp_path))
    days = (
        pl.read_csv(tmp_path / LOG_FILE, try_parse_dates=True)
        .select("user", day=pl.col("timestamp").dt.date())
        .unique()
        .sort("user", "day")
        .with_columns(gap=pl.col("day").diff().over("user").dt.total_days())
        .drop_nulls()
    )
    pace = days.group_by("user").agg(pl.col("gap").mean(), pl.len()).filter(pl.col("len") >= 5)
    assert days["gap"].min() == 1  # at most one visit a day
    assert pace["gap"].min() < 1.5 < 2.5 < pace["gap"].max()  # type: ignore[operator]


def test_what_ships_can_teach_everything_and_is_small() -> None:
    report = check_log(EXAMPLES / LOG_FILE, EXAMPLES / CATALOG_FILE)
    assert all(report.can(topic) for topic in TOPICS), str(report)
    assert not report.warnings
    assert {who.name: who.random for who in report.policies} == {
        "uniform": True,
        "favourites": False,
        "noisy": False,
    }
    for name in (LOG_FILE, CATALOG_FILE):
        assert (EXAMPLES / name).stat().st_size < 1_000_000


def test_goods_have_names_of_their_own() -> None:
    items = pl.read_csv(EXAMPLES / CATALOG_FILE)
    assert len(items) == 120
    assert items["title"].n_unique() == 120
    assert items["category2"].n_unique() == 6 < len(SHELVES)
    assert items["category"].n_unique() == 3
    assert items["brand"].n_unique() == len(BRANDS)
    assert items["price"].min() > 0  # type: ignore[operator]
