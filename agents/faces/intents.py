"""The intent of the composer as an action: a few numbers that steer a whole slate."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.faces.face import Face, as_array
from agents.faces.single import FaceEnv
from agents.faces.vector import FaceVectorEnv
from policies.composer import ComposerConfig, View
from policies.inputs import PolicyInputs
from recsim_env import checks
from recsim_env.simulator import SlateSimulator

LIMIT = 4.0
"""Bound of every number of an intent. All that tuning tries lies within, and libraries that stretch
actions over the whole box do not start far from the greedy slate."""
KNOBS = ComposerConfig(offset_dims=0)
"""The named knobs alone, with which most agents learn fastest."""


class IntentFace(Face[spaces.Box]):
    """Action: Box(A), the intent of `policies.composer`; 0 is `reward_greedy` exactly.

    Observation: Box(F), the state features of `policies.features`.

    Args:
        simulator: the shoppers; it is reset once
        inputs: what policies are built from; it needs a ranker
        config: what the composer looks at; with `offset_dims` above 0 the intent also moves the
            query among item embeddings
        limit: bound of every number of an intent; numbers beyond it count as the bound

    Raises:
        TypeError: As `Face`.
        ValueError: As `Face`, or if `limit` is no number above 0.
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        inputs: PolicyInputs,
        config: ComposerConfig = KNOBS,
        limit: float = LIMIT,
    ) -> None:
        self.limit = checks.number("limit", limit, 0, above=True)
        super().__init__(simulator, inputs, config)

    def observe(self, view: View) -> Tensor:
        """Give the features of a visit: (B, F)."""
        return view.features

    def compose(self, view: View, actions: Tensor) -> Tensor:
        """Compose slates (B, K) from intents (B, A)."""
        return self.composer.compose_view(view, actions)

    def checked(self, actions: Any, shape: tuple[int, ...], name: str) -> Tensor:
        """Return finite intents, brought within the limit."""
        found = as_array(actions, shape, "fiu", name)
        wrong = np.argwhere(~np.isfinite(found))
        if len(wrong):
            value, place = found[tuple(wrong[0])], wrong[0].tolist()
            raise ValueError(f"{name} holds {value} at {place}, but it must hold finite numbers.")
        intents = torch.as_tensor(found, dtype=torch.float32, device=self.device)
        return intents.clamp(-self.limit, self.limit)

    def _action_space(self) -> spaces.Box:
        size = self.composer.intent_size
        return spaces.Box(-self.limit, self.limit, (size,), np.float32)


class IntentEnv(FaceEnv[spaces.Box]):
    """One shopper whose slate an intent steers, for any algorithm with a continuous action.

    - observation: `Box` float32 (F,), features of what the shop remembers of the shopper and of the
      candidates' scores, each of the order of 1
    - action: `Box` float32 (A,) from -`limit` to `limit`: how much each knob of the composer counts
      (`env.face.composer.knobs` names them); 0 is the slate that is greedy in the reward
    - reward, ends, info, seeding: those of `recsim_env.SlateEnv`

    Args:
        simulator: shoppers that nobody else steps
        inputs: what policies are built from; it needs a ranker
        config: what the composer looks at
        limit: bound of every number of an intent
        render_mode: as `SlateEnv`
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        inputs: PolicyInputs,
        *,
        config: ComposerConfig = KNOBS,
        limit: float = LIMIT,
        render_mode: str | None = None,
    ) -> None:
        face = IntentFace(simulator, inputs, config, limit)
        super().__init__(simulator, face, render_mode=render_mode)


class IntentVectorEnv(FaceVectorEnv[spaces.Box]):
    """B shoppers at once; row b is the shopper that `IntentEnv` would meet under the row's seed.

    Args:
        simulator: shoppers that nobody else steps
        inputs: what policies are built from; it needs a ranker
        num_envs: B
        config: what the composer looks at
        limit: bound of every number of an intent
        options: what `FaceVectorEnv` takes: `autoreset_mode`, `max_episode_steps`, `render_mode`
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        inputs: PolicyInputs,
        num_envs: int = 1,
        *,
        config: ComposerConfig = KNOBS,
        limit: float = LIMIT,
        **options: Any,
    ) -> None:
        super().__init__(
            simulator, IntentFace(simulator, inputs, config, limit), num_envs, **options
        )
