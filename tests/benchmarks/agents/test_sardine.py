"""SARDINE through the adapter is SARDINE: the same users, clicks and return."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

pytest.importorskip("sardine", reason="needs the extra `peers`")

from agents.evaluate import evaluate
from agents.ppo.config import PPOConfig
from benchmarks.agents import sardine as benchmark
from benchmarks.agents.sardine import (
    MAIN,
    ORACLE,
    RANDOM,
    RECSIM,
    Config,
    play_outside,
    sardine_spec,
)
from benchmarks.lab.recsim_evolution import QualityRule, evolution
from policies.slates import filled
from recsim_env import noise
from recsim_env.shoppers.outside import OutsideSpec, environment_seeds, outside_simulator
from recsim_env.types import Observation
from tests.support.shared_fits import SESSION

USERS = 3


@pytest.fixture(scope="module")
def spec() -> OutsideSpec:
    return sardine_spec(MAIN)


class Oracle:
    """SARDINE's oracle as a slate: reads the hidden user."""

    draws = 0

    def __init__(self, simulator: Any) -> None:
        self.simulator = simulator

    def __call__(self, observation: Observation, draws: torch.Tensor) -> torch.Tensor:
        users = [environment.unwrapped for environment in self.simulator.hidden.environments]
        scores = np.stack([user.item_embedd @ user.cur_user_embedd for user in users])
        return filled(torch.from_numpy(scores).topk(10, dim=1).indices, 10)


def test_one_episode_is_the_same_with_and_without_the_adapter(spec: OutsideSpec) -> None:
    simulator, seeds = outside_simulator(spec), torch.tensor([5])
    raw = spec.make()
    (seed,) = environment_seeds(
        noise.uniform(noise.episode_key(seeds, torch.zeros_like(seeds)), 0, 2)
    )
    raw.reset(seed=seed)
    simulator.reset(seeds)
    generator, total, rewards = torch.Generator().manual_seed(0), 0.0, 0.0
    for visit in range(1, 101):
        slate = torch.randperm(1000, generator=generator)[:10]
        step = simulator.step(slate.unsqueeze(0))
        _, reward, terminated, _, info = raw.step(slate.numpy())
        assert step.observation["recent_clicks"][0, 0].tolist() == info["clicks"].tolist()
        total, rewards = total + float(step.reward), rewards + float(reward)
        assert terminated == (visit == 100)
        assert bool(step.truncated) == (visit == 100)
        assert not bool(step.terminated)
    assert total == rewards > 0


def test_the_oracle_through_the_adapter_is_the_oracle_outside(spec: OutsideSpec) -> None:
    outside = play_outside(spec, ORACLE, USERS)
    simulator = outside_simulator(spec)
    inside = evaluate(Oracle(simulator), simulator, outside["episode"].to_torch()).rows
    # Which of equally liked items is shown first differs while a user is bored and likes nothing:
    # no click follows.
    assert inside["return"].to_list() == outside["return"].to_list()
    assert outside["visits"].to_list() == [100] * USERS


def test_their_oracle_with_epsilon_0_is_a_slate_of_minus_one() -> None:
    policies = importlib.import_module("sardine.policies")  # ships no types
    state = np.random.get_state()  # noqa: NPY002 - theirs draws from it, ours must not
    assert policies.EpsilonGreedyOracle(0.0).get_action(None).tolist() == [-1] * 10
    np.random.set_state(state)  # noqa: NPY002


def test_sardine_leaves_the_global_generators_alone(spec: OutsideSpec) -> None:
    before, torch_before = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    play_outside(spec, RANDOM, 1)
    assert str(np.random.get_state()) == before  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)


@pytest.mark.slow
def test_the_benchmark_ends_in_figures_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    config = Config(
        envs=("sardine/SlateRerank-Bored-v0", RECSIM), model=SESSION, clusters=3, log_users=16, exploring=1, trials=1,
        tuning_users=2, seeds=(0,),
        steps=1_000, shoppers=16, ppo=PPOConfig(n_steps=20, batch_size=160),
        recsim_steps=1_000, recsim_shoppers=16,
        pool=10, users=USERS,
        work=tmp_path / "work", results=tmp_path / "results",
    )  # fmt: skip
    benchmark.main(config)
    figures = json.loads((tmp_path / "results" / "sardine" / "summary.json").read_text())
    expected = {
        "slatererank_bored_belief_greedy_return",
        "slatererank_bored_ppo_return",
        "slatererank_bored_greedy_oracle_return",
        "slatererank_bored_random_return",
        "slatererank_bored_ppo_minus_oracle",
        "slatererank_bored_ppo_minus_constant",
        "recsim_ppo_share",
        "recsim_quality_rule_return",
    }
    assert expected <= set(figures)
    rows = pl.read_csv(tmp_path / "results" / "sardine" / "rows.csv", infer_schema_length=None)
    assert rows.group_by("env", "policy").len()["len"].unique().to_list() == [USERS]
    means = {key: part["return"].to_numpy().mean() for key, part in rows.group_by("env", "policy")}
    mean = means["sardine/SlateRerank-Bored-v0", "ppo"]
    assert figures["slatererank_bored_ppo_return"]["value"] == pytest.approx(mean)
    greedy, ppo, best = (means[RECSIM, name] for name in ("greedy_ctr", "ppo", "quality rule"))
    share = figures["recsim_ppo_share"]["value"]
    assert share == pytest.approx((ppo - greedy) / (best - greedy))
    work = tmp_path / "work" / "SlateRerank-Bored-v0"
    kept = (work / "seed0.parquet").stat().st_mtime_ns
    benchmark.main(config)
    assert (work / "seed0.parquet").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="users"):
        benchmark.main(dataclasses.replace(config, users=USERS + 1))
    benchmark.main(dataclasses.replace(config, envs=config.envs[:1], belief=False))
    assert (work / "seed0.parquet").stat().st_mtime_ns == kept
    plain = json.loads((tmp_path / "results" / "sardine_two_tower" / "summary.json").read_text())
    assert "slatererank_bored_ppo_return" in plain
    assert "slatererank_bored_belief_greedy_return" not in plain


def test_topics_are_sardines_own(spec: OutsideSpec) -> None:
    own = torch.from_numpy(spec.make().unwrapped.item_comp)  # type: ignore[attr-defined]
    assert torch.equal(spec.catalog.category, own)


def test_recsims_users_depend_on_their_seeds_alone_and_stay_for_quality() -> None:
    pytest.importorskip("recsim", reason="needs the extra `peers`")
    spec, quality = evolution()
    before = str(np.random.get_state())  # noqa: NPY002 - RecSim draws from it, ours must not
    simulator, seeds = outside_simulator(spec), torch.arange(6)
    best = evaluate(QualityRule(quality), simulator, seeds).rows
    worst = evaluate(QualityRule(-quality), simulator, seeds).rows
    again = evaluate(QualityRule(quality), simulator, seeds[3:4]).rows
    assert str(np.random.get_state()) == before  # noqa: NPY002
    assert best["return"][3] == again["return"][0]
    assert best["return"].sum() > 1.5 * worst["return"].sum()  # type: ignore[operator]
    assert bool((best["visits"].to_numpy() < spec.visits).all())
