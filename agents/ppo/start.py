"""Where PPO over intents starts: at the one intent that serves all shoppers best.

One rule for everybody is found faster by a search, which compares whole episodes of the same
shoppers, than by policy gradients, which have to tell the effect of every step apart. What is left
to PPO are the differences between states. A training without a signal wanders off from its start,
so that trained, found and untrained policies are compared at the end, with shoppers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from agents.base import TrainingSetup, training_seeds
from agents.evaluate import evaluate
from agents.ppo.algorithm import SlatePPO, environment_of
from agents.search.ground import EPISODES, Ground
from agents.search.searchers import Covariance
from policies.learnable.intents import IntentActor
from recsim_env.types import Policy

CHECK = -3
"""Generation of `training_seeds` of the shoppers of the comparison."""


def search_start(
    setup: TrainingSetup, model: SlatePPO, most: int, spread: float
) -> tuple[Tensor | None, int]:
    """Look for the best intent by CMA-ES, and make PPO start there.

    Args:
        setup: What the agent learns from; its shoppers are reset.
        model: PPO over intents before its first update, with fitted units.
        most: Steps that must not be exceeded.
        spread: Standard deviation of the intents of the first round, in fitted units.

    Returns:
        The intent (A,) in units of the actor, None where the steps did not suffice for one round,
        and the steps that were taken.
    """
    actor = model.policy.actor
    assert isinstance(actor, IntentActor)
    ground = Ground(setup, environment_of(model).composer, actor.units)
    searcher = Covariance(len(actor.units), setup.seed, spread)
    told: list[Tensor] = []
    ground.search(searcher, most, told, EPISODES)
    if not told:
        return None, ground.steps
    intent = searcher.finalists(1)[0]
    actor.start_at(intent)
    return intent, ground.steps


def mean_returns(
    setup: TrainingSetup, policies: Sequence[Policy], shoppers: int
) -> tuple[list[float], int]:
    """The mean return of each policy, from the same shoppers, whom no update saw.

    Args:
        setup: What the agent learned from.
        policies: The policies.
        shoppers: Number of shoppers.

    Returns:
        The means, and the steps that were taken.
    """
    who = training_seeds(setup.seed, shoppers, CHECK).to(setup.simulator.device)
    played = [evaluate(one, setup.simulator, who, batch=setup.shoppers).rows for one in policies]
    means = [float(rows["return"].to_numpy().mean()) for rows in played]
    return means, sum(int(rows["visits"].sum()) for rows in played)
