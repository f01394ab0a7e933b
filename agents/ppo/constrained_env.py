"""The environment of PPO under a constraint: visits are worth the Lagrangian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.ppo.algorithm import SlatePPO, environment_of
from agents.ppo.constraint import Limit, Multiplier, Totals, expected_term
from agents.ppo.vec_env import IntentVecEnv, TrainingReward, expected_reward
from policies.composer import Composer
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Outcome


@dataclass(frozen=True)
class Reference:
    """What greedy CTR reaches, and the limit that follows."""

    limit: Limit
    """The limit as a number."""
    greedy: Totals
    """Totals of greedy CTR with the shoppers of the check."""

    @property
    def length(self) -> float:
        """Mean number of visits of an episode."""
        return float(self.greedy.visits.mean())


class ConstrainedVecEnv(IntentVecEnv):
    """Intents whose visits are worth the Lagrangian; it keeps the multiplier, and moves it.

    Args:
        simulator: the shoppers; it is reset here, and nothing else may use it
        composer: observes visits and composes slates
        num_envs: B, shoppers served at once
        seed: seed of all episodes
        reward: how the reward becomes the one that the agent learns from
        reference: the limit at which the mean of a term is held, and what greedy CTR reaches
        multiplier: the weight of the term
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        composer: Composer,
        num_envs: int,
        seed: int = 0,
        reward: TrainingReward | None = None,
        *,
        reference: Reference,
        multiplier: Multiplier,
    ) -> None:
        self.reference, self.limit, self.multiplier = reference, reference.limit, multiplier
        self._slack, self._weight = torch.zeros(2, dtype=torch.float64, device=simulator.device)
        super().__init__(simulator, composer, num_envs, seed, reward)

    def paid(self, outcome: Outcome, weight: Tensor | None = None) -> Tensor:
        """What a visit is worth: (B,), the Lagrangian at the multiplier as it stands.

        The slack counts for the next `after_rollout`.

        Args:
            outcome: of the visit
            weight: (B,), of each shopper; None means 1
        """
        slack = self.limit.slack(expected_term(self.limit.constraint.term, outcome)).double()
        weight = torch.ones_like(slack) if weight is None else weight
        self._slack = self._slack + (slack * weight).sum()
        self._weight = self._weight + weight.sum()
        reward = outcome.reward
        if self._reward.expected_clicks:
            reward = expected_reward(self.simulator, outcome)
        return self.limit.paid(reward, slack, self.multiplier.value)

    def after_rollout(self) -> dict[str, float]:
        """Move the multiplier by the visits since the last call; return what to log, by name."""
        slack = float(self._slack / self._weight)
        self.forget()
        self.multiplier.update(slack)
        limit = self.limit
        return {
            "constraint/multiplier": self.multiplier.value,
            "constraint/mean": limit.value + limit.constraint.sign * slack * limit.size,
            "constraint/limit": limit.value,
        }

    def forget(self) -> None:
        """Count no visit before this one for the next `after_rollout`."""
        self._slack = torch.zeros_like(self._slack)
        self._weight = torch.zeros_like(self._weight)

    def _worth(self, outcome: Outcome) -> Tensor:
        return self.paid(outcome, self._survival)

    def _begin(self, *, learning: bool) -> Any:
        self.forget()
        return super()._begin(learning=learning)

    def _own_state(self) -> dict[str, Any]:
        return super()._own_state() | {
            "multiplier": self.multiplier.value,
            "slack": self._slack,
            "weight": self._weight,
        }

    def _take_own_state(self, found: Mapping[str, Any]) -> None:
        super()._take_own_state(found)
        self.multiplier.value = found["multiplier"]
        self._slack, self._weight = found["slack"], found["weight"]


def constrained_env_of(model: SlatePPO) -> ConstrainedVecEnv:
    """The environment in which a model is trained under a constraint."""
    env = environment_of(model)
    assert isinstance(env, ConstrainedVecEnv)
    return env
