"""Environments that experiments are made in: described by a `World`, opened as a `Site`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.lab.checked import Checked
from benchmarks.lab.threads import THREADS
from policies.inputs import PolicyInputs
from policies.rankers.ctr import WEIGHTS, CTRRanker, load_model
from recsim_env import SlateSimulator, make_simulator
from recsim_env.checks import choice
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import PRESETS, preset
from recsim_env.rewards import as_reward
from recsim_env.settings import Within

TUNING_SEED, REPORTED_SEED = 20_000_000, 30_000_000
"""First seeds of the episodes that parameters are chosen on and of those that are reported, which
are never the same."""
SHIPPED = "recsim_env/CompleteJourney-v0"
"""The one shipped environment with two populations and a CTR ranker."""
ELSEWHERE = (
    f"train, tune and compare work on {SHIPPED}; agents learn in the markets by "
    "`python -m benchmarks.agents.league` and `python -m benchmarks.agents.transfer`"
)
"""What to do in the other environments."""
MEASURED = ("intra_list_distance", "category_coverage")
"""Reward terms that are measured whatever the environment pays for."""


def seeds(first: int, count: int) -> Tensor:
    """The episode seeds (count,) that begin with `first`."""
    return torch.arange(first, first + count)


# ---- an opened environment -----------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """An environment opened for an experiment, with all that agents and policies are built from."""

    env: str
    """Id of the environment."""
    inputs: PolicyInputs
    """What policies are built from."""
    log: Sessions | None = None
    """The impressions that were logged there before, where there is such a log."""
    options: Callable[[str], Mapping[str, Any]] = lambda population: {}
    """Population (`train` or `evaluation`) -> further options of `make_simulator`."""
    device: str | None = None
    """Device of the simulators, cpu or cuda; None means the best there is."""

    def simulator(self, population: str = "evaluation", **options: Any) -> SlateSimulator:
        """A new simulator with the environment's own reward, unless the options say otherwise."""
        told = {**self.options(population), **options}
        return make_simulator(self.env, device=self.device, **told)

    def training(self, diversity: float | None = None) -> SlateSimulator:
        """A new simulator of the shoppers that agents are trained with.

        Args:
            diversity: The weight of diversity beside that of clicks, which is 1. By default the
                reward is the environment's own.
        """
        diverse = {"clicks": 1.0, "intra_list_distance": diversity}
        return self.simulator("train", reward=self._paid if diversity is None else diverse)

    def judging(self, population: str = "evaluation") -> SlateSimulator:
        """A new simulator to evaluate in, whose reward has the terms of `MEASURED` at weight 0."""
        reward = {**dict.fromkeys(MEASURED, 0.0), **self._paid}
        return self.simulator(population, reward=reward)

    def inputs_for(self, simulator: SlateSimulator) -> PolicyInputs:
        """What policies are built from to play in another simulator of the same catalogue."""
        return replace(
            self.inputs,
            catalog=simulator.catalog,
            observation_space=simulator.observation_space,
            slate_size=simulator.slate_size,
        )

    @property
    def logged(self) -> Sessions:
        """The log.

        Raises:
            ValueError: If nothing was logged there.
        """
        if self.log is None:
            raise ValueError(f"{self.env} has no log, but one is needed.")
        return self.log

    @property
    def _paid(self) -> Mapping[str, float]:
        return as_reward(PRESETS[self.env].reward).weights


# ---- an environment with two populations ---------------------------------------------------------


@dataclass(frozen=True)
class World(Checked):
    """An environment whose agents are trained on some of its shoppers and evaluated on others."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "horizon_days": Within(0, math.inf, above=True, infinite=True)
    }

    env: str = SHIPPED
    """Id of a registered environment whose shoppers the ranker was fitted to. Of those that are
    shipped, only the Complete Journey has such a ranker."""
    ranker: Path = WEIGHTS
    """Weights of the CTR ranker, as `benchmarks.data.train_ranker` writes them. The default is the
    ranker that is shipped."""
    populations: bool = True
    """Train on one population of shoppers and evaluate on another, so that results hold for people
    whom the agent never met. False is for environments that have only one."""
    horizon_days: float | None = None
    """Length of an episode in days. By default it is the environment's own."""
    device: str | None = None
    """Device of simulation and training, cpu or cuda. By default it is cuda where there is one."""
    threads: int = THREADS
    """Number of CPU threads. One is the default because more are faster only where no other process
    wants the cores."""

    def check(self) -> None:
        """Check that agents can be trained and evaluated here; nothing is written.

        Raises:
            ValueError: If the environment is not registered, its shoppers have no populations, or
                the ranker was fitted to another catalogue.
        """
        self.inputs(self.simulator("train"))

    def open(self) -> Site:
        """Open the environment.

        Raises:
            ValueError: As `check`.
        """
        inputs = self.inputs(self.simulator("evaluation"))
        return Site(self.env, inputs, None, self._options, self.device)

    def simulator(self, population: str) -> SlateSimulator:
        """A new simulator of `train` or `evaluation` shoppers.

        Raises:
            ValueError: As `check`.
        """
        self._check_populations()
        return make_simulator(self.env, device=self.device, **self._options(population))

    def inputs(self, simulator: SlateSimulator) -> PolicyInputs:
        """What policies are built from; nothing of it comes from the shoppers.

        Raises:
            FileNotFoundError: If there is no file of a ranker.
            ValueError: If that file is broken, or the ranker was fitted to another catalogue.
        """
        try:
            model = load_model(self.ranker)
        except ValueError as error:
            raise ValueError(f"world.ranker cannot be read: {error}") from error
        try:
            ranker = CTRRanker(simulator.catalog, model)
        except ValueError as error:
            raise ValueError(
                f"world.ranker is {self.ranker}, which does not fit to the "
                f"{len(simulator.catalog):,} items of {self.env!r}: {ELSEWHERE} ({error})"
            ) from error
        return PolicyInputs(
            catalog=simulator.catalog,
            observation_space=simulator.observation_space,
            slate_size=simulator.slate_size,
            ranker=ranker,
            facts=simulator.shopper.facts,
        )

    def _options(self, population: str) -> dict[str, Any]:
        options: dict[str, Any] = {"population": population} if self.populations else {}
        if self.horizon_days is not None:
            options["horizon_days"] = self.horizon_days
        return options

    def _check_populations(self) -> None:
        choice("world.env", self.env, sorted(PRESETS))
        if self.populations and not _has_option(self.env, "population"):
            raise ValueError(
                f"world.env is {self.env!r}, but its shoppers are one population, and agents are "
                f"evaluated on another one than they are trained on: {ELSEWHERE}."
            )


def _has_option(env: str, option: str) -> bool:
    """Whether an environment's shoppers take an option; those in a folder take `load_shopper`'s."""
    shopper = preset(env).shopper
    if not callable(shopper):
        return True
    parameters = inspect.signature(shopper).parameters.values()
    return any(
        parameter.name == option or parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters
    )
