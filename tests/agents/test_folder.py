"""An agent that was saved is the agent that was trained, and what cannot be served is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.folder import ABOUT, NETWORK, Agent, load_agent, save_agent
from agents.places import Site
from agents.places.exploring import Exploration, fit_ranker, play_log, policy_inputs
from agents.ppo.algorithm import make_ppo, policy_of
from agents.ppo.checkpoints import save
from agents.ppo.config import PPOConfig
from agents.ppo.constraint import Constraint
from agents.ppo.goals import face_for
from policies.composer import ComposerConfig
from policies.learnable.conditioned import ConditionedPolicy
from policies.learnable.kinds import LEARNABLE
from policies.learnable.sb3 import NetworkConfig
from recsim_env.estimates import Estimate
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.market import MARKET
from recsim_env.types import Policy

ENV = "recsim_env/Market-v0"
OPTIONS = {"config": replace(MARKET, items=30, categories=5, favourites=2)}


@pytest.fixture(scope="module")
def site() -> Site:
    bare = Site(ENV, None, None, lambda population: OPTIONS, "cpu")  # type: ignore[arg-type]
    simulator = bare.simulator(horizon_days=8)
    log = Sessions.of(*play_log(simulator, Exploration(200, "uniform")))
    return replace(bare, inputs=policy_inputs(simulator, fit_ranker(log, simulator), log), log=log)


def trained(site: Site, kind: str, folder: Path) -> Policy:
    """An agent after an update, saved; the policy that it is."""
    composer = LEARNABLE[kind].composer_for(site.inputs, ComposerConfig(pool=12))
    model = make_ppo(
        kind,
        face_for(kind)(site.training(), composer, 8, 0),
        PPOConfig(learning_rate=0.1, n_steps=4, batch_size=32, n_epochs=2),
        NetworkConfig((8,), (8,)),
        seed=0,
    )
    model.learn(32)
    save(model, folder / "checkpoint.safetensors")
    scores: dict[str, Estimate | float] = {
        "return": Estimate(3.0, 2.0, 4.0, 8),
        "visits": 5.0,
        "alone": Estimate(1.0),
    }
    save_agent(folder / "agent", folder / "checkpoint.safetensors", site, scores=scores)
    return policy_of(model)


@pytest.fixture(scope="module")
def saved(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    trained(site, "composer", folder)
    return folder / "agent"


@pytest.fixture
def agent(saved: Path) -> Agent:
    return load_agent(saved, "cpu")


def observed(site: Site, shoppers: int = 6) -> dict[str, torch.Tensor]:
    simulator = site.simulator()
    seen = simulator.reset(torch.arange(shoppers))
    for _ in range(2):
        seen = simulator.step(seen["candidates"][:, :10], validate=False).observation
    return seen


@pytest.mark.parametrize("kind", LEARNABLE)
def test_a_loaded_agent_makes_the_slates_of_the_trained_one(
    site: Site, kind: str, tmp_path: Path
) -> None:
    policy, seen = trained(site, kind, tmp_path), observed(site)
    expected = policy(seen, torch.zeros(6, 0))
    shutil.move(tmp_path / "agent", tmp_path / "sent")  # nothing of it lies elsewhere
    loaded = load_agent(tmp_path / "sent", "cpu")
    found = loaded.recommend(seen)
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, expected)
    greedy = site.inputs.need_ranker("x").logits(seen).topk(10).indices
    assert not torch.equal(found, greedy)  # the update has moved it


def test_a_loaded_agent_serves_any_weights_where_it_was_trained_for_them(
    site: Site, agent: Agent, tmp_path: Path
) -> None:
    policy, seen = trained(site, "conditioned", tmp_path), observed(site)
    loaded = load_agent(tmp_path / "agent", "cpu")
    assert isinstance(policy, ConditionedPolicy)
    found = []
    for weights in ({"clicks": 1.0}, {"intra_list_distance": 1.0}, torch.rand(6, 2)):
        slates = loaded.at(weights).recommend(seen)
        assert isinstance(slates, torch.Tensor)
        assert torch.equal(slates, policy.at(weights)(seen, torch.zeros(6, 0)))
        found.append(slates)
    assert not torch.equal(found[0], found[1])
    with pytest.raises(
        ValueError, match=r"^weights holds \[0\.0, 0\.0\], but weights must be from 0"
    ):
        loaded.at({"clicks": 0.0})
    with pytest.raises(ValueError, match=r"^weights are given, but this agent was trained for one"):
        agent.at({"clicks": 1.0})


def test_a_loaded_agent_tells_the_limit_that_it_was_trained_under(
    site: Site, saved: Path, tmp_path: Path
) -> None:
    trained(site, "composer", tmp_path)
    limit = Constraint("clicks", "at_least", 0.9, relative=True)
    save_agent(tmp_path / "agent", tmp_path / "checkpoint.safetensors", site, constraint=limit)
    assert load_agent(tmp_path / "agent", "cpu").constraint == limit
    assert load_agent(saved, "cpu").constraint is None

    # a folder of a version that told no limit, and one that was written by hand
    path = tmp_path / "agent" / ABOUT
    about = json.loads(path.read_text())
    path.write_text(json.dumps({name: one for name, one in about.items() if name != "constraint"}))
    assert load_agent(tmp_path / "agent", "cpu").constraint is None
    for broken, sentence in (
        ({"term": "clicks"}, "missing 2 required positional arguments"),
        ({**about["constraint"], "direction": "up"}, "direction is 'up'"),
        ("clicks", "constraint is 'clicks'"),
    ):
        path.write_text(json.dumps(about | {"constraint": broken}))
        with pytest.raises(ValueError, match=rf"{ABOUT} has the constraint .*{sentence}"):
            load_agent(tmp_path / "agent", "cpu")


def test_arrays_tensors_one_shopper_and_several_agree(agent: Agent, site: Site) -> None:
    seen = observed(site)
    several = agent.recommend(seen)
    assert isinstance(several, torch.Tensor)
    assert several.shape == (6, 10)
    arrays = agent.recommend({name: value.numpy() for name, value in seen.items()})
    assert isinstance(arrays, np.ndarray)
    assert arrays.tolist() == several.tolist()
    for row in range(6):
        one = agent.recommend({name: value[row] for name, value in seen.items()})
        assert isinstance(one, torch.Tensor)
        assert one.tolist() == several[row].tolist()
        listed = agent.recommend({name: value[row].tolist() for name, value in seen.items()})
        assert np.asarray(listed).tolist() == several[row].tolist()
    wider = {
        name: value.double().numpy() if value.is_floating_point() else value.int().numpy()
        for name, value in seen.items()
    }
    assert np.asarray(agent.recommend(wider)).tolist() == several.tolist()
    without = {name: value for name, value in seen.items() if name != "candidates"}
    assert torch.equal(torch.as_tensor(agent.recommend(without)), several)


def test_the_folder_tells_what_the_agent_is(agent: Agent, saved: Path) -> None:
    assert agent.env == ENV
    assert agent.reward == {"clicks": 1.0, "intra_list_distance": 0.3}
    assert agent.scores["return"] == {"value": 3.0, "low": 2.0, "high": 4.0, "n": 8}
    assert agent.scores["visits"] == 5.0
    assert agent.scores["alone"]["low"] is None
    assert set(agent.versions) == {"recsim_env", "torch"}
    names = {path.suffix for path in saved.iterdir()}
    assert names <= {".json", ".parquet", ".safetensors"}  # nothing that runs code


Change = dict[str, Any]


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("taste", None, ValueError, "has the keys .*, but it must have 'taste' too"),
        ("taste", np.zeros(3), ValueError, r"'taste'\] has the shape \(3,\), but it must be \(2, "),
        ("visits", np.zeros((6, 1)), ValueError, "is of 6 shoppers in a batch, but"),
        ("taste", "much", TypeError, "'taste'.* must hold numbers of torch.float32"),
        ("recent_slates", np.zeros((10, 10)), TypeError, "must hold numbers of torch.int64"),
        ("recent_slates", np.full((10, 10), 99), ValueError, "holds 99, but it must be from -1 to"),
        ("taste", np.full((2, 16), np.nan), ValueError, "not finite"),
    ],
)
def test_what_is_wrong_with_an_observation_is_said(
    agent: Agent, site: Site, key: str, value: Any, error: type[Exception], message: str
) -> None:
    seen: dict[str, Any] = {name: one[0].numpy() for name, one in observed(site).items()}
    if key == "taste" and isinstance(value, np.ndarray) and value.ndim == 2:
        value = np.full(seen["taste"].shape, np.nan)
    seen = {name: one for name, one in seen.items() if name != key or value is not None}
    if value is not None:
        seen[key] = value
    with pytest.raises(error, match=message) as caught:
        agent.recommend(seen)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(TypeError, match="observation is 3"):
        agent.recommend(3)  # type: ignore[arg-type]


def test_a_folder_that_is_not_whole_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no agent\.json"):
        load_agent(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    told = json.loads((copy / ABOUT).read_text())
    for change, message in (
        ({**told, "format": 99}, "has the format 99, but this version reads 2"),
        ({name: told[name] for name in told if name != "inputs"}, r"does not tell \['inputs'\]"),
    ):
        (copy / ABOUT).write_text(json.dumps(change))
        with pytest.raises(ValueError, match=message):
            load_agent(copy)
    (copy / ABOUT).write_text(json.dumps(told))
    (copy / NETWORK).write_bytes((copy / NETWORK).read_bytes()[:50])
    with pytest.raises(ValueError, match=NETWORK):
        load_agent(copy)
    (copy / NETWORK).unlink()
    with pytest.raises(FileNotFoundError):
        load_agent(copy)
