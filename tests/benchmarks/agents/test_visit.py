"""What page, query and cart are worth: the report by hand, and a tiny run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from benchmarks.agents import visit
from benchmarks.lab.run import read_rows, read_summary
from recsim_env import make_simulator
from recsim_env.registration import PRESETS, EnvConfig, add_preset
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.visits.config import VisitsConfig
from recsim_env.shoppers.visits.population import make_visits

ID = "tests/TinyVisit-v0"
TINY = VisitsConfig(market=MarketConfig(items=40, categories=4, width=8), pages=3, cart_size=4)


def test_the_report_pairs_the_same_episodes() -> None:
    earned = {
        visit.UNIFORM: (1.0, 1.0, 1.0),
        visit.GREEDY: (5.0, 7.0, 9.0),
        visit.CUED: (6.0, 9.0, 12.0),
        visit.BLIND: (8.0, 8.0, 8.0),
        visit.ORACLE: (8.0, 9.0, 10.0),
    }
    rows = [
        {"env": "a/B-v0", "policy": name, "episode": at, "return": value}
        for name, values in earned.items()
        for at, value in enumerate(values)
    ]
    found = visit.report(pl.DataFrame(rows))
    assert found.summary["B-v0/cues_bring"].value == pytest.approx((1 + 2 + 3) / 3)
    assert found.summary["B-v0/complements_bring"].value == pytest.approx((0 + 1 + 2) / 3)
    assert found.summary["B-v0/reward_greedy"].value == pytest.approx(7)
    assert "`B-v0`" in found.table
    assert found.figure is not None


def test_a_tiny_run_plays_every_policy_before_the_same_shoppers(tmp_path: Path) -> None:
    add_preset(
        ID,
        EnvConfig(
            make_visits,
            {"clicks": 1.0},
            slate_size=3,
            horizon_days=4,
            shopper_options={"config": TINY},
        ),
    )
    told = visit.Config(
        envs=(ID,),
        slates=300,
        tuning_episodes=4,
        episodes=6,
        cache=tmp_path / "places",
        results=tmp_path / "results",
    )
    try:
        visit.main(told)
    finally:
        del PRESETS[ID]
    rows = read_rows("visit", results=tmp_path / "results")
    assert rows.group_by("policy").len().sort("policy")["len"].to_list() == [6] * 5
    weights = rows.filter(pl.col("policy") == visit.CUED).select(list(visit.WEIGHTS)).unique()
    assert len(weights) == 1
    assert all(weights[name][0] in tried for name, tried in visit.WEIGHTS.items())
    summary = read_summary("visit", results=tmp_path / "results")
    means = rows.group_by("policy").agg(pl.col("return").mean()).rows()
    assert summary["TinyVisit-v0/oracle"].value == pytest.approx(dict(means)[visit.ORACLE])


def test_other_shoppers_have_no_complements_to_leave_out() -> None:
    with pytest.raises(TypeError, match="simulator has MarketShopper, but it must have"):
        visit.KnowsAllButComplements(make_simulator("recsim_env/Market-v0", device="cpu"))
