"""Updates in a market that moves: the report by hand, and a tiny run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from benchmarks.agents import live, live_report
from benchmarks.lab.run import read_rows, read_summary
from policies.rankers.two_tower import TwoTowerConfig
from recsim_env.shoppers.drift import Drift

QUICK = TwoTowerConfig(width=4, hidden=8, category_hidden=4, epochs=1, batch_size=128)


def config(folder: Path, **changes: object) -> live.Config:
    told: dict[str, object] = {
        "updates": ("frozen", "warm_start"),
        "seeds": (0, 1),
        "blocks": 2,
        "block_days": 2,
        "shoppers": 8,
        "log_slates": 80,
        "held_out": 8,
        "ranker": QUICK,
        "work": folder / "work",
        "results": folder / "results",
    }
    return live.Config(**{**told, **changes})  # type: ignore[arg-type]


def row(update: str, seed: int, block: int, regret: float, **more: object) -> dict[str, object]:
    return {
        "calendar": "drift",
        "seed": seed,
        "update": update,
        "block": block,
        "return": 10 - regret,
        "regret": regret,
        "minutes": 0.5,
        "coverage": 0.2,
        "gini": 0.8 + 0.05 * block,
        "score": 0.9,
        "forgot": 0.01 if block else None,
        **dict.fromkeys(live.PLASTICITY),
        **more,
    }


def test_the_report_pairs_seeds() -> None:
    told = {"loss_long": 0.3, "loss_new": 0.2, "score_long": 0.8, "score_new": 0.9}
    rows = [
        row("frozen", 0, 0, 2.0), row("frozen", 0, 1, 4.0, **told),
        row("frozen", 1, 0, 3.0), row("frozen", 1, 1, 7.0, **told),
        row("refit", 0, 0, 1.0), row("refit", 0, 1, 1.0, **told),
        row("refit", 1, 0, 1.0), row("refit", 1, 1, 2.0, **told),
    ]  # fmt: skip
    found = live_report.report(pl.DataFrame(rows))
    value = {name: one.value for name, one in found.summary.items()}
    assert value["drift/frozen/regret"] == pytest.approx((3.0 + 5.0) / 2)
    assert value["drift/frozen/grew"] == pytest.approx((2.0 + 4.0) / 2)
    assert value["drift/refit/below_frozen"] == pytest.approx((2.0 + 3.5) / 2)
    assert value["drift/frozen/below_frozen"] == 0.0
    assert value["drift/refit/narrowed"] == pytest.approx(0.05)
    assert value["drift/refit/plasticity_loss"] == pytest.approx(0.1)
    assert value["drift/refit/plasticity_score"] == pytest.approx(-0.1)
    assert value["drift/refit/forgot"] == pytest.approx(0.01)
    assert found.summary["drift/refit/regret"].n == 2  # seeds, not blocks
    assert found.table.index("`refit`") < found.table.index("`frozen`")  # the least regret first
    assert found.figure is not None


def test_a_tiny_run_serves_the_same_shoppers_to_every_update(tmp_path: Path) -> None:
    live.main(config(tmp_path))
    rows = read_rows("live", results=tmp_path / "results")
    assert rows.height == 2 * 2 * 2 * 2
    whole = rows.with_columns(best=pl.col("return") + pl.col("regret"))
    best = whole.group_by("calendar", "seed", "block").agg(
        least=pl.col("best").min(), most=pl.col("best").max()
    )
    assert best.select((pl.col("most") - pl.col("least")).abs().max()).item() < 1e-6

    frozen = rows.filter(pl.col("update") == "frozen")
    assert frozen["forgot"].drop_nulls().abs().max() == 0.0  # who learns nothing forgets nothing
    assert frozen.filter(pl.col("block") == 0)["forgot"].null_count() == 4
    last = rows.filter(pl.col("block") == 1)
    assert all(last[name].null_count() == 0 for name in live.PLASTICITY)
    assert rows["coverage"].is_between(0, 1).all()
    summary = read_summary("live", results=tmp_path / "results")
    mean = frozen.filter(pl.col("calendar") == "drift")["regret"].mean()
    assert summary["drift/frozen/regret"].value == pytest.approx(mean)
    assert not (tmp_path / "work" / "cells" / "unfinished").exists()


def test_the_control_stands_still_and_blocks_follow_the_calendar(tmp_path: Path) -> None:
    told = config(tmp_path, drift=Drift(season=1.0))
    moving, still = (live.ground_of(told, calendar, 0) for calendar in live.CALENDARS)
    for block, day in ((-1, 0), (0, 2), (1, 4)):
        for ground, moves in ((moving, True), (still, False)):
            shoppers = ground.simulator(block)
            shoppers.reset(torch.arange(2))
            if block >= 0 or moves:
                assert shoppers.when_and_where()["day"].tolist() == [day, day]
            calendar = getattr(shoppers.shopper, "calendar", None)
            assert (calendar is not None and calendar.season is not None) is moves


def test_the_oracle_is_the_best(tmp_path: Path) -> None:
    ground = live.ground_of(config(tmp_path, shoppers=200), live.MOVES, 0)
    told = config(tmp_path, shoppers=200)
    rows = live.played(told, live.MOVES, 0, "frozen", ground)
    assert (rows["regret"] > 0).all()
