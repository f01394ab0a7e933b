"""A face as a Gymnasium environment of one shopper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from agents.faces.face import Actions, Face
from policies.composer import View
from recsim_env.env import RenderModes, SlateEnv
from recsim_env.rendering import RENDER_MODES, Frame
from recsim_env.simulator import SlateSimulator

Floats = NDArray[np.float32]


class FaceEnv(gymnasium.Env[Any, Any], Generic[Actions]):
    """A `SlateEnv` behind a `Face`: one vector is observed, and actions are those of the face.

    Args:
        simulator: shoppers that nobody else steps; with objectives, rewards are those of `SlateEnv`
            with them, and `reward_space` is their space
        face: what is observed, and what actions mean
        render_mode: `ansi`, `rgb_array` or None, as `SlateEnv`

    Raises:
        ValueError: As `SlateEnv`.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": RenderModes(RENDER_MODES),
        "render_fps": 1,
    }

    def __init__(
        self, simulator: SlateSimulator, face: Face[Actions], *, render_mode: str | None = None
    ) -> None:
        self._slates = SlateEnv(simulator, render_mode=render_mode)
        self.face: Face[Actions] = face
        self.render_mode = self._slates.render_mode
        self.observation_space = face.observation_space
        self.action_space = face.action_space
        if simulator.objectives is not None:
            self.reward_space = simulator.objectives.reward_space
        self._view: View | None = None

    @property
    def simulator(self) -> SlateSimulator:
        """The shoppers who are served."""
        return self._slates.simulator

    @property
    def view(self) -> View:
        """The visit as the face sees it.

        Raises:
            ResetNeeded: Before `reset`.
        """
        if self._view is None:
            raise ResetNeeded("The environment was not reset, but it needs reset first.")
        return self._view

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start an episode as `SlateEnv.reset` does."""
        observation, info = self._slates.reset(seed=seed, options=options)
        super().reset(seed=seed)
        return self._look(observation), info

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Show the slate of an action (A,), and let the shopper react."""
        view, shape = self.view, self.action_space.shape or ()
        actions = self.face.checked(action, shape, "action").unsqueeze(0)
        slate = self.face.compose(view, actions)[0].cpu().numpy()
        observation, reward, terminated, truncated, info = self._slates.step(slate)
        return self._look(observation), reward, terminated, truncated, info

    def render(self) -> Frame | None:
        """Draw the last visit as `SlateEnv.render` does."""
        return self._slates.render()

    @torch.no_grad()
    def _look(self, observation: Mapping[str, NDArray[Any]]) -> Floats:
        """Keep the view of a visit, and return what the agent reads of it."""
        device = self.simulator.device
        batch = {
            name: torch.as_tensor(value, device=device).unsqueeze(0)
            for name, value in observation.items()
        }
        self._view = self.face.view(batch)
        seen: Floats = self.face.observe(self._view)[0].cpu().numpy()
        return seen
