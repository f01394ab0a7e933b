"""Who serves the pages of a visit: an agent that sees which page it is, one for each, or one blind.

A *scenario* is what a page is (`recsim_env.shoppers.visits.pages.SCENARIOS`). An agent that does
not see it is built from `blind_inputs`. A specialist moves the slates of one scenario alone
(`policies.composer.ComposerConfig.scenario`); `PerScenario` serves each page by its specialist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from gymnasium import spaces
from torch import Tensor

from policies.inputs import PolicyInputs
from recsim_env.shoppers.visits.pages import SCENARIOS
from recsim_env.tensors import shared
from recsim_env.types import Observation, Policy

OF_PAGE = ("scenario", "page", "query", "cart")
"""Keys of an observation that tell the page, and what it knows of the visit."""


def blind_inputs(inputs: PolicyInputs) -> PolicyInputs:
    """What an agent is built from that does not see the page: no key of `OF_PAGE`, and no lift.

    Cues and features are chosen by the keys of the observation space, so those that read a key of
    `OF_PAGE` are left out. The days since the slates before stay: they tell that a visit goes on.

    Args:
        inputs: of an environment with whole visits

    Raises:
        ValueError: If the observations lack one of the keys.
    """
    there = inputs.observation_space.spaces
    for key in OF_PAGE:
        if key not in there:
            raise ValueError(
                f"inputs has observations with the keys {sorted(there)}, but they must have "
                f"{key!r}: those of whole visits."
            )
    seen = {name: space for name, space in there.items() if name not in OF_PAGE}
    return replace(inputs, observation_space=spaces.Dict(seen), lift=None)


class PerScenario:
    """Serves each page by the policy of its scenario.

    Args:
        policies: one for each place in `SCENARIOS`, none of which needs random numbers

    Raises:
        ValueError: If a scenario has no policy, or a policy draws.
    """

    draws = 0

    def __init__(self, policies: Mapping[int, Policy]) -> None:
        if sorted(policies) != list(range(len(SCENARIOS))):
            raise ValueError(
                f"policies has the scenarios {sorted(policies)}, but it must have 0 to "
                f"{len(SCENARIOS) - 1}."
            )
        self._policies = {
            scenario: _steady(f"policies[{scenario}]", policy)
            for scenario, policy in sorted(policies.items())
        }

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K)."""
        scenario = observation["scenario"].squeeze(1)
        parts, found = [], []
        for place, policy in self._policies.items():
            rows = (scenario == place).nonzero().squeeze(1)
            if len(rows):
                found.append(policy(_rows_of(observation, rows), draws[rows]))
                parts.append(rows)
        return torch.cat(found)[torch.cat(parts).argsort()]


def _rows_of(observation: Observation, rows: Tensor) -> Observation:
    """What was seen of some shoppers; what is one row for everybody stays that."""
    return {
        name: value[:1].expand(len(rows), *value.shape[1:]) if shared(value) else value[rows]
        for name, value in observation.items()
    }


def _steady(name: str, policy: Policy) -> Policy:
    """A policy that needs no random numbers."""
    if policy.draws:
        raise ValueError(
            f"{name} needs {policy.draws} random numbers a shopper, but it must need none."
        )
    return policy
