"""The environment that the RL benchmarks run in, and what policies there are built from."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.lab.threads import THREADS
from policies.inputs import PolicyInputs
from policies.rankers.ctr import WEIGHTS, CTRRanker, load_model
from recsim_env import SlateSimulator, make_simulator
from recsim_env.checks import choice
from recsim_env.logs.complete_journey import FACTS
from recsim_env.registration import PRESETS, preset

SHIPPED = "recsim_env/CompleteJourney-v0"
"""The one shipped environment with two populations and a CTR ranker."""
ELSEWHERE = (
    f"train, tune and compare work on {SHIPPED}; agents learn in the markets by `python -m benchmarks.agents.league` and "
    "`python -m benchmarks.agents.transfer`"
)
"""What to do in the other environments."""


@dataclass(frozen=True)
class World:
    """Where agents are trained and evaluated."""

    env: str = SHIPPED
    """Id of a registered environment whose shoppers are the ranker's; of those that ship, the
    Complete Journey."""
    ranker: Path = WEIGHTS
    """Weights of the CTR ranker that `benchmarks.data.train_ranker` wrote."""
    populations: bool = True
    """Train on one population of shoppers and evaluate on another; False where the environment has
    only one."""
    horizon_days: float | None = None
    """Days of an episode; None for the environment's own."""
    device: str | None = None
    """cpu or cuda; None for the best there is."""
    threads: int = THREADS
    """CPU threads; more are faster only where no other process wants the cores."""

    def check(self) -> None:
        """Whether agents can be trained and evaluated here. Nothing is written.

        Raises:
            ValueError: where the environment is not registered, its shoppers have no populations,
                or the ranker was fitted to another catalogue.
        """
        self.inputs(self.simulator("train"))

    def _check_populations(self) -> None:
        choice("world.env", self.env, sorted(PRESETS))
        if self.populations and not _has_option(self.env, "population"):
            raise ValueError(
                f"world.env is {self.env!r}, but its shoppers are one population, and agents are evaluated on another "
                f"one than they are trained on: {ELSEWHERE}."
            )

    def simulator(self, population: str) -> SlateSimulator:
        """A new simulator of `train` or `evaluation` shoppers.

        Raises:
            ValueError: As `check`.
        """
        self._check_populations()
        options = {"population": population} if self.populations else {}
        if self.horizon_days is not None:
            return make_simulator(
                self.env, device=self.device, horizon_days=self.horizon_days, **options
            )
        return make_simulator(self.env, device=self.device, **options)

    def inputs(self, simulator: SlateSimulator) -> PolicyInputs:
        """What policies are built from; nothing of it comes from the shoppers.

        Raises:
            ValueError: where the ranker was fitted to another catalogue.
        """
        try:
            ranker = CTRRanker(simulator.catalog, load_model(self.ranker))
        except ValueError as error:
            raise ValueError(
                f"world.ranker is {self.ranker}, which does not fit to the {len(simulator.catalog):,} items of "
                f"{self.env!r}: {ELSEWHERE} ({error})"
            ) from error
        return PolicyInputs(
            catalog=simulator.catalog,
            observation_space=simulator.observation_space,
            slate_size=simulator.slate_size,
            ranker=ranker,
            facts=FACTS,
        )


def _has_option(env: str, option: str) -> bool:
    """Whether the shoppers of a registered environment take an option; those in a folder take `load_shopper`'s."""
    shopper = preset(env).shopper
    if not callable(shopper):
        return True
    parameters = inspect.signature(shopper).parameters.values()
    return any(
        parameter.name == option or parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters
    )


def seeds(first: int, count: int) -> Tensor:
    """Episode seeds (count,): first, first + 1, .."""
    return torch.arange(first, first + count)


TUNING_SEED, REPORTED_SEED = 20_000_000, 30_000_000
"""First seeds of the episodes that parameters are chosen on, and of those that are reported: never
the same."""
