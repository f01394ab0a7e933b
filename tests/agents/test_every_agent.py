"""What holds for every agent in `AGENTS`: joining the registry puts an agent under these tests.

It starts as greedy CTR, makes legal slates, is the same at the same seed and another at another
seed, moves no global generator, keeps to its steps, and refuses bad settings before it begins.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import AGENTS, AgentSpec, TrainedAgent, TrainingSetup
from agents.base import register_agent
from agents.keeper import Keeper
from policies import POLICIES
from recsim_env.logs.sessions import Sessions
from recsim_env.registry import Registry
from recsim_env.testing import check_policy
from recsim_env.types import Policy
from tests.agents.test_reinforce import uniform_log
from tests.support.agent_toys import (
    QUICK,
    SHOPPERS,
    WHOLE_EPISODES,
    quick_steps,
    small_market,
    tensors_of,
)
from tests.support.policy_toys import toy_inputs

each_agent = pytest.mark.parametrize("name", sorted(AGENTS))
IN_INTENTS = ("ppo_composer", "ppo_conditioned", "ppo_constrained", "cma", "optuna")
POLICIES_OF = ("policy", "sampled", "untrained", "untrained_sampled")


@functools.cache
def market_log() -> Sessions:
    return uniform_log(small_market(), 20)


def setup_of(name: str, **options: Any) -> TrainingSetup:
    """A setup in which the agent trains for a second or two."""
    simulator = small_market()
    log = market_log() if AGENTS[name].needs_log else None
    options = {"seed": 0, "steps": quick_steps(name), "shoppers": SHOPPERS, "log": log} | options
    return TrainingSetup(simulator, toy_inputs(simulator), **options)


def train(name: str, seed: int = 0, **options: Any) -> TrainedAgent:
    return AGENTS[name].learn(setup_of(name, seed=seed, **options), QUICK[name])


trained = functools.cache(train)


def slates_of(policy: Policy, shoppers: int = 30) -> Tensor:
    simulator = small_market()
    draws = torch.rand(shoppers, policy.draws, generator=torch.Generator().manual_seed(0))
    slates = policy(simulator.reset(torch.arange(shoppers)), draws)
    simulator.check(slates)
    return slates


def global_generators() -> tuple[str, ...]:
    states = torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()  # noqa: NPY002
    return tuple(map(str, states))


@each_agent
def test_it_starts_as_a_greedy_policy_and_leaves_that(name: str) -> None:
    start = "reward_greedy" if name in IN_INTENTS else "greedy_ctr"
    greedy = POLICIES[start].build(toy_inputs(small_market()))
    assert torch.equal(slates_of(trained(name).untrained), slates_of(greedy))
    before, after = tensors_of(trained(name).untrained), tensors_of(trained(name).policy)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@each_agent
def test_its_policies_keep_the_promises_of_a_policy(name: str) -> None:
    for which in POLICIES_OF:
        policy = getattr(trained(name), which)
        if policy is None:
            assert which in ("sampled", "untrained_sampled")
            continue
        check_policy(policy, small_market())


@each_agent
def test_it_is_watched_from_the_untrained_to_the_trained_policy_and_keeps_to_its_steps(
    name: str,
) -> None:
    seen: list[tuple[int, Tensor]] = []

    def watch(steps: int, policy: Policy) -> None:
        torch.rand(3)  # a watcher that draws from the global generator disturbs nothing
        seen.append((steps, slates_of(policy)))

    found = train(name, watch=watch)
    steps = [at for at, _ in seen]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, found.steps)
    if name in (
        *WHOLE_EPISODES,
        "ppo_composer",
        "ppo_constrained",
    ):  # whose search plays whole episodes as well
        assert 0.8 * quick_steps(name) < found.steps <= quick_steps(name)
    else:
        assert found.steps == (0 if AGENTS[name].needs_log else quick_steps(name))
    assert torch.equal(seen[0][1], slates_of(found.untrained))
    assert torch.equal(seen[-1][1], slates_of(found.policy))
    assert_same(found, trained(name))


def assert_same(one: TrainedAgent, other: TrainedAgent) -> None:
    for which in POLICIES_OF:
        if getattr(one, which) is None:
            assert getattr(other, which) is None
            continue
        mine, theirs = tensors_of(getattr(one, which)), tensors_of(getattr(other, which))
        assert len(mine) > 0
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), which
        assert torch.equal(slates_of(getattr(one, which)), slates_of(getattr(other, which)))
    facts, others = ({k: v for k, v in a.facts.items() if k != "minutes"} for a in (one, other))
    assert facts == others


@each_agent
def test_another_seed_gives_another_agent_and_no_global_generator_moves(name: str) -> None:
    before = global_generators()
    other = train(name, seed=1)
    assert global_generators() == before
    mine, theirs = tensors_of(trained(name).policy), tensors_of(other.policy)
    assert any(not torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@each_agent
def test_bad_settings_are_refused_before_anything_begins(name: str, tmp_path: Path) -> None:
    spec = AGENTS[name]
    setup = setup_of(name, keeper=Keeper(tmp_path / "kept.safetensors"))
    rows = setup.simulator.num_envs

    def refused(call: Callable[[], object], kind: type[Exception], match: str) -> None:
        with pytest.raises(kind, match=match):
            call()
        assert setup.simulator.num_envs == rows  # nobody was reset
        assert not list(tmp_path.iterdir())

    for field in dataclasses.fields(spec.config):
        kinds: Any = (ValueError, TypeError)
        for bad in (object(), "surprise", None):
            wrong = {field.name: bad}
            refused(functools.partial(spec.learn, setup, wrong), kinds, f"^{field.name} is ")
    refused(lambda: spec.learn(setup, {"surprise": 1.0}), TypeError, "names 'surprise'")
    if spec.needs_log:
        bare = dataclasses.replace(setup, log=None)
        refused(lambda: spec.learn(bare, QUICK[name]), ValueError, f"'{name}' learns from a log")
    else:
        few = dataclasses.replace(setup, steps=0)
        refused(lambda: spec.learn(few, QUICK[name]), ValueError, "steps is 0, but ")


@each_agent
def test_what_is_tuned_starts_inside_its_range_and_may_be_given(name: str) -> None:
    spec = AGENTS[name]
    for parameter, allowed in spec.search().items():
        value = functools.reduce(getattr, parameter.split("."), spec.config())
        assert allowed.low <= value <= allowed.high, parameter
        assert allowed.low > 0 or not allowed.log, parameter


def test_a_name_is_taken_once_by_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = Registry[AgentSpec]("learning agent")
    monkeypatch.setattr("agents.base.AGENTS", registered)

    @dataclasses.dataclass(frozen=True)
    class Untuned:
        """Nothing to choose."""

    def mine(setup: TrainingSetup, config: Untuned) -> TrainedAgent:
        raise NotImplementedError

    def others(setup: TrainingSetup, config: Untuned) -> TrainedAgent:
        raise NotImplementedError

    register_agent("mine", Untuned)(mine)
    again = FunctionType(mine.__code__, globals(), "mine")
    again.__qualname__ = mine.__qualname__
    with pytest.warns(UserWarning, match=r"^The learning agent 'mine' is replaced"):
        register_agent("mine", Untuned, needs_log=True)(again)
    assert registered["mine"].needs_log
    with pytest.raises(ValueError, match=r"^name is 'mine', but a learning agent of that name"):
        register_agent("mine", Untuned)(others)
    with pytest.raises(TypeError, match=r"^config is 5, but it must be a dataclass"):
        register_agent("other", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^needs_log is 'no', but it must be True or False"):
        register_agent("other", Untuned, needs_log="no")  # type: ignore[arg-type]
