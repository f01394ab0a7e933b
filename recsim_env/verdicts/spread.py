"""How far the members of an ensemble disagree about policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy
from recsim_env.verdicts.closed_loop import FIRST_SEED, play


@dataclass(frozen=True)
class Spread:
    """How far the members of an ensemble disagree about one policy."""

    policy: str
    """Name of the policy."""
    members: tuple[float, ...]
    """Mean clicks of a user in the simulator of each member."""
    spread: float
    """Standard deviation of the members over their mean; NaN for a single member."""


def spread(
    simulators: Sequence[SlateSimulator],
    policies: Mapping[str, Policy],
    *,
    users: int = 512,
    seed: int = FIRST_SEED,
) -> list[Spread]:
    """Play policies in the simulator of every member, with the same users and noise.

    Policies that show contrasting slates, such as random and greedy ones, tell most. Agreement
    proves nothing: members that were fitted to the same log share its faults.
    """
    found = []
    for name, policy in policies.items():
        means = [
            float(play(simulator, policy, users=users, seed=seed).clicks.mean())
            for simulator in simulators
        ]
        deviation = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
        found.append(Spread(name, tuple(means), deviation / max(float(np.mean(means)), 1e-12)))
    return found
