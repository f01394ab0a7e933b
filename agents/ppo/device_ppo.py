"""Stable-Baselines3's PPO with rollouts that stay on the device.

SB3's loop copies every observation, action, reward, value and log-probability from the device to
numpy and back. Here they remain tensors from the environment to the gradient. Everything else is
that of SB3: `train`, `learn`, the keys of the logger, callbacks, `save` and `load`, and, at the
same seed on a CPU, the numbers.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.ppo.rollout_buffer import DeviceRolloutBuffer
from agents.ppo.torch_vec_env import FinishedEpisodes, TorchVecEnv, as_tensors


class DevicePPO(PPO):
    """PPO on a `TorchVecEnv`, with the arguments of `stable_baselines3.PPO`.

    Callbacks find in `self.locals` the names of SB3 (`new_obs`, `rewards`, `dones`, `actions`,
    `values` and `log_probs`) as tensors. In place of `infos` they find `batch_step`, whose field
    `finished` holds the episodes that ended. `ep_info_buffer` is filled once per rollout, before it
    is logged, because filling it waits for the device.

    Raises:
        TypeError: If the environment is not a `TorchVecEnv`.
        ValueError: If `use_sde` is set, or the rollout buffer is not a `DeviceRolloutBuffer`.
    """

    def _setup_model(self) -> None:
        if self.use_sde:
            raise ValueError(
                "use_sde is True, but DevicePPO takes its actions from the policy alone: "
                "use SB3's PPO."
            )
        self.rollout_buffer_class = self.rollout_buffer_class or DeviceRolloutBuffer
        if not issubclass(self.rollout_buffer_class, DeviceRolloutBuffer):
            raise ValueError(
                f"rollout_buffer_class is {self.rollout_buffer_class.__name__}, but it must be a "
                "DeviceRolloutBuffer."
            )
        super()._setup_model()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        before = self._last_obs
        prepared = super()._setup_learn(*args, **kwargs)
        if self._last_obs is not before and isinstance(
            self.env, TorchVecEnv
        ):  # SB3 has begun episodes whose rewards are to be reported
            self._last_obs = cast(Any, self.env.reset_tensors())
        return prepared

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fill the buffer as SB3 does; return False where a callback stops the training.

        Raises:
            TypeError: If the environment is not a `TorchVecEnv`.
        """
        if not isinstance(env, TorchVecEnv):
            raise TypeError(
                f"env is a {type(env).__name__}, but DevicePPO steps a TorchVecEnv: use SB3's PPO "
                "for others."
            )
        assert self._last_obs is not None, "No previous observation was provided"

        # SB3 leaves arrays behind when it starts to learn; from here on they are tensors
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        last = cast(Any, self)  # SB3 declares arrays; tensors take their place
        last._last_obs = as_tensors(cast(Any, self._last_obs), self.device)
        last._last_episode_starts = torch.as_tensor(self._last_episode_starts, device=self.device)
        limits = self._limits()
        finished: list[tuple[Tensor, Tensor]] = []

        for _ in range(n_rollout_steps):
            with torch.no_grad():
                actions, values, log_probs = self.policy(self._last_obs)
            batch_step = env.step_tensors(self._inside(actions, limits))
            new_obs, rewards, dones = (
                batch_step.observations,
                batch_step.rewards,
                batch_step.ended,
            )
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                self._note(finished)
                return False
            if (ends := batch_step.finished) is not None:
                finished.append((ends.returns, ends.lengths))
                rewards = self._bootstrapped(rewards, ends)
            rollout_buffer.add(
                last._last_obs,
                actions,
                cast(Any, rewards),
                last._last_episode_starts,
                values,
                log_probs,
            )
            last._last_obs, last._last_episode_starts = new_obs, dones

        # advantages, given the value of the observations after the last step
        with torch.no_grad():
            values = self.policy.predict_values(cast(Any, new_obs))
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=cast(Any, dones))
        self._note(finished)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _limits(self) -> tuple[Tensor, Tensor] | None:
        """The bounds of a Box of actions, on the device; None for other action spaces."""
        space = self.action_space
        if not isinstance(space, spaces.Box):
            return None
        return torch.as_tensor(space.low, device=self.device), torch.as_tensor(
            space.high, device=self.device
        )

    def _inside(self, actions: Tensor, limits: tuple[Tensor, Tensor] | None) -> Tensor:
        """Actions as the environment takes them: those of a Gaussian are clipped to the bounds."""
        if limits is None:
            return actions
        low, high = limits
        return (
            low + 0.5 * (actions + 1.0) * (high - low)
            if self.policy.squash_output
            else actions.clamp(low, high)
        )

    @torch.no_grad()
    def _bootstrapped(self, rewards: Tensor, ends: FinishedEpisodes) -> Tensor:
        """Rewards (B, ...), plus the discounted value of what follows where the horizon struck.

        See Pardo et al. 2018, "Time limits in reinforcement learning", section 3.2.
        """
        which = ends.truncated.nonzero().squeeze(1)
        if not len(which):
            return rewards
        value = self.policy.predict_values(cast(Any, ends.last(which)))
        value = value.reshape(-1, *rewards.shape[1:])  # (R, 1), or (R, G) of several goals
        return rewards.index_add(0, ends.rows[which], self.gamma * value)

    def _note(self, finished: list[tuple[Tensor, Tensor]]) -> None:
        """Add finished episodes, their returns and lengths (E,) in order, to `ep_info_buffer`."""
        if finished:
            assert self.ep_info_buffer is not None
            returns, lengths = (torch.cat(column) for column in zip(*finished, strict=True))
            pairs = zip(returns.tolist(), lengths.tolist(), strict=True)
            self.ep_info_buffer.extend({"r": total, "l": length} for total, length in pairs)
