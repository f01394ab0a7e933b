"""What a step of a shopper needs, and where its time goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lab.stopwatch import Clock, Stopwatch
from benchmarks.speed.players import Crowd, bytes_per_shopper
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.encoder import Cache
from recsim_env.shoppers.household.memory import Memory
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.population import LearnedShopper
from recsim_env.shoppers.session.memory import SessionMemory
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import SessionPopulation
from recsim_env.simulator import SlateSimulator

LATE = 40
"""Number of visits after which a step is timed again, because it must not become slower."""


def sizes(env: str, device: torch.device) -> dict[str, float]:
    """Measure what a step of one shopper needs, and where its time goes, in a batch."""
    batch = 1024
    crowd = Crowd(env, batch, device)
    crowd.step(crowd.slates())  # makes what is made once
    counter = FlopCounterMode(display=False)
    with counter:
        crowd.step(crowd.slates())
    learned = learned_parts(crowd.simulator)
    caches = learned.caches if learned else []
    attended = sum(cache.keys.nbytes + cache.values.nbytes for cache in caches)
    observed = sum(value.nbytes for value in crowd.simulator.observe().values())
    return {
        "bytes": float(bytes_per_shopper(env, device)),
        "flops": counter.get_total_flops() / batch,
        "moved_bytes": (attended + observed) / batch,
        **shares(crowd),
        **by_history(env, device, batch),
    }


def by_history(env: str, device: torch.device, batch: int, steps: int = 6) -> dict[str, float]:
    """Time a step at the first visits and after `LATE` of them, with nobody replaced in between."""
    crowd, found = Crowd(env, batch, device), {}
    for name, skipped in (("early_s", 1), ("late_s", LATE)):
        clock = Clock(device)
        for number in range(skipped + steps):
            slates = crowd.slates()
            (clock if number >= skipped else Clock(device)).timed(partial(crowd.watch, slates))
        found[name] = clock.busy / (steps * batch)
    return found


def shares(crowd: Crowd, steps: int = 4) -> dict[str, float]:
    """Measure which shares of a step the networks' forward and the counters that they read take.

    It is measured on a CPU only, because on a GPU every timed method would have to be waited for.

    Args:
        crowd: The shoppers.
        steps: The number of steps that are timed.

    Returns:
        The shares by name; empty where there is no network, or no CPU.
    """
    learned = learned_parts(crowd.simulator)
    if learned is None or crowd.simulator.device.type != "cpu":
        return {}
    watch = Stopwatch(crowd.simulator.device, ("forward", "counters"))
    whole = Clock(crowd.simulator.device)
    for network in learned.networks:
        for part, names in forward_methods(network):
            watch.watch("forward", part, *names)
    watch.watch("counters", learned.memory, *counter_methods(learned.memory))
    for _ in range(steps):
        whole.timed(partial(crowd.watch, crowd.slates()))
    watch.release()
    return {f"{part}_share": seconds / whole.cpu for part, seconds in watch.seconds.items()}


@dataclass(frozen=True)
class LearnedParts:
    """What a simulator of learned shoppers computes with."""

    networks: Sequence[SlateShopper | SessionShopper]
    """The networks that answer together."""
    caches: list[Cache]
    """The keys and values of the visits so far, of each network."""
    memory: Memory | SessionMemory
    """The counters that the networks read."""


def learned_parts(simulator: SlateSimulator) -> LearnedParts | None:
    """The parts that a simulator's shoppers learned; None where they are no networks."""
    shopper: Shopper[Any] = simulator.shopper
    state = simulator.hidden
    if isinstance(shopper, LearnedShopper):
        networks = [member.model for member in shopper.shop.members]
        return LearnedParts(networks, state.caches, state.memory)
    if isinstance(shopper, SessionPopulation):
        return LearnedParts(shopper.members, state.caches, state.memory)
    return None


def forward_methods(
    network: SlateShopper | SessionShopper,
) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """The methods of a network and its heads that a step calls, but for proposing new items."""
    if isinstance(network, SlateShopper):
        return [
            (network, ("token", "append_visit", "new_item_queries")),
            (network.slate_head, ("forward", "shoppers")),
            (network.gap_head, ("forward",)),
        ]
    own = ("token", "append_visit", "temperament", "answer", "click_probability", "leave_logits")
    return [(network, own)]


def counter_methods(memory: Memory | SessionMemory) -> tuple[str, ...]:
    """The methods of the counters that a step calls."""
    if isinstance(memory, Memory):
        return ("stats", "record", "tally", "habit")
    return ("look", "record", "context")
