"""A Stable-Baselines3 `VecEnv` whose steps are tensors on a device; numpy is one way to call it.

`agents.ppo.device_ppo` calls `reset_tensors` and `step_tensors`, and nothing leaves the device.
SB3's own algorithms and tools call `reset` and `step`, which are those two and a copy, unless a
class says otherwise: where rewards to learn from differ from those that are reported
(`agents.ppo.vec_env`), numpy holds what is reported, and `TrainingRewards` carries what is learned
from into numpy. An episode that ends is started anew at once. In numpy its last observation stands
in `infos[i]["terminal_observation"]`, and `infos[i]["TimeLimit.truncated"]` is True where the
horizon cut it off (the return goes on: bootstrap) and False where the shopper lapsed (nothing
follows).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

Seen = Tensor | dict[str, Tensor]
"""Observations, with the first dimension of rows: (B, ...), or such a tensor a key."""
Indices = None | int | Iterable[int]


@dataclass(frozen=True)
class Ends:
    """The E episodes, at least one, that ended in a step."""

    rows: Tensor
    """(E,) int64, where they were."""
    truncated: Tensor
    """(E,) bool, cut off by the horizon; otherwise nothing follows."""
    returns: Tensor
    """(E,) float32, sum of the rewards as they are reported."""
    lengths: Tensor
    """(E,) float32, steps; the expected number of them where rewards are weighted by survival."""
    last: Callable[[Tensor], Seen]
    """What was last seen in some of them, (R,) int64 positions among the E: worked out only when
    asked for."""


@dataclass(frozen=True)
class Turn:
    """What a step led to. The tensors are the caller's to keep, and nobody writes into them."""

    seen: Seen
    """What is seen now; where an episode ended, the first of the next one."""
    rewards: Tensor
    """(B,) float32, what is learned from."""
    ended: Tensor
    """(B,) bool."""
    ends: Ends | None
    """The episodes that ended; None where there are none."""


class TorchVecEnv(VecEnv):
    """B environments in lockstep on one device."""

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device,
    ) -> None:
        self.device = device
        self.render_mode: str | None = None
        self._actions: Tensor | None = None
        super().__init__(num_envs, observation_space, action_space)

    @abstractmethod
    def reset_tensors(self) -> Seen:
        """Start new episodes everywhere."""

    @abstractmethod
    def step_tensors(self, actions: Tensor) -> Turn:
        """Act: actions (B, ...) on the device, inside the action space."""

    # ---- the same in numpy ----

    def reset(self) -> VecEnvObs:
        """`reset_tensors`."""
        return as_numpy(self.reset_tensors())

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions."""
        self._actions = torch.from_numpy(actions).to(self.device)

    def step_wait(self) -> VecEnvStepReturn:
        """`step_tensors`, with an info for each environment."""
        return as_step(self.step_tensors(self.actions))

    @property
    def actions(self) -> Tensor:
        """What `step_async` took, on the device."""
        assert self._actions is not None, "step_async comes first"
        return self._actions

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The attribute, once an environment asked for."""
        return [getattr(self, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Not possible: the environments are rows of one batch."""
        raise NotImplementedError(
            "All environments are rows of one batch; set the attributes of that instead."
        )

    def env_method(
        self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any
    ) -> list[Any]:
        """Not possible: the environments are rows of one batch."""
        raise NotImplementedError(
            "All environments are rows of one batch; call the methods of that instead."
        )

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Never: no row has a wrapper of its own."""
        return [False] * self._count(indices)

    def _count(self, indices: Indices) -> int:
        if indices is None:
            return self.num_envs
        return 1 if isinstance(indices, int) else len(list(indices))


class TrainingRewards(VecEnvWrapper):
    """The rewards and episodes that an agent learns from, in numpy, for SB3's own PPO: `TorchVecEnv.step_tensors`.

    What SB3 reports around this wrapper, such as a `VecMonitor` outside of it, is in the scale of
    learning. Evaluate in the environment itself.

    Args:
        venv: a `TorchVecEnv`
    """

    venv: TorchVecEnv

    def reset(self) -> VecEnvObs:
        """`TorchVecEnv.reset_tensors`."""
        return as_numpy(self.venv.reset_tensors())

    def step_wait(self) -> VecEnvStepReturn:
        """`TorchVecEnv.step_tensors`, with an info for each environment."""
        return as_step(self.venv.step_tensors(self.venv.actions))


def as_step(turn: Turn) -> VecEnvStepReturn:
    """A turn in numpy, with an info for each environment."""
    infos: list[dict[str, Any]] = [_NOTHING] * len(turn.ended)
    if turn.ends is not None:
        _tell(turn.ends, infos)
    return as_numpy(turn.seen), turn.rewards.cpu().numpy(), turn.ended.cpu().numpy(), infos


def as_numpy(seen: Seen) -> VecEnvObs:
    """Observations in numpy; on a CPU in the same memory."""
    if isinstance(seen, dict):
        return {name: value.cpu().numpy() for name, value in seen.items()}
    return seen.cpu().numpy()


def as_tensors(seen: Seen | VecEnvObs, device: torch.device) -> Seen:
    """Observations as tensors on a device; those that lie there already are handed through."""
    if isinstance(seen, dict):
        return {name: torch.as_tensor(value, device=device) for name, value in seen.items()}
    return torch.as_tensor(seen, device=device)


_NOTHING: dict[str, Any] = {}
"""The info of every row that goes on: one shared dictionary, which nobody writes into."""


def _tell(ends: Ends, infos: list[dict[str, Any]]) -> None:
    """Write the infos of the rows that ended."""
    seen = as_numpy(ends.last(torch.arange(len(ends.rows), device=ends.rows.device)))
    truncated, returns, lengths = (
        ends.truncated.tolist(),
        ends.returns.tolist(),
        ends.lengths.tolist(),
    )
    for at, row in enumerate(ends.rows.tolist()):
        infos[row] = {
            "terminal_observation": _row(seen, at),
            "TimeLimit.truncated": truncated[at],
            "episode": {"r": returns[at], "l": lengths[at]},
        }


def _row(seen: VecEnvObs, at: int) -> Any:
    if isinstance(seen, dict):
        return {name: value[at] for name, value in seen.items()}
    return cast(np.ndarray, seen)[at]
