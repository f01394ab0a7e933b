"""The registry of updates, and what an update is: who serves, and what it learns from a day.

@register_update("mine")
class Mine(Update):
def after_day(self, day: SlateExamples) -> None:
self.ranker = go_on(self.ranker, day, self.start.config)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from policies import POLICIES
from policies.inputs import PolicyInputs
from policies.rankers.slate_examples import SlateExamples, examples_at
from policies.rankers.two_tower import TwoTowerConfig, TwoTowerRanker
from recsim_env import checks
from recsim_env.registry import Registry
from recsim_env.rollout import Visit, rollout
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy


@dataclass(frozen=True)
class Start:
    """What every update starts from: the same ranker, and the log that it was fitted to."""

    ranker: TwoTowerRanker
    """The ranker that serves the first day. Nobody may change it."""
    log: SlateExamples
    """What it was fitted to."""
    inputs: PolicyInputs
    """What policies are built from."""
    config: TwoTowerConfig
    """How the ranker was fitted."""
    simulator: SlateSimulator
    """The shoppers of the first day, for an agent that needs some to begin with; it may reset
    them."""
    shoppers: int
    """Number of shoppers that are served a day."""
    seed: int
    """Seed of everything random in the updates."""


class Update:
    """Serves the slates that its ranker scores best, and learns nothing."""

    def __init__(self, start: Start) -> None:
        """Begin to serve.

        Args:
            start: What the update starts from.
        """
        self.start = start
        self.ranker = start.ranker
        self._built: tuple[TwoTowerRanker, Policy] | None = None

    @property
    def policy(self) -> Policy:
        """The policy that serves with the ranker of now."""
        if self._built is None or self._built[0] is not self.ranker:
            inputs = replace(self.start.inputs, ranker=self.ranker)
            self._built = self.ranker, POLICIES["greedy_ctr"].build(inputs)
        return self._built[1]

    def after_day(self, day: SlateExamples) -> None:
        """Learn from the slates of a day, in the order in which they were served."""

    def after_block(self, simulator: SlateSimulator) -> None:
        """Learn after a block of days.

        Args:
            simulator: Shoppers of the days of the block; it may be reset.
        """


UPDATES = Registry[Callable[[Start], Update]]("model update")
"""Every update by name: a class, or a function that makes one."""


def register_update(
    name: str,
) -> Callable[[Callable[[Start], Update]], Callable[[Start], Update]]:
    """Register an update by `@register_update("mine")` above its class or a function (start).

    Raises:
        TypeError: If what stands below is no class and no function.
        ValueError: If the name is no text, or other code took it.
    """
    checks.text("name", name)

    def add(make: Callable[[Start], Update]) -> Callable[[Start], Update]:
        UPDATES.add(name, make, make)
        return make

    return add


class _Now:
    """The policy of an update, whoever that is at the moment."""

    def __init__(self, update: Update) -> None:
        self._update = update

    @property
    def draws(self) -> int:
        return self._update.policy.draws

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        return self._update.policy(observation, draws)


def serve(update: Update, simulator: SlateSimulator, seeds: Tensor) -> list[Visit]:
    """Serve shoppers until all of their episodes are over, and let the update learn on the way.

    A step of the simulator is a day of the shop, so shoppers must begin on the same day.

    Args:
        update: Who serves.
        simulator: The shoppers; it is reset.
        seeds: (S,) int64, one for each shopper.

    Returns:
        The visits of each day.
    """
    visits = []
    for visit in rollout(_Now(update), simulator, seeds):
        visits.append(visit)
        clicks = simulator.episodes.recent_clicks[:, 0]
        with torch.enable_grad():  # a rollout is played without
            day = examples_at(visit.observation, visit.shown, clicks, simulator.catalog)
            update.after_day(day)
    return visits
