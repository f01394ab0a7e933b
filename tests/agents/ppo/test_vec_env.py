"""Ends of episodes reach SB3 intact: the last observation, and whether the return goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.ppo.algorithm import make_ppo
from agents.ppo.config import PPOConfig
from agents.ppo.torch_vec_env import BatchStep, TrainingRewards
from agents.ppo.vec_env import IntentVecEnv, SlateVecEnv, TrainingReward
from policies.composer import Composer, ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.rewards import Reward
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

PLAIN = TrainingReward(scale=1.0, expected_clicks=False)


def make_env(
    shoppers: int = 16, learned_from: TrainingReward = PLAIN, **options: Any
) -> IntentVecEnv:
    simulator = toy_simulator(items=40, **{"horizon_days": 40.0, **options})
    return IntentVecEnv(
        simulator,
        Composer(toy_inputs(simulator), ComposerConfig(pool=12)),
        shoppers,
        3,
        learned_from,
    )


def intents(env: IntentVecEnv, steps: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, env.num_envs, env.composer.intent_size, generator=generator).numpy()


def test_terminal_observations_are_the_last_ones_and_truncation_is_told_from_lapsing() -> None:
    env = make_env()
    env.reset()
    twin = toy_simulator(
        items=40, horizon_days=40.0
    )  # the same episodes, stepped by hand and never reset for us
    twin.reset(env.simulator.episodes.seed)
    kinds = set()
    for actions in intents(env, 30):
        assert env._view is not None
        slates = env.composer.compose_view(env._view, torch.from_numpy(actions))
        seen, rewards, dones, infos = env.step(actions)
        step = twin.step(slates)
        np.testing.assert_array_equal(rewards, step.reward.numpy())
        np.testing.assert_array_equal(dones, (step.terminated | step.truncated).numpy())
        last = env.composer.view(step.observation).features.numpy()
        for row in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[row]["terminal_observation"], last[row])
            assert infos[row]["TimeLimit.truncated"] is bool(step.truncated[row])
            kinds.add(bool(step.truncated[row]))
        assert all(infos[row] == {} for row in np.flatnonzero(~dones))
        if dones.any():
            fresh = twin.reset_rows(torch.from_numpy(np.flatnonzero(dones)))
            assert isinstance(seen, np.ndarray)
            np.testing.assert_array_equal(seen, env.composer.view(fresh).features.numpy())
    assert kinds == {True, False}  # both ends occurred


def test_ppo_bootstraps_a_truncated_episode_and_not_a_lapsed_one() -> None:
    env = make_env(shoppers=32)
    config = PPOConfig(n_steps=12, batch_size=64, gamma=0.9)
    model = make_ppo("composer", env, config, NetworkConfig(), seed=0)
    value = 7.0
    with torch.no_grad():  # a critic that says 7 whatever it sees
        for parameter in model.policy.critic.parameters():
            parameter.zero_()
        last = model.policy.critic.tower[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.fill_(value)
    seen: list[BatchStep] = []
    step_tensors = env.step_tensors

    def recorded(actions: torch.Tensor) -> BatchStep:
        seen.append(step_tensors(actions))
        return seen[-1]

    env.step_tensors = recorded  # type: ignore[method-assign]
    _, callback = model._setup_learn(12 * 32, None)
    model.collect_rollouts(env, callback, model.rollout_buffer, 12)
    ended = 0
    for step, batch_step in enumerate(seen):
        expected = batch_step.rewards.clone()
        if batch_step.finished is not None:
            expected[batch_step.finished.rows] += torch.where(
                batch_step.finished.truncated, 0.9 * value, 0.0
            )
            ended += len(batch_step.finished.rows)
        np.testing.assert_allclose(model.rollout_buffer.rewards[step], expected.numpy(), rtol=1e-6)
    assert ended > 0


def test_statistics_are_of_the_episodes_that_began_in_one_rollout_once_all_have_ended() -> None:
    """Rollouts of three visits; the test notes every episode and the rollout in which it began."""
    env = make_env(shoppers=8)
    env.reset()
    began, open_ = np.zeros(8, dtype=int), np.zeros(8)
    returns: dict[int, list[float]] = {}
    visits: dict[int, list[int]] = {}
    length, told, reported, ended_first = np.zeros(8, dtype=int), 0, 0, [0.0][:0]
    for step, actions in enumerate(intents(env, 60)):
        _, rewards, dones, _ = env.step(actions)
        open_, length = open_ + rewards, length + 1
        for row in np.flatnonzero(dones):
            returns.setdefault(int(began[row]), []).append(open_[row])
            visits.setdefault(int(began[row]), []).append(int(length[row]))
            began[row], open_[row], length[row] = step // 3, 0.0, 0
        if step == 2:
            ended_first = returns[0].copy()
        if step % 3 < 2:
            continue
        statistics = env.pop_statistics()
        complete = [cohort for cohort in returns if told <= cohort < began.min()]
        assert bool(statistics) == bool(complete)
        if statistics:
            expected = np.concatenate([returns[cohort] for cohort in complete])
            assert statistics["return"] == pytest.approx(expected.mean(), rel=1e-5)
            lengths = np.concatenate([visits[cohort] for cohort in complete])
            assert statistics["visits"] == pytest.approx(lengths.mean(), rel=1e-5)
            terms = statistics["clicks"] + statistics["reward_terms/intra_list_distance"]
            assert statistics["return"] == pytest.approx(terms, rel=1e-5)
            told, reported = int(began.min()), reported + len(expected)
    assert reported > 40
    assert np.mean(ended_first) < 0.5 * np.mean(
        returns[0]
    )  # who ends within three visits had a short episode
    assert env.pop_statistics() == {}


def test_expected_clicks_have_the_mean_of_the_sampled_ones_and_less_variance() -> None:
    sampled, expected = (
        make_env(64, TrainingReward(1.0, flag), lapse=0.0, horizon_days=1e5)
        for flag in (False, True)
    )
    totals: list[list[np.ndarray]] = [[], []]
    for env, total in zip((sampled, expected), totals, strict=True):
        learned = TrainingRewards(env)
        learned.reset()
        total += [learned.step(actions)[1].astype(np.float64) for actions in intents(env, 40)]
    drawn, known = (np.concatenate(total) for total in totals)
    difference = drawn - known  # the same visits: all else cancels
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(difference.size)
    assert known.var() < 0.5 * drawn.var()


def test_expected_clicks_are_the_probabilities_times_their_weight() -> None:
    env = make_env(
        4, TrainingReward(0.5, True), reward=Reward({"clicks": 2.0, "category_coverage": 1.0})
    )
    learned = TrainingRewards(env)
    learned.reset()
    _, rewards, _, _ = learned.step(intents(env, 1)[0])
    response = env.simulator.shopper.responses[-1]  # type: ignore[attr-defined]
    surplus = response.probability.sum(1) - response.clicks.sum(1)
    plain = make_env(4, PLAIN, reward=Reward({"clicks": 2.0, "category_coverage": 1.0}))
    plain.reset()
    _, sampled, _, _ = plain.step(intents(plain, 1)[0])
    np.testing.assert_allclose(rewards, 0.5 * (sampled + 2.0 * surplus.numpy()), rtol=1e-5)
    env.reset()
    np.testing.assert_array_equal(
        env.step(intents(env, 1)[0])[1], sampled
    )  # and this is what is reported


def test_every_linear_term_is_learnt_from_at_its_chances() -> None:
    reward = Reward({"clicks": 2.0, "revenue": 0.25, "kept": 3.0, "category_coverage": 1.0})
    env = make_env(64, TrainingReward(1.0, True), reward=reward)
    learned = TrainingRewards(env)
    learned.reset()
    _, rewards, _, _ = learned.step(intents(env, 1)[0])
    response = env.simulator.shopper.responses[-1]  # type: ignore[attr-defined]
    plain = make_env(64, PLAIN, reward=reward)
    plain.reset()
    assert plain._view is not None
    actions = intents(plain, 1)[0]
    slates = plain.composer.compose_view(plain._view, torch.from_numpy(actions))
    _, sampled, _, _ = plain.step(actions)
    surplus = response.probability - response.clicks.float()
    price = env.simulator.catalog.price[slates]
    left = response.left.float()
    leaving = left if response.leaving is None else response.leaving
    expected = 2 * surplus.sum(1) + 0.25 * (price * surplus).sum(1) + 3 * (left - leaving)
    np.testing.assert_allclose(rewards, sampled + expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_seed_is_its_episodes_and_a_generation_other_ones() -> None:
    one, two, three = make_env(), make_env(), make_env()
    three.generation = 5
    first, second, third = one.reset(), two.reset(), three.reset()
    assert torch.equal(one.simulator.episodes.seed, two.simulator.episodes.seed)
    assert not bool((one.simulator.episodes.seed == three.simulator.episodes.seed).any())
    assert len(one.simulator.episodes.seed.unique()) == 16
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert isinstance(third, np.ndarray)
    np.testing.assert_array_equal(first, second)
    two.seed(99)
    two.reset()
    assert not bool((one.simulator.episodes.seed == two.simulator.episodes.seed).any())


def test_slates_go_through_as_they_are() -> None:
    simulator = toy_simulator(items=40)
    env = SlateVecEnv(
        simulator, Composer(toy_inputs(simulator), ComposerConfig(pool=12)), 8, 0, PLAIN
    )
    seen = env.reset()
    assert isinstance(seen, dict)
    assert env.observation_space.contains({name: value[0] for name, value in seen.items()})
    slates = seen["pool"][:, [3, 1, 0, 2]]
    env.step(slates)
    assert torch.equal(simulator.episodes.recent_slates[:, 0], torch.from_numpy(slates))


def test_spaces_hold_what_is_seen() -> None:
    env = make_env()
    seen = env.reset()
    assert isinstance(seen, np.ndarray)
    assert seen.dtype == env.observation_space.dtype == np.float32
    assert seen.shape[1:] == env.observation_space.shape
    assert env.action_space.shape == (env.composer.intent_size,)
