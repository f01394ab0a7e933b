"""What page, query and cart are worth: the report by hand, and a tiny run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from agents.statistics import over_training_seeds
from benchmarks.agents import visit, visit_report
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
        visit_report.UNIFORM: (1.0, 1.0, 1.0),
        visit_report.GREEDY: (5.0, 7.0, 9.0),
        visit_report.CUED: (6.0, 9.0, 12.0),
        visit_report.BLIND: (8.0, 8.0, 8.0),
        visit_report.ORACLE: (8.0, 9.0, 10.0),
    }
    rows = [
        {"env": "a/B-v0", "policy": name, "episode": at, "return": value}
        for name, values in earned.items()
        for at, value in enumerate(values)
    ]
    found = visit_report.report(pl.DataFrame([{**row, "seed": None} for row in rows]))
    assert found.summary["B-v0/cues_bring"].value == pytest.approx((1 + 2 + 3) / 3)
    assert found.summary["B-v0/complements_bring"].value == pytest.approx((0 + 1 + 2) / 3)
    assert found.summary["B-v0/reward_greedy"].value == pytest.approx(7)
    assert "`B-v0`" in found.table
    assert found.figure is not None


def line(policy: str, seed: int | None, returns: list[float]) -> list[dict[str, object]]:
    """Rows of one line of episodes."""
    about = {"env": "a/B-v0", "policy": policy, "seed": seed}
    return [{**about, "episode": at, "return": value} for at, value in enumerate(returns)]


def test_trainings_are_paired_by_seed_and_are_the_units() -> None:
    rows = pl.DataFrame(
        line(visit_report.CUED, None, [1.0, 2.0, 3.0])
        + line(visit_report.SHARED, 1, [4.0, 4.0, 4.0])  # in no order
        + line(visit_report.SHARED, 0, [2.0, 2.0, 5.0])
        + line(visit_report.SPLIT, 0, [1.0, 0.0, 5.0])
        + line(visit_report.SPLIT, 1, [4.0, 3.0, 3.0])
    )
    shared_less_split = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    found = visit_report.less(rows, visit_report.SHARED, visit_report.SPLIT)
    assert found == over_training_seeds(shared_less_split)
    assert found.value == pytest.approx(5 / 6)
    shared_less_cued = np.array([[1.0, 0.0, 2.0], [3.0, 2.0, 1.0]])
    assert visit_report.less(rows, visit_report.SHARED, visit_report.CUED) == over_training_seeds(
        shared_less_cued
    )
    more = pl.concat([rows, pl.DataFrame(line(visit_report.SHARED, 2, [1.0, 1.0, 1.0]))])
    with pytest.raises(ValueError, match="rows has 3 trainings of 'PPO, shared' and 2 of"):
        visit_report.less(more, visit_report.SHARED, visit_report.SPLIT)


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
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
    yield
    del PRESETS[ID]


def config(folder: Path) -> visit.Config:
    return visit.Config(
        envs=(ID,),
        agents=(),
        seeds=(0,),
        steps=720,
        shoppers=12,
        slates=300,
        tuning_episodes=4,
        episodes=6,
        cache=folder / "places",
        work=folder / "work",
        results=folder / "results",
        device="cpu",
    )


def test_a_tiny_run_plays_every_policy_before_the_same_shoppers(tmp_path: Path) -> None:
    visit.main(config(tmp_path))
    rows = read_rows("visit", results=tmp_path / "results")
    assert rows.group_by("policy").len().sort("policy")["len"].to_list() == [6] * 5
    weights = (
        rows.filter(pl.col("policy") == visit_report.CUED).select(list(visit.WEIGHTS)).unique()
    )
    assert len(weights) == 1
    assert all(weights[name][0] in tried for name, tried in visit.WEIGHTS.items())
    summary = read_summary("visit", results=tmp_path / "results")
    means = rows.group_by("policy").agg(pl.col("return").mean()).rows()
    assert summary["TinyVisit-v0/oracle"].value == pytest.approx(dict(means)[visit_report.ORACLE])


@pytest.mark.slow
def test_trainings_take_equal_steps_and_a_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = dataclasses.replace(config(tmp_path), agents=(visit_report.SHARED, visit_report.SPLIT))
    visit.main(told)
    first = read_rows("visit", results=told.results)
    trained = first.filter(pl.col("policy").is_in(told.agents))
    assert trained.group_by("policy").len()["len"].to_list() == [6, 6]
    steps = dict(trained.group_by("policy").agg(pl.col("steps").max()).rows())
    assert 0 < steps[visit_report.SPLIT] <= told.steps
    assert 0 < steps[visit_report.SHARED] <= told.steps

    # what is there is read, and the others are measured
    visit.main(dataclasses.replace(told, agents=visit_report.TRAINED))
    rows = read_rows("visit", results=told.results)
    assert rows.filter(pl.col("policy").is_in(first["policy"].unique().to_list())).equals(first)
    assert rows["policy"].n_unique() == 9
    monkeypatch.setattr(visit, "open_place", lambda *told, **more: pytest.fail("opened again"))
    visit.main(dataclasses.replace(told, agents=visit_report.TRAINED))


def test_an_environment_without_scenarios_is_refused(tmp_path: Path) -> None:
    told = dataclasses.replace(config(tmp_path), envs=("recsim_env/Market-v0",))
    with pytest.raises(ValueError, match="its pages have no scenario"):
        visit.main(told)
    with pytest.raises(ValueError, match="shoppers is 2"):
        visit.main(dataclasses.replace(told, shoppers=2))


def test_other_shoppers_have_no_complements_to_leave_out() -> None:
    with pytest.raises(TypeError, match="simulator has MarketShopper, but it must have"):
        visit.KnowsAllButComplements(make_simulator("recsim_env/Market-v0", device="cpu"))
