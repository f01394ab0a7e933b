"""What is written as a plain log is read again as it was."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from recsim_env.logs.plain import catalog_of, read_plain, write_plain
from recsim_env.logs.record import record
from recsim_env.logs.schema import LogError
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import make_simulator
from recsim_env.types import Observation

SHOPPERS = 40


class Twice:
    """Two policies that draw slates at random: which one serves says the shopper's number."""

    draws = 1000

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        return draws.topk(10, dim=1).indices


def played() -> tuple[pl.DataFrame, pl.DataFrame]:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", horizon_days=6)
    seeds = torch.arange(SHOPPERS)
    table, _ = record(
        simulator,
        Twice(),
        seeds,
        policy_name="drawn",
        split="train",
        propensity=lambda observation, slates: -slates.sum(dim=1).float() / 1000,
    )
    declared = simulator.reset(seeds)["declared"].tolist()
    said = pl.DataFrame(
        {"shopper": range(SHOPPERS), "declared": declared},
        schema={"shopper": pl.Int64, "declared": pl.List(pl.Float32)},
    )
    named = pl.when(pl.col("shopper") % 2 == 0).then(pl.lit("even")).otherwise("policy")
    clicked = table.with_columns(policy=named, click=pl.col("purchase"))
    # Sets of two visits share a visit, so that there are pages.
    pages = clicked.with_columns(
        visit=pl.col("visit") // 2 * 2, page=(pl.col("visit") % 2).cast(pl.Int16)
    )
    first = pl.struct("time", "day").first().over("shopper", "visit")
    pages = pages.with_columns(time=first.struct.field("time"), day=first.struct.field("day")).sort(
        "shopper", "time", "visit", "page"
    )
    pages = pages.with_columns(page=pl.int_range(pl.len()).over("shopper", "visit").cast(pl.Int16))
    # A visit number belongs to one shopper.
    return pages.with_columns(pl.col("visit") * 2 + pl.col("shopper") % 2), said


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_log_is_read_as_it_was_written(suffix: str, tmp_path: Path) -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    table, said = played()
    log, goods = tmp_path / f"log{suffix}", tmp_path / f"items{suffix}"
    write_plain(table, simulator.catalog, log, goods, declared=said, embedding=True)
    plain = read_plain(log, goods)
    back = plain.impressions
    assert table["page"].max() == 1
    for name in ("shopper", "slate", "click", "purchase", "policy", "time", "day", "page"):
        assert back[name].equals(table[name]), name
    assert float((back["propensity"] - table["propensity"]).abs().max()) < 1e-9  # type: ignore[arg-type]
    assert plain.declared is not None
    assert plain.declared.equals(said)
    catalog = catalog_of(plain)
    assert catalog.path == simulator.catalog.path
    torch.testing.assert_close(catalog.embedding, simulator.catalog.embedding)
    torch.testing.assert_close(catalog.price, simulator.catalog.price)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([log.name, goods.name])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_searches_carts_and_discounts_are_read_as_they_were_written(
    suffix: str, tmp_path: Path
) -> None:
    simulator = make_simulator("recsim_env/MarketVisit-v0", device="cpu", horizon_days=6)
    table, _ = record(simulator, Twice(), torch.arange(SHOPPERS), split="train")
    table = table.with_columns(discount=(pl.col("page") * 0.25).cast(pl.Float32).clip(0, 0.75))
    table = table.with_columns(discount=pl.when(pl.col("page") != 1).then("discount"))
    log, goods = tmp_path / f"log{suffix}", tmp_path / f"items{suffix}"
    write_plain(table, simulator.catalog, log, goods)
    back = read_plain(log, goods).impressions
    for name in ("slate", "scenario", "query", "cart", "discount", "page"):
        assert back[name].equals(table[name]), name
    assert 0 < table["query"].null_count() < len(table)
    assert 0 < table["discount"].null_count() < len(table)
    assert int(table["cart"].list.len().max()) > 1  # type: ignore[arg-type]


def test_a_cart_that_is_not_known_is_not_empty(tmp_path: Path) -> None:
    table, _ = played()
    marks = pl.int_range(pl.len()) % 3
    empty = pl.lit([], dtype=pl.List(pl.Int32))
    table = table.with_columns(
        cart=pl.when(marks == 0)
        .then(empty)
        .when(marks == 1)
        .then(pl.lit([4, 2], pl.List(pl.Int32)))
    )
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    log, goods = tmp_path / "log.csv", tmp_path / "items.csv"
    write_plain(table, simulator.catalog, log, goods)
    assert read_plain(log, goods).impressions["cart"].equals(table["cart"])


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("cart", "4|strange", "items of"),
        ("discount", "2", "a share from 0 to 1, or nothing"),
        ("discount", "much", "a share from 0 to 1, or nothing"),
    ],
)
def test_what_is_no_cart_and_no_discount_is_refused(
    column: str, value: str, expected: str, tmp_path: Path
) -> None:
    table, _ = played()
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    log, goods = tmp_path / "log.parquet", tmp_path / "items.parquet"
    write_plain(table, simulator.catalog, log, goods)
    rows = pl.read_parquet(log).with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(value)).alias(column)
    )
    with pytest.raises(LogError, match=f"column '{column}', row 7: found '{re.escape(value)}'"):
        read_plain(rows, goods)
    with pytest.raises(LogError, match=f"expected {expected}"):
        read_plain(rows, goods)


def test_sessions_are_the_same(tmp_path: Path) -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", horizon_days=6)
    table, _ = record(simulator, Twice(), torch.arange(SHOPPERS), split="train")
    write_plain(table, simulator.catalog, tmp_path / "log.csv", tmp_path / "items.csv")
    before = Sessions.of(table)
    after = Sessions.of(read_plain(tmp_path / "log.csv", tmp_path / "items.csv").impressions)
    for name in ("slates", "clicks", "length"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        write_plain(played()[0], simulator.catalog, tmp_path / "log.txt", tmp_path / "items.csv")
    assert not list(tmp_path.iterdir())
