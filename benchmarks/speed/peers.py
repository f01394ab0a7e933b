"""Other people's environments as players of `benchmarks.speed.throughput`.

All show slates of ten, drawn at random, and their resets are timed.

    pip install -e ".[peers]"

RecSim's users come one at a time; its multi-user mode, where all users share one set of candidates,
is not played. RecoGym is not played: it shows single products, no slates, and does not import
beside a current scipy.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

CANDIDATES = 50
"""Candidates of a RecSim user, drawn anew at every visit."""

Players = Iterator[Callable[[], None]]
"""Steps that are ready to be played; each resets where the episode is over."""


def sardine(rng: np.random.Generator) -> Players:
    """Play SARDINE (Deffayet et al. 2023), the environment with bored users."""
    env = gymnasium.make("sardine:sardine/SlateTopK-Bored-v0", disable_env_checker=True)
    env.reset(seed=0)
    size = env.action_space.shape[0]  # type: ignore[index]
    items = env.unwrapped.num_items  # type: ignore[attr-defined]
    while True:
        slate = rng.permutation(items)[:size]

        def step(slate: Any = slate) -> None:
            _, _, terminated, truncated, _ = env.step(slate)
            if terminated or truncated:
                env.reset()

        yield step


def recsim(name: str, rng: np.random.Generator) -> Players:
    """Play RecSim (Ie et al. 2019), of whose environments `name` is a module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(f"recsim.environments.{name}")
        env = module.create_environment(
            {"num_candidates": CANDIDATES, "slate_size": 10, "resample_documents": True, "seed": 0}
        )
        env.reset()
    while True:
        slate = rng.permutation(CANDIDATES)[:10]

        def step(slate: Any = slate) -> None:
            _, _, done, _ = env.step(slate)
            if done:
                env.reset()

        yield step


PEERS: dict[str, Callable[[np.random.Generator], Players]] = {
    "SARDINE": sardine,
    "RecSim interest evolution": lambda rng: recsim("interest_evolution", rng),
    "RecSim long-term satisfaction": lambda rng: recsim("long_term_satisfaction", rng),
}
"""Name -> steps; asking for the first raises ModuleNotFoundError where it is not installed."""
