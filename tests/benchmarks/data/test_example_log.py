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
        assert (EXAMPLES / name).stat().st_size < 600_000


def test_goods_have_names_of_their_own() -> None:
    items = pl.read_csv(EXAMPLES / CATALOG_FILE)
    assert len(items) == 1000
    assert items["title"].n_unique() == 1000
    assert items["category2"].n_unique() == len(SHELVES) == 20
    assert items["brand"].n_unique() == len(BRANDS)
    assert items["price"].min() > 0  # type: ignore[operator]
