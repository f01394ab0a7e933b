"""PPO for any weights of several goals: draws, rewards, advantages, and what it learns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from agents import AGENTS, TrainedAgent, TrainingSetup
from agents.evaluate import evaluate
from agents.ppo import goals as goals_module
from agents.ppo.algorithm import SlatePPO, environment_of, look_around, make_ppo, make_stock_ppo
from agents.ppo.config import PPOConfig
from agents.ppo.goals import (
    ConditionedVecEnv,
    GoalRolloutBuffer,
    fit_goal_units,
    scalarised,
)
from agents.ppo.polish import utilities_of
from agents.ppo.rollout_buffer import DeviceRolloutBuffer
from agents.ppo.vec_env import IntentVecEnv, TrainingReward, expected_terms
from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.learnable.conditioned import ConditionedPolicy
from policies.learnable.kinds import LEARNABLE
from policies.learnable.sb3 import NetworkConfig
from recsim_env.catalog import Catalog
from recsim_env.rewards import Objectives, Reward
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Response
from tests.support.agent_toys import small_market
from tests.support.policy_toys import TableRanker, toy_inputs
from tests.support.toys import toy_simulator

GOALS = ("clicks", "intra_list_distance", "kept")
SMALL = PPOConfig(n_steps=4, batch_size=32, n_epochs=2)
NETWORK = NetworkConfig((16,), (16,))


def environment(
    goals: tuple[str, ...] = GOALS,
    reward: TrainingReward | None = None,
    simulator: SlateSimulator | None = None,
    shoppers: int = 16,
) -> ConditionedVecEnv:
    simulator = simulator or small_market()
    composer = Composer(toy_inputs(simulator), ComposerConfig(pool=12), goals)
    return ConditionedVecEnv(simulator, composer, shoppers, 0, reward)


def conditioned(env: IntentVecEnv, make: Any = make_ppo, kind: str = "conditioned") -> SlatePPO:
    model: SlatePPO = make(kind, env, SMALL, NETWORK, seed=0)
    return model


# ---- the environment -----------------------------------------------------------------------------


def test_observations_rewards_and_values_have_a_column_for_each_goal() -> None:
    env = environment(reward=TrainingReward(survival=True))
    model = conditioned(env)
    seen = env.reset_tensors()
    assert isinstance(seen, dict)
    assert seen["weights"].shape == (16, 3)
    assert seen["survival"].shape == (16, 1)
    assert isinstance(env.observation_space, spaces.Dict)
    assert env.observation_space["features"].shape == seen["features"].shape[1:]
    actions, values, log_probability = model.policy(seen)
    assert (values.shape, log_probability.shape) == ((16, 3), (16,))
    assert env.step_tensors(actions).rewards.shape == (16, 3)
    model.learn(16 * 4)
    kept = model.rollout_buffer.kept  # type: ignore[attr-defined]
    assert kept["rewards"].shape == kept["returns"].shape == (4, 16, 3)
    assert kept["advantages"].shape == (4, 16)


def test_weights_are_drawn_for_each_episode_and_often_leave_a_goal_alone() -> None:
    env = environment(shoppers=4000, simulator=toy_simulator(items=40))
    seen = env.reset_tensors()
    assert isinstance(seen, dict)
    weights = seen["weights"]
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4000))
    # moments of a Dirichlet with three parameters of 1/2: mean 1/3, variance 4/45; the chance that
    # one of them, a beta with parameters 1/2 and 1, is above .9 is 1 - sqrt(.9)
    torch.testing.assert_close(weights.mean(dim=0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    torch.testing.assert_close(weights.var(dim=0), torch.full((3,), 4 / 45), atol=0.007, rtol=0)
    alone = (weights > 0.9).float().mean(dim=0)
    torch.testing.assert_close(alone, torch.full((3,), 1 - 0.9**0.5), atol=0.015, rtol=0)

    # they stay for an episode, and change where another one begins
    step = env.step_tensors(torch.zeros(4000, env.composer.intent_size))
    assert isinstance(step.observations, dict)
    after = step.observations["weights"]
    assert 0 < int(step.ended.sum()) < 4000
    assert torch.equal(after[~step.ended], weights[~step.ended])
    assert bool((after[step.ended] != weights[step.ended]).any(dim=1).all())
    fewer = environment(shoppers=5, simulator=toy_simulator(items=40)).reset_tensors()
    assert isinstance(fewer, dict)
    assert torch.equal(fewer["weights"], weights[:5])  # whatever the size of the batch


def test_rewards_are_expected_goals_in_goal_units_weighted_by_survival() -> None:
    env = environment(reward=TrainingReward(scale=0.5, survival=True))
    env.goal_units.copy_(torch.tensor([2.0, 0.5, 4.0]))
    env.reset_tensors()
    for _ in range(2):
        survival, outcomes = env._survival.clone(), [Any][:0]
        advance = env.simulator.advance

        def kept(slates: Tensor, advance: Any = advance, outcomes: Any = outcomes) -> Any:
            outcomes.append(advance(slates))
            return outcomes[-1]

        env.simulator.advance = kept  # type: ignore[method-assign]
        step = env.step_tensors(torch.zeros(16, env.composer.intent_size))
        env.simulator.advance = advance  # type: ignore[method-assign]
        outcome: Any = outcomes[0]
        linear = expected_terms(("clicks", "kept"), outcome)
        assert not torch.equal(linear["clicks"], outcome.info["reward_terms/clicks"])
        columns = [linear["clicks"] / 2, outcome.info["reward_terms/intra_list_distance"] / 0.5]
        expected = torch.stack([*columns, linear["kept"] / 4], dim=1) * survival.unsqueeze(1) * 0.5
        torch.testing.assert_close(step.rewards, expected)
    assert bool((env._survival < 1).any())


@pytest.mark.parametrize("expected", [True, False])
def test_goals_are_worked_out_once_a_visit(expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []

    def at_chances(names: list[str], outcome: Any) -> dict[str, Tensor]:
        seen.append(tuple(names))
        return expected_terms(names, outcome)

    def as_drawn(told: Objectives, inputs: Any, known: Any) -> Tensor:
        seen.append(told.names)
        return values(told, inputs, known)

    values = Objectives.__call__
    env = environment(reward=TrainingReward(expected_clicks=expected))
    env.reset_tensors()
    monkeypatch.setattr(goals_module, "expected_terms", at_chances)
    monkeypatch.setattr(Objectives, "__call__", as_drawn)
    for _ in range(3):
        env.step_tensors(torch.zeros(16, env.composer.intent_size))
    once = [("clicks", "kept"), ("intra_list_distance",)] if expected else [GOALS]
    assert seen == once * 3


def test_a_return_is_the_sum_of_goals_at_the_weights_of_the_episode() -> None:
    env = environment()
    fit_goal_units(env, torch.tensor([[2.0, -0.5, 0.0], [4.0, 0.5, 0.0]]))
    assert env.goal_units.tolist() == [3.0, 0.5, 1.0]  # nothing to tell its unit from
    seen = env.reset_tensors()
    assert isinstance(seen, dict)
    env.step_tensors(torch.zeros(16, env.composer.intent_size))
    goals = torch.stack([env._sums[f"goals/{name}"] for name in GOALS], dim=1)
    running = goals.abs().sum(dim=1) > 0  # those that ended start again from 0
    expected = (goals / env.goal_units * seen["weights"]).sum(dim=1)
    torch.testing.assert_close(env._sums["return"][running], expected[running])


def test_goals_that_the_shoppers_cannot_serve_are_refused_before_they_are_reset() -> None:
    simulator = small_market()
    composer = Composer(toy_inputs(simulator), ComposerConfig(pool=12), ("clicks", "novelty"))
    with pytest.raises(ValueError, match=r"^goals has the term 'novelty', but the catalogue of"):
        ConditionedVecEnv(simulator, composer, 4)
    assert simulator.num_envs == 0
    for goals, match in {
        ("clicks", "clicks"): r"^goals has 'clicks' twice, but goals must be different",
        ("clicks", "fame"): r"^goals\[1\] is 'fame', but ",
        ("novelty",): r"^goals has the term 'novelty', but the catalogue of",
    }.items():
        setup = TrainingSetup(simulator, toy_inputs(simulator), 0, 10_000, 16)
        with pytest.raises(ValueError, match=match):
            AGENTS["ppo_conditioned"].learn(setup, {"goals": goals})
        assert simulator.num_envs == 0
    minus = replace(toy_inputs(simulator), reward=Reward({"clicks": 1.0, "exposure": -1.0}))
    with pytest.raises(ValueError, match=r"^reward\['exposure'\] is -1, but the weight of a goal"):
        AGENTS["ppo_conditioned"].learn(
            TrainingSetup(simulator, minus, 0, 10_000, 16), {"goals": ("clicks", "exposure")}
        )


def test_sb3s_own_loop_refuses_several_goals() -> None:
    with pytest.raises(ValueError, match=r"^kind is 'conditioned', but SB3's own loop has one"):
        conditioned(environment(), make_stock_ppo)


# ---- advantages ----------------------------------------------------------------------------------


def goal_buffer(rewards: Tensor, values: Tensor, starts: Tensor, weights: Tensor) -> Any:
    steps, rows, goals = rewards.shape
    space = spaces.Dict({"weights": spaces.Box(0, 1, (goals,), np.float32)})
    buffer = GoalRolloutBuffer(
        steps,
        space,
        spaces.Box(-1, 1, (1,), np.float32),
        "cpu",
        gae_lambda=0.5,
        gamma=0.8,
        n_envs=rows,
        goals=goals,
    )
    for at in range(steps):
        nothing = torch.zeros(rows, 1)
        buffer.add(
            {"weights": weights}, nothing, rewards[at], starts[at], values[at], nothing[:, 0]
        )
    return buffer


def test_advantages_of_each_goal_are_those_by_hand() -> None:
    rewards = torch.tensor([[[1.0, 10.0]], [[2.0, 0.0]]])
    values = torch.tensor([[[0.5, 4.0]], [[1.5, 2.0]]])
    weights = torch.tensor([[0.25, 0.75]])
    buffer = goal_buffer(rewards, values, torch.zeros(2, 1), weights)
    buffer.compute_returns_and_advantage(torch.tensor([[1.0, 5.0]]), torch.tensor([False]))
    # by hand, gamma .8 and lambda .5: surprises are r + .8 v' - v
    last = [2 + 0.8 * 1 - 1.5, 0 + 0.8 * 5 - 2]
    first = [1 + 0.8 * 1.5 - 0.5 + 0.4 * last[0], 10 + 0.8 * 2 - 4 + 0.4 * last[1]]
    torch.testing.assert_close(
        buffer.kept["goal_advantages"][:, 0], torch.tensor([first, last]), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        buffer.kept["returns"], buffer.kept["goal_advantages"] + values, rtol=1e-5, atol=1e-6
    )
    batch = next(buffer.get(2))
    assert batch.returns.shape == batch.old_values.shape == (4,)  # sample by sample, goal by goal
    order = [0, 1] if batch.old_values[0] == 0.5 else [1, 0]
    assert torch.equal(batch.returns.view(2, 2), buffer.kept["returns"][:, 0][order])

    # an episode that ended passes nothing on
    buffer = goal_buffer(rewards, values, torch.tensor([[0.0], [1.0]]), weights)
    buffer.compute_returns_and_advantage(torch.tensor([[1.0, 5.0]]), torch.tensor([True]))
    torch.testing.assert_close(
        buffer.kept["goal_advantages"][:, 0], torch.tensor([[0.5, 6.0], [0.5, -2.0]])
    )


def test_goals_are_normalised_before_they_are_weighed() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(20_000, 2, generator=generator)
    advantages = torch.stack([drawn[:, 0] + 3, 50 * (0.6 * drawn[:, 0] + 0.8 * drawn[:, 1])], 1)
    share = torch.rand(20_000, 1, generator=generator)
    weights = torch.cat([share, 1 - share], dim=1)
    found = scalarised(advantages, weights)

    # whatever the weights, advantages are of the same size
    for low in (0.0, 0.2, 0.5, 0.8, 0.98):
        part = found[(share[:, 0] >= low) & (share[:, 0] < low + 0.02)]
        assert float(part.std()) == pytest.approx(1, abs=0.12), low
    # at the same weights they order samples as the weighted sum of the goals themselves does
    alike = torch.tensor([[0.7, 0.3]]).expand(20_000, 2)
    plain = ((advantages - advantages.mean(dim=0)) * alike).sum(dim=1)
    torch.testing.assert_close(
        scalarised(advantages, alike), plain / plain.std(correction=0), rtol=1e-3, atol=1e-4
    )
    # units of a goal do not matter where its weight is in these units
    units = torch.tensor([1.0, 0.02])
    torch.testing.assert_close(
        scalarised(advantages * units, weights / units), found, rtol=1e-3, atol=1e-4
    )
    only = torch.tensor([[1.0, 0.0]]).expand(20_000, 2)
    first = advantages[:, 0]
    torch.testing.assert_close(
        scalarised(advantages, only),
        (first - first.mean()) / first.std(correction=0),
        rtol=1e-3,
        atol=1e-4,
    )
    assert torch.equal(scalarised(torch.ones(5, 2), weights[:5]), torch.zeros(5))


def test_with_one_goal_it_is_plain_training() -> None:
    """The same numbers as an agent with that reward: rewards, values and minibatches."""
    only = Reward({"clicks": 1.0})
    simulator = toy_simulator(items=40, reward=only)
    told = TrainingReward(scale=0.5)
    inputs = replace(toy_inputs(simulator), reward=only)
    plain = IntentVecEnv(simulator, Composer(inputs, ComposerConfig(pool=12)), 16, 0, told)
    model = conditioned(plain, kind="composer")
    model.learn(16 * 4)
    ours: Any = model.rollout_buffer
    assert type(ours) is DeviceRolloutBuffer
    kept = {name: ours.kept[name] for name in ("rewards", "values", "episode_starts")}
    of_goal = goal_buffer(
        kept["rewards"].unsqueeze(2),
        kept["values"].unsqueeze(2),
        kept["episode_starts"],
        torch.ones(16, 1),
    )
    of_goal.gamma, of_goal.gae_lambda = ours.gamma, ours.gae_lambda
    last, dones = torch.zeros(16, 1), torch.zeros(16, dtype=torch.bool)
    for buffer in (ours, of_goal):
        buffer.compute_returns_and_advantage(last, dones)
    torch.testing.assert_close(of_goal.kept["returns"].squeeze(2), ours.kept["returns"])
    advantages = ours.kept["advantages"]
    torch.testing.assert_close(
        of_goal.kept["advantages"],
        (advantages - advantages.mean()) / advantages.std(correction=0),
        rtol=1e-4,
        atol=1e-5,
    )

    # and its environment pays the same for the same intents
    one = ConditionedVecEnv(
        toy_simulator(items=40, reward=only),
        Composer(inputs, ComposerConfig(pool=12), ("clicks",)),
        16,
        0,
        told,
    )
    plain.reset_tensors()
    seen = one.reset_tensors()
    assert isinstance(seen, dict)
    assert torch.equal(seen["weights"], torch.ones(16, 1))
    intents = torch.randn(16, one.composer.intent_size, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        ours, theirs = one.step_tensors(intents), plain.step_tensors(intents)
        torch.testing.assert_close(ours.rewards.squeeze(1), theirs.rewards)


# ---- what it learns ------------------------------------------------------------------------------


@dataclass
class Mood:
    """B shoppers who come once."""

    here: Tensor


class TwoTastes(Shopper[Mood]):
    """Come once, and see two of six items on two shelves that are opposite to each other.

    Items 0 to 2 stand close together and items 3 to 5 do. The ranker believes that items 3 to 5
    are clicked least, and they are clicked most, so that greed by clicks has to be unlearned; two
    items of one shelf have no distance and two of different ones have distance 1.

        weight (1, 0): items of the second shelf, 2 * .8 = 1.6 clicks; the ranker's slate has .4
        weight (0, 1): one of each, distance 1
    """

    tells_leaving = True

    def __init__(self) -> None:
        vectors = torch.zeros(6, 2)
        vectors[:3, 0], vectors[3:, 1] = 1.0, 1.0
        paths = tuple(f"d/{item // 3}/t" for item in range(6))
        catalog = Catalog(paths, paths, torch.ones(6), vectors)
        super().__init__(catalog, 2, device=torch.device("cpu"))

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        return {}

    def start(self, draws: Tensor) -> Mood:
        return Mood(torch.zeros(len(draws)))

    def observe(self, state: Mood) -> dict[str, Tensor]:
        return {}

    def respond(self, state: Mood, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        probability = torch.where(slates >= 3, 0.8, 0.2) * shown
        state.here = state.here + 1
        ones = torch.ones(len(slates))
        left = torch.ones(len(slates), dtype=torch.bool)
        return Response(draws < probability, probability, left, ones, 0 * ones, leaving=ones)


def two_tastes() -> SlateSimulator:
    return SlateSimulator(
        TwoTastes(), Reward({"clicks": 1.0, "intra_list_distance": 1.0}), history=1
    )


def learned_tastes(steps: int, **options: Any) -> TrainedAgent:
    simulator = two_tastes()
    chances = torch.tensor([0.5, 0.49, 0.48, 0.45, 0.44, 0.43])
    inputs = toy_inputs(simulator, TableRanker(torch.logit(chances)))
    parameters = {
        "ppo": PPOConfig(learning_rate=2e-2, n_steps=8, batch_size=256, n_epochs=4, gamma=0.5),
        "network": NetworkConfig((16,), (16,), log_std=0.0),
        "composer": ComposerConfig(offset_dims=2, offset_unit=1.0),
        "checked": 0.0,
        **options,
    }
    setup = TrainingSetup(
        simulator, replace(inputs, reward=simulator.reward), 0, steps, shoppers=64
    )
    return AGENTS["ppo_conditioned"].learn(setup, parameters)


def worth(policy: Any, weights: tuple[float, float]) -> float:
    rows = evaluate(policy.at(weights), two_tastes(), 200).rows
    return sum(
        weight * float(rows[name].to_numpy().mean())
        for weight, name in zip(weights, ("clicks", "intra_list_distance"), strict=True)
    )


def test_one_agent_learns_both_ends() -> None:
    trained = learned_tastes(64 * (10 + 8 * 40))
    assert worth(trained.untrained, (1, 0)) < 0.6
    assert worth(trained.policy, (1, 0)) > 1.4
    assert worth(trained.policy, (0, 1)) == 1.0


def test_trained_and_untrained_are_compared_at_the_weights_of_each_shopper() -> None:
    trained = learned_tastes(64 * (10 + 8 * 2), checked=0.2)
    assert {"return_untrained", "return_trained"} <= trained.facts.keys()
    simulator = two_tastes()
    inputs = replace(toy_inputs(simulator), reward=simulator.reward)
    kind = LEARNABLE["conditioned"]
    env = ConditionedVecEnv(simulator, kind.composer_for(inputs, ComposerConfig()), 8)
    model = make_ppo("conditioned", env, SMALL, NETWORK, seed=0)
    policy = model.policy.in_use()
    assert isinstance(policy, ConditionedPolicy)
    setup = TrainingSetup(simulator, inputs, 0, 1000, shoppers=8)
    earned, steps = utilities_of(env, setup, [policy, policy], 50)
    assert torch.equal(earned[0], earned[1])
    assert float(earned.mean()) > 0
    assert steps == 100


def test_units_of_goals_are_what_the_first_visit_brings_and_outlive_the_training() -> None:
    env = environment()
    model = conditioned(env)
    look_around(model, 3)
    units = env.goal_units
    assert environment_of(model).goal_units is model.policy.actor.goal_units  # type: ignore[attr-defined]
    assert float(units[2]) <= 1.0 + 1e-6  # nobody is kept more than once
    assert float(units.min()) > 0.1
    before = model.policy.in_use().actor.goal_units.clone()  # type: ignore[attr-defined]
    model.learn(16 * 4)
    assert torch.equal(before, env.goal_units)


def test_the_start_is_greedy_in_the_reward_of_the_weights() -> None:
    simulator = small_market()
    composer = Composer(toy_inputs(simulator), ComposerConfig(pool=30), GOALS[:2])
    env = ConditionedVecEnv(simulator, composer, 8)
    policy: Any = conditioned(env).policy.in_use()
    seen = simulator.reset(torch.arange(8))
    for weights in ((1.0, 0.0), (0.9, 0.1), (0.5, 0.5), (0.1, 0.9)):
        reward = Reward(dict(zip(GOALS[:2], weights, strict=True)))
        greedy = POLICIES["reward_greedy"].build(
            replace(toy_inputs(simulator), reward=reward, pool=30)
        )
        none = torch.zeros(8, 0)
        assert torch.equal(policy.at(weights)(seen, none), greedy(seen, none)), weights
