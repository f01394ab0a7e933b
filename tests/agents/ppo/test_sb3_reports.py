"""SB3's tools report the return that `agents.evaluate` reports, whatever a model learns from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from agents.evaluate import evaluate
from agents.ppo.algorithm import SlatePPO, environment_of, look_around, make_ppo, policy_of
from agents.ppo.config import PPOConfig
from agents.ppo.torch_vec_env import TrainingRewards
from agents.ppo.vec_env import IntentVecEnv, SimulatorVecEnv, SlateVecEnv, TrainingReward
from policies.composer import Composer, ComposerConfig
from policies.learnable.kinds import LEARNABLE
from policies.learnable.sb3 import NetworkConfig
from recsim_env.simulator import SlateSimulator
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

SHOPPERS = 24
LEARNED_FROM = [TrainingReward(scale, clicks, survival) for scale, clicks, survival in (
    (1.0, False, False), (0.1, False, False), (0.1, True, False), (1.0, False, True),
    (0.1, True, True),
)]  # fmt: skip
every_kind = pytest.mark.parametrize("kind", ["composer", "plackett_luce"])
every_reward = pytest.mark.parametrize("reward", LEARNED_FROM, ids=str)


def simulator() -> SlateSimulator:
    return toy_simulator(items=40, horizon_days=60.0)


def environment(kind: str, reward: TrainingReward, seed: int = 0) -> SimulatorVecEnv:
    shoppers = simulator()
    face = IntentVecEnv if LEARNABLE[kind].intents else SlateVecEnv
    return face(
        shoppers, Composer(toy_inputs(shoppers), ComposerConfig(pool=12)), SHOPPERS, seed, reward
    )


def trained(kind: str, reward: TrainingReward) -> SlatePPO:
    config, network = PPOConfig(n_steps=6, batch_size=72, n_epochs=2), NetworkConfig((16,), (16,))
    model = make_ppo(kind, environment(kind, reward), config, network, seed=0)
    look_around(model)
    model.learn(SHOPPERS * 6 * 2)
    return model


def truth(model: SlatePPO, env: SimulatorVecEnv) -> tuple[np.ndarray, list[int]]:
    """Returns and visits of the first episode of every seed of `env`, in ascending order each."""
    env.reset()
    rows = evaluate(policy_of(model), simulator(), env.simulator.episodes.seed).rows
    return np.sort(rows["return"].to_numpy()), sorted(rows["visits"].to_list())


@every_kind
@every_reward
def test_evaluate_policy_and_vec_monitor_tell_returns_and_lengths(
    kind: str, reward: TrainingReward
) -> None:
    model, env = trained(kind, reward), environment(kind, reward, seed=5)
    returns, visits = truth(model, env)
    for outside in (env, VecMonitor(env)):
        found: Any = evaluate_policy(
            model, outside, SHOPPERS, deterministic=True, return_episode_rewards=True, warn=False
        )
        np.testing.assert_allclose(np.sort(found[0]), returns, rtol=1e-5)
        assert sorted(found[1]) == visits


@every_kind
@every_reward
def test_eval_callback_tells_the_return_and_training_goes_on_as_without_it(
    kind: str, reward: TrainingReward
) -> None:
    model, undisturbed, env = (
        trained(kind, reward),
        trained(kind, reward),
        environment(kind, reward, seed=5),
    )
    returns, _ = truth(model, env)
    # the policy does not change before the rollout is complete
    callback = EvalCallback(env, n_eval_episodes=SHOPPERS, eval_freq=3, verbose=0, warn=False)
    model.learn(SHOPPERS * 6, callback, reset_num_timesteps=False)
    undisturbed.learn(SHOPPERS * 6, reset_num_timesteps=False)
    assert callback.last_mean_reward == pytest.approx(returns.mean(), rel=1e-5)
    for one, other in zip(model.policy.parameters(), undisturbed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


@every_kind
def test_scale_and_expectation_change_what_is_learned_from_and_nothing_of_what_is_reported(
    kind: str,
) -> None:
    plain, scaled = (
        environment(kind, reward)
        for reward in (TrainingReward(1.0, False), TrainingReward(0.1, False))
    )
    learned, reported = [], []
    for env in (plain, scaled):
        face, seen = TrainingRewards(env), env.reset()
        actions = np.stack([env.action_space.sample() for _ in range(SHOPPERS)])
        actions = seen["pool"][:, :4] if isinstance(seen, dict) else np.zeros_like(actions)
        reported.append(env.step(actions)[1])
        face.reset()
        learned.append(face.step(actions)[1])
    np.testing.assert_array_equal(reported[0], reported[1])
    np.testing.assert_allclose(0.1 * learned[0], learned[1], rtol=1e-6)
    np.testing.assert_array_equal(learned[0], reported[0])


def test_training_does_not_go_on_in_episodes_that_an_evaluation_began() -> None:
    model = trained("composer", TrainingReward(survival=True))
    env = environment_of(model)
    evaluate_policy(model, env, SHOPPERS, warn=False)
    with pytest.raises(RuntimeError, match="evaluate in an environment of its own"):
        model.learn(SHOPPERS * 6, reset_num_timesteps=False)
    model.learn(SHOPPERS * 6)  # from the start it may
    with pytest.raises(RuntimeError, match="reporting needs `reset`"):
        environment_after_tensors().step(np.zeros((SHOPPERS, 1), dtype=np.float32))


def environment_after_tensors() -> SimulatorVecEnv:
    env = environment("composer", TrainingReward())
    env.reset_tensors()
    return env


def test_what_sb3_logs_of_a_rollout_is_the_mean_of_the_cohort_that_it_completed() -> None:
    model = trained("composer", TrainingReward(0.1, True))
    told = 0
    for _ in range(8):
        model.learn(SHOPPERS * 6, reset_num_timesteps=False)
        assert model.ep_info_buffer is not None
        expected = {"r": model.statistics.get("return"), "l": model.statistics.get("visits")}
        assert list(model.ep_info_buffer) == ([expected] if model.statistics else [])
        told += len(model.ep_info_buffer)
    assert told > 2
