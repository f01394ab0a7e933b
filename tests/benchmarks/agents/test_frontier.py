"""The frontier: figures by hand, and a tiny run that goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agents.ppo.config import PPOConfig
from benchmarks.agents import frontier
from benchmarks.agents.frontier import CONDITIONED, CONSTANT, EQUAL, GREEDY, SPECIALISTS, UNIFORM
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.run import read_rows, read_summary
from policies.learnable.sb3 import NetworkConfig

WEIGHTS = (0.0, 1.0)
QUICK: dict[str, Any] = {
    "ppo": PPOConfig(n_steps=2, batch_size=16, n_epochs=1),
    "network": NetworkConfig(actor_hidden=(8,), critic_hidden=(8,)),
    "checked": 0.0,
}


def rows_of(fronts: dict[str, list[tuple[float, float]]], seed: int = 0) -> list[dict[str, Any]]:
    """Rows of contenders that earned these clicks and this diversity, at weights 0 and 1."""
    facts = {"world": 0, "seed": seed, "visits": 1.0, "steps": 10, "minutes": 0.0}
    return [
        {**facts, "contender": name, "at": float(at), "clicks": clicks, "intra_list_distance": far}
        for name, points in fronts.items()
        for at, (clicks, far) in enumerate(points)
    ]


FRONTS = {
    UNIFORM: [(1.0, 1.0)],
    GREEDY: [(4.0, 2.0), (2.0, 3.0)],  # an area of 3 + 1 beyond uniform
    "mmr": [(3.0, 2.0)],
    CONSTANT: [(4.0, 2.0), (3.0, 3.0)],  # 5
    SPECIALISTS: [(5.0, 2.0), (2.0, 4.0)],  # 4 + 2
    CONDITIONED: [(5.0, 2.0), (3.0, 3.0)],  # 4 + 2
}


def table(*parts: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([row for part in parts for row in part], schema=frontier.SCHEMA)


def test_figures_are_those_by_hand() -> None:
    found = frontier.report(table(rows_of(FRONTS), rows_of(FRONTS, seed=1)), WEIGHTS)
    figures = {name: value.value for name, value in found.summary.items()}
    assert figures[f"{GREEDY}/hypervolume"] == 4
    assert figures[f"{CONDITIONED}/hypervolume"] == 6
    assert figures["market_conditioned_over_specialists"] == 1
    assert figures["market_conditioned_minus_best_sweep"] == pytest.approx(6 / 4 - 1)
    assert figures["market_conditioned_minus_constants"] == pytest.approx(6 / 5 - 1)
    assert figures["market_conditioned_over_greedy_at_clicks"] == 5 / 4
    assert figures[f"{SPECIALISTS}/utility"] == (5 + 4) / 2
    assert figures[f"{CONDITIONED}/lost"] == 1  # diversity 3 where the specialist has 4
    assert not any("equal" in name for name in figures)  # who did not play is left out
    assert "| `ppo_composer` |" in found.table
    assert found.table.splitlines()[-1].startswith("| `ppo_conditioned` |")
    assert found.figure is not None


def test_who_lacks_a_weight_is_left_out_and_uniform_is_needed() -> None:
    rows = table(rows_of(FRONTS))
    short = rows.filter(~((pl.col("contender") == SPECIALISTS) & (pl.col("at") == 1)))
    found = frontier.report(short, WEIGHTS).summary
    assert f"{SPECIALISTS}/hypervolume" not in found
    assert "market_conditioned_over_specialists" not in found
    assert "market_conditioned_minus_best_sweep" in found
    with pytest.raises(ValueError, match=r"^The rows have no `uniform`, but hypervolumes begin"):
        frontier.report(rows.filter(pl.col("contender") != UNIFORM), WEIGHTS)


def config(folder: Path, *contenders: str) -> frontier.Config:
    return frontier.Config(
        contenders=contenders,
        worlds=(0,),
        seeds=(0,),
        weights=WEIGHTS,
        steps=8 * 25,
        shoppers=8,
        trials=1,
        tuning_episodes=2,
        points=2,
        episodes=2,
        slates=600,
        markets=folder / "markets",
        work=folder / "work",
        results=folder / "results",
        device="cpu",
    )


@pytest.mark.slow
def test_a_run_goes_on_with_the_cells_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(frontier.SETTINGS, "ppo_composer", QUICK | {"polished": 0.0})
    monkeypatch.setitem(frontier.SETTINGS, "ppo_conditioned", QUICK)
    frontier.main(config(tmp_path, UNIFORM, GREEDY))
    first = read_rows("frontier", results=tmp_path / "results")
    assert first["contender"].to_list() == [GREEDY, GREEDY, UNIFORM]
    everybody = config(tmp_path, UNIFORM, GREEDY, "cap", CONSTANT, SPECIALISTS, EQUAL)
    frontier.main(everybody)
    rows = read_rows("frontier", results=tmp_path / "results")
    count = dict(rows.group_by("contender").len().iter_rows())
    assert count == {UNIFORM: 1, GREEDY: 2, "cap": 2, CONSTANT: 2, SPECIALISTS: 2, EQUAL: 2}
    steps = rows.filter(pl.col("contender") == EQUAL)["steps"].to_list()
    assert all(8 * 25 < taken <= 2 * 8 * 25 for taken in steps)  # as many as both specialists
    summary = read_summary("frontier", results=tmp_path / "results")
    assert f"{EQUAL}/hypervolume" in summary
    assert not list((tmp_path / "work" / "unfinished").glob("*/*.safetensors"))
    again = rows.filter(pl.col("contender") == GREEDY).sort("at")
    assert again.equals(first.filter(pl.col("contender") == GREEDY).sort("at"))

    monkeypatch.setattr(MarketWorld, "open", lambda *told: pytest.fail("opened again"))
    frontier.main(everybody)  # everything is there
    with pytest.raises(ValueError, match="steps"):
        frontier.main(replace(everybody, steps=900))
