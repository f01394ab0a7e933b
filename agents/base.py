"""Agents: the interface of everything that is trained, and the registry of agents.

An agent is a frozen configuration and a function that learns from a `TrainingSetup`; one
registration with `register_agent` is all that joining `AGENTS` takes. The registry is what the
benchmarks (`benchmarks.agents.league`, `benchmarks.agents.tune_agents`) and the tests of agents
(`tests/agents/test_every_agent.py`) walk.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from agents.keeper import Keeper
from policies.inputs import PolicyInputs
from policies.parameters import Range, ranges, with_parameters
from policies.rankers.two_tower import SHOPPER_KEYS
from recsim_env import checks, noise
from recsim_env.logs.sessions import Sessions
from recsim_env.registry import Registry
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

REPLAYED = frozenset(
    (
        "recent_slates",
        "recent_clicks",
        "recent_days",
        "candidates",
        "declared",
        *SHOPPER_KEYS,
    )
)
"""Keys of an observation that `recsim_env.logs.sessions.replay` makes again from a log."""
Watch = Callable[[int, Policy], None]
"""Called with the shopper-steps so far and the policy as it stands, at its most likely action. It
may evaluate the policy; its result does not affect the training."""


def ignore_progress(steps: int, policy: Policy) -> None:
    """Do nothing: the `Watch` of a training that nobody watches."""


def training_seeds(seed: int, shoppers: int, generation: int = 0) -> Tensor:
    """Seeds of the shoppers of a training, (shoppers,) int64.

    Args:
        seed: seed of the training; another one gives other shoppers
        shoppers: number of seeds
        generation: another number gives fresh shoppers under the same seed
    """
    key = noise.episode_key(
        torch.tensor([seed]), torch.tensor([generation]), stream=noise.Stream.TRAINING
    )
    return noise.mix(key + torch.arange(shoppers))


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that an agent learns from."""

    simulator: SlateSimulator
    """Training shoppers. The agent resets the simulator, and nothing else may use it."""
    inputs: PolicyInputs
    """What policies are built from: spaces, items, and the click ranker of the log."""
    seed: int
    """Seed of everything random in the training; the same seed gives the same agent."""
    steps: int
    """Shopper-steps (one slate of one shopper) that the agent may take; an off-policy agent takes
    none."""
    shoppers: int = 1024
    """Shoppers that are served at once."""
    log: Sessions | None = None
    """Slates and clicks that the shop logged before, for agents that learn from a log."""
    watch: Watch = ignore_progress
    """Called before the first update, at intervals, and at the end."""
    keeper: Keeper = dataclasses.field(default_factory=Keeper)
    """Saves the state of the training, so that an interrupted one continues; by default it saves
    nothing."""

    def about(self, config: object) -> dict[str, object]:
        """What the result of a training with this configuration depends on, for `Keeper.found`."""
        return {"seed": self.seed, "steps": self.steps, "shoppers": self.shoppers, "config": config}

    def watched(self, steps: int, policy: Policy) -> float:
        """Call `watch`, and return the seconds that it took, which no training counts as its own.

        Args:
            steps: shopper-steps so far
            policy: what was learned by then
        """
        began = time.perf_counter()
        self.watch(steps, policy)
        return time.perf_counter() - began

    def need_log(self, name: str) -> Sessions:
        """The log, for an agent of this name.

        Raises:
            ValueError: If there is none.
        """
        if self.log is None:
            raise ValueError(
                f"The agent {name!r} learns from a log, but TrainingSetup.log is None."
            )
        return self.log

    def need_shoppers(self, name: str) -> int:
        """Number of shoppers that are served at once, at most `steps`, for an agent of this name.

        Raises:
            ValueError: If there is no shopper or no step.
        """
        for field in ("steps", "shoppers"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field} is {getattr(self, field)}, but {name} learns from at least one."
                )
        return min(self.shoppers, self.steps)


@dataclass(frozen=True)
class TrainedAgent:
    """The result of a training. Its policies hold copies of the networks, so they do not change."""

    policy: Policy
    """The trained policy at its most likely action."""
    sampled: Policy | None
    """The trained policy as it explores; None where the agent has no distribution of its own."""
    untrained: Policy
    """The policy before the first update, at its most likely action."""
    untrained_sampled: Policy | None
    """The policy before the first update, as it explores."""
    steps: int
    """Shopper-steps that were taken."""
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Numbers that a report may show: losses, explained variance."""
    unpolished: Policy | None = None
    """The trained policy before a search moved its intents, where one did (`agents.ppo.polish`)."""


T = TypeVar("T")
Learner = Callable[[TrainingSetup, T], TrainedAgent]
"""Trains an agent of some configuration."""


@dataclass(frozen=True)
class AgentSpec:
    """How to train a registered agent."""

    config: type[Any]
    """A frozen dataclass of defaults; fields made by `policies.parameters.tunable` are searched by
    `benchmarks.agents.tune_agents`."""
    learner: Learner[Any]
    """The function that trains the agent."""
    needs_log: bool
    """Whether `TrainingSetup.log` is required."""
    needs_ranker: bool = True
    """Whether `PolicyInputs.ranker` is required; the shipped agents all start from it."""
    needs_keys: tuple[str, ...] = ()
    """Keys that the observation must have."""

    def lacking(self, inputs: PolicyInputs, log: Sessions | None) -> str | None:
        """Say what the agent needs and does not get; None where it can be trained.

        An agent that learns from a log needs one in which the observations of the environment can
        be made again.
        """
        keys = inputs.observation_space.keys()
        if self.needs_log and log is None:
            return "a log"
        if self.needs_log and (unknown := sorted(keys - REPLAYED)):
            return f"a log that tells the observation `{unknown[0]}`"
        if self.needs_ranker and inputs.ranker is None:
            return "a ranker"
        for key in self.needs_keys:
            if key not in keys:
                return f"the observation `{key}`"
        return None

    def search(self) -> dict[str, Range]:
        """The range of every tuned parameter; empty where nothing is tuned."""
        return ranges(self.config())

    def learn(
        self, setup: TrainingSetup, parameters: Mapping[str, Any] | None = None
    ) -> TrainedAgent:
        """Train with some parameters, and defaults for the rest.

        Raises:
            TypeError: If a parameter is unknown.
            ValueError: If a parameter is out of its range, or the setup lacks what the agent needs.
        """
        return self.learner(setup, with_parameters(self.config(), parameters or {}))


AGENTS = Registry[AgentSpec]("learning agent")
"""Every agent by name; importing the package `agents` fills it."""


def register_agent(
    name: str,
    config: type[T],
    *,
    needs_log: bool = False,
    needs_ranker: bool = True,
    needs_keys: Collection[str] = (),
) -> Callable[[Learner[T]], Learner[T]]:
    """Register a learner by `@register_agent("mine", MyConfig)` above `def mine(setup, config)`.

    The same code may register again, as a cell of a notebook does that is run once more: the new
    agent replaces the old one, with a warning.

    Args:
        name: the name in `AGENTS`
        config: a dataclass whose fields all have defaults
        needs_log: whether the agent learns from a log
        needs_ranker: whether it starts from the ranker of `PolicyInputs`
        needs_keys: keys that the observation must have. Commands leave the agent out, with a line,
            where something that it needs is missing

    Raises:
        TypeError: If `config` is not a dataclass.
        ValueError: If other code took the name, or a flag is none.
    """
    if not isinstance(config, type) or not dataclasses.is_dataclass(config):
        raise TypeError(
            f"config is {checks.told(config)}, but it must be a dataclass with defaults."
        )
    checks.flag("needs_log", needs_log)
    checks.flag("needs_ranker", needs_ranker)
    keys = tuple(checks.text("needs_keys", key) for key in checks.several("needs_keys", needs_keys))

    def add(learner: Learner[T]) -> Learner[T]:
        AGENTS.add(name, AgentSpec(config, learner, needs_log, needs_ranker, keys), learner)
        return learner

    return add
