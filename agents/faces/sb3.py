"""The faces as vectorised environments of Stable-Baselines3, one batch each.

Intents have `agents.ppo.vec_env.IntentVecEnv`, masked places `MaskedVecEnv`; rewards are those of
the simulator in both, unless a `TrainingRewards` is put around them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agents.faces.intents import KNOBS
from agents.faces.masked import masked_observation, masks_of, place_space, slates_at
from agents.ppo.vec_env import IntentVecEnv, SimulatorVecEnv
from policies.composer import Composer, ComposerConfig, View
from policies.inputs import PolicyInputs
from recsim_env.simulator import SlateSimulator


class MaskedVecEnv(SimulatorVecEnv):
    """Environment whose actions are places in the list of candidates: MultiDiscrete([C] * K).

    Observation, action and masks are those of `agents.faces.masked.MaskedFace`, whose composer is
    to be handed in; weighted by survival, the weight is the last number of the observation.
    """

    def _space(self, view: View) -> spaces.Space[Any]:
        width = masked_observation(view).shape[1] + self.weighs_survival
        return spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def _action_space(self) -> spaces.Space[Any]:
        return place_space(self.composer.pool_size, self.composer.slate_size)

    def _observe(self, view: View, survival: Tensor) -> Tensor:
        seen = masked_observation(view)
        return torch.cat([seen, survival.unsqueeze(1)], 1) if self.weighs_survival else seen

    def _compose(self, view: View, actions: Tensor) -> Tensor:
        return slates_at(view.pool, actions.long())

    def action_masks(self) -> NDArray[np.bool_]:
        """Tell which places hold a candidate, at every position: (B, K * C) bool."""
        assert self._view is not None, "reset comes first"
        found: NDArray[np.bool_] = masks_of(self._view.pool, self.composer.slate_size).cpu().numpy()
        return found

    def env_method(
        self,
        method_name: str,
        *args: Any,
        indices: int | Iterable[int] | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Answer `action_masks`, the one method that each row has, with a mask a row.

        Raises:
            NotImplementedError: For any other method.
        """
        if method_name != "action_masks":
            return super().env_method(method_name, *args, indices=indices, **kwargs)
        masks = self.action_masks()
        if indices is None:
            return list(masks)
        rows = [indices] if isinstance(indices, int) else list(indices)
        return [masks[row] for row in rows]


def intent_vec_env(
    simulator: SlateSimulator,
    inputs: PolicyInputs,
    num_envs: int,
    seed: int = 0,
    *,
    config: ComposerConfig = KNOBS,
) -> IntentVecEnv:
    """Make the intents of B shoppers an environment of SB3; its arguments are those of `IntentEnv`.

    Args:
        simulator: shoppers that nobody else steps
        inputs: what policies are built from; it needs a ranker
        num_envs: B
        seed: seed of all episodes
        config: what the composer looks at
    """
    return IntentVecEnv(simulator, Composer(inputs, config), num_envs, seed)


def masked_vec_env(
    simulator: SlateSimulator,
    inputs: PolicyInputs,
    num_envs: int,
    seed: int = 0,
    *,
    candidates: int | None = None,
) -> MaskedVecEnv:
    """Make masked places of B shoppers an environment of SB3, for sb3-contrib's `MaskablePPO`.

    Args:
        simulator: shoppers that nobody else steps
        inputs: what policies are built from; it needs a ranker
        num_envs: B
        seed: seed of all episodes
        candidates: number C of best candidates on the list; None takes the pool of `inputs`
    """
    composer = Composer(inputs, ComposerConfig(pool=candidates, offset_dims=0))
    return MaskedVecEnv(simulator, composer, num_envs, seed)
