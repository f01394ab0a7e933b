"""What learns: the shape that every agent which is trained has, and the registry of them.

An agent is one file with a frozen configuration and a function that learns in a `Ground`; joining
`AGENTS` is what puts it into `benchmarks.agents.league` and under the tests that walk the registry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from agents.keeper import Keeper
from policies.base import PolicyInputs, Range, altered, ranges
from recsim_env.logs.sessions import Sessions
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

Watch = Callable[[int, Policy], None]
"""Called with the shopper-steps taken so far and the policy as it stands, most likely action. It
may evaluate the policy; the training neither sees nor waits for anything else."""


def unwatched(steps: int, policy: Policy) -> None:
    """A `Watch` that looks away."""


@dataclass(frozen=True)
class Ground:
    """Where an agent learns."""

    simulator: SlateSimulator
    """Training shoppers; used by nobody else, reset by the agent."""
    inputs: PolicyInputs
    """What policies are built from: spaces, items, and the CTR ranker of the log."""
    seed: int
    """Of everything random in the training; the same seed gives the same agent."""
    steps: int
    """Shopper-steps (one slate of one shopper) that the agent may take; an off-policy agent takes
    none."""
    shoppers: int = 1024
    """Shoppers served at once."""
    log: Sessions | None = None
    """What the shop logged before, for agents that learn from it."""
    watch: Watch = unwatched
    """Called before the first update, now and then, and at the end."""
    keeper: Keeper = dataclasses.field(default_factory=Keeper)
    """Keeps the training on the way, so that one that was killed goes on; by default it keeps
    nothing."""

    def about(self, config: object) -> dict[str, object]:
        """What a training here with a configuration depends on, for `Keeper.found`."""
        return {"seed": self.seed, "steps": self.steps, "shoppers": self.shoppers, "config": config}

    def need_log(self, name: str) -> Sessions:
        """The log.

        Raises:
            ValueError: If there is none.
        """
        if self.log is None:
            raise ValueError(f"The agent {name!r} learns from a log, but Ground.log is None.")
        return self.log


@dataclass(frozen=True)
class Learned:
    """What came of a training. Policies hold copies: they no longer change."""

    policy: Policy
    """At its most likely action."""
    sampled: Policy | None
    """As it explores; None where an agent has no distribution of its own."""
    untrained: Policy
    """As it was before the first update, at its most likely action."""
    untrained_sampled: Policy | None
    """The same as it explores."""
    steps: int
    """Shopper-steps taken."""
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Anything worth a row: losses, explained variance."""


T = TypeVar("T")
Learner = Callable[[Ground, T], Learned]
"""Learns in a ground with a configuration."""


@dataclass(frozen=True)
class AgentSpec:
    """How to train a registered agent."""

    config: type[Any]
    """A frozen dataclass of defaults; fields made by `policies.base.tuned` are searched by
    `benchmarks.agents.tune_agents`."""
    learner: Learner[Any]
    needs_log: bool
    """Whether `Ground.log` must be there."""

    def search(self) -> dict[str, Range]:
        """The range of every tuned parameter; empty where nothing is tuned."""
        return ranges(self.config())

    def learn(self, ground: Ground, parameters: Mapping[str, Any] | None = None) -> Learned:
        """Train with some parameters, defaults for the rest.

        Raises:
            TypeError: At an unknown parameter.
            ValueError: If the ground lacks what the agent needs.
        """
        return self.learner(ground, altered(self.config(), parameters or {}))


AGENTS: dict[str, AgentSpec] = {}
"""Every agent that is trained, by name. `import agents` fills it."""


def register_agent(
    name: str, config: type[T], *, needs_log: bool = False
) -> Callable[[Learner[T]], Learner[T]]:
    """Register a learner: `@register_agent("slateq", SlateQConfig)` above `def slateq(ground, config) -> Learned`.

    Raises:
        ValueError: If the name is taken.
    """

    def add(learner: Learner[T]) -> Learner[T]:
        if name in AGENTS:
            raise ValueError(f"name is {name!r}, but an agent of that name is registered already.")
        AGENTS[name] = AgentSpec(config, learner, needs_log)
        return learner

    return add
