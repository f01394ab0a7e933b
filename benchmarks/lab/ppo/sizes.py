"""How much a training of PPO trains and evaluates, and what of it is rounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from agents.ppo.config import PPOConfig
from agents.ppo.monitor import MonitorConfig
from benchmarks.lab.ppo.config import Config, kind_of

USUAL_VISITS, USUAL_SHOPPERS = 300_000, 512
SLOW_VISITS, SLOW_SHOPPERS, SLOW_EPISODES = 20_000, 32, 32
"""Sizes of a training by default, in most environments and where shoppers are served one by one."""


@dataclass(frozen=True)
class Sizes:
    """How much is trained and evaluated."""

    visits: int
    """Length of PPO's part of a run in visits."""
    polished: int
    """Most visits of the search that follows it."""
    shoppers: int
    """Number of shoppers that are served at once."""
    monitor: MonitorConfig
    """Evaluations on the way."""

    @property
    def steps(self) -> int:
        """Length of a run in visits, its search included."""
        return self.visits + self.polished


def sizes_of(config: Config, *, slow: bool = False) -> Sizes:
    """The sizes that are told, and others by default where shoppers are served one by one."""
    visits, shoppers = (SLOW_VISITS, SLOW_SHOPPERS) if slow else (USUAL_VISITS, USUAL_SHOPPERS)
    monitor = config.monitor
    if slow and monitor.episodes == MonitorConfig().episodes:
        monitor = replace(monitor, episodes=SLOW_EPISODES)
    visits = visits if config.visits is None else config.visits
    polished = round(config.polished * visits) if kind_of(config) == "composer" else 0
    shoppers = shoppers if config.shoppers is None else config.shoppers
    return Sizes(visits - polished, polished, shoppers, monitor)


def visits_to_make(sizes: Sizes, ppo: PPOConfig, made: int = 0) -> int:
    """The number of visits at the end of PPO's part of a training, which makes whole rollouts.

    Args:
        sizes: The sizes of the training.
        ppo: Hyper-parameters of the PPO algorithm.
        made: The number of visits that it has made before.
    """
    rollout = sizes.shoppers * ppo.n_steps
    return made + math.ceil(max(sizes.visits - made, 0) / rollout) * rollout


def rounded(sizes: Sizes, ppo: PPOConfig, made: int = 0) -> Iterator[str]:
    """Say what is rounded, because visits, rollouts and minibatches do not fit into each other."""
    rollout, batch = sizes.shoppers * ppo.n_steps, ppo.batch_size
    told = f"whole rollouts of {rollout:,} visits (shoppers x ppo.n_steps)"
    if (visits := visits_to_make(sizes, ppo, made)) != sizes.visits:
        part = "visits is" if not sizes.polished else "PPO's part of the visits is"
        yield f"{part} {sizes.visits:,} and is rounded up to {visits:,}, which are {told}."
    if batch > rollout:
        yield (
            f"ppo.batch_size is {batch:,}, but a rollout has {rollout:,} visits: "
            "each is one minibatch."
        )
    elif last := rollout % batch:
        yield (
            f"ppo.batch_size is {batch:,}, but a rollout has {rollout:,} visits: "
            f"the last minibatch of each pass has {last:,}."
        )
