"""Constraints: the mean of a reward term per visit, held at least or at most at a limit.

The mean is that over all visits of all shoppers: the sum of the term over the visits, by their
number. Shoppers who come often count more, as they do in what a shop reports of a week.

A limit is held by a Lagrange multiplier. An agent that maximises

    (reward + multiplier * slack) / (1 + multiplier)

of a visit, where the slack is by how much the term is on the right side of its limit, maximises the
mean reward under the constraint, if the multiplier is the right one. Dual ascent finds it: it rises
while the limit is broken and falls while there is slack (Stooke et al. 2020, "Responsive safety in
reinforcement learning by PID Lagrangian methods", of whose controller this is the integral part;
the division by 1 + multiplier, as there, keeps what is learned from within bounds). Reward
and slack are measured in what greedy CTR has of them, so that one pace serves all terms and limits,
and the multiplier moves in its logarithm, so that it is positive and reaches any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from agents.base import TrainingSetup, training_seeds
from agents.ppo.polish import CHECK
from agents.ppo.vec_env import expected_terms
from recsim_env.estimates import LEVEL
from recsim_env.rewards import (
    REWARD_TERMS,
    bounds_of,
    check_served,
    is_linear,
    term_value,
)
from recsim_env.rollout import rollout
from recsim_env.settings import settle
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Outcome, Policy

Floats = NDArray[np.float64]
Direction = Literal["at_least", "at_most"]
"""On which side of its limit the mean of a term has to be."""
BATCH = 1024
"""Shoppers of the fresh batch for which the limit is to be kept."""
LEAST, MOST = 1e-3, 100.0
"""Bounds of a multiplier: a relative change of the term counts 0.1 % of the same change of the
reward, or the other way round 1 %. From a lower bound it would take many rollouts to come back."""
FASTEST = 1.0
"""Most by which the logarithm of a multiplier moves at once."""


@dataclass(frozen=True)
class Constraint:
    """A limit on the mean of a registered reward term per visit."""

    term: str
    """Name of the term in `recsim_env.rewards.REWARD_TERMS`."""
    direction: Direction
    """Whether the mean has to be at least or at most the limit."""
    limit: float
    """The limit, in the unit of the term for one visit; with `relative`, as a multiple of the mean
    of greedy CTR."""
    relative: bool = False
    """Whether the limit is a multiple of what greedy CTR reaches on the same shoppers, which is
    measured before the training."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self)

    @property
    def sign(self) -> float:
        """1 where more of the term is better for the constraint, else -1."""
        return 1.0 if self.direction == "at_least" else -1.0

    def check(self, simulator: SlateSimulator) -> None:
        """Check that there is such a term, these shoppers can serve it, and it can take the limit.

        Raises:
            ValueError: If one of it is not so.
        """
        REWARD_TERMS.find("constraint.term", self.term)
        check_served("constraint", [self.term], simulator.shopper)
        if not self.relative:
            self.check_reach(self.limit, simulator.slate_size)

    def check_reach(self, limit: float, slate_size: int) -> None:
        """Check that a limit lies within what the term can take.

        Raises:
            ValueError: If it does not.
        """
        low, high = bounds_of(self.term, slate_size)
        if not low <= limit <= high:
            of_greedy = f", {self.limit:g} of greedy CTR's," if self.relative else ""
            raise ValueError(
                f"constraint.limit is {limit:g}{of_greedy} but the term {self.term!r} is from "
                f"{low:g} to {high:g} in slates of {slate_size}."
            )


def expected_term(name: str, outcome: Outcome) -> Tensor:
    """The values (B,) of a term, at the chances of a visit where it is linear in responses."""
    if is_linear(name):
        return expected_terms((name,), outcome)[name]
    return term_value(name, outcome.inputs).float()


# ---- what a policy reaches -----------------------------------------------------------------------


@dataclass(frozen=True)
class Totals:
    """What S shoppers led to in an episode each."""

    returns: Floats
    """(S,), the sum of the reward."""
    sums: Floats
    """(S,), the sum of the term."""
    visits: Floats
    """(S,), the number of visits."""

    def __len__(self) -> int:
        return len(self.visits)

    @property
    def steps(self) -> int:
        """Shopper-steps of all of them."""
        return int(self.visits.sum())

    @property
    def mean(self) -> float:
        """Mean of the term per visit."""
        return float(self.sums.sum() / self.visits.sum())

    @property
    def influence(self) -> Floats:
        """By how much each shopper moves that mean, times S: (S,), with mean 0."""
        moved: Floats = (self.sums - self.mean * self.visits) / self.visits.mean()
        return moved

    def first(self, shoppers: int) -> Totals:
        """Those of the first shoppers."""
        return Totals(self.returns[:shoppers], self.sums[:shoppers], self.visits[:shoppers])

    def joined(self, other: Totals) -> Totals:
        """The totals of these shoppers, and then of others."""
        return Totals(
            np.concatenate([self.returns, other.returns]),
            np.concatenate([self.sums, other.sums]),
            np.concatenate([self.visits, other.visits]),
        )


@torch.no_grad()
def totals_of(
    policy: Policy, simulator: SlateSimulator, seeds: Tensor, term: str, batch: int
) -> Totals:
    """Play an episode of every seed, as evaluations do: the term counts as it fell.

    Args:
        policy: Who makes the slates.
        simulator: The shoppers; it is reset.
        seeds: (S,) int64.
        term: Name of the term.
        batch: How many shoppers are played at a time.
    """
    found = torch.zeros(3, len(seeds), dtype=torch.float64, device=simulator.device)
    for visit in rollout(policy, simulator, seeds, batch=batch):
        outcome = visit.outcome
        value = term_value(term, outcome.inputs)
        new = torch.stack(
            [outcome.reward.double(), value.double(), torch.ones_like(value, dtype=torch.float64)]
        )
        found.index_add_(1, visit.number, new)
    returns, sums, visits = found.cpu().numpy()
    return Totals(returns, sums, visits)


def training_totals(
    setup: TrainingSetup,
    policy: Policy,
    term: str,
    shoppers: int,
    first: int = 0,
    generation: int = CHECK,
) -> Totals:
    """Totals of a policy with some training shoppers whom no update sees."""
    who = training_seeds(setup.seed, shoppers, generation)[first:].to(setup.simulator.device)
    return totals_of(policy, setup.simulator, who, term, setup.shoppers)


# ---- the limit as a number -----------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """A constraint whose limit is a number, and the sizes that reward and slack are measured in."""

    constraint: Constraint
    """What was asked for."""
    value: float
    """The limit in the unit of the term."""
    reward: float
    """Size of the reward of a visit: that of greedy CTR."""
    size: float
    """Size of the term: that of greedy CTR or of the limit, whichever is larger."""

    @classmethod
    def of(cls, constraint: Constraint, greedy: Totals, slate_size: int) -> Limit:
        """The limit that greedy CTR's totals make of a constraint.

        Raises:
            ValueError: If a relative limit lies outside of what the term can take.
        """
        value = constraint.limit * greedy.mean if constraint.relative else constraint.limit
        if constraint.relative:
            constraint.check_reach(value, slate_size)
        reward = abs(float(greedy.returns.sum() / greedy.visits.sum()))
        return cls(constraint, value, reward or 1.0, max(abs(greedy.mean), abs(value)) or 1.0)

    def slack(self, values: Tensor) -> Tensor:
        """By how much values of the term are on the right side of the limit, in its size."""
        return self.constraint.sign * (values - self.value) / self.size

    def paid(self, reward: Tensor, slack: Tensor, multiplier: float) -> Tensor:
        """The Lagrangian of visits, in the unit of the reward: (B,).

        Args:
            reward: (B,), of the visits
            slack: (B,), of the term at them, in its size
            multiplier: its weight
        """
        return (reward + multiplier * self.reward * slack) / (1 + multiplier)


class Multiplier:
    """A Lagrange multiplier by dual ascent on its logarithm.

    Args:
        value: where it starts
        pace: by how much its logarithm rises for a mean that is on the wrong side of the limit by
            the whole size of the term
    """

    def __init__(self, value: float, pace: float) -> None:
        self.value = value
        self._pace = pace

    def update(self, slack: float) -> None:
        """Follow the mean slack of a rollout, in the size of the term."""
        step = min(max(-self._pace * slack, -FASTEST), FASTEST)
        self.value = min(max(self.value * math.exp(step), LEAST), MOST)


# ---- whether it is kept --------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Whether a policy keeps a limit, as far as its totals tell."""

    earned: float
    """Mean return."""
    mean: float
    """Mean of the term per visit."""
    slack: float
    """By how much that is on the right side of the limit, in the unit of the term."""
    margin: float
    """Slack that is needed for a fresh batch of `BATCH` shoppers to keep the limit with the level
    of all intervals: the bound, to one side, of the difference between its mean and this one."""

    @property
    def kept(self) -> bool:
        """Whether the limit is kept with its interval."""
        return self.slack >= self.margin


def judged(
    limit: Limit, found: Totals, greedy: Totals | None = None, *, shoppers: int | None = None
) -> Judged:
    """Judge totals of at least two shoppers.

    Args:
        limit: The limit.
        found: What a policy reached.
        greedy: What greedy CTR reached with the same shoppers, for a relative limit.
        shoppers: Of how many shoppers the margin is; None means as many as there are.
    """
    constraint, influence, aim = limit.constraint, found.influence, limit.value
    if constraint.relative and greedy is not None:
        # both means move with the shoppers, who are the same
        aim = constraint.limit * greedy.mean
        influence = influence - constraint.limit * greedy.influence
    n = len(found) if shoppers is None else shoppers
    spread = float(influence.std(ddof=1)) * math.sqrt(1 / n + 1 / BATCH)
    margin = float(student.ppf(LEVEL, n - 1)) * spread
    slack = constraint.sign * (found.mean - aim)
    return Judged(float(found.returns.mean()), found.mean, slack, margin)
