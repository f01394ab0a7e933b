"""Estimates against the market: figures of hand-made rows, and a small market that is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import polars as pl
import pytest

import recsim_env
from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, seeds
from benchmarks.agents import ope
from benchmarks.agents.ope import ESTIMATED, POLICIES, Config, Opened, cells_of, logged, read_work
from benchmarks.agents.ope_report import (
    EPISODES,
    LOGGED,
    MARKET,
    MODEL,
    OTHER,
    ROWS,
    SIMULATOR,
    judge,
    report,
)
from benchmarks.lab.measuring import measure
from benchmarks.lab.shelf_log import ShelfLog, first_slates
from recsim_env.registration import PRESETS
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.session.fit import SessionFitConfig

# ---- figures of hand-made rows -------------------------------------------------------------------


def rows_of(
    estimator: str, slate: list[float], episode: list[float], seed: int | None = None
) -> pl.DataFrame:
    """The rows of an estimator for the policies a, b and c."""
    told = {"world": 0, "seed": seed, "size": None if seed is None else 100, "slates": 100}
    empty = {"low": None, "high": None, "effective": 5.0}
    lines = [
        told
        | empty
        | {
            "estimator": estimator,
            "policy": policy,
            "clicks_a_slate": one,
            "clicks_an_episode": whole,
        }
        for policy, one, whole in zip("abc", slate, episode, strict=True)
    ]
    return pl.DataFrame(lines, schema=ROWS)


HAND = pl.concat(
    [
        rows_of(MARKET, [1.0, 2.0, 4.0], [10.0, 20.0, 40.0]),
        rows_of(LOGGED, [2.0, 2.0, 2.0], [math.nan] * 3),
        rows_of("ips", [1.0, 2.0, 3.0], [10.0, 20.0, 44.0], seed=0),
        rows_of("ips", [3.0, 2.0, 2.0], [30.0, 20.0, 10.0], seed=1),
        rows_of(SIMULATOR, [1.1, 2.2, 4.4], [11.0, 22.0, 44.0], seed=0),
        rows_of(EPISODES, [math.nan] * 3, [40.0, 20.0, math.inf], seed=0),
    ]
)


def test_the_figures_of_an_estimator() -> None:
    found = judge(HAND, 100, "ips")
    assert found is not None
    assert found.bias == pytest.approx(((2 / 2 - 1) + (2 / 2 - 1) + (2.5 / 2 - 1)) / 3)
    spreads = math.sqrt(2) / 2, 0.0, math.sqrt(0.5) / 2
    assert found.spread == pytest.approx(sum(spreads) / 3)
    squared = [(0.1**2) / 3, (2.0**2 + 0.75**2) / 3]
    assert found.error.value == pytest.approx(math.sqrt(sum(squared) / 2))
    assert found.tau.value == pytest.approx((1 + -1) / 2)
    assert found.regret.value == pytest.approx((0 + (1 - 10 / 40)) / 2)


def test_the_simulator_is_held_against_the_slates_that_it_led_to() -> None:
    found = judge(HAND, 100, SIMULATOR)
    assert found is not None
    assert found.bias == pytest.approx(0.1)
    assert found.error.value == pytest.approx(0.1)
    assert (found.tau.value, found.regret.value, found.spread) == (1, 0, None)


def test_a_simulator_of_another_log_stands_beside_the_sizes() -> None:
    other = rows_of(OTHER, [1.0, 2.0, 4.0], [10.0, 30.0, 40.0])
    found = judge(pl.concat([HAND, other]), None, OTHER)
    assert found is not None
    assert found.error.value == pytest.approx(math.sqrt(0.5**2 / 3))
    told = report(pl.concat([HAND, other]))
    assert told.summary["other/tau"].value == pytest.approx(1)
    assert "| simulator of another log |" in told.table
    assert "other/tau" not in report(HAND).summary


def test_what_is_no_number_counts_as_none_and_what_is_not_measured_is_left_out() -> None:
    found = judge(HAND, 100, EPISODES)
    assert found is not None
    assert found.bias is None
    assert found.regret.value == pytest.approx(1 - 10 / 40)
    assert found.error.value == pytest.approx(math.sqrt((3.0**2 + 0 + 1.0**2) / 3))
    assert judge(HAND, 100, "dr") is None
    told = report(HAND)
    assert "| fitted simulator | 0.1 |" in told.table
    assert "| DR | – |" in told.table
    assert told.summary["ips/100/tau"].n == 2


# ---- a small market ------------------------------------------------------------------------------

ID = "test/Ope-v0"
SMALL = MarketConfig(items=40, categories=4, width=6, favourites=1)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A small market with everything measured."""
    recsim_env.register(
        ID, make_market, slate_size=3, horizon_days=8.0, shopper_options={"config": SMALL}
    )
    folder = tmp_path_factory.mktemp("ope")
    config = Config(
        env=ID,
        slates=600,
        sizes=(60, 200),
        seeds=(0, 1),
        fits=(1,),
        other=None,
        model=SessionFitConfig(
            epochs=0.5, least_steps=1, hidden_size=16, layers=1, head_size=16, window=12
        ),
        episodes=24,
        batch=16,
        device="cpu",
        markets=folder / "market",
        work=folder / "work",
        results=folder / "results",
    )
    measure(cells_of(config), config, "ope")
    yield Opened(config)
    PRESETS.pop(ID, None)
    gymnasium.registry.pop(ID, None)


@pytest.mark.slow
def test_every_policy_has_a_row_of_each_estimator(opened: Opened) -> None:
    rows = read_work(opened.config.work)
    market = rows.filter(pl.col("estimator").is_in([MARKET, LOGGED]))
    assert len(market) == 2 * len(POLICIES)
    estimated = {*ESTIMATED, MODEL, EPISODES}
    by_size = rows.group_by("estimator", "size").agg(pl.len(), pl.col("seed").n_unique())
    for name, size, count, logs in by_size.drop_nulls("size").rows():
        assert count == logs * len(POLICIES)
        assert logs == (2 if name in estimated else 1)
        assert size in (60, 200)
    assert set(by_size["estimator"]) == {*estimated, SIMULATOR, MARKET, LOGGED}
    lengths = rows.filter(pl.col("size") == 60)["slates"]
    assert lengths.min() >= 60  # type: ignore[operator]
    assert lengths.max() < 60 + 9  # type: ignore[operator]


@pytest.mark.slow
def test_the_rows_of_the_market_are_what_evaluate_says(opened: Opened) -> None:
    rows = read_work(opened.config.work)
    found = evaluate(opened.evaluated["uniform"], opened.market, seeds(REPORTED_SEED, 24)).rows
    (row,) = rows.filter(
        (pl.col("estimator") == MARKET) & (pl.col("policy") == "uniform")
    ).to_dicts()
    assert row["clicks_an_episode"] == pytest.approx(found["clicks"].mean())
    expected = int(found["clicks"].sum()) / int(found["visits"].sum())
    assert row["clicks_a_slate"] == pytest.approx(expected)


@pytest.mark.slow
def test_what_the_logging_policy_earns_is_what_its_log_says(opened: Opened) -> None:
    """Evaluated on its own log every weight is 1."""
    log = logged(opened, 0)
    own = {"logging": opened.logging}
    read = ShelfLog.of(log, opened.market.catalog, opened.shelves, opened.logging, own, 10)
    assert len(read) == log.n_slates
    assert read.clicks.sum() == log.clicks.sum()
    assert read.shown(read.chances["logging"]) == pytest.approx(read.propensity, rel=1e-5)
    an_episode = float(log.clicks.sum()) / len(log)
    assert read.by_episodes(read.chances["logging"]) == pytest.approx(an_episode, rel=1e-3)
    part = read.take(60)
    assert len(part) == first_slates(log, 60).n_slates
    expected = read.expected()
    assert expected[read.there].min() > 0
    assert expected[~read.there].max(initial=0) == 0
    assert read.shown(expected).mean() == pytest.approx(read.clicks.mean(), rel=0.1)


@pytest.mark.slow
def test_a_log_of_another_policy_is_refused(opened: Opened) -> None:
    log, other = logged(opened, 0), opened.evaluated["flat"]
    with pytest.raises(ValueError, match="it was written by another policy"):
        ShelfLog.of(log, opened.market.catalog, opened.shelves, other, {}, 10)


@pytest.mark.slow
def test_nothing_is_measured_again(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("measured again")

    for name in ("truth", "estimated", "simulated", "logged"):
        monkeypatch.setattr(ope, name, never)
    measure(cells_of(opened.config), opened.config, "ope")


@pytest.mark.slow
def test_fits_of_logs_that_are_not_there_are_made_first(opened: Opened, tmp_path: Path) -> None:
    config = replace(opened.config, seeds=(0,), fits=(3,), sizes=(60,), work=tmp_path)
    measure(cells_of(config), config, "ope")
    other = Opened(config)
    assert (other.place(3) / "simulated-60.parquet").exists()
    assert not (other.place(3) / "estimated-60.parquet").exists()
