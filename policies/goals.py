"""Goals: reward terms that are weighed anew for every shopper, and how their weights are told.

Weights join an observation under the key `goal_weights`, as a belief joins it by its keys: the
composer plans by them, and they are features because the key is a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from recsim_env import checks
from recsim_env.rewards import MOST_WEIGHT, REWARD_TERMS, Reward
from recsim_env.types import Observation

WEIGHTS = "goal_weights"
"""Key of an observation: (B, G) float32, how much each goal counts for each shopper."""
Weights = (
    Mapping[str, float] | Sequence[float] | NDArray[Any] | Tensor | Callable[[Observation], Tensor]
)
"""Weights of goals: by name, one number a goal, a row (G,) or rows (B, G), or a function of what is
observed of the shoppers that gives rows (B, G)."""


def checked_goals(name: str, goals: Any) -> tuple[str, ...]:
    """Check the names of goals.

    Raises:
        ValueError: If a goal is no registered reward term, or stands there twice.
        TypeError: If they are no sequence.
    """
    found = tuple(checks.several(name, goals))
    for at, goal in enumerate(found):
        REWARD_TERMS.find(f"{name}[{at}]", goal)
        if goal in found[:at]:
            raise ValueError(f"{name} has {goal!r} twice, but goals must be different.")
    return found


def goals_space(space: spaces.Dict, goals: int) -> spaces.Dict:
    """The space of an observation that brings the weights of so many goals along."""
    own: dict[str, gymnasium.Space[Any]] = {WEIGHTS: spaces.Box(0, np.inf, (goals,), np.float32)}
    return spaces.Dict({**space.spaces, **own})


def usual_weights(goals: Sequence[str], reward: Reward) -> Tensor:
    """The weights (G,) that a reward gives to goals; all alike where it pays for none of them.

    Raises:
        ValueError: If a goal is none, or its weight in the reward is negative.
    """
    known = checked_goals("goals", goals)
    for goal in known:
        if reward.weights.get(goal, 0.0) < 0:
            raise ValueError(
                f"reward[{goal!r}] is {reward.weights[goal]:g}, but the weight of a goal must be 0 "
                "or more."
            )
    weights = torch.tensor([reward.weights.get(goal, 0.0) for goal in known], dtype=torch.float32)
    return weights if bool((weights > 0).any()) else torch.ones_like(weights)


def told_weights(observation: Observation, goals: Sequence[str]) -> Tensor:
    """The weights (B, G) that an observation brings along.

    Raises:
        ValueError: If it has none of these goals.
    """
    found = observation.get(WEIGHTS)
    if found is None or found.ndim != 2 or found.shape[1] != len(goals):
        raise ValueError(
            f"observation[{WEIGHTS!r}] is {checks.told(found)}, but it must be a float32 tensor of "
            f"shape (B, {len(goals)}), the weights of {list(goals)} for every shopper."
        )
    return found


def as_weights(name: str, weights: Any, goals: Sequence[str]) -> Tensor:
    """Check weights that were told, for all shoppers or for each one.

    Args:
        name: What messages call them.
        weights: By name, one number a goal, or an array or tensor (G,) or (B, G). A goal that a
            mapping does not name has the weight 0.
        goals: The names of the goals.

    Returns:
        (G,) or (B, G) float32.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If they are of another shape, not finite, negative or all 0 in a row.
    """
    # names and whole numbers become numbers in the order of the goals
    if isinstance(weights, Mapping):
        for goal in weights:
            checks.choice(f"a goal of {name}", goal, list(goals))
        weights = [
            checks.number(f"{name}[{goal!r}]", weights.get(goal, 0.0), 0, MOST_WEIGHT)
            for goal in goals
        ]
    if isinstance(weights, np.ndarray) and weights.dtype.kind in "fiu":
        weights = torch.from_numpy(weights)
    if not isinstance(weights, Tensor):
        told = [
            checks.number(f"{name}[{at}]", value, 0, MOST_WEIGHT)
            for at, value in enumerate(checks.several(name, weights))
        ]
        weights = torch.tensor(told, dtype=torch.float32)

    # one row for all, or one each
    expected = f"one number for each of {list(goals)}, or such a row for each shopper"
    numbers = weights.dtype is not torch.bool and not weights.is_complex()
    if not numbers or weights.ndim not in (1, 2):
        raise ValueError(f"{name} is {checks.told(weights)}, but it must be {expected}.")
    if weights.shape[-1] != len(goals):
        raise ValueError(f"{name} has {weights.shape[-1]} numbers, but it must be {expected}.")
    checked: Tensor = weights.float()
    rows = checked.reshape(-1, len(goals))
    bad = ~((rows >= 0) & (rows <= MOST_WEIGHT)).all(dim=1) | (rows <= 0).all(dim=1)
    if bool(bad.any()):
        row = rows[int(bad.int().argmax())]
        raise ValueError(
            f"{name} holds {[round(value, 6) for value in row.tolist()]}, but weights must be "
            f"from 0 to {MOST_WEIGHT:g}, and not all 0."
        )
    return checked
