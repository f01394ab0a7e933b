"""The environment that the RL benchmarks run in, and what policies there are built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from policies.base import PolicyInputs
from policies.rankers import WEIGHTS, CTRRanker, load_model
from recsim_env import SlateSimulator, make_simulator


@dataclass(frozen=True)
class World:
    """Where agents are trained and evaluated."""

    env: str = "recsim_env/CompleteJourney-v0"
    """Id of a registered environment."""
    ranker: Path = WEIGHTS
    """Weights of the CTR ranker that `benchmarks.train_ranker` wrote."""
    populations: bool = True
    """Train on one population of shoppers and evaluate on another; False where the environment has only one."""
    horizon_days: float | None = None
    """Days of an episode; None for the environment's own."""
    device: str | None = None
    """cpu or cuda; None for the best there is."""
    threads: int = 2
    """CPU threads."""

    def simulator(self, population: str) -> SlateSimulator:
        """A new simulator of `train` or `evaluation` shoppers."""
        options = {"population": population} if self.populations else {}
        if self.horizon_days is not None:
            return make_simulator(self.env, device=self.device, horizon_days=self.horizon_days, **options)
        return make_simulator(self.env, device=self.device, **options)

    def inputs(self, simulator: SlateSimulator) -> PolicyInputs:
        """What policies are built from; nothing of it comes from the shoppers."""
        return PolicyInputs(
            catalog=simulator.catalog,
            observation_space=simulator.observation_space,
            slate_size=simulator.slate_size,
            ranker=CTRRanker(simulator.catalog, load_model(self.ranker)),
        )


def seeds(first: int, count: int) -> Tensor:
    """Episode seeds (count,): first, first + 1, .."""
    return torch.arange(first, first + count)


TUNING_SEED, REPORTED_SEED = 20_000_000, 30_000_000
"""First seeds of the episodes that parameters are chosen on, and of those that are reported: never the same."""
