"""A Gaussian over intents for any weights of several goals: they are part of the state.

The weights of a shopper's goals are among the features, and the composer plans by them, so that
intent 0 is the slate that is greedy in the reward of these weights (Abels et al. 2019, "Dynamic
weights in multi-objective deep reinforcement learning", condition a network alike).

Only the ratios of weights matter. The actor divides them by their sum in *goal units*, in which one
visit is worth about as much of every goal; so what it sees does not depend on the units in which a
goal is counted, and euros and clicks are told apart equally well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policies.composer import Composer, View
from policies.goals import WEIGHTS, Weights, as_weights, checked_goals
from policies.learnable.intents import LOG_STD, ComposerPolicy, IntentActor
from policies.learnable.kinds import ActorInputs, register_learnable
from policies.pool import Pool
from recsim_env import checks
from recsim_env.settings import put, settle
from recsim_env.types import Observation


@dataclass(frozen=True)
class ConditionedConfig:
    """How a Gaussian over intents for any weights of goals starts."""

    log_std: float = -0.7
    """Log of the standard deviation at the start, in units of intent; -0.7 is half a unit."""
    goals: tuple[str, ...] = ()
    """Names of the reward terms that are weighed; by default those of the reward."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            TypeError: If the goals are no sequence.
            ValueError: If a field is not as said.
        """
        settle(self, log_std=LOG_STD)
        put(self, goals=checked_goals("goals", self.goals))


class ConditionedActor(IntentActor):
    """A Gaussian over intents whose mean depends on the state, the weights of goals included.

    Shapes: G goals.
        goal_units:    (G,) float32, what one visit is worth of each goal; 1 until they are fitted
        usual_weights: (G,) float32, weights where none are told: those of the reward
    """

    goal_units: Tensor
    usual_weights: Tensor

    def __init__(self, usual_weights: Tensor, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("usual_weights", usual_weights.clone())
        self.register_buffer("goal_units", torch.ones_like(usual_weights))

    def scaled(self, weights: Tensor) -> Tensor:
        """Weights (.., G) with a sum of 1 in goal units."""
        weights = weights.to(self.goal_units)
        return weights / (weights * self.goal_units).sum(dim=-1, keepdim=True)


class ConditionedPolicy(ComposerPolicy):
    """A `ConditionedActor` that steers a `Composer` by some weights of its goals.

    Args:
        composer: composes the slates; it has the goals
        actor: chooses the intents
        deterministic: whether it takes the mean of the intents, and not a sample
        weights: weights of the goals; None = those of the reward. See `at`

    Raises:
        TypeError: If an argument is of another class.
        ValueError: If the weights are not as `at` says.
    """

    actor: ConditionedActor

    def __init__(
        self,
        composer: Composer,
        actor: ConditionedActor,
        *,
        deterministic: bool = True,
        weights: Weights | None = None,
    ) -> None:
        checks.instance("actor", actor, ConditionedActor)
        super().__init__(composer, actor, deterministic=deterministic)
        self._deterministic = deterministic
        told = actor.usual_weights if weights is None else weights
        self.weights = told if callable(told) else as_weights("weights", told, composer.goals)
        """The weights that it acts by: (G,), (B, G), or a function of the observation."""

    @property
    def goals(self) -> tuple[str, ...]:
        """Names of the goals, in the order of their weights."""
        return self.composer.goals

    def at(self, weights: Weights) -> ConditionedPolicy:
        """The same policy at other weights.

        Args:
            weights: By name, as `{"clicks": 0.7, "intra_list_distance": 0.3}`, where a goal that is
                not named has the weight 0; as one number for each of `goals`; as a tensor (B, G)
                with a row for each shopper; or as a function that makes such rows of the
                observation. Only their ratios count.

        Raises:
            TypeError: If they are no numbers.
            ValueError: If they are of another length, not finite, negative, or all 0. What a
                function returns is checked when the policy acts, its numbers on a CPU only:
                elsewhere that would force a synchronisation.
        """
        return ConditionedPolicy(
            self.composer, self.actor, deterministic=self._deterministic, weights=weights
        )

    def view(self, observation: Observation, pool: Pool | None = None) -> View:
        """Look at a visit, at the weights of its shoppers.

        Raises:
            ValueError: If there are weights for another number of shoppers, or a function returned
                weights that are none.
        """
        pool = self.composer.pool(observation) if pool is None else pool
        shoppers = len(pool.items)
        weights = self._of(observation, shoppers).to(self.actor.goal_units)
        if weights.ndim == 2 and len(weights) != shoppers:
            raise ValueError(
                f"weights has {len(weights)} rows, but observation has {shoppers} shoppers: hand "
                "in one row for each, or a function of the observation."
            )
        rows = self.actor.scaled(weights).expand(shoppers, -1)
        return super().view({**observation, WEIGHTS: rows}, pool)

    def _of(self, observation: Observation, shoppers: int) -> Tensor:
        if not callable(self.weights):
            return self.weights
        found: Any = self.weights(observation)
        size = (shoppers, len(self.goals))
        rows = checks.tensor("weights(observation)", found, size, torch.float32, finite=False)
        return as_weights("weights(observation)", rows, self.goals) if rows.is_cpu else rows


@register_learnable("conditioned", ConditionedConfig, ConditionedPolicy, intents=True, goals=True)
def conditioned_actor(inputs: ActorInputs, config: ConditionedConfig) -> ConditionedActor:
    """Build an untrained actor over intents for any weights of the composer's goals.

    Raises:
        ValueError: If the composer has no goals.
    """
    composer = inputs.composer
    if not composer.goals:
        raise ValueError(
            "composer has no goals, but an actor of kind 'conditioned' weighs some: see "
            "`Learnable.composer_for`."
        )
    return ConditionedActor(
        composer.usual_weights,
        inputs.width,
        composer.intent_size,
        inputs.hidden,
        config.log_std,
        inputs.generator,
    )
