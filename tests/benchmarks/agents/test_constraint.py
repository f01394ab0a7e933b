"""Limits on fresh batches: figures by hand, and a tiny run that goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from agents.ppo.config import PPOConfig
from agents.ppo.constrained import ConstrainedConfig
from benchmarks.agents import constraint
from benchmarks.lab.run import read_rows, read_summary
from policies.composer import ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.rewards import REWARD_TERMS
from tests.support.agent_toys import small_market
from tests.support.policy_toys import toy_inputs

AGENT = ConstrainedConfig(
    ppo=PPOConfig(learning_rate=1e-2, n_steps=4, batch_size=32, n_epochs=1),
    network=NetworkConfig((8,), (8,)),
    composer=ComposerConfig(pool=12, offset_dims=0),
    polished=0.0,
    steered=0.0,
    checked=0.0,
)


def rows_of(kept: list[list[bool]], rival: float) -> pl.DataFrame:
    """Rows of trainings and their batches, in which the agent earns 11 and a rival something."""
    rows = []
    for seed, batches in enumerate(kept):
        for batch, within in enumerate(batches):
            for policy, earned, fine in (("ppo_constrained", 11.0, within), ("mmr", rival, True)):
                rows.append(
                    {
                        "world": 0,
                        "goal": "kinds",
                        "told": "kinds",
                        "seed": seed,
                        "batch": batch,
                        "policy": policy,
                        "return": earned,
                        "mean": 2.0,
                        "limit": 1.9,
                        "kept": fine,
                    }
                )
    return pl.DataFrame(rows)


def test_the_share_is_that_of_all_batches_and_its_units_are_trainings() -> None:
    found = constraint.report(rows_of([[True, True], [True, False], [True, True]], 10.0))
    share = found.summary["kept_share"]
    assert share.value == pytest.approx(5 / 6)
    assert share.n == 3
    assert found.summary["kinds/world0/mmr_kept_share"].value == 1.0
    assert found.summary["kinds/world0/above_mmr"].value == pytest.approx(0.1)
    assert len(found.table.strip().splitlines()) == 4
    assert found.figure is not None


def test_every_goal_is_a_constraint_of_its_world() -> None:
    names = [constraint.goals_in(world)["department"].constraint.term for world in (0, 1)]
    assert len(set(names)) == 2
    assert constraint.goals_in(0).keys() == set(constraint.Config().goals)


def test_no_process_keeps_the_term_of_a_world() -> None:
    market, before = small_market(), dict(REWARD_TERMS)
    goals = constraint.goals_in(0)
    for name, terms in (("department", {goals["department"].constraint.term}), ("kinds", set())):
        ground = constraint.Ground(goals[name], market, market, toy_inputs(market))
        with constraint.term_of(ground):
            assert REWARD_TERMS.keys() - before.keys() == terms
        assert dict(REWARD_TERMS) == before


def test_a_run_goes_on_with_the_seeds_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ground_of(config: object, world: int, name: str) -> constraint.Ground:
        train, evaluation = small_market(), small_market()
        inputs = replace(toy_inputs(train), reward=train.reward)
        return constraint.Ground(constraint.goals_in(world)[name], train, evaluation, inputs)

    def config(*seeds: int) -> constraint.Config:
        return constraint.Config(
            worlds=(0,),
            goals=("kinds",),
            seeds=seeds,
            steps=16 * 60,
            shoppers=16,
            batches=2,
            batch_shoppers=4,
            trials=2,
            tuning_episodes=4,
            agent=AGENT,
            work=tmp_path / "work",
            results=tmp_path / "results",
            device="cpu",
        )

    monkeypatch.setattr(constraint, "ground_of", ground_of)
    constraint.main(config(0))
    first = read_rows("constraint", results=tmp_path / "results")
    players = ["greedy_ctr", "ppo_constrained", "constant", "mmr", "cap"]
    assert first["policy"].to_list() == 2 * players
    assert ((first["mean"] >= first["limit"]) == first["kept"]).all()
    greedy = first.filter(pl.col("policy") == "greedy_ctr")
    assert greedy["limit"].to_list() == pytest.approx((0.9 * greedy["mean"]).to_list())

    constraint.main(config(0, 1))
    both = read_rows("constraint", results=tmp_path / "results")
    assert both.filter(pl.col("seed") == 0).equals(first)
    assert both["seed"].n_unique() == 2
    agents = both.filter(pl.col("policy") == "ppo_constrained")
    summary = read_summary("constraint", results=tmp_path / "results")
    assert summary["kept_share"].value == pytest.approx(agents["kept"].mean())

    monkeypatch.setattr(constraint, "ground_of", lambda *told: pytest.fail("opened again"))
    constraint.main(config(0, 1))  # everything is there
