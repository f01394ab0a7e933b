"""A reward: a weighted sum of registered terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from recsim_env import checks
from recsim_env.rewards.inputs import RewardInputs
from recsim_env.rewards.terms import REWARD_TERMS, term_value
from recsim_env.tensors import widened

MOST_WEIGHT = 1e9
"""Largest weight of a term: with it no reward leaves the range of float32 while terms stay below
1e29."""


@dataclass(frozen=True)
class Reward:
    """A weighted sum of registered terms.

    `Reward({"clicks": 1.0, "intra_list_distance": 1.0})`.

    Raises:
        TypeError: If `weights` is no mapping.
        ValueError: If there is no term, a term is not registered, or a weight is no finite number
            from -1e9 to 1e9.
    """

    weights: Mapping[str, float] = field(
        default_factory=lambda: {"clicks": 1.0, "intra_list_distance": 1.0}
    )
    """Weight of each term by its name in `REWARD_TERMS`; by default a slate of unrelated items is
    worth a response."""
    _called: ClassVar[bool] = False  # no field: it says nothing of the reward

    def __post_init__(self) -> None:
        weights = checks.mapping("reward", self.weights)
        if not weights:
            raise ValueError(
                f"reward has no term, but it needs at least one of {sorted(REWARD_TERMS)}."
            )
        for name in weights:
            REWARD_TERMS.find("a term of reward", name)
            weights[name] = checks.number(
                f"reward[{name!r}]", weights[name], -MOST_WEIGHT, MOST_WEIGHT
            )
        object.__setattr__(self, "weights", weights)

    def __call__(self, inputs: RewardInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the reward (B,) float32, and each term (B,) float32 before its weight, by name.

        Raises:
            ValueError: If a term is no real tensor of shape (B,) on the device of the slates, if it
                wrote into its inputs, or if a reward is not finite. The numbers are checked on a
                CPU at every call, elsewhere at the first: it takes a synchronisation.
        """
        values = {name: widened(term_value(name, inputs)) for name in self.weights}
        terms = [weight * values[name] for name, weight in self.weights.items()]
        total = sum(terms[1:], start=terms[0] + 0).float()  # + 0: there is no reward of -0
        if total.is_cpu or not (self._called or total.is_meta):
            _check_finite(total, values)
            vars(self)["_called"] = True
        return total, {name: value.float() for name, value in values.items()}


def as_reward(reward: Reward | Mapping[str, float] | None) -> Reward:
    """Return a copy of a reward, from a reward, from weights by name, or the default from None.

    Raises:
        TypeError: As `Reward`.
        ValueError: As `Reward`.
    """
    if reward is None:
        return Reward()
    return Reward(reward.weights if isinstance(reward, Reward) else reward)


def _check_finite(total: Tensor, values: Mapping[str, Tensor]) -> None:
    if math.isfinite(total.sum().item()) or bool(
        total.isfinite().all()
    ):  # a sum takes a fifth of the time
        return
    row = int((~total.isfinite()).nonzero()[0, 0])
    found = ", ".join(f"{name} {float(value[row])}" for name, value in values.items())
    raise ValueError(
        f"The reward of row {row} is {float(total[row])} ({found}), but it must be finite."
    )
