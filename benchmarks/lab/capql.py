"""CAPQL of MORL-Baselines on intents: somebody else's agent for all weights of many goals.

Networks, replay and updates are the library's (Lu, Herman and Yu 2023, "Multi-objective
reinforcement learning: convexity, stationarity and Pareto optimality", algorithm 1). Collecting is
written here: the library serves one shopper at a time and draws weights within 22.5 degrees of
equal ones, which leaves out the ends of a frontier. The library comes with much else, so that it
lives in an environment of its own (`make outsider`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import set_random_seed

from agents.faces import IntentEnv, IntentVectorEnv
from agents.ppo.randomness import PrivateRandomness
from policies.inputs import PolicyInputs
from recsim_env.simulator import SlateSimulator

Predict = Callable[[Any, Any], Any]
"""Chooses intents (B, A) for observations (B, F) and weights (B, n)."""
MISSING = (
    "MORL-Baselines is not installed, but capql needs it: `make outsider` makes an environment "
    "with it and plays capql there; with other options, run .cache/venv-morl/bin/python."
)


@dataclass(frozen=True)
class CapqlConfig:
    """How CAPQL is trained; what is not here has the library's defaults."""

    shoppers: int = 64
    """Number of shoppers that are served at once."""
    updates: int = 16
    """Number of updates after each visit of all of them."""
    gamma: float = 0.98
    """Discount of a visit, that of the other agents."""
    alpha: float = 0.01
    """Weight of entropy in the units of the reward."""
    learning_rate: float = 1e-3
    """Rate of Adam for actor and critics."""
    random_visits: int = 2_000
    """Number of shopper-steps with random intents before the first update."""


def library() -> Any:
    """Return the class of the agent.

    Raises:
        ValueError: If MORL-Baselines is not installed.
    """
    try:
        return import_module("morl_baselines.multi_policy.capql.capql").CAPQL
    except ImportError as error:
        raise ValueError(MISSING) from error


def train_capql(
    make: Callable[[], tuple[SlateSimulator, PolicyInputs]],
    steps: int,
    seed: int,
    config: CapqlConfig = CapqlConfig(),
) -> Predict:
    """Train CAPQL on intents, with weights drawn anew at each visit, uniform on the simplex.

    Args:
        make: Makes shoppers whose simulator tells `objectives`, and what policies are built from.
        steps: Length of the training in shopper-steps.
        seed: Seed of shoppers, networks and noise.
        config: Its settings.

    Raises:
        ValueError: If MORL-Baselines is not installed.
    """
    capql = library()
    single = IntentEnv(*make())
    envs = IntentVectorEnv(*make(), config.shoppers, autoreset_mode="SameStep")
    assert single.simulator.objectives is not None
    goals = len(single.simulator.objectives.names)
    draws = np.random.default_rng(seed)
    with PrivateRandomness()():
        # The agent; the library draws from the global generators.
        set_random_seed(seed)
        agent = capql(
            single,
            learning_rate=config.learning_rate,
            gamma=config.gamma,
            alpha=config.alpha,
            gradient_updates=config.updates,
            log=False,
            device="cpu",
        )

        # Visits with new weights each, random at first; every visit of all is followed by updates.
        seen, _ = envs.reset(seed=seed)
        for done in range(0, steps, config.shoppers):
            weights = draws.dirichlet(np.ones(goals), config.shoppers).astype(np.float32)
            if done < config.random_visits:
                actions = draws.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
            else:
                actions = _explored(agent, seen, weights)
            after, reward, left, _, info = envs.step(actions)
            following = _followed(after, info)
            for row in zip(seen, actions, weights, reward, following, left, strict=True):
                agent.replay_buffer.push(*row)
            seen = after
            if done >= config.random_visits:
                agent.update()
    return lambda observations, weights: agent.eval(np.asarray(observations), np.asarray(weights))


def _explored(agent: Any, seen: Any, weights: Any) -> Any:
    """Draw intents from the actor: (B, A)."""
    with torch.no_grad():
        actions, _, _ = agent.policy.sample(torch.as_tensor(seen), torch.as_tensor(weights))
    return actions.numpy()


def _followed(after: Any, info: dict[str, Any]) -> Any:
    """Return what was seen after each step: the last observation of an episode where it ended."""
    following = after.copy()
    for row in np.flatnonzero(info.get("_final_obs", ())):
        following[row] = info["final_obs"][row]
    return following
