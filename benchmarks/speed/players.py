"""Who is timed: a crowd of shoppers, a single one, or a peer's user."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from benchmarks.lab.stopwatch import Clock
from benchmarks.speed.peers import PEERS
from recsim_env.registration import EnvConfig, make_simulator

TRANSFORMER, MARKET = "recsim_env/CompleteJourney-v0", "recsim_env/Market-v0"
LEARNED = (TRANSFORMER, "recsim_env/LearnedMarket-v0")
"""Environments whose shoppers are networks."""


class Player:
    """Anything that is played for some seconds; choosing slates is not timed."""

    batch = 1

    def turn(self) -> Callable[[], None]:
        """Make the next step ready."""
        raise NotImplementedError

    def play(self, clock: Clock, seconds: float) -> int:
        """Play for some seconds; returns the number of steps of all shoppers together."""
        steps, until = 0, clock.wall + seconds
        while clock.wall < until or steps == 0:
            clock.timed(self.turn())
            steps += self.batch
        return steps


class Crowd(Player):
    """Many shoppers of an environment, served by a random policy."""

    def __init__(
        self, env: str | EnvConfig, batch: int, device: torch.device, **options: Any
    ) -> None:
        self.simulator = make_simulator(env, device=device, **options)
        self.batch = batch
        self._seen = self.simulator.reset(torch.arange(batch))
        self._generator = torch.Generator(device).manual_seed(0)

    def slates(self) -> Tensor:
        """Draw a random slate of candidates for each shopper."""
        candidates = self._seen["candidates"]
        number = (candidates >= 0).sum(dim=1, keepdim=True)
        shape = (self.batch, self.simulator.slate_size)
        draws = torch.rand(shape, generator=self._generator, device=self.simulator.device)
        return candidates.gather(1, (draws * number).long())

    def step(self, slates: Tensor) -> None:
        """Show slates, start anew where an episode is over, and observe."""
        outcome = self.simulator.advance(slates)
        over = (outcome.terminated | outcome.truncated).nonzero().flatten()
        if len(over):
            self.simulator.restart(over)
        self._seen = self.simulator.observe()

    def watch(self, slates: Tensor) -> None:
        """Show slates and observe, also to those who left, because only the time counts."""
        self.simulator.advance(slates)
        self._seen = self.simulator.observe()

    def turn(self) -> Callable[[], None]:
        """Draw slates, which are then shown."""
        return partial(self.step, self.slates())


class One(Player):
    """One shopper behind `gymnasium.make`, as a newcomer meets it."""

    def __init__(self, env: str, device: torch.device) -> None:
        self._env = gymnasium.make(env, device=device)
        self._env.reset(seed=0)
        self._env.action_space.seed(0)

    def step(self, slate: Any) -> None:
        """Show a slate, and start anew where the episode is over."""
        _, _, terminated, truncated, _ = self._env.step(slate)
        if terminated or truncated:
            self._env.reset()

    def turn(self) -> Callable[[], None]:
        """Draw a slate, which is then shown."""
        return partial(self.step, self._env.action_space.sample())


class Peer(Player):
    """A peer's environment, one user at a time."""

    def __init__(self, name: str) -> None:
        self._steps = PEERS[name](np.random.default_rng(0))
        next(self._steps)()  # what it imports and builds is not timed

    def turn(self) -> Callable[[], None]:
        """Take the next step of the peer."""
        return next(self._steps)


def state_bytes(state: Any, seen: set[int] | None = None) -> int:
    """Count the bytes of all tensors in a state of dataclasses and lists; shared ones count once.

    Args:
        state: The state.
        seen: The addresses of the tensors that were counted before.
    """
    seen = set() if seen is None else seen
    if isinstance(state, Tensor):
        new = state.data_ptr() not in seen
        seen.add(state.data_ptr())
        return state.untyped_storage().nbytes() * new
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        state = list(vars(state).values())
    return sum(state_bytes(part, seen) for part in state) if isinstance(state, list | tuple) else 0


def bytes_per_shopper(env: str, device: torch.device) -> int:
    """Bytes of a shopper's state and of what the simulator remembers of the episode."""
    crowd = Crowd(env, 64, device)
    told = state_bytes(crowd.simulator.hidden) + state_bytes(crowd.simulator.episodes)
    return told // crowd.batch
