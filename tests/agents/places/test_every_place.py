"""Every environment is opened, trained in and compared in, with a tiny budget."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents.folder import load_agent
from agents.ppo.config import PPOConfig
from agents.ppo.monitor import MonitorConfig
from benchmarks.agents import compare, league, train, tune, tune_agents
from benchmarks.agents.tune_agents import Config as TuneAgents
from benchmarks.lab.league_cells import settled
from benchmarks.lab.ppo.sizes import sizes_of
from benchmarks.lab.run import read_rows
from benchmarks.lab.where import Elsewhere, Where
from policies import POLICIES
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.rewards import REWARD_TERMS
from tests.support.outside_toys import POSITIONS, VISITS, register_songs

SONGS = "tests/Songs-v0"
SHIPPED = [id for id in PRESETS if id.startswith("recsim_env/")]
SLOW = ("recsim_env/CompleteJourney-v0", "recsim_env/LearnedMarket-v0")
"""Environments that take longer to make than a fast test may."""
MODULE = """
import torch
import recsim_env
from recsim_env.shoppers.base import Shopper
from recsim_env.types import Response

class Regulars(Shopper[torch.Tensor]):
    def __init__(self, device, slate_size, items=40):
        generator = torch.Generator().manual_seed(0)
        super().__init__(
            recsim_env.Catalog.synthetic(items, 4, 8, generator), slate_size, device=device
        )

    def start(self, draws):
        return (4 * draws[:, 0]).long()

    def respond(self, state, slates, shown, draws):
        chance = 0.5 * (shown & (self.catalog.category[slates] == state[:, None])).float()
        always = torch.ones(len(slates))
        none = torch.zeros(len(slates))
        return Response(draws < chance, chance, none.bool(), days=7 * always, elsewhere=none)

@recsim_env.reward_term("first_click")
def first_click(inputs):
    return inputs.clicks[:, 0]

recsim_env.register(
    "own/Regulars-v0", Regulars, slate_size=4, horizon_days=70.0, reward={"clicks": 1.0}
)
"""
"""A module of a user: shoppers who tell nothing beside their clicks, and a term of a reward."""


def steps(where: Where, folder: Path) -> None:
    """One rollout of PPO, and a comparison of four episodes."""
    training = train.Config(
        place=where,
        seeds=(0,),
        visits=8 * 4,
        shoppers=8,
        ppo=PPOConfig(n_steps=4, batch_size=32, n_epochs=1),
        monitor=MonitorConfig(evaluate_every=2, episodes=4, batch=4, pictures=1),
        output=folder / "train",
    )
    train.main(training)
    compare.main(
        compare.Config(
            place=where,
            trained=folder / "train",
            episodes=4,
            batch=4,
            results=folder / "results",
        )
    )


def played(folder: Path) -> set[str]:
    """The policies of a comparison, of which every one has played whole episodes."""
    rows = read_rows("compare", results=folder / "results")
    assert (rows.group_by("policy").len()["len"] == 4).all()
    assert rows["diversity"].is_finite().all()
    assert rows["return"].is_finite().all()
    return set(rows["policy"])


def agent_of(folder: Path) -> Path:
    return folder / "train" / "composer" / "seed0" / "agent"


def assert_recommends(env: str, folder: Path, **options: Any) -> None:
    """The agent's folder makes the slates that its policy makes, for one shopper and for several."""
    agent = load_agent(folder, "cpu")
    simulator = make_simulator(env, device="cpu", **options)
    seen = simulator.reset(torch.arange(5))
    slates = agent.policy(seen, torch.zeros(5, 0))
    several = agent.recommend(seen)
    assert isinstance(several, torch.Tensor)
    assert torch.equal(several, slates)
    one = agent.recommend({name: value[2].numpy() for name, value in seen.items()})
    assert isinstance(one, np.ndarray)
    assert one.tolist() == slates[2].tolist()


@pytest.mark.parametrize(
    "env",
    [pytest.param(id, marks=pytest.mark.slow) if id in SLOW else id for id in SHIPPED],
)
def test_every_environment_is_trained_and_compared_in(
    env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = None if env in SLOW else 8.0  # short episodes are quick where the log is played
    where = Where(env, horizon_days=days, log_slates=300, cache=tmp_path / "places", device="cpu")
    steps(where, tmp_path)
    agents = {
        "composer",
        "composer, sampled",
        "composer, untrained",
        "composer, untrained, sampled",
    }
    bundles = make_simulator(env, device="cpu").discounts
    able = {name for name, spec in POLICIES.items() if bundles or not spec.needs_bundles}
    assert played(tmp_path) == agents | able
    told = capsys.readouterr().out
    assert "above greedy CTR in the same 4 episodes" in told
    assert f"Next:  python -m benchmarks.agents.compare{where.arguments} --trained" in told
    assert_recommends(env, agent_of(tmp_path))
    if env == "recsim_env/CompleteJourney-v0":
        assert not (tmp_path / "places").exists()  # its ranker is shipped
    else:
        untuned = "mmr, cap, dpp, reward_greedy, constant, constant_budget, constant_log_odds"
        assert f"because they were not tuned here: {untuned}. To tune them" in told


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that nothing has imported yet."""
    name = "regulars_of_a_test"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield f"{name}:own/Regulars-v0"
    sys.modules.pop(name, None)
    REWARD_TERMS.pop("first_click", None)
    PRESETS.pop("own/Regulars-v0", None)
    gymnasium.registry.pop("own/Regulars-v0", None)


def test_an_environment_of_a_module_with_its_own_reward_and_slate_size(
    module: str, tmp_path: Path
) -> None:
    where = Where(
        module,
        options="items=30",
        reward="first_click=2,intra_list_distance=0.5",
        slate_size=3,
        log_slates=300,
        cache=tmp_path / "places",
        device="cpu",
    )
    steps(where, tmp_path)
    assert {"uniform", "popular", "greedy_ctr", "composer"} <= played(tmp_path)
    rows = read_rows("compare", results=tmp_path / "results")
    paid = 2 * rows["first_click"] + 0.5 * rows["intra_list_distance"]
    assert rows["return"].to_numpy() == pytest.approx(paid.to_numpy())
    agent = load_agent(agent_of(tmp_path))
    assert (agent.env, agent.reward) == (module, {"first_click": 2.0, "intra_list_distance": 0.5})
    assert len(agent.inputs.catalog) == 30
    assert_recommends(module, agent_of(tmp_path), items=30, slate_size=3)


def test_parameters_are_those_of_the_place_where_they_were_tuned(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    where = Where(module, log_slates=300, cache=tmp_path / "places", device="cpu")
    small = tune.Config(place=where, policies=("mmr",), trials=2, episodes=3, batch=4)
    tune.main(small)
    assert (tmp_path / "runs" / "tune" / where.name / "parameters.json").exists()
    config = compare.Config(
        place=where, policies=("greedy_ctr", "mmr", "cap"), agents=(), episodes=2, batch=2
    )
    capsys.readouterr()
    compare.measure(config)
    told = capsys.readouterr().out
    assert f"Parameters of policies: runs/tune/{where.name}/parameters.json" in told
    assert "not tuned here: cap. To tune them" in told
    other = Where(module, reward="clicks=2", log_slates=300, cache=where.cache, device="cpu")
    compare.measure(compare.Config(place=other, policies=config.policies, agents=(), episodes=2))
    told = capsys.readouterr().out
    assert "not tuned here: mmr, cap. To tune them" in told
    assert "Parameters of policies" not in told
    path = small.folder / "parameters.json"
    compare.measure(
        compare.Config(
            place=other, policies=config.policies, agents=(), episodes=2, parameters=path
        )
    )
    assert "parameters.json was tuned in regulars_of_a_test" in capsys.readouterr().out


@pytest.fixture
def songs() -> Iterator[str]:
    """An environment of somebody else."""
    register_songs(SONGS)
    yield SONGS
    PRESETS.pop(SONGS, None)
    gymnasium.registry.pop(SONGS, None)


def test_an_environment_of_somebody_else(songs: str, tmp_path: Path) -> None:
    where = Where(songs, log_slates=300, cache=tmp_path / "places", device="cpu")
    sizes = sizes_of(train.Config(place=where), slow=True)
    assert (sizes.visits, sizes.polished) == (14_000, 6_000)
    assert (sizes.shoppers, sizes.monitor.episodes) == (32, 32)
    steps(where, tmp_path)
    assert played(tmp_path) >= {"popular", "constant", "composer"}
    agent = load_agent(agent_of(tmp_path))
    assert (agent.inputs.slate_size, agent.env) == (POSITIONS, songs)
    assert agent.options == {}


def test_the_league_and_the_tuning_of_agents_work_elsewhere(
    songs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = Elsewhere(songs, log_slates=300, cache=tmp_path / "places")
    sizes: dict[str, Any] = {
        "shoppers": 4,
        "episodes": 4,
        "batch": 4,
        "device": "cpu",
        "work": tmp_path / "work",
    }
    config = league.Config(
        elsewhere=elsewhere,
        contenders=("uniform", "popular", "cap", "linucb", "reinforce", "ppo_composer"),
        runs=(0,),
        steps={songs: 4 * 60},
        watched=2,
        trials=1,
        tuning_episodes=2,
        results=tmp_path / "results",
        **sizes,
    )
    assert settled(config).work == tmp_path / "work" / elsewhere.where("cpu", 1).name  # type: ignore[union-attr]
    assert settled(league.Config(elsewhere=elsewhere)).episodes == 64
    league.main(config)
    rows = read_rows("league", results=tmp_path / "results")
    assert set(rows["contender"]) == set(config.contenders)
    assert (rows["visits"] == VISITS).all()
    captured = capsys.readouterr()
    assert "Rewards are not weighted by survival: OutsideShopper" in captured.err

    tune_agents.main(
        TuneAgents(
            elsewhere=elsewhere,
            agents=("linucb",),
            trials=2,
            repetitions=1,
            steps=400,
            results=tmp_path / "results",
            **{**sizes, "work": tmp_path / "tuned"},
        )
    )
    found = read_rows("tune_agents", results=tmp_path / "results")
    assert found["agent"].unique().to_list() == ["linucb"]
