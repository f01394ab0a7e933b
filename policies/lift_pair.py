"""The rule of thumb of bundling: the pair that lifts each other most, completed by the best items.

Of all pairs of the pool, the bundle begins with the one that is most likely bought as a pair,

    p_i p_j exp(lift(category i, category j))

where p are the ranker's chances and the lift comes from the log (`policies.lift`); where prices are
paid for, a chance counts times the price. The rest is filled with the items that add most to the
reward on their own, as `reward_greedy` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.cosines import Cosines
from policies.filling import LogOddsScores, SlateSoFar
from policies.gains import Gains, RewardScores
from policies.inputs import PolicyInputs, looks_of
from policies.observations import ObservationCheck
from policies.parameters import NoParameters
from policies.pool import Pooling
from policies.registry import register_policy
from policies.slates import FARTHEST, pick
from policies.together import lift_with
from recsim_env.rewards import as_reward
from recsim_env.types import Observation


class LiftPair:
    """Offers the best pair by lift with the best items beside it; see the module.

    Raises:
        ValueError: If there is no ranker, or the log told no lift.
    """

    draws = 0

    def __init__(self, inputs: PolicyInputs) -> None:
        self._inputs = inputs
        self._ranker = inputs.need_ranker("lift_pair")
        if inputs.lift is None:
            raise ValueError(
                "The policy 'lift_pair' needs the lift of categories, but PolicyInputs.lift is "
                "None."
            )
        self._lift = inputs.lift
        self._pooling, self._cosines = Pooling(inputs), Cosines(inputs.catalog)
        self._gains = Gains(as_reward(inputs.reward))
        self._check = ObservationCheck(inputs.observation_space, inputs.catalog)

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose bundles without a discount: (B, K) int64."""
        self._check(observation)
        pool, size = self._pooling.of(self._ranker, observation), self._inputs.slate_size
        slate = SlateSoFar(pool, self._inputs.catalog, self._cosines, size)
        nothing = torch.zeros_like(pool.logits[:, :1])
        scales = nothing.expand(-1, len(self._gains.knobs))
        looks = looks_of(self._ranker, observation, size)
        scores = RewardScores(
            LogOddsScores(slate, pool.logits, nothing, nothing), self._gains, scales, looks
        )

        # the gain of each item alone is its chance times what it brings
        alone = scores.scores().masked_fill(pool.items < 0, -FARTHEST)
        return pick(pool, size, _Beginning(scores, self._best_pair(slate, alone)))

    def _best_pair(self, slate: SlateSoFar, alone: Tensor) -> list[Tensor]:
        """The places (B,) in the pool of the pair with the largest value."""
        value = alone.clamp(min=0)
        best = torch.full_like(value[:, 0], -1.0)
        first, second = torch.zeros(2, len(best), dtype=torch.int64, device=best.device)
        for place in range(value.shape[1]):
            at = torch.full_like(first, place)
            pair = value[:, place : place + 1] * value * lift_with(slate, self._lift, at).exp()
            pair[:, place] = -1.0
            most, partner = pair.max(dim=1)
            better = most > best
            best, first = most.where(better, best), at.where(better, first)
            second = partner.where(better, second)
        return [first, second]


class _Beginning:
    """Scores that put items at given places of the pool first."""

    def __init__(self, scores: RewardScores, first: list[Tensor]) -> None:
        self._scores, self._first, self._taken = scores, first, 0

    def scores(self) -> Tensor:
        found = self._scores.scores()
        if self._taken < len(self._first):
            found.scatter_(1, self._first[self._taken].unsqueeze(1), FARTHEST)
        return found

    def add(self, chosen: Tensor) -> None:
        self._taken += 1
        self._scores.add(chosen)


@register_policy("lift_pair", NoParameters, needs_bundles=True)
def lift_pair(inputs: PolicyInputs, parameters: NoParameters) -> LiftPair:
    """Build the policy that offers the best pair by lift."""
    return LiftPair(inputs)
