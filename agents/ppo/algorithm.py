"""Stable-Baselines3's PPO for slate policies, with rollouts that stay on the device.

Besides the rollouts (`agents.ppo.device_ppo`), two things differ from the stock class. Actor and
critic have learning rates of their own. And SB3, which seeds the global generators and draws from
them, does so in a private state of these generators (`agents.ppo.randomness`). One side effect
remains: on a GPU, SB3's seeding sets `torch.backends.cudnn.deterministic` for the whole process.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import asdict
from typing import Any, TypeVar, cast

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from agents.ppo.config import PPOConfig
from agents.ppo.device_ppo import DevicePPO
from agents.ppo.goals import ConditionedVecEnv, GoalRolloutBuffer, fit_goal_units
from agents.ppo.randomness import PrivateRandomness
from agents.ppo.torch_vec_env import TrainingRewards
from agents.ppo.vec_env import SimulatorVecEnv
from policies.learnable.conditioned import ConditionedActor
from policies.learnable.intents import IntentActor
from policies.learnable.kinds import Actor
from policies.learnable.sb3 import LR_SCALE, NetworkConfig, SlateActorCritic
from policies.units import fitted_units
from recsim_env.types import Policy


class StockPPO(PPO):
    """SB3's PPO with private randomness and a learning rate for each group of the optimizer.

    Its rollouts pass through numpy. It is the base of `SlatePPO` and what that is compared with.
    """

    policy: SlateActorCritic
    randomness: PrivateRandomness
    width_schedule: Schedule | None = None
    """Log of the width of exploration in intents by the share of the training that is left, set
    before each rollout. None leaves what PPO learned."""

    def _setup_model(self) -> None:
        self.randomness = PrivateRandomness()
        with self.randomness():
            super()._setup_model()

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fill the buffer as SB3 does, with private randomness, at the scheduled width."""
        if self.width_schedule is not None:
            actor = cast(IntentActor, self.policy.actor)
            actor.explore(self.width_schedule(self._current_progress_remaining))
        with self.randomness():
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Update the policy as SB3 does, with private randomness."""
        with self.randomness():
            super().train()

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] *= group[LR_SCALE]


class SlatePPO(StockPPO, DevicePPO):
    """PPO whose rollouts stay on the device.

    `ep_info_buffer`, from which SB3 logs `rollout/ep_rew_mean`, holds the mean of the cohort of
    episodes that the last rollout completed, or nothing where it completed none; see
    `SimulatorVecEnv.pop_statistics`.
    """

    statistics: dict[str, float]
    """All means of that cohort; empty where the last rollout completed no cohort."""

    def _note(self, finished: list[tuple[Tensor, Tensor]]) -> None:
        assert self.ep_info_buffer is not None
        env = environment_of(self)
        for name, value in env.after_rollout().items():
            self.logger.record(name, value)
        self.statistics = env.pop_statistics()
        self.ep_info_buffer.clear()
        if self.statistics:
            self.ep_info_buffer.append(
                {"r": self.statistics["return"], "l": self.statistics["visits"]}
            )


Algorithm = TypeVar("Algorithm", bound=StockPPO)


def make_ppo(
    kind: str,
    env: SimulatorVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    *,
    start: Any = None,
    seed: int,
    device: torch.device | str = "cpu",
) -> SlatePPO:
    """PPO over a kind of policy, before its first update.

    Args:
        kind: a name in `policies.learnable.kinds.LEARNABLE`
        env: of the class that `agents.ppo.goals.face_for` tells
        config: hyper-parameters of PPO
        network: sizes of actor and critic
        start: the configuration of the kind, which says how the actor starts; None = its defaults
        seed: seed of the initial weights, of all draws and of the episodes
        device: where the networks are trained
    """
    return _make(SlatePPO, kind, env, config, network, start, seed, device)


def make_stock_ppo(
    kind: str,
    env: SimulatorVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    *,
    start: Any = None,
    seed: int,
    device: torch.device | str = "cpu",
) -> StockPPO:
    """The same as `make_ppo` with SB3's own loop, which learns from the same rewards in numpy."""
    return _make(StockPPO, kind, env, config, network, start, seed, device)


def _make(
    algorithm: type[Algorithm],
    kind: str,
    env: SimulatorVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    start: Any,
    seed: int,
    device: torch.device | str,
) -> Algorithm:
    policy = {
        "kind": kind,
        "composer": env.composer,
        "catalog": env.simulator.catalog,
        "start": start,
        "network": network,
        "seed": seed,
        "survival": env.weighs_survival,
    }
    seen = env if issubclass(algorithm, DevicePPO) else TrainingRewards(env)
    options: dict[str, Any] = asdict(config)
    if isinstance(env, ConditionedVecEnv):
        if not issubclass(algorithm, DevicePPO):
            raise ValueError(
                f"kind is {kind!r}, but SB3's own loop has one reward: several goals need make_ppo."
            )
        options["rollout_buffer_class"] = GoalRolloutBuffer
        options["rollout_buffer_kwargs"] = {"goals": len(env.composer.goals)}
    with warnings.catch_warnings():  # a rollout of few shoppers is one minibatch, which is as well
        warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)
        model = algorithm(
            SlateActorCritic, seen, **options, policy_kwargs=policy, seed=seed, device=device
        )
    # Stable-Baselines3's own logger makes a folder for temporary files at every call of `learn`.
    model.set_logger(Logger(folder=None, output_formats=[]))
    if isinstance(env, ConditionedVecEnv):  # one tensor, which weights and checkpoints hold
        env.goal_units = cast(ConditionedActor, model.policy.actor).goal_units
    return model


UNIT_VISITS = 160
"""Most visits from which the units of intent are fitted; more would change them little."""


def look_around(model: StockPPO, visits: int = 10) -> None:
    """Play some visits with the untrained policy, and fix all scales from them.

    They are the mean and the deviation of each feature and, where the policy acts in intents, the
    units of each number of an intent (`policies.units`). Where there are several goals, the first
    visit tells their units.
    """
    env = environment_of(model)
    face = TrainingRewards(env)
    seen = face.reset()
    if isinstance(env, ConditionedVecEnv):
        assert not isinstance(seen, tuple)
        _, worth, _, _ = face.step(model.policy.predict(seen, deterministic=True)[0])
        fit_goal_units(env, torch.as_tensor(worth) / env.reward_scale)
        seen, visits = face.reset(), visits - 1
    few = max(UNIT_VISITS // visits, 1)
    rows, observations = [], []
    for _ in range(visits):
        assert not isinstance(seen, tuple)
        rows.append(model.policy.features(model.policy.obs_to_tensor(seen)[0]))
        observations.append(
            {name: value[:few].clone() for name, value in env.seen(env.simulator.observe()).items()}
        )
        seen, _, _, _ = face.step(model.policy.predict(seen, deterministic=True)[0])
    model.policy.fit_standardizers(torch.cat(rows))
    if isinstance(actor := model.policy.actor, IntentActor):
        together = {
            name: torch.cat([one[name] for one in observations]) for name in observations[0]
        }
        actor.units.copy_(fitted_units(env.composer, env.composer.view(together)))


def environment_of(model: StockPPO) -> SimulatorVecEnv:
    """The environment in which a model is trained."""
    env = model.get_env()
    assert env is not None
    inside = env.unwrapped
    assert isinstance(inside, SimulatorVecEnv)
    return inside


def policy_of(model: StockPPO, *, deterministic: bool = True) -> Policy:
    """The policy of a model, as `agents.evaluate` takes it; it changes with the training."""
    return model.policy.in_use(deterministic=deterministic)


def frozen_policy_of(model: StockPPO, *, deterministic: bool = True) -> Policy:
    """A copy of the policy of a model, which no longer changes."""
    actor = cast(nn.Module, copy.deepcopy(model.policy.actor)).requires_grad_(False)
    return model.policy.in_use(deterministic=deterministic, actor=cast(Actor, actor))
