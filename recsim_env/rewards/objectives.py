"""Objectives: registered terms that are told side by side instead of in one sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from recsim_env import checks
from recsim_env.rewards.inputs import RewardInputs
from recsim_env.rewards.terms import REWARD_TERMS
from recsim_env.rewards.weighted import Reward


def checked_objectives(objectives: Any) -> tuple[str, ...] | None:
    """Check the names of objectives; None means that there are none.

    Raises:
        ValueError: If they are no sequence of names of registered terms, if it is empty, or if a
            name stands in it twice.
    """
    if objectives is None:
        return None
    expected = f"it must be different names out of {sorted(REWARD_TERMS)}, in a tuple"
    if isinstance(objectives, Mapping):
        expected += ", without weights, which belong to reward"
    if not isinstance(objectives, Sequence) or isinstance(objectives, (str, bytes)):
        raise ValueError(f"objectives is {checks.told(objectives)}, but {expected}.")
    if not objectives:
        raise ValueError(f"objectives is empty, but {expected}; None means no objectives.")
    for at, name in enumerate(objectives):
        REWARD_TERMS.find(f"objectives[{at}]", name)
        if name in objectives[:at]:
            raise ValueError(f"objectives has {name!r} twice, but {expected}.")
    return tuple(objectives)


class Objectives:
    """The values of named objectives, in their order.

    Args:
        names: Their names, checked.
        reward: The reward beside them; a term that it has is not computed twice.
    """

    def __init__(self, names: tuple[str, ...], reward: Reward) -> None:
        self.names = names
        further = [name for name in names if name not in reward.weights]
        self._further = Reward(dict.fromkeys(further, 1.0)) if further else None
        self.reward_space = spaces.Box(-np.inf, np.inf, (len(names),), np.float32)
        """The space of the values of one shopper, as MO-Gymnasium asks for it."""

    def __call__(self, inputs: RewardInputs, known: Mapping[str, Tensor]) -> Tensor:
        """Return the value of every objective: (B, n) float32.

        Args:
            inputs: The slates and what followed them.
            known: The terms of the reward by name, (B,) float32 each.

        Raises:
            ValueError: As `Reward`.
        """
        further = {} if self._further is None else self._further(inputs)[1]
        values = {**known, **further}
        return torch.stack([values[name] for name in self.names], dim=1)
