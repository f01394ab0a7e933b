"""What is sold as one: the lift of a candidate with the bundle so far, and the level of discount.

Where slates are bundles, an intent has two numbers more. `together` scales what the log lift of the
categories (`policies.lift`) adds to the log-odds of item i as the next one,

    u a_together sum over j in the bundle of lift(category j, category i)

and `discount` is the level at which the bundle is offered: the whole part of its value, in levels,
from none to the highest. Intent 0 is the set of the best single items without a discount.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.filling import SlateCue, SlateSoFar
from policies.inputs import PolicyInputs
from recsim_env import checks
from recsim_env.tensors import looked_up
from recsim_env.types import Observation, Policy


class Together(SlateCue):
    """The lift with the bundle so far, as it fills.

    Args:
        slate: the bundle so far
        lift: (G, G) float32, log lift of each pair of categories
        weight: (B, 1) log-odds per unit of lift
    """

    def __init__(self, slate: SlateSoFar, lift: Tensor, weight: Tensor) -> None:
        self._slate, self._lift, self._weight = slate, lift, weight
        self._with_bundle = torch.zeros_like(slate.pool.logits)

    def log_odds(self) -> Tensor:
        """What the lift adds to the log-odds of each item as the next one: (B, P)."""
        return self._weight * self._with_bundle

    def add(self, places: Tensor) -> None:
        """Take in the items at places (B,) of the pool."""
        self._with_bundle = self._with_bundle + lift_with(self._slate, self._lift, places)


def lift_with(slate: SlateSoFar, lift: Tensor, places: Tensor) -> Tensor:
    """The log lift (B, P) of each item of the pool with the one at places (B,) of it."""
    category = slate.category.gather(1, places.unsqueeze(1)).squeeze(1)
    return looked_up(lift, category).gather(1, slate.category)


def at_level(slates: Tensor, level: Tensor, levels: int) -> Tensor:
    """Put the level of discount behind the items of bundles: (B, K + 1) int64.

    Args:
        slates: (B, K) int64
        level: (B,) float32, of which the whole part counts
        levels: number of levels
    """
    whole = level.nan_to_num().floor().clamp(0, levels - 1).to(slates.dtype)
    return torch.cat([slates, whole.unsqueeze(1)], dim=1)


class AtLevel:
    """A policy's bundles, offered to everybody at one level of discount.

    Args:
        policy: makes the bundles; a level of its own is put aside
        inputs: what it was built from
        level: the level for everybody

    Raises:
        ValueError: If there is no such level.
    """

    def __init__(self, policy: Policy, inputs: PolicyInputs, level: int) -> None:
        self._policy, self._inputs = policy, inputs
        self._level = checks.whole("level", level, 0, inputs.levels - 1)
        self.draws = policy.draws

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose bundles: (B, K + 1) int64."""
        slates = self._policy(observation, draws)[:, : self._inputs.slate_size]
        level = torch.full((len(slates),), float(self._level), device=slates.device)
        return at_level(slates, level, self._inputs.levels)
