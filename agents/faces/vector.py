"""A face as a Gymnasium vector environment: one batch, no sub-environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from agents.faces.face import Actions, Face
from policies.composer import View
from recsim_env.rendering import Frame
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, to_numpy
from recsim_env.vector import SlateVectorEnv

Array = NDArray[Any]


class FaceVectorEnv(VectorEnv[Array, Array, Array], Generic[Actions]):
    """A `SlateVectorEnv` behind a `Face`: (B, F) is observed, actions are (B, A).

    Rewards (float64), ends, info, seeding and `reset_mask` are those of `SlateVectorEnv`. With
    SAME_STEP, `info["final_obs"]` is an array of B objects: the last observation (F,) of a row
    whose episode ended, None elsewhere.

    Args:
        simulator: shoppers that nobody else steps; with objectives, rewards are (B, n), and
            `reward_space` is the space of a row's
        face: what is observed, and what actions mean
        num_envs: B
        autoreset_mode: when a row starts again after an end
        max_episode_steps: the steps after which an episode is truncated; None means no limit
        render_mode: as `SlateVectorEnv`

    Raises:
        ValueError: As `SlateVectorEnv`.
    """

    metadata: ClassVar[dict[str, Any]] = dict(SlateVectorEnv.metadata)  # type: ignore[misc]

    def __init__(
        self,
        simulator: SlateSimulator,
        face: Face[Actions],
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._slates = SlateVectorEnv(
            simulator,
            num_envs,
            autoreset_mode=autoreset_mode,
            output="torch",
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
        )
        self.face: Face[Actions] = face
        self.num_envs = self._slates.num_envs
        self.autoreset_mode = self._slates.autoreset_mode
        self.render_mode = self._slates.render_mode
        self.metadata = self._slates.metadata  # type: ignore[misc]
        self.single_observation_space = face.observation_space
        self.single_action_space = face.action_space
        self.observation_space = batch_space(face.observation_space, self.num_envs)
        self.action_space = batch_space(face.action_space, self.num_envs)
        if self.simulator.objectives is not None:
            self.reward_space = self.simulator.objectives.reward_space
        self._view: View | None = None

    @property
    def simulator(self) -> SlateSimulator:
        """The shoppers who are served."""
        return self._slates.simulator

    @property
    def view(self) -> View:
        """The visits as the face sees them.

        Raises:
            ResetNeeded: Before `reset`.
        """
        if self._view is None:
            raise ResetNeeded("The environment was not reset, but it needs reset first.")
        return self._view

    def reset(
        self, *, seed: Any = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes as `SlateVectorEnv.reset` does."""
        observation, info = self._slates.reset(seed=seed, options=options)
        return self._look(observation), info

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Show every shopper the slate of their action, actions (B, A), and let them react."""
        view, shape = self.view, self.action_space.shape or ()
        slates = self.face.compose(view, self.face.checked(actions, shape, "actions"))
        observation, reward, terminated, truncated, info = self._slates.step(slates)
        if "final_obs" in info:
            info["final_obs"] = self._last(info["final_obs"], info["_final_obs"])
        return (
            self._look(observation),
            _plain(reward).astype(np.float64),
            _plain(terminated),
            _plain(truncated),
            _plain(info),
        )

    def render(self) -> tuple[Frame, ...] | None:
        """Draw the last visit of every shopper as `SlateVectorEnv.render` does."""
        return self._slates.render()

    def _look(self, observation: Mapping[str, Any]) -> Array:
        """Keep the view of the visits, and return what the agent reads of them."""
        self._view = self.face.view(dict(observation))
        seen: Array = to_numpy(self.face.observe(self._view))
        return seen

    def _last(self, observation: Observation, ended: Tensor) -> Array:
        """Give what the agent reads at the end of the episodes that ended: (B,) objects."""
        rows = ended.nonzero().squeeze(1)
        last = {name: value[rows] for name, value in observation.items()}
        seen = to_numpy(self.face.observe(self.face.view(last)))
        found = np.full(self.num_envs, None, dtype=object)
        for at, row in enumerate(rows.tolist()):
            found[row] = seen[at]
        return found


def _plain(value: Any) -> Any:
    """Return tensors as arrays, those in an info too."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return to_numpy(value) if isinstance(value, Tensor) else value
