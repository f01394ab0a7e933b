"""How an agent of somebody else's library meets a visit: numbers to read, an action to return.

Item ids are names and no numbers, so that a network which reads them or chooses among thousands of
them learns nothing. A face turns a visit into one vector of features, and an action of a small
space into a slate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from policies.composer import Composer, ComposerConfig, View
from policies.inputs import PolicyInputs
from recsim_env import checks
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

Predict = Callable[..., Any]
"""Chooses actions (B, ...) for observations (B, F) float32, in numpy. Where the face has masks they
are the second argument, (B, M) bool."""
Actions = TypeVar("Actions", spaces.Box, spaces.MultiDiscrete)


class Face(ABC, Generic[Actions]):
    """What a visit looks like to an agent, and what its actions mean.

    Args:
        simulator: the shoppers; it is reset once, to learn the width of the features
        inputs: what policies are built from; it needs a ranker
        config: what the composer looks at

    Shapes: B shoppers, F features, A numbers of an action, M numbers of a mask, K positions.

    Raises:
        TypeError: If an argument is of another class.
        ValueError: If `inputs` has no ranker.
    """

    observation_space: spaces.Box
    """Space of the observation of one shopper: (F,) float32, every number of the order of 1."""
    action_space: Actions
    """Space of the action for one shopper."""

    def __init__(
        self, simulator: SlateSimulator, inputs: PolicyInputs, config: ComposerConfig
    ) -> None:
        checks.instance("simulator", simulator, SlateSimulator)
        self.composer = Composer(inputs, config)
        self.device = simulator.device
        view = self.view(simulator.reset(torch.zeros(1, dtype=torch.int64)))
        width = self.observe(view).shape[1]
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = self._action_space()

    def view(self, observation: Observation) -> View:
        """Look at a visit of B shoppers."""
        return self.composer.view(observation)

    @abstractmethod
    def observe(self, view: View) -> Tensor:
        """Give what the agent reads of a visit: (B, F) float32."""

    @abstractmethod
    def compose(self, view: View, actions: Tensor) -> Tensor:
        """Make slates (B, K) of checked actions (B, A)."""

    @abstractmethod
    def checked(self, actions: Any, shape: tuple[int, ...], name: str) -> Tensor:
        """Return actions as a tensor on the device.

        Args:
            actions: what an agent chose
            shape: (A,) or (B, A)
            name: what messages call the actions

        Raises:
            TypeError: If they are of another type.
            ValueError: If they have another shape, or hold a number that cannot be.
        """

    @abstractmethod
    def _action_space(self) -> Actions:
        """Space of the action for one shopper."""

    def masks(self, view: View) -> Tensor | None:
        """Tell which actions may be chosen, (B, M) bool; None where all of them may."""
        return None

    def policy(self, predict: Predict) -> FacePolicy:
        """Make a `Policy` of an agent's `predict`, for `agents.evaluate.evaluate` for example."""
        return FacePolicy(self, predict)


class FacePolicy:
    """An agent of another library as a `recsim_env.types.Policy`.

    Args:
        face: the face that the agent was trained behind
        predict: chooses actions, for example
            `lambda seen: model.predict(seen, deterministic=True)[0]`
    """

    draws = 0

    def __init__(self, face: Face[Any], predict: Predict) -> None:
        checks.instance("face", face, Face)
        if not callable(predict):
            raise TypeError(f"predict is {checks.told(predict)}, but it must be a function.")
        self.face = face
        self.predict = predict

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Choose slates (B, K)."""
        view = self.face.view(observation)
        seen = self.face.observe(view)
        masks = self.face.masks(view)
        told = [seen.cpu().numpy()] + ([] if masks is None else [masks.cpu().numpy()])
        shape = (len(seen), *(self.face.action_space.shape or ()))
        actions = self.face.checked(self.predict(*told), shape, "predict(observations)")
        return self.face.compose(view, actions)


def as_array(value: Any, shape: tuple[int, ...], kinds: str, name: str) -> NDArray[Any]:
    """Return actions as an array.

    Args:
        value: the actions
        shape: the shape that they must have
        kinds: numpy's letters of the types that they may have
        name: what messages call them

    Raises:
        TypeError: If they are of another type.
        ValueError: If they have another shape.
    """
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except Exception as error:  # rows of different length, or an object that cannot be an array
        raise ValueError(
            f"{name} is {checks.told(value)}, but it must be an array of the shape {shape}."
        ) from error
    if array.dtype.kind not in kinds:
        expected = "whole numbers" if "f" not in kinds else "numbers"
        raise TypeError(f"{name} has the dtype {array.dtype}, but it must hold {expected}.")
    if array.shape != shape:
        raise ValueError(f"{name} has the shape {array.shape}, but it must be {shape}.")
    return array
