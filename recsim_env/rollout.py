"""The loop that plays a policy in a simulator, one episode a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsim_env import checks, noise
from recsim_env.noise import MOST_DRAWS
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Outcome, Policy


@dataclass(frozen=True)
class Visit:
    """One visit of every shopper who is being played. Shapes: B shoppers, K positions."""

    number: Tensor
    """(B,) int64, the place of each row's seed in `seeds`."""
    observation: Observation
    """What the policy saw."""
    slates: Tensor
    """(B, K) int64, what the policy chose."""
    shown: Tensor
    """(B, K) int64, the slates as they were shown; -1 where nothing was."""
    outcome: Outcome
    """What the visit led to."""


def rollout(
    policy: Policy, simulator: SlateSimulator, seeds: Tensor, *, batch: int | None = None
) -> Iterator[Visit]:
    """Play the first episode of every seed to its end, and yield visit after visit.

    A row whose episode is over takes the next seed, so that a long episode holds up nobody. Where
    no seed is left, the row is dropped. A visit is yielded before rows are restarted or dropped:
    meanwhile `simulator.episodes` and `simulator.hidden` belong to the rows of the visit. The
    episodes depend on the seeds alone, whatever `batch` is.

    Args:
        policy: The policy; its uniform numbers are those of `draws_for`.
        simulator: The simulator, which is reset and which nobody else may step meanwhile.
        seeds: (S,) int64, at least one.
        batch: How many shoppers are played at a time; None plays all of them at once.

    Raises:
        TypeError: If the policy or the simulator is none, or if `seeds` or a slate has the wrong
            type.
        ValueError: If `seeds` is empty, or if a number is out of its range; what
            `SlateSimulator.check` says of slates.
    """
    check_playable(policy, simulator, seeds)
    width = len(seeds) if batch is None else min(checks.whole("batch", batch, 1), len(seeds))
    return _play(policy, simulator, seeds.to(simulator.device), width)


@torch.no_grad()
def _play(policy: Policy, simulator: SlateSimulator, seeds: Tensor, width: int) -> Iterator[Visit]:
    """Play the seeds with `width` rows."""
    number = torch.arange(width, device=simulator.device)
    waiting = width  # the first seed that no row has taken
    observation = simulator.reset(seeds[:width])
    while True:
        # one visit of every row
        at = simulator.episodes
        slates = policy(observation, draws_for(policy, at.seed, at.visit, at.number))
        simulator.check(slates, name="policy(observation, draws)")
        outcome = simulator.advance(slates)
        yield Visit(number, observation, slates, simulator.episodes.recent_slates[:, 0], outcome)

        # rows that are done take the next seeds
        done = outcome.ended.nonzero().squeeze(1)
        if len(done):
            fresh = waiting + torch.arange(len(done), device=simulator.device)
            waiting += len(done)
            number = number.index_copy(0, done, fresh)
            running = fresh < len(seeds)
            simulator.restart(done[running], seeds[fresh[running]])

            # where no seed is left, the row is dropped
            if not bool(running.all()):
                rows = (number < len(seeds)).nonzero().squeeze(1)
                if len(rows) == 0:
                    return
                simulator.keep(rows)
                number = number[rows]
        observation = simulator.observe()


def draws_for(
    policy: Policy, seeds: Tensor, visits: Tensor, episodes: Tensor | None = None
) -> Tensor:
    """The uniform numbers that a policy takes at a visit: (B, policy.draws) float32.

    They depend on seed, episode and visit alone.

    Args:
        policy: The policy.
        seeds: (B,) int64.
        visits: (B,) int64, visits so far in the episode.
        episodes: (B,) int64, the number of the episode under its seed; None means 0.

    Raises:
        ValueError: If `policy.draws` is no whole number from 0 to `MOST_DRAWS`.
    """
    episodes = torch.zeros_like(seeds) if episodes is None else episodes
    key = noise.episode_key(seeds, episodes, stream=noise.Stream.POLICY)
    return noise.uniform(key, visits, _checked_draws(policy))


def check_policy_type(policy: Any) -> None:
    """Check that an object is a `Policy`: a function with the attribute `draws`.

    Raises:
        TypeError: If it is none.
        ValueError: If `draws` is no whole number from 0 to `MOST_DRAWS`.
    """
    if not callable(policy) or isinstance(policy, type) or not hasattr(policy, "draws"):
        raise TypeError(
            f"policy is {checks.told(policy)}, but it must be a Policy: callable, with `draws`."
        )
    _checked_draws(policy)


def _checked_draws(policy: Policy) -> int:
    return checks.whole("policy.draws", policy.draws, 0, MOST_DRAWS)


def check_playable(policy: object, simulator: object, seeds: object) -> None:
    """Check what `rollout` says of its first three arguments.

    Raises:
        TypeError: If one of them has the wrong type.
        ValueError: If `seeds` is empty or not (S,), or if `policy.draws` is out of range.
    """
    if not isinstance(simulator, SlateSimulator):
        raise TypeError(f"simulator is {checks.told(simulator)}, but it must be a SlateSimulator.")
    check_policy_type(policy)
    if len(checks.tensor("seeds", seeds, ("S",), torch.int64)) == 0:
        raise ValueError("seeds is empty, but it must hold at least one number.")
