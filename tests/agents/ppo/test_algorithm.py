"""PPO solves slate problems with known answers; runs repeat, resume, and keep their randomness."""

from __future__ import annotations

import pickle
import random
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.evaluate import evaluate
from agents.ppo.algorithm import (
    SlatePPO,
    environment_of,
    frozen_policy_of,
    look_around,
    make_ppo,
    policy_of,
)
from agents.ppo.checkpoints import load, load_policy, save
from agents.ppo.config import PPOConfig
from agents.ppo.goals import ConditionedVecEnv
from agents.ppo.vec_env import IntentVecEnv, SlateVecEnv, TrainingReward
from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.cues import CUES
from policies.learnable.autoregressive import AutoregressiveConfig
from policies.learnable.kinds import LEARNABLE
from policies.learnable.plackett_luce import PlackettLuceConfig
from policies.learnable.sb3 import LR_SCALE, NetworkConfig
from recsim_env.files import read_tensors, write_tensors
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs
from recsim_env.simulator import SlateSimulator
from tests.recsim_env.shoppers.test_outside import tap_simulator
from tests.support.policy_toys import TableRanker, toy_inputs
from tests.support.toys import toy_catalog, toy_simulator

SMALL = PPOConfig(n_steps=4, batch_size=32, n_epochs=2)
QUICK = PPOConfig(
    learning_rate=5e-3, n_steps=10, batch_size=320, n_epochs=8, gamma=0.0, gae_lambda=0.0
)
NETWORK = NetworkConfig(actor_hidden=(16,), critic_hidden=(16,), log_std=-0.7)


def composer_model(
    shoppers: int = 16, config: PPOConfig = SMALL, seed: int = 0, **options: Any
) -> SlatePPO:
    simulator = toy_simulator(items=40, **options)
    env = IntentVecEnv(
        simulator, Composer(toy_inputs(simulator), ComposerConfig(pool=12)), shoppers
    )
    model = make_ppo("composer", env, config, NETWORK, seed=seed)
    look_around(model)
    return model


def plackett_luce_model(
    shoppers: int = 16, config: PPOConfig = SMALL, seed: int = 0, **options: Any
) -> SlatePPO:
    simulator = toy_simulator(items=40, **options)
    env = SlateVecEnv(simulator, Composer(toy_inputs(simulator), ComposerConfig(pool=12)), shoppers)
    model = make_ppo(
        "plackett_luce", env, config, NETWORK, start=PlackettLuceConfig(1.0), seed=seed
    )
    look_around(model)
    return model


def autoregressive_model(
    shoppers: int = 16, config: PPOConfig = SMALL, seed: int = 0, **options: Any
) -> SlatePPO:
    simulator = toy_simulator(items=40, **options)
    env = SlateVecEnv(simulator, Composer(toy_inputs(simulator), ComposerConfig(pool=12)), shoppers)
    model = make_ppo(
        "autoregressive",
        env,
        config,
        NETWORK,
        start=AutoregressiveConfig(1.0, count=-0.3),
        seed=seed,
    )
    look_around(model)
    return model


def conditioned_model(
    shoppers: int = 16, config: PPOConfig = SMALL, seed: int = 0, **options: Any
) -> SlatePPO:
    simulator = toy_simulator(items=40, **options)
    kind = LEARNABLE["conditioned"]
    composer = kind.composer_for(toy_inputs(simulator), ComposerConfig(pool=12))
    env = ConditionedVecEnv(simulator, composer, shoppers)
    model = make_ppo("conditioned", env, config, NETWORK, seed=seed)
    look_around(model)
    return model


MAKERS = [composer_model, plackett_luce_model, autoregressive_model, conditioned_model]
MODELS = pytest.mark.parametrize("make", MAKERS)


def weights(model: SlatePPO) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@MODELS
def test_two_seeded_runs_are_equal_and_another_seed_is_not(make: Any) -> None:
    one, two, three = make(seed=0), make(seed=0), make(seed=1)
    for model in (one, two, three):
        model.learn(16 * 4 * 3)
    assert_same(weights(one), weights(two))
    assert any(not torch.equal(value, weights(three)[name]) for name, value in weights(one).items())


@MODELS
def test_training_leaves_no_folders_behind(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = make()
    for first in (True, False):
        model.learn(16 * 4, reset_num_timesteps=first)
    assert not list(tmp_path.iterdir())


def numpy_state() -> list[int]:
    """Of numpy's global generator, which SB3 draws from."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return [*state[1].tolist(), state[2]]


@MODELS
def test_training_leaves_the_global_generators_alone(make: Any) -> None:
    states = torch.get_rng_state(), numpy_state(), random.getstate()
    make().learn(16 * 4 * 2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert numpy_state() == states[1]
    assert random.getstate() == states[2]


def test_an_untrained_composer_is_greedy_in_the_reward() -> None:
    model = composer_model()
    simulator = toy_simulator(items=40)
    greedy = POLICIES["reward_greedy"].build(toy_inputs(simulator))
    seen, none = simulator.reset(torch.arange(20)), torch.zeros(20, 0)
    assert torch.equal(policy_of(model)(seen, none), greedy(seen, none))


@MODELS
def test_a_checkpoint_holds_everything_and_no_pickle(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, None)
    one, two = make(), make(seed=5)
    one.learn(16 * 4 * 2)
    save(one, tmp_path / "checkpoint.safetensors")
    load(two, tmp_path / "checkpoint.safetensors")
    assert_same(weights(one), weights(two))
    assert two.num_timesteps == one.num_timesteps == 16 * 4 * 2
    first, second = (model.policy.optimizer.state_dict()["state"] for model in (one, two))
    for at in first:
        assert_same(first[at], second[at])
    assert_same(one.randomness.tensors(), two.randomness.tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@MODELS
def test_the_policy_of_a_checkpoint_acts_as_the_trained_one(make: Any, tmp_path: Path) -> None:
    model = make()
    model.learn(16 * 4 * 3)
    save(model, tmp_path / "checkpoint.safetensors")
    simulator = toy_simulator(items=40)
    seen = simulator.reset(torch.arange(20))
    for deterministic in (True, False):
        loaded = load_policy(
            tmp_path / "checkpoint.safetensors", toy_inputs(simulator), deterministic=deterministic
        )
        trained = policy_of(model, deterministic=deterministic)
        draws = torch.rand(20, loaded.draws, generator=torch.Generator().manual_seed(0))
        assert loaded.draws == trained.draws
        assert torch.equal(loaded(seen, draws), trained(seen, draws))


def test_a_checkpoint_of_another_policy_is_refused(tmp_path: Path) -> None:
    save(composer_model(), tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="holds the policy"):
        load(plackett_luce_model(), tmp_path / "checkpoint.safetensors")


@MODELS
def test_a_checkpoint_remembers_what_a_unit_of_each_knob_was(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(make(), tmp_path / "checkpoint.safetensors")
    monkeypatch.setitem(CUES, "shown", replace(CUES["shown"], unit=3.0))
    with pytest.raises(
        ValueError,
        match=r"trained with the units \[2.0, 1.0, 1.0, [^3]*\], but here are \[2.0, 1.0, 1.0, .*3.0",
    ):
        load_policy(tmp_path / "checkpoint.safetensors", toy_inputs(toy_simulator(items=40)))


def test_every_learnable_kind_has_its_checkpoint_tested() -> None:
    assert {make().policy.kind for make in MAKERS} == set(LEARNABLE)


def test_a_frozen_policy_no_longer_changes() -> None:
    model = composer_model()
    frozen, trained = (
        frozen_policy_of(model, deterministic=False),
        policy_of(model, deterministic=False),
    )
    seen = toy_simulator(items=40).reset(torch.arange(20))
    draws = torch.rand(20, frozen.draws, generator=torch.Generator().manual_seed(0))
    before = frozen(seen, draws)
    assert torch.equal(trained(seen, draws), before)
    model.learn(16 * 4 * 20)
    assert torch.equal(frozen(seen, draws), before)
    assert not torch.equal(trained(seen, draws), before)


@MODELS
def test_a_training_that_goes_on_equals_the_unbroken_one_bit_for_bit(
    make: Any, tmp_path: Path
) -> None:
    one, other = make(), make(seed=9)
    one.learn(16 * 4)
    save(one, tmp_path / "checkpoint.safetensors")
    load(other, tmp_path / "checkpoint.safetensors")
    for model in (one, other):
        model.learn(16 * 4 * 2, reset_num_timesteps=False)
        assert model.num_timesteps == 16 * 4 * 3
    assert_same(weights(one), weights(other))
    assert list(one.ep_info_buffer or ()) == list(other.ep_info_buffer or ())
    assert environment_of(one).pop_statistics() == environment_of(other).pop_statistics()
    first, second = (environment_of(model).state() for model in (one, other))
    assert first.outline == second.outline
    assert_same(first.tensors, second.tensors)


def test_a_checkpoint_of_fewer_shoppers_does_not_fit(tmp_path: Path) -> None:
    one, other = composer_model(), composer_model(shoppers=8)
    one.learn(16 * 4)
    save(one, tmp_path / "checkpoint.safetensors")
    before = weights(other)
    with pytest.raises(
        ValueError,
        match=r"checkpoint\.safetensors does not fit the training: 'survival' is .*\(16,\)",
    ):
        load(other, tmp_path / "checkpoint.safetensors")
    assert_same(weights(other), before)


def test_where_shoppers_cannot_be_written_down_training_goes_on_with_fresh_ones_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator = tap_simulator()
    env = IntentVecEnv(
        simulator,
        Composer(toy_inputs(simulator)),
        4,
        reward=TrainingReward(expected_clicks=False, survival=False),
    )
    models = [
        make_ppo("composer", env, replace(SMALL, batch_size=8), NETWORK, seed=0) for _ in range(2)
    ]
    models[0].learn(4 * 4)
    save(models[0], tmp_path / "checkpoint.safetensors")
    assert capsys.readouterr().err == ""
    load(models[1], tmp_path / "checkpoint.safetensors")
    assert (
        "goes on with fresh episodes, because state/shoppers/environments/0 is"
        in capsys.readouterr().err
    )
    assert (
        environment_of(models[1]).generation == models[0]._n_updates > 0
    )  # other shoppers than before
    assert models[1].num_timesteps == 16


def broken(path: Path, how: str) -> str:
    """Break a checkpoint in some way; what the message must say."""
    tensors, metadata = read_tensors(path)
    name = "policy/actor.standardize.mean"
    if how in ("empty", "cut", "garbage"):
        content = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"a pickle" * 99}[how]
        )
        return r"checkpoint\.safetensors cannot be read as safetensors"
    if how == "no metadata":
        write_tensors(path, tensors)
        return r"checkpoint\.safetensors has no 'policy' in its metadata"
    if how == "no outline":
        write_tensors(path, tensors, {"policy": metadata["policy"]})
        return r"checkpoint\.safetensors has no 'outline' in its metadata"
    if how == "no random state":
        tensors.pop("random/numpy")
        write_tensors(path, tensors, metadata)
        return r"checkpoint\.safetensors does not fit .*'random/numpy' is missing"
    if how == "no weight":
        tensors.pop(name)
    if how == "another shape":
        tensors[name] = tensors[name][:-1].clone()
    if how in ("nan", "inf"):
        tensors[name][2] = float(how)
    if how == "nan in optimizer":
        name = "optimizer/0/exp_avg"
        tensors[name].view(-1)[0] = torch.nan
    write_tensors(path, tensors, metadata)
    return rf"checkpoint\.safetensors.*'{re.escape(name)}' (is|holds)"


BROKEN = (
    "empty",
    "cut",
    "garbage",
    "no metadata",
    "no outline",
    "no random state",
    "no weight",
    "another shape",
)


@pytest.mark.parametrize("how", [*BROKEN, "nan", "inf", "nan in optimizer"])
def test_a_broken_checkpoint_is_refused_in_one_sentence_with_file_and_tensor(
    how: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    model = composer_model()
    model.learn(16 * 4)
    save(model, path)
    expected, before = broken(path, how), weights(model)
    with pytest.raises(ValueError, match=expected) as found:
        load(model, path)
    assert "\n" not in str(found.value)
    assert_same(weights(model), before)
    if how not in (
        "no outline",
        "no random state",
        "nan in optimizer",
    ):  # of which a policy in use knows nothing
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors"):
            load_policy(path, toy_inputs(toy_simulator(items=40)))


def test_actor_and_critic_learn_at_their_own_rates() -> None:
    simulator = toy_simulator(items=40)
    env = IntentVecEnv(simulator, Composer(toy_inputs(simulator)), 16)
    model = make_ppo("composer", env, SMALL, NetworkConfig(critic_lr_scale=3.0), seed=0)
    model.learn(16 * 4)
    rates = {group[LR_SCALE]: group["lr"] for group in model.policy.optimizer.param_groups}
    assert rates == pytest.approx({1.0: SMALL.learning_rate, 3.0: 3 * SMALL.learning_rate})
    grouped = [id(p) for group in model.policy.optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.policy.parameters())


def same_category_first(items: int = 40) -> TableRanker:
    """A ranker that fills its slates from one category: as far from coverage as can be."""
    return TableRanker(toy_catalog(items).category * -3.0 + torch.linspace(0, 1, items))


def mean_return(model: SlatePPO, simulator: SlateSimulator, *, deterministic: bool = True) -> float:
    rows = evaluate(policy_of(model, deterministic=deterministic), simulator, torch.arange(32)).rows
    return float(rows["return"].to_numpy().sum() / rows["visits"].to_numpy().sum())


@pytest.mark.slow
def test_the_composer_learns_to_vary_the_slate() -> None:
    """The reward is category coverage, of which greedy CTR has little: the count knob must fall."""
    simulators = [
        toy_simulator(items=40, lapse=0.0, reward=Reward({"category_coverage": 1.0}))
        for _ in range(2)
    ]
    inputs = toy_inputs(simulators[0], same_category_first())
    env = IntentVecEnv(
        simulators[0],
        Composer(inputs, ComposerConfig(pool=24)),
        32,
        reward=TrainingReward(1.0, False),
    )
    model = make_ppo("composer", env, QUICK, NETWORK, seed=0)
    look_around(model)
    before = mean_return(model, simulators[1])
    model.learn(32 * 10 * 60)
    after = mean_return(model, simulators[1])
    assert before < 0.35
    assert after > 0.9


@pytest.mark.slow
def test_plackett_luce_learns_which_items_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward is the share of category 0, which item embeddings tell and the ranker does not."""

    def of_category_0(inputs: RewardInputs) -> torch.Tensor:
        return ((inputs.category[inputs.slates] == 0) & inputs.shown).double().mean(dim=1)

    monkeypatch.setitem(REWARD_TERMS, "of_category_0", of_category_0)
    simulators = [
        toy_simulator(items=40, lapse=0.0, reward=Reward({"of_category_0": 1.0})) for _ in range(2)
    ]
    inputs = toy_inputs(simulators[0], TableRanker(torch.linspace(0, 0.1, 40)))
    env = SlateVecEnv(
        simulators[0],
        Composer(inputs, ComposerConfig(pool=26)),
        32,
        reward=TrainingReward(1.0, False),
    )
    model = make_ppo("plackett_luce", env, QUICK, NETWORK, start=PlackettLuceConfig(1.0), seed=0)
    look_around(model)
    before = mean_return(model, simulators[1], deterministic=False)
    model.learn(32 * 10 * 60)
    assert before < 0.3
    assert mean_return(model, simulators[1], deterministic=False) > 0.8
    assert mean_return(model, simulators[1]) > 0.9
