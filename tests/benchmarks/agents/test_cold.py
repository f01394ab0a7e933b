"""What exploring is worth at a cold start: the report by hand, and a tiny run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks import again
from benchmarks.agents import cold
from benchmarks.lab.run import read_rows, read_summary


def row(world: str, agent: str, seed: int, newcomer: bool, total: float) -> dict[str, Any]:
    """Four shoppers of a seed who earned so much together."""
    sums = {"return": total, "visits": 40.0, "shown": 400.0, "clicks": total}
    new = {"new_shown": 100.0, "new_clicks": 10.0 * (seed + 1)}
    about = {"world": world, "agent": agent, "seed": seed, "newcomer": newcomer, "shoppers": 4}
    return {
        **about,
        **sums,
        **(new if world == cold.COLD else {"new_shown": 0.0, "new_clicks": 0.0}),
    }


def rows() -> pl.DataFrame:
    found = []
    for seed in (1, 0):
        for newcomer in (False, True):
            for agent, total in (
                (cold.REWARD_GREEDY, 40.0),
                (cold.THOMPSON, 48.0 + 8 * seed),
                (cold.THOMPSON_TWIN, 44.0),
            ):
                found.append(row(cold.COLD, agent, seed, newcomer, total))
        found += [
            row(cold.CONTROL, agent, seed, False, 40.0)
            for agent in (cold.REWARD_GREEDY, cold.THOMPSON, cold.THOMPSON_TWIN)
        ]
    return pl.DataFrame(found)


def test_the_report_pairs_seeds_and_splits_by_newcomers() -> None:
    found = cold.report(rows())
    summary = found.summary
    assert summary["cold/reward_greedy/return"].value == pytest.approx(10)
    assert summary["cold/thompson_items, above greedy"].value == pytest.approx((2 + 4) / 2)
    assert summary["cold/thompson_items, above its twin"].value == pytest.approx((1 + 3) / 2)
    assert summary["cold/thompson_items, above its twin"].n == 2
    assert summary["control/thompson_items, above its twin"].value == 0
    assert summary["cold/thompson_items/return, newcomers"].value == pytest.approx(13)
    assert summary["cold/reward_greedy/share of new items"].value == pytest.approx(0.25)
    assert summary["cold/reward_greedy/response of new items"].value == pytest.approx(0.15)
    assert "control/reward_greedy/share of new items" not in summary
    assert found.figure is not None


@pytest.mark.slow
def test_a_tiny_run_plays_every_agent_in_both_worlds_and_goes_on(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "items": 40,
        "known": 24,
        "slates": 300,
        "steps": 2_000,
        "shoppers": 16,
        "trials": 2,
        "tuning_episodes": 4,
        "episodes": 8,
        "cache": tmp_path / "places",
        "work": tmp_path / "work",
        "results": tmp_path / "results",
        "device": "cpu",
    }
    cold.main(cold.Config(seeds=(0,), **told))
    first = read_rows("cold", results=tmp_path / "results")
    assert set(first["agent"]) == set(cold.AGENT_NAMES) - {cold.PPO_TWIN}
    assert first.filter(pl.col("world") == cold.CONTROL)["new_shown"].sum() == 0
    assert not first.filter(pl.col("world") == cold.CONTROL)["newcomer"].any()
    of_cold = first.filter(pl.col("world") == cold.COLD)
    assert of_cold["newcomer"].any()
    assert of_cold["visits"].to_list() == (10.0 * of_cold["shoppers"]).to_list()  # nobody leaves
    assert of_cold["shown"].to_list() == (10.0 * of_cold["visits"]).to_list()

    cold.main(cold.Config(seeds=(0, 1), **told))
    both = read_rows("cold", results=tmp_path / "results")
    assert both.filter(pl.col("seed") == 0).equals(first)
    summary = read_summary("cold", results=tmp_path / "results")
    again_made = again.REPORTS["cold"](both, {}, tmp_path / "results" / "cold")
    assert summary.keys() == again_made.summary.keys()
    with pytest.raises(ValueError, match="new_items"):
        cold.main(cold.Config(seeds=(0,), **told | {"new_items": 0.5}))
