"""Stable-Baselines3's rollout buffer, stored in torch on the device of the policy."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from torch import Tensor

from recsim_env.types import to_numpy

NUMBERS = ("rewards", "episode_starts", "values", "log_probs", "advantages", "returns")
"""What is stored as one float32 number per step and environment."""


class DeviceRolloutBuffer(RolloutBuffer):
    """T steps of B environments with the numbers of SB3's buffers, kept on a device.

    Observations are tensors or dictionaries of tensors. `kept` holds the tensors, (T, B, ...) each,
    and `kept_seen` the observations. Code outside of the training loop may read them under SB3's
    names (`rewards`, `values`, ...), as numpy copies. Memory is allocated once and overwritten by
    every rollout.
    """

    kept: dict[str, Tensor]
    kept_seen: dict[str, Tensor]

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        super().__init__(
            buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs
        )
        parts = (
            observation_space.spaces
            if isinstance(observation_space, spaces.Dict)
            else {"": observation_space}
        )
        shapes = self.obs_shape if isinstance(self.obs_shape, dict) else {"": self.obs_shape}
        self.kept_seen = {name: self._room(shapes[name], space) for name, space in parts.items()}
        self.kept = {name: self._room(()) for name in NUMBERS} | {
            "actions": self._room((self.action_dim,), action_space)
        }

    def reset(self) -> None:
        """Begin a new rollout."""
        self.pos, self.full = 0, False

    def add(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        episode_start: Any,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Store one step of all environments, as tensors; see SB3's `RolloutBuffer.add`."""
        for name, room in self.kept_seen.items():
            room[self.pos] = (obs[name] if name else obs).reshape(room.shape[1:])
        now = {
            "rewards": reward,
            "episode_starts": episode_start,
            "values": value,
            "log_probs": log_prob,
        }
        for name, given in (now | {"actions": action}).items():
            room = self.kept[name]
            room[self.pos] = given.reshape(room.shape[1:])
        self.pos += 1
        self.full = self.pos == self.buffer_size

    @torch.no_grad()
    def compute_returns_and_advantage(self, last_values: Tensor, dones: Any) -> None:
        """Compute generalised advantage estimates and the returns that belong to them.

        See Schulman et al. 2016, equation 16.

        Shapes:
            last_values: (B,) or (B, 1), the values of the observations after the last step
            dones:       (B,) bool, whether the last step ended an episode
        """
        self.kept["advantages"].copy_(self._advantages(last_values, dones))
        torch.add(self.kept["advantages"], self.kept["values"], out=self.kept["returns"])

    def _advantages(self, last_values: Tensor, dones: Tensor) -> Tensor:
        """Generalised advantage estimates of the shape of the rewards: (T, B), or (T, B, G)."""
        kept = self.kept
        goes_on = 1.0 - torch.cat([kept["episode_starts"][1:], dones.float().unsqueeze(0)])
        goes_on = goes_on.view(*goes_on.shape, *[1] * (kept["rewards"].ndim - goes_on.ndim))
        last = last_values.reshape(1, *kept["values"].shape[1:])
        following = torch.cat([kept["values"][1:], last])
        surprise = kept["rewards"] + self.gamma * following * goes_on - kept["values"]
        carried = self.gamma * self.gae_lambda * goes_on
        advantage, advantages = torch.zeros_like(surprise[0]), torch.empty_like(surprise)
        for step in reversed(range(self.buffer_size)):
            advantage = surprise[step] + carried[step] * advantage
            advantages[step] = advantage
        return advantages

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches of tensors that hold every sample once.

        Their order is that of SB3 at the same state of numpy's generator.
        """
        assert self.full, "a rollout is learned from when it is complete"
        count = self.buffer_size * self.n_envs
        order = np.random.permutation(count)  # noqa: NPY002 - SB3's source of minibatches; see agents.ppo.randomness
        # SB3 numbers samples environment by environment; here they are stored step by step
        samples = torch.from_numpy(
            order % self.buffer_size * self.n_envs + order // self.buffer_size
        ).to(self.device)
        for rows in samples.split(batch_size or count):
            yield self._of(rows)

    def _of(self, rows: Tensor) -> RolloutBufferSamples:
        def taken(kept: Tensor) -> Tensor:
            return kept.flatten(0, 1).index_select(0, rows)

        numbers = [
            taken(self.kept[name]) for name in ("values", "log_probs", "advantages", "returns")
        ]
        rest = (
            taken(self.kept["actions"]).float(),
            *numbers,
        )  # SB3 hands on actions of any kind as float32
        if isinstance(self.observation_space, spaces.Dict):
            seen = {name: taken(kept) for name, kept in self.kept_seen.items()}
            return DictRolloutBufferSamples(seen, *rest)  # type: ignore[return-value] # as in SB3's DictRolloutBuffer
        return RolloutBufferSamples(taken(self.kept_seen[""]), *rest)

    def _room(self, shape: tuple[int, ...], space: spaces.Space[Any] | None = None) -> Tensor:
        """Zeros (T, B, *shape) of the dtype of a space, or of float32 without one."""
        dtype = np.float32 if space is None else space.dtype
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.zeros((self.buffer_size, self.n_envs, *shape), dtype=kind, device=self.device)

    def __getattr__(self, name: str) -> Any:
        """Copies of the tensors as the arrays that SB3's buffer has."""
        mine = self.__dict__
        if name == "observations" and "kept_seen" in mine:
            copies = {key: to_numpy(value) for key, value in mine["kept_seen"].items()}
            return copies.get("", copies)
        if name in mine.get("kept", {}):
            return to_numpy(mine["kept"][name])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
