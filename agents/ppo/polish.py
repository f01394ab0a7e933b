"""What follows PPO over intents: a search that moves its intents alike in all states, and a check.

PPO tells states apart, but its exploration is wide and its gradients are noisy, so that the mean of
its intents ends some way off the best one. A search over what is added to the intents of all states
compares whole episodes of the same shoppers, which finds a mean faster than policy gradients. And
as training without a signal wanders off from its start, polished, trained and untrained policies
are compared at the end, with shoppers of their own; the untrained one is left only for what surely
earns more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from agents.base import TrainingSetup, training_seeds
from agents.evaluate import evaluate
from agents.ppo.algorithm import SlatePPO, environment_of
from agents.ppo.goals import ConditionedVecEnv
from agents.search.ground import EPISODES, Ground
from agents.search.playing import Paid
from agents.search.searchers import Covariance
from policies.learnable.conditioned import ConditionedPolicy
from policies.learnable.intents import IntentActor
from recsim_env.rollout import rollout
from recsim_env.types import Observation, Policy

SPREAD = 0.5
"""Standard deviation of what is added in the first round, in fitted units: as much as PPO's own
exploration leaves open."""
CHECK = -3
"""Generation of `training_seeds` of the shoppers of the comparison."""
Judge = Callable[[TrainingSetup, Sequence[Policy], int], tuple[Tensor, int]]
"""Tells what each of P policies earns from each of S shoppers, (P, S), and the steps it took."""
SURE = 1.0
"""Number of standard errors by which a policy must have earned more than the untrained one to take
its place: where training brings nothing, its noise would else be what is kept."""


def polish(
    setup: TrainingSetup,
    model: SlatePPO,
    most: int,
    paid: Paid | None = None,
    after_round: Callable[[], None] = lambda: None,
) -> tuple[bool, int]:
    """Add to the mean intents of a trained actor what CMA-ES finds best for all states.

    Args:
        setup: What the agent learned from; its shoppers are reset.
        model: PPO over intents; its actor is changed.
        most: Steps that must not be exceeded.
        paid: What a visit counts for in place of its reward.
        after_round: Called after every round of the search.

    Returns:
        Whether the steps sufficed for a round, and so anything was changed; and the steps that were
        taken.
    """
    actor = model.policy.actor
    assert isinstance(actor, IntentActor)

    def trained(features: Tensor) -> Tensor:
        """Mean intents (B, A) in units of the composer."""
        return actor.mean(features) * actor.units

    ground = Ground(setup, environment_of(model).composer, actor.units, base=trained, paid=paid)
    searcher = Covariance(len(actor.units), setup.seed, SPREAD)
    told: list[Tensor] = []
    ground.search(searcher, most, told, EPISODES, after_round)
    if told:
        averaged, last = searcher.finalists(2)
        # while the multiplier of a limit moves, earlier rounds looked for something else
        actor.move(averaged if paid is None else last)
    return bool(told), ground.steps


def returns_of(
    setup: TrainingSetup, policies: Sequence[Policy], shoppers: int
) -> tuple[Tensor, int]:
    """The returns of each policy, from the same shoppers, whom no update saw.

    Args:
        setup: What the agent learned from.
        policies: The policies.
        shoppers: Number of shoppers.

    Returns:
        Returns (P, S) float64 of P policies and S shoppers, and the steps that were taken.
    """
    who = training_seeds(setup.seed, shoppers, CHECK).to(setup.simulator.device)
    played = [evaluate(one, setup.simulator, who, batch=setup.shoppers).rows for one in policies]
    returns = torch.stack([rows["return"].to_torch().double() for rows in played])
    return returns, sum(int(rows["visits"].sum()) for rows in played)


def utilities_of(
    env: ConditionedVecEnv,
    setup: TrainingSetup,
    policies: Sequence[Policy],
    shoppers: int,
) -> tuple[Tensor, int]:
    """All goals of an episode added up at drawn weights, in goal units, of each policy.

    It is `returns_of` for policies that serve any weights: every shopper has
    weights of their own, the same for all policies.

    Args:
        env: The environment that the agent learned in.
        setup: What it learned from; its shoppers are reset.
        policies: The policies, each a `ConditionedPolicy`.
        shoppers: Number of shoppers, whom no update saw.

    Returns:
        Sums (P, S) float64 of P policies and S shoppers, and the steps that were taken.
    """
    who = training_seeds(setup.seed, shoppers, CHECK).to(setup.simulator.device)
    device = setup.simulator.device
    totals = torch.zeros(len(policies), shoppers, dtype=torch.float64, device=device)
    steps = 0

    def weights(observation: Observation) -> Tensor:
        return env.drawn_weights() / env.goal_units

    for policy, total in zip(policies, totals, strict=True):
        assert isinstance(policy, ConditionedPolicy)
        for visit in rollout(policy.at(weights), setup.simulator, who, batch=setup.shoppers):
            worth = (env.goals_of(visit.outcome) * weights(visit.observation)).sum(dim=1)
            total.index_add_(0, visit.number, worth.double())
            steps += len(worth)
    return totals, steps


def judge_of(model: SlatePPO) -> Judge:
    """How policies are compared that were trained as a model is: by what they serve.

    Policies that serve any weights of goals are compared at weights of their own for each shopper.
    """
    env = environment_of(model)
    return partial(utilities_of, env) if isinstance(env, ConditionedVecEnv) else returns_of


def choice_of(returns: Tensor) -> int:
    """Which policy to keep: the best of those that surely earn more than the first.

    Args:
        returns: (P, S) float64, of P policies from the same S shoppers; the first is the untrained
            policy.

    Returns:
        The number of the policy; 0 where none earns more by `SURE` standard errors of the paired
        difference.
    """
    gains = returns[1:] - returns[0]
    means = gains.mean(dim=1)
    variances = (gains - means.unsqueeze(1)).square().mean(dim=1)
    errors = variances.sqrt() / math.sqrt(max(returns.shape[1] - 1, 1))
    sure = means.where(means > SURE * errors, 0.0)
    return int(sure.argmax()) + 1 if bool((sure > 0).any()) else 0
