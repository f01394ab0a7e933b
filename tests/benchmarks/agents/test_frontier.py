"""The frontier: figures by hand, and a tiny run that goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agents.ppo.config import PPOConfig
from benchmarks.agents import frontier
from benchmarks.agents.frontier import GOALS, Cell, cells_of
from benchmarks.agents.frontier_report import (
    CONDITIONED,
    CONSTANT,
    EQUAL,
    GREEDY,
    SPECIALISTS,
    UNIFORM,
    Weighed,
    report,
)
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.run import read_rows, read_summary
from policies.learnable.sb3 import NetworkConfig

WEIGHTS = (0.0, 1.0)
TWO = Weighed(GOALS, ((1.0, 0.0), (0.0, 1.0)))
THREE = Weighed(("clicks", "revenue", "kept"), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
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
    return pl.DataFrame([row for part in parts for row in part], schema=TWO.schema)


def test_figures_are_those_by_hand() -> None:
    found = report(table(rows_of(FRONTS), rows_of(FRONTS, seed=1)), TWO)
    figures = {name: value.value for name, value in found.summary.items()}
    assert figures[f"{GREEDY}/hypervolume"] == 4
    assert figures[f"{CONDITIONED}/hypervolume"] == 6
    # the lowest returns are those of uniform here, and below it where somebody earns less
    assert figures[f"{CONDITIONED}/hypervolume_lowest"] == 6
    lower = report(table(rows_of(FRONTS | {"cap": [(0.5, 3.0)]})), TWO)
    figures_lower = {name: value.value for name, value in lower.summary.items()}
    assert figures_lower["cap/hypervolume"] == 0  # nowhere better than uniform in both
    assert figures_lower["cap/hypervolume_lowest"] == 0  # it is the lowest in clicks
    assert figures_lower[f"{GREEDY}/hypervolume_lowest"] == 3.5 * 1 + 1.5 * 1
    assert figures_lower[f"{GREEDY}/hypervolume"] == 4
    assert "hypervolume beyond uniform | beyond the lowest returns" in found.table
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
    found = report(short, TWO).summary
    assert f"{SPECIALISTS}/hypervolume" not in found
    assert "market_conditioned_over_specialists" not in found
    assert "market_conditioned_minus_best_sweep" in found
    with pytest.raises(ValueError, match=r"^The rows have no `uniform`, but hypervolumes begin"):
        report(rows.filter(pl.col("contender") != UNIFORM), TWO)


def test_three_goals_are_judged_in_three_dimensions() -> None:
    fronts = {
        UNIFORM: [(1.0, 1.0, 1.0)],
        GREEDY: [(3.0, 2.0, 2.0), (2.0, 3.0, 2.0), (2.0, 2.0, 2.5)],
        SPECIALISTS: [(3.0, 2.0, 2.0), (2.0, 3.0, 2.0), (2.0, 2.0, 3.0)],
        CONDITIONED: [(3.0, 3.0, 2.0)] * 3,
    }
    facts = {"world": 0, "seed": 0, "visits": 1.0, "steps": 10, "minutes": 0.0}
    rows = [
        {**facts, "contender": name, "at": float(at), **dict(zip(THREE.goals, point, strict=True))}
        for name, points in fronts.items()
        for at, point in enumerate(points)
    ]
    found = report(pl.DataFrame(rows, schema=THREE.schema), THREE, "learned")
    figures = {name: value.value for name, value in found.summary.items()}
    # unit cubes: (2, 1, 1), (1, 2, 1) and (1, 1, 1.5) high, with one in common
    assert figures[f"{GREEDY}/hypervolume"] == 1 + 1 + 1 + 0.5
    assert figures[f"{SPECIALISTS}/hypervolume"] == 1 + 1 + 1 + 1
    assert figures[f"{CONDITIONED}/hypervolume"] == 4
    assert figures["learned_conditioned_over_specialists"] == 1
    assert figures["learned_conditioned_minus_best_sweep"] == pytest.approx(4 / 3.5 - 1)
    assert figures["learned_conditioned_over_greedy_at_clicks"] == 1
    assert figures[f"{SPECIALISTS}/utility"] == 3
    assert figures[f"{CONDITIONED}/lost"] == 1  # of what comes back
    assert found.figure is not None
    assert len(found.figure.axes) == 2


def test_cells_of_the_default_goals_keep_their_names_and_others_have_folders() -> None:
    two = frontier.Config(contenders=(UNIFORM, SPECIALISTS), worlds=(1,), seeds=(3,))
    names = [cell.path.relative_to("runs/frontier").as_posix() for cell in cells_of(two)]
    assert names[:3] == [
        "cells/uniform-world1-seed3.json",
        "cells/ppo_composer-world1-seed3-weight0.json",
        "cells/ppo_composer-world1-seed3-weight0.1.json",
    ]
    assert len(names) == 12
    more = replace(two, goals=("clicks", "kept", "revenue"), parts=2)
    assert len(cells_of(more)) == 1 + 6
    assert Cell(more, 1, 3, SPECIALISTS, 1).path.as_posix() == (
        "runs/frontier/market-v0-clicks-kept-revenue/cells/"
        "ppo_composer-world1-seed3-weights0.5-0.5-0.json"
    )
    journey = frontier.Config(env="recsim_env/CompleteJourney-v0")
    assert journey.worlds == (0,)
    assert journey.folder.name == "completejourney-v0-clicks-intra_list_distance"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"goals": ("clicks",)},
            r"^goals is \('clicks',\), but it must be two to 4 different names",
        ),
        ({"goals": ("clicks", "fame")}, r"^goals\[1\] is 'fame', but it must be one of"),
        ({"goals": ("clicks", "kept", "revenue"), "weights": (0.5,)}, "^weights is .* more goals"),
        ({"parts": 3}, "^parts is 3, but two goals have the weights that weights tells"),
        ({"env": "recsim_env/LearnedMarket-v0", "worlds": (1,)}, r"^worlds is \(1,\), but .* one"),
        ({"env": "recsim_env/MarketMild-v0"}, "^env is 'recsim_env/MarketMild-v0', but it must be"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        frontier.Config(**options)


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
    assert not list((tmp_path / "work").rglob("*.safetensors"))
    again = rows.filter(pl.col("contender") == GREEDY).sort("at")
    assert again.equals(first.filter(pl.col("contender") == GREEDY).sort("at"))

    # three goals beside them, of which the market knows every price
    usual = frontier.Config().weights
    goals = ("clicks", "revenue", "kept")
    three = replace(everybody, goals=goals, weights=usual, parts=1)
    three = replace(three, contenders=(UNIFORM, GREEDY, EQUAL))
    frontier.main(three)
    name = "frontier-market-v0-clicks-revenue-kept"
    found = read_rows(name, results=tmp_path / "results")
    count = dict(found.group_by("contender").len().iter_rows())
    assert count == {UNIFORM: 1, GREEDY: 3, EQUAL: 3}
    assert found.columns[3:7] == ["at", "clicks", "revenue", "kept"]
    assert read_rows("frontier", results=tmp_path / "results").equals(rows)
    with pytest.raises(ValueError, match=r"^reward has the term 'outside_reward', but Market"):
        frontier.main(replace(three, goals=("clicks", "outside_reward", "kept")))

    monkeypatch.setattr(MarketWorld, "open", lambda *told: pytest.fail("opened again"))
    frontier.main(everybody)  # everything is there
    with pytest.raises(ValueError, match="steps"):
        frontier.main(replace(everybody, steps=900))
