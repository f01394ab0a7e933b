"""Several goals in PPO: weights drawn for every episode, a reward and an advantage for each goal.

Every episode draws weights from a Dirichlet with all parameters 1/2, in goal units
(`policies.learnable.conditioned`): of four goals uniform weights would hardly ever leave one to
count alone, or two, which is what people ask for first. The critic tells the value of each
goal, generalised advantages are computed goal by goal, and only then is one number made of them, by
the weights of the episode:

1. The advantages of a goal are centred and divided by their standard deviation over the rollout.
2. They are added up by the weights of the episode times that deviation, and divided by the standard
   deviation that the sum has at these weights, sqrt(c' R c) with R the correlations of the goals.

Normalising before weighing gives every episode, whatever its weights, a gradient of the same size:
were the sums normalised all together, the goal with the widest advantages would drown the episodes
that are about another one. Carrying the deviations over into the weights keeps what is learned at
some weights the best policy for these weights of the goals themselves, which is what a report adds
up; weights of normalised goals would prefer whatever happens to vary little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

from agents.ppo.offers import OfferVecEnv
from agents.ppo.rollout_buffer import DeviceRolloutBuffer
from agents.ppo.vec_env import (
    IntentVecEnv,
    SimulatorVecEnv,
    SlateVecEnv,
    TrainingReward,
    expected_terms,
)
from policies.composer import Composer, View
from policies.goals import WEIGHTS
from policies.learnable.kinds import LEARNABLE
from recsim_env import noise
from recsim_env.rewards import Objectives, check_served, is_linear
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Outcome

TINY = 1e-8
"""Standard deviation that counts as none."""


def face_for(kind: str) -> type[SimulatorVecEnv]:
    """The environment in which a kind of `policies.learnable.kinds.LEARNABLE` is trained."""
    spec = LEARNABLE[kind]
    if spec.goals:
        return ConditionedVecEnv
    if spec.intents:
        return IntentVecEnv
    return OfferVecEnv if spec.levels else SlateVecEnv


class ConditionedVecEnv(IntentVecEnv):
    """Environment whose actions are intents and whose rewards are (B, G), one for each goal.

    Rewards to learn from are in goal units, weighted by survival and scaled as the others are, and
    expected where a goal is linear in responses. Those to report are the simulator's.

    Its observation holds `features` (B, F), the weights among them, `weights` (B, G) in goal units,
    which have the sum 1, and `survival` (B, 1) where it weights the rewards. The return of an
    episode to learn from is the sum of all goals at its weights, in goal units.

    Args:
        simulator: the shoppers; it is reset here, and nothing else may use it
        composer: observes visits and composes slates; it has the goals
        num_envs: B, shoppers served at once
        seed: seed of all episodes
        reward: how the goals become what the agent learns from

    Raises:
        ValueError: If the shoppers cannot serve a goal.
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        composer: Composer,
        num_envs: int,
        seed: int = 0,
        reward: TrainingReward | None = None,
    ) -> None:
        check_goals(simulator, composer.goals)
        self._all = Objectives(composer.goals, simulator.reward)
        others = tuple(name for name in composer.goals if not is_linear(name))
        self._others = Objectives(others, simulator.reward) if others else None
        self.goal_units = torch.ones(len(composer.goals), device=simulator.device)
        """(G,) what one visit is worth of each goal; that of the actor, once there is one."""
        super().__init__(simulator, composer, num_envs, seed, reward)

    def drawn_weights(self) -> Tensor:
        """The weights (B, G) of the episodes that the simulator plays now, in goal units.

        They are those of the episode's seed and number, so nothing of them has to be kept.
        """
        at = self.simulator.episodes
        key = noise.episode_key(at.seed, at.number, stream=noise.Stream.WEIGHTS)
        # squares of normal numbers have a gamma distribution of shape 1/2
        squares = noise.normal(noise.uniform(key, 0, len(self.goal_units))).square().clamp(min=TINY)
        return squares / squares.sum(dim=1, keepdim=True)

    def goals_of(self, outcome: Outcome, *, expected: bool = False) -> Tensor:
        """What a visit brought of each goal: (B, G) float32, in the goals' own units.

        Args:
            outcome: the visit
            expected: whether goals that are linear in responses count at the chances
        """
        names, info = self.composer.goals, outcome.info
        known = {name: info[f"reward_terms/{name}"] for name in self.simulator.reward.weights}
        if not expected:
            return self._all(outcome.inputs, known)
        found = expected_terms([name for name in names if is_linear(name)], outcome)
        if self._others is not None:
            columns = self._others(outcome.inputs, known).unbind(dim=1)
            found |= dict(zip(self._others.names, columns, strict=True))
        return torch.stack([found[name] for name in names], dim=1)

    # ---- what the environment of intents leaves open ----

    def seen(self, observation: Observation) -> Observation:
        """The observation with the weights of the episodes."""
        return {**observation, WEIGHTS: self.drawn_weights() / self.goal_units}

    def _space(self, view: View) -> spaces.Space[Any]:
        seen = self._observe(view, torch.ones(len(view.features), device=view.features.device))
        return spaces.Dict(
            {
                name: spaces.Box(-np.inf, np.inf, tuple(value.shape[1:]), np.float32)
                for name, value in seen.items()
            }
        )

    def _observe(self, view: View, survival: Tensor) -> dict[str, Tensor]:
        assert view.weights is not None
        own = {"features": view.features, "weights": view.weights * self.goal_units}
        return own | ({"survival": survival.unsqueeze(1)} if self.weighs_survival else {})

    def _worth(self, outcome: Outcome) -> Tensor:
        """What a visit brings of each goal, to an agent that learns: (B, G)."""
        return self.goals_of(outcome, expected=self._reward.expected_clicks)

    def _training_reward(self, worth: Tensor) -> Tensor:
        weighted = worth / self.goal_units * self._survival.unsqueeze(1)
        return (weighted * self._reward.scale).float()

    def _told(self, outcome: Outcome, worth: Tensor) -> dict[str, Tensor]:
        """Every goal of a visit, and what they are worth together.

        To learn from, linear goals count as they were expected: where nobody leaves, because
        rewards are weighted by survival, only the chance tells who comes back.
        """
        assert self._view is not None
        assert self._view.weights is not None
        goals = worth if self._learning else self.goals_of(outcome)
        told = {f"goals/{name}": goals[:, at] for at, name in enumerate(self.composer.goals)}
        if self._learning:
            told["return"] = (goals * self._view.weights).sum(dim=1)
        return super()._told(outcome, worth) | told


def check_goals(simulator: SlateSimulator, goals: Sequence[str]) -> None:
    """Check that shoppers fill what goals need.

    Raises:
        ValueError: If one of them needs what is not there.
    """
    check_served("goals", goals, simulator.shopper)


class GoalRolloutBuffer(DeviceRolloutBuffer):
    """A rollout with rewards, values and returns for each of G goals, and one advantage.

    Args:
        goals: G
        arguments: those of `DeviceRolloutBuffer`
        options: further ones
    """

    def __init__(self, *arguments: Any, goals: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        several = ("rewards", "values", "returns", "goal_advantages")
        self.kept |= {name: self._room((goals,)) for name in several}

    def compute_returns_and_advantage(self, last_values: Tensor, dones: Any) -> None:
        """Compute advantages and returns of each goal, and one advantage by the weights.

        Shapes:
            last_values: (B, G), the values of the observations after the last step
            dones:       (B,) bool, whether the last step ended an episode
        """
        of_goals = self._advantages(last_values, dones)
        self.kept["goal_advantages"].copy_(of_goals)
        torch.add(of_goals, self.kept["values"], out=self.kept["returns"])
        one = scalarised(of_goals.flatten(0, 1), self.kept_seen["weights"].flatten(0, 1))
        self.kept["advantages"].copy_(one.view_as(self.kept["advantages"]))

    def _of(self, rows: Tensor) -> RolloutBufferSamples:
        """As SB3's, with values and returns in one row, as it compares them with the critic's."""
        found = super()._of(rows)
        return found._replace(
            old_values=found.old_values.flatten(), returns=found.returns.flatten()
        )


def scalarised(advantages: Tensor, weights: Tensor) -> Tensor:
    """Make one advantage (S,) of those of G goals (S, G), by weights (S, G) of each sample.

    See the module for the order and why. The result has mean 0, and variance 1 at any weights if
    the weights tell nothing of the advantages. A goal whose advantages are all alike adds nothing.
    """
    centred = advantages - advantages.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    normal = centred / deviation.clamp(min=TINY)
    carried = weights * deviation.where(deviation > TINY, 0.0)
    correlation = normal.T @ normal / len(normal)
    spread = ((carried @ correlation) * carried).sum(dim=1).clamp(min=0).sqrt()
    return (normal * carried).sum(dim=1) / spread.clamp(min=TINY)


def fit_goal_units(env: ConditionedVecEnv, values: Tensor) -> None:
    """Set the goal units from what some visits brought of each goal, (S, G); 1 where nothing."""
    worth = values.abs().mean(dim=0)
    env.goal_units.copy_(worth.where(worth > TINY, 1.0))
