"""An opened environment: its simulators, what policies are built from, and its log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from policies.inputs import PolicyInputs
from policies.rankers.belief import BeliefRanker
from recsim_env import SlateSimulator, make_simulator
from recsim_env.belief.base import Belief
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import preset
from recsim_env.rewards import as_reward
from recsim_env.shoppers.outside import OutsideShopper

TUNING_SEED, REPORTED_SEED = 20_000_000, 30_000_000
"""First seeds of the episodes that parameters are chosen on and of those that are reported, which
are never the same."""
MEASURED = ("intra_list_distance", "category_coverage")
"""Reward terms that are measured whatever the environment pays for."""


def seeds(first: int, count: int) -> Tensor:
    """The episode seeds (count,) that begin with `first`."""
    return torch.arange(first, first + count)


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
    belief: Belief[Any] | None = None
    """What the shop infers about each shopper, which is part of the observation; see
    `believing`."""

    def simulator(self, population: str = "evaluation", **options: Any) -> SlateSimulator:
        """A new simulator with the place's own reward, unless the options say otherwise."""
        told = {**self.options(population), **options}
        if self.belief is not None:
            told.setdefault("belief", self.belief)
        return make_simulator(self.env, device=self.device, **told)

    def believing(self, belief: Belief[Any]) -> Site:
        """The same place with a belief: in the observation, and as the ranker of all policies.

        Raises:
            TypeError: If it is no belief.
            ValueError: If the belief is about other shoppers.
        """
        site = replace(self, belief=belief)
        space = site.simulator("train").observation_space
        return replace(
            site, inputs=replace(self.inputs, observation_space=space, ranker=BeliefRanker())
        )

    def training(self, diversity: float | None = None) -> SlateSimulator:
        """A new simulator of the shoppers that agents are trained with.

        Args:
            diversity: The weight of diversity beside that of clicks, which is 1. By default the
                reward is the place's own.
        """
        diverse = {"clicks": 1.0, "intra_list_distance": diversity}
        return self.simulator("train", reward=self.reward if diversity is None else diverse)

    def judging(self, population: str = "evaluation") -> SlateSimulator:
        """A new simulator to evaluate in, whose reward has the terms of `MEASURED` at weight 0."""
        reward = {**dict.fromkeys(MEASURED, 0.0), **self.reward}
        return self.simulator(population, reward=reward)

    def inputs_for(self, simulator: SlateSimulator) -> PolicyInputs:
        """What policies are built from to play in another simulator of the same catalogue."""
        return replace(
            self.inputs,
            catalog=simulator.catalog,
            observation_space=simulator.observation_space,
            slate_size=simulator.slate_size,
            reward=simulator.reward,
        )

    @property
    def reward(self) -> Mapping[str, float]:
        """The weight of each term of the place's reward."""
        told = self.options("train").get("reward")
        return as_reward(preset(self.env).reward if told is None else told).weights

    @property
    def logged(self) -> Sessions:
        """The log.

        Raises:
            ValueError: If nothing was logged there.
        """
        if self.log is None:
            raise ValueError(f"{self.env} has no log, but one is needed.")
        return self.log


def is_slow(simulator: SlateSimulator) -> bool:
    """Whether shoppers are stepped one by one, so that everything is done with few of them."""
    return isinstance(simulator.shopper, OutsideShopper)
