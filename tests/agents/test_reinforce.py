"""The corrected gradient against enumeration, and a policy learned from the log of another."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from agents.base import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.reinforce import (
    Behaviour,
    Decisions,
    Reinforce,
    ReinforceConfig,
    decisions_of,
    discounted_returns,
    importance_weight,
    logged_rewards,
    state_of,
    surrogate,
    top_k_multiplier,
)
from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.learnable.plackett_luce import (
    PlackettLuceActor,
    PlackettLuceConfig,
)
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import make_simulator
from recsim_env.rewards import Reward
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_catalog, toy_simulator

UNCAPPED = 1e30
SCORES = torch.tensor([0.2, -0.7, 1.1], dtype=torch.float64)  # of 3 items
BETA = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 2.5], dtype=torch.float64)


def gradient(loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Of a scalar function of the log-probabilities, at `SCORES`."""
    scores = SCORES.clone().requires_grad_()
    return torch.autograd.grad(loss_of(scores.log_softmax(dim=0)), scores)[0]


def corrected(size: int, cap: float) -> Tensor:
    """The policy gradient that a log of every item, as often as beta shows it, gives."""
    return gradient(
        lambda log_pi: -(BETA * surrogate(log_pi, BETA.log(), REWARD, size=size, cap=cap)).sum()
    )


# ---- the estimator -------------------------------------------------------------------------------


def test_multiplier_and_weight_by_hand() -> None:
    pi = torch.tensor([0.5, 0.1, 1.0])
    torch.testing.assert_close(
        top_k_multiplier(pi.log(), 3), torch.tensor([3 * 0.5**2, 3 * 0.9**2, 0.0])
    )
    torch.testing.assert_close(top_k_multiplier(pi.log(), 1), torch.ones(3))
    beta = torch.tensor([0.25, 0.2, 0.01])
    torch.testing.assert_close(
        importance_weight(pi.log(), beta.log(), 4.0), torch.tensor([2.0, 0.5, 4.0])
    )


def test_the_gradient_of_three_items_by_hand() -> None:
    """A click on item 0, pi = 1/2, beta = 1/4, K = 2, reward 3; d log pi_0 = (1, 0, 0) - pi."""
    scores = torch.log(torch.tensor([0.5, 0.3, 0.2])).requires_grad_()
    log_pi = scores.log_softmax(dim=0)[:1]
    loss = surrogate(log_pi, torch.tensor([0.25]).log(), torch.tensor([3.0]), size=2, cap=10.0)
    (found,) = torch.autograd.grad(loss.sum(), scores)
    factor = (0.5 / 0.25) * (2 * (1 - 0.5)) * 3.0
    torch.testing.assert_close(found, -factor * torch.tensor([1 - 0.5, -0.3, -0.2]))


def test_without_a_cap_the_corrected_gradient_is_the_on_policy_one() -> None:
    """K = 1: the gradient of the expected reward of a draw from pi, whatever drew the log."""
    on_policy = gradient(lambda log_pi: (log_pi.exp() * REWARD).sum())
    torch.testing.assert_close(corrected(1, UNCAPPED), on_policy, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [2, 5])
def test_the_top_k_gradient_is_that_of_being_among_k_draws(size: int) -> None:
    among = gradient(lambda log_pi: ((1 - (1 - log_pi.exp()) ** size) * REWARD).sum())
    torch.testing.assert_close(corrected(size, UNCAPPED), among, atol=1e-12, rtol=0)


def test_a_cap_bounds_the_weight_and_changes_nothing_below() -> None:
    log_pi, log_beta = torch.zeros(3), torch.tensor([-100.0, -1.0, 0.0])
    weight = importance_weight(log_pi, log_beta, 5.0)
    torch.testing.assert_close(weight, torch.tensor([5.0, math.e, 1.0]))
    capped = gradient(
        lambda log_pi: -(BETA * surrogate(log_pi, BETA.log(), REWARD, size=1, cap=1.5)).sum()
    )
    pi = SCORES.softmax(dim=0)
    kept = torch.minimum(pi / BETA, torch.tensor(1.5, dtype=torch.float64)) * BETA * REWARD
    torch.testing.assert_close(capped, kept - kept.sum() * pi)


def test_returns_and_rewards_of_a_log_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 0.0]])
    expected = torch.tensor([[1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4.0], [3.0, 0.0, 0.0]])
    assert discounted_returns(rewards, 0.5).tolist() == expected.tolist()
    catalog = toy_catalog(items=6, categories=3)  # item i is of category i % 3
    log = sessions([[[0, 1, 2], [3, 0, 3]], [[4, -1, 5]]], [[[1, 1, 0], [0, 1, 1]], [[0, 1, 1]]])
    reward = Reward({"clicks": 1.0, "category_coverage": 10.0})
    found = logged_rewards(log, reward, catalog)
    # a repeated item is neither shown nor clicked on, and nothing is at -1
    torch.testing.assert_close(
        found, torch.tensor([[2 + 10 * 2 / 2, 1 + 0.0], [1 + 10 * 1 / 2, 0.0]])
    )


def sessions(slates: list[list[list[int]]], clicks: list[list[list[int]]]) -> Sessions:
    """A log of episodes written out, logged by nobody in particular."""
    length = torch.tensor([len(episode) for episode in slates])
    size, longest = len(slates[0][0]), int(length.max())
    padded = [episode + [[-1] * size] * (longest - len(episode)) for episode in slates]
    clicked = [episode + [[0] * size] * (longest - len(episode)) for episode in clicks]
    return Sessions(
        slates=torch.tensor(padded),
        clicks=torch.tensor(clicked).bool(),
        length=length,
        left=torch.ones(len(slates), dtype=torch.bool),
        propensity=torch.full((len(slates), longest), math.nan),
        policy=torch.zeros(len(slates), longest, dtype=torch.int64),
        declared=torch.zeros(len(slates), 0),
        policies=("test",),
    )


# ---- a bandit with two states --------------------------------------------------------------------

PAYS = torch.tensor(
    [[0.3, 0.8, 0.1], [0.3, 0.1, 0.8]]
)  # chance of a click by state and item; the log loves item 0
SHOWN = torch.tensor([0.9, 0.05, 0.05])


def two_states(slates: int, seed: int = 0) -> Decisions:
    """A log of one item a slate, shown with the chances `SHOWN` in either state."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randint(0, 2, (slates,), generator=generator)
    item = torch.multinomial(SHOWN, slates, replacement=True, generator=generator)
    clicks = torch.rand(slates, generator=generator) < PAYS[state, item]
    return Decisions(
        features=torch.nn.functional.one_hot(state, 2).float(),
        pool=torch.arange(3, dtype=torch.int32).expand(slates, -1),
        logits=torch.zeros(slates, 3),
        cues=torch.zeros(slates, 3, 1),
        slates=item.unsqueeze(1),
        clicks=clicks.unsqueeze(1),
        returns=clicks.float(),
        log_propensity=SHOWN[item].log(),
    )


def learner(config: ReinforceConfig) -> tuple[PlackettLuceActor, Behaviour, Reinforce]:
    """An actor and a behaviour head that tell the three items apart."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.eye(3)
    actor = PlackettLuceActor(2, 1, vectors, 1, config.hidden, PlackettLuceConfig(1.0), generator)
    behaviour = Behaviour(config.hidden[-1], vectors, generator)
    return actor, behaviour, Reinforce(actor, behaviour, config, 1)


@pytest.mark.parametrize("source", ["estimated", "logged"])
def test_the_better_action_is_found_though_the_log_rarely_shows_it(source: Any) -> None:
    config = ReinforceConfig(
        hidden=(16,), batch_size=256, learning_rate=1e-2, behaviour_rate=1e-2, behaviour=source
    )
    actor, behaviour, learning = learner(config)
    log = two_states(8000)
    generator = torch.Generator().manual_seed(1)
    learning.epoch(log, generator, policy=False)
    for _ in range(6):
        learning.epoch(log, generator)
    states = {"features": torch.eye(2), "pool": torch.arange(3).expand(2, -1)}
    pi = (
        actor.scores(states | {"logits": torch.zeros(2, 3), "cues": torch.zeros(2, 3, 1)})
        .softmax(dim=1)
        .detach()
    )
    assert float(pi[0, 1]) > 0.9
    assert float(pi[1, 2]) > 0.9
    beta = behaviour(state_of(actor, torch.eye(2))).exp()
    torch.testing.assert_close(beta, SHOWN.expand(2, -1), atol=0.03, rtol=0)


def test_without_the_correction_the_log_misleads() -> None:
    """A cap below every weight makes weights equal, and pi follows what was shown most."""
    actor, _, learning = learner(
        ReinforceConfig(hidden=(16,), batch_size=256, learning_rate=1e-2, cap=1e-6)
    )
    generator = torch.Generator().manual_seed(1)
    log = two_states(8000)
    for _ in range(6):
        learning.epoch(log, generator)
    assert actor.scores(log.take(torch.arange(50)).seen).argmax(dim=1).tolist() == [0] * 50


def test_the_gradient_of_the_behaviour_head_stops_at_the_state() -> None:
    actor, behaviour, _ = learner(ReinforceConfig(hidden=(16,)))
    behaviour(state_of(actor, torch.eye(2)))[:, 0].sum().backward()
    assert behaviour.bias.grad is not None
    assert float(behaviour.bias.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in actor.parameters())


def test_warming_up_leaves_the_policy_alone() -> None:
    actor, _, learning = learner(ReinforceConfig(hidden=(16,), batch_size=64))
    before = [parameter.clone() for parameter in actor.parameters()]
    first, last = (
        learning.epoch(two_states(500), torch.Generator(), policy=False) for _ in range(2)
    )
    assert last["behaviour_loss"] < first["behaviour_loss"]
    assert all(torch.equal(old, new) for old, new in zip(before, actor.parameters(), strict=True))


def test_a_logged_item_outside_of_the_pool_teaches_the_policy_nothing() -> None:
    log = two_states(64)
    outside = dataclasses.replace(
        log, slates=torch.full_like(log.slates, 2), pool=log.pool[:, :2], logits=log.logits[:, :2]
    )
    outside = dataclasses.replace(outside, cues=log.cues[:, :2], clicks=torch.ones_like(log.clicks))
    actor, _, learning = learner(ReinforceConfig(hidden=(16,)))
    before = [parameter.clone() for parameter in actor.parameters()]
    learning.epoch(outside, torch.Generator())
    assert all(torch.equal(old, new) for old, new in zip(before, actor.parameters(), strict=True))


# ---- in a market ---------------------------------------------------------------------------------


def market() -> SlateSimulator:
    return make_simulator("recsim_env/Market-v0", device="cpu", world=0)


def uniform_log(simulator: SlateSimulator, shoppers: int) -> Sessions:
    uniform = POLICIES["uniform"].build(toy_inputs(simulator))
    chance = -float(
        sum(math.log(len(simulator.catalog) - place) for place in range(simulator.slate_size))
    )
    declared = simulator.reset(torch.arange(shoppers))["declared"]
    table, _ = record(
        simulator,
        uniform,
        torch.arange(shoppers),
        propensity=lambda observation, slates: torch.full((len(slates),), chance),
    )
    said = pl.DataFrame({"shopper": range(shoppers), "declared": declared.tolist()})
    return Sessions.of(table, said)


def slates_of(policy: Policy, simulator: SlateSimulator) -> Tensor:
    seen = simulator.reset(torch.arange(9))
    return policy(seen, torch.rand(9, policy.draws, generator=torch.Generator().manual_seed(0)))


def test_decisions_are_what_the_shop_saw_in_the_simulation() -> None:
    """The second visit of every logged episode, against the same visit played again."""
    simulator = market()
    log = uniform_log(simulator, 12)
    composer = Composer(toy_inputs(simulator), ComposerConfig(pool=20))
    decisions = decisions_of(log, composer, simulator, 0.9)
    assert len(decisions) == log.n_slates
    simulator.reset(torch.arange(12))
    step = simulator.step(log.slates[:, 0])
    second = (log.length > 1).nonzero().squeeze(1)
    view = composer.view({name: value[second] for name, value in step.observation.items()})
    rows = 12 + torch.arange(len(second))
    assert torch.equal(decisions.features[rows], view.features)
    assert torch.equal(decisions.pool[rows].long(), view.pool.items)
    assert torch.equal(decisions.slates[rows], log.slates[second, 1])
    rewards = logged_rewards(log, simulator.reward, simulator.catalog)
    torch.testing.assert_close(rewards[:, 0], step.reward)
    torch.testing.assert_close(decisions.returns[:12], discounted_returns(rewards, 0.9)[:, 0])


def test_reinforce_learns_from_a_log_of_a_market() -> None:
    watched: list[int] = []
    simulator = market()
    inputs, log = toy_inputs(simulator), uniform_log(simulator, 40)
    setup = TrainingSetup(
        simulator, inputs, 0, 0, log=log, watch=lambda steps, policy: watched.append(steps)
    )
    before = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    trained = AGENTS["reinforce"].learn(setup, {"epochs": 2})
    assert before == (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    assert AGENTS["reinforce"].needs_log
    assert trained.steps == 0
    assert watched == [0, 0, 0]
    assert trained.facts["slates"] == log.n_slates
    assert 0 < trained.facts["weight"] <= 20.0
    assert (
        abs(trained.facts["behaviour_loss"] - math.log(1000)) < 0.1
    )  # whoever logged showed all items alike
    greedy = POLICIES["greedy_ctr"].build(inputs)
    assert torch.equal(slates_of(trained.untrained, simulator), slates_of(greedy, simulator))
    assert not torch.equal(slates_of(trained.policy, simulator), slates_of(greedy, simulator))
    for policy in (trained.policy, trained.sampled, trained.untrained_sampled):
        assert policy is not None
        assert all(
            len(set(slate)) == simulator.slate_size
            for slate in slates_of(policy, simulator).tolist()
        )


@pytest.mark.slow
def test_a_log_teaches_which_of_the_rankers_best_are_clicked() -> None:
    """The made-up ranker knows nothing of the market: pi must find what of its pool is clicked."""
    simulator = market()
    log = uniform_log(simulator, 250)
    setup = TrainingSetup(simulator, toy_inputs(simulator), 0, 0, log=log)
    trained = AGENTS["reinforce"].learn(setup, {"epochs": 4, "learning_rate": 3e-3})
    seeds = torch.arange(10_000, 10_128)

    def clicks_a_visit(policy: Policy) -> float:
        rows = evaluate(policy, simulator, seeds).rows
        return float(rows["clicks"].sum()) / float(rows["visits"].sum())

    assert clicks_a_visit(trained.policy) > 1.5 * clicks_a_visit(trained.untrained)


def test_bad_input_is_named() -> None:
    simulator = market()
    inputs, log = toy_inputs(simulator), uniform_log(simulator, 5)
    with pytest.raises(
        ValueError, match=r"'reinforce' learns from a log, but TrainingSetup\.log is None"
    ):
        AGENTS["reinforce"].learn(TrainingSetup(simulator, inputs, 0, 0))
    with pytest.raises(ValueError, match=r"cap is 0\.0, but it must be a finite number above 0"):
        AGENTS["reinforce"].learn(TrainingSetup(simulator, inputs, 0, 0, log=log), {"cap": 0.0})
    with pytest.raises(ValueError, match="behaviour is 'guessed'"):
        AGENTS["reinforce"].learn(
            TrainingSetup(simulator, inputs, 0, 0, log=log), {"behaviour": "guessed"}
        )
    short = dataclasses.replace(log, slates=log.slates[:, :, :4], clicks=log.clicks[:, :, :4])
    with pytest.raises(ValueError, match="log has slates of 4 items, but the simulator's have 10"):
        AGENTS["reinforce"].learn(TrainingSetup(simulator, inputs, 0, 0, log=short))
    other = dataclasses.replace(log, slates=log.slates + 1000)
    with pytest.raises(ValueError, match="log names item 1999, but the items are 0 to 999"):
        AGENTS["reinforce"].learn(TrainingSetup(simulator, inputs, 0, 0, log=other))
    toys = toy_simulator(items=1000, slate_size=10)
    with pytest.raises(ValueError, match="log cannot give the observation keys"):
        AGENTS["reinforce"].learn(TrainingSetup(toys, toy_inputs(toys), 0, 0, log=log))
