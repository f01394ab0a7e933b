"""A Stable-Baselines3 `VecEnv` whose steps are tensors on a device, with a numpy interface.

`agents.ppo.device_ppo` calls `reset_tensors` and `step_tensors`, and nothing leaves the device.
SB3's own algorithms and tools call `reset` and `step`, which by default do the same and copy the
result into numpy. Where the rewards to learn from differ from the rewards to report
(`agents.ppo.vec_env`), the numpy interface returns those to report, and the wrapper
`TrainingRewards` returns those to learn from.

An episode that ends is followed by a new one at once. In numpy its last observation is
`infos[i]["terminal_observation"]`. `infos[i]["TimeLimit.truncated"]` is True where the horizon cut
the episode off, so that its return has to be bootstrapped, and False where the shopper lapsed, so
that nothing follows.
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

BatchObservation = Tensor | dict[str, Tensor]
"""Observations of B environments: one tensor (B, ...), or a dictionary of such tensors."""
Indices = None | int | Iterable[int]
"""Which environments an attribute is asked of, as in SB3."""


@dataclass(frozen=True)
class FinishedEpisodes:
    """The E episodes, at least one, that ended in a step of B environments."""

    rows: Tensor
    """(E,) int64, the rows of the batch in which they ended."""
    truncated: Tensor
    """(E,) bool, True where the horizon cut the episode off, False where the shopper lapsed."""
    returns: Tensor
    """(E,) float32, the sum of the rewards to report."""
    lengths: Tensor
    """(E,) float32, the number of steps; its expectation where rewards are weighted by survival."""
    last: Callable[[Tensor], BatchObservation]
    """The last observations of some of them, given as indices (R,) int64 among the E. They are
    computed only on request, because most of them are never needed."""


@dataclass(frozen=True)
class BatchStep:
    """The result of a step of B environments; its tensors are never written to again."""

    observations: BatchObservation
    """The observations after the step; where an episode ended, the first of the next episode."""
    rewards: Tensor
    """(B,) float32, the rewards to learn from, or to report after `reset`; (B, G) to learn from
    where there are several goals."""
    ended: Tensor
    """(B,) bool, whether the step ended the episode of a row."""
    finished: FinishedEpisodes | None
    """The episodes that ended; None where there are none."""


class TorchVecEnv(VecEnv):
    """B environments that step together on one device.

    Args:
        num_envs: B
        observation_space: space of the observation of one environment
        action_space: space of the action of one environment
        device: where observations, rewards and actions are kept
    """

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
    def reset_tensors(self) -> BatchObservation:
        """Start a new episode in every environment, and return its first observations."""

    @abstractmethod
    def step_tensors(self, actions: Tensor) -> BatchStep:
        """Take the actions (B, ...), which are on the device and inside the action space."""

    # ---- the same in numpy ----

    def reset(self) -> VecEnvObs:
        """Do the same as `reset_tensors`, with the result in numpy."""
        return as_numpy(self.reset_tensors())

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = torch.from_numpy(actions).to(self.device)

    def step_wait(self) -> VecEnvStepReturn:
        """Do the same as `step_tensors`, with the result in numpy and an info for each row."""
        return as_step(self.step_tensors(self.actions))

    @property
    def actions(self) -> Tensor:
        """The actions that `step_async` was given, on the device."""
        assert self._actions is not None, "step_async comes first"
        return self._actions

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The attribute of the batch, repeated for each environment that was asked for."""
        return [getattr(self, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refuse, because the environments are rows of one batch.

        Raises:
            NotImplementedError: At every call.
        """
        raise NotImplementedError(
            "All environments are rows of one batch; set the attributes of that instead."
        )

    def env_method(
        self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any
    ) -> list[Any]:
        """Refuse, because the environments are rows of one batch.

        Raises:
            NotImplementedError: At every call.
        """
        raise NotImplementedError(
            "All environments are rows of one batch; call the methods of that instead."
        )

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """False for every environment, because no row has a wrapper of its own."""
        return [False] * self._count(indices)

    def _count(self, indices: Indices) -> int:
        if indices is None:
            return self.num_envs
        return 1 if isinstance(indices, int) else len(list(indices))


class TrainingRewards(VecEnvWrapper):
    """Gives SB3's own PPO, in numpy, the rewards and episodes of `TorchVecEnv.step_tensors`.

    Whatever SB3 reports around this wrapper, for example by a `VecMonitor`, is in the scale of the
    rewards to learn from. To evaluate, use the environment itself.

    Args:
        venv: a `TorchVecEnv`
    """

    venv: TorchVecEnv

    def reset(self) -> VecEnvObs:
        """Do the same as `TorchVecEnv.reset_tensors`, with the result in numpy."""
        return as_numpy(self.venv.reset_tensors())

    def step_wait(self) -> VecEnvStepReturn:
        """Do the same as `TorchVecEnv.step_tensors`, in numpy and with an info for each row."""
        return as_step(self.venv.step_tensors(self.venv.actions))


def as_step(step: BatchStep) -> VecEnvStepReturn:
    """A step in numpy, with an info for each environment."""
    infos: list[dict[str, Any]] = [_NO_INFO] * len(step.ended)
    if step.finished is not None:
        _write_infos(step.finished, infos)
    return as_numpy(step.observations), step.rewards.cpu().numpy(), step.ended.cpu().numpy(), infos


def as_numpy(observations: BatchObservation) -> VecEnvObs:
    """Observations in numpy; those on a CPU share the memory of the tensors."""
    if isinstance(observations, dict):
        return {name: value.cpu().numpy() for name, value in observations.items()}
    return observations.cpu().numpy()


def as_tensors(
    observations: BatchObservation | VecEnvObs, device: torch.device
) -> BatchObservation:
    """Observations as tensors on a device; tensors that are there already are not copied."""
    if isinstance(observations, dict):
        return {name: torch.as_tensor(value, device=device) for name, value in observations.items()}
    return torch.as_tensor(observations, device=device)


_NO_INFO: dict[str, Any] = {}
"""The info of every row whose episode continues: one shared dictionary that stays empty."""


def _write_infos(finished: FinishedEpisodes, infos: list[dict[str, Any]]) -> None:
    """Write the infos of the rows whose episode ended."""
    last = as_numpy(finished.last(torch.arange(len(finished.rows), device=finished.rows.device)))
    truncated, returns, lengths = (
        finished.truncated.tolist(),
        finished.returns.tolist(),
        finished.lengths.tolist(),
    )
    for at, row in enumerate(finished.rows.tolist()):
        infos[row] = {
            "terminal_observation": _row(last, at),
            "TimeLimit.truncated": truncated[at],
            "episode": {"r": returns[at], "l": lengths[at]},
        }


def _row(observations: VecEnvObs, at: int) -> Any:
    """The observation of one row."""
    if isinstance(observations, dict):
        return {name: value[at] for name, value in observations.items()}
    return cast(np.ndarray, observations)[at]
