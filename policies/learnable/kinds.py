"""The kinds of policy that a gradient trains: how the actor of each is built, and what it becomes in use.

Another kind is one more entry of `LEARNABLE`; training (`policies.learnable.sb3`,
`agents.ppo.algorithm`) and checkpoints read them there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from policies.base import LOG_STD, of_kind, widths
from policies.composer import Composer, ComposerPolicy, IntentActor
from policies.learnable.autoregressive import (
    AutoregressiveActor,
    AutoregressiveConfig,
    AutoregressivePolicy,
    Items,
)
from policies.learnable.plackett_luce import (
    PlackettLuceActor,
    PlackettLuceConfig,
    PlackettLucePolicy,
)
from policies.rankers.networks import Standardizer
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.settings import MOST, put, settle
from recsim_env.types import Observation, Policy


class Actor(Protocol):
    """What training needs of a slate policy; always an `nn.Module`."""

    standardize: Standardizer

    def act(self, observation: Observation, draws: Tensor | None) -> Tensor:
        """Actions (B, ...): the most likely ones, or a sample by uniform numbers."""

    def judge(self, observation: Observation, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy, (B,) each."""


@dataclass(frozen=True)
class Plan:
    """What every actor is built from."""

    composer: Composer
    """What looks at a visit."""
    catalog: Catalog
    """The items."""
    width: int
    """F, features of a state."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    generator: torch.Generator
    """Of the initial weights."""

    def __post_init__(self) -> None:
        """Errors: TypeError where a part is of another kind, ValueError where a width is none."""
        of_kind("composer", self.composer, Composer)
        of_kind("catalog", self.catalog, Catalog)
        of_kind("generator", self.generator, torch.Generator)
        put(
            self,
            width=checks.whole("width", self.width, 1, MOST),
            hidden=widths("hidden", self.hidden),
        )


@dataclass(frozen=True)
class IntentConfig:
    """How a Gaussian over intents starts."""

    log_std: float = -0.7
    """Log of its standard deviation, in units of intent."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self, log_std=LOG_STD)


@dataclass(frozen=True)
class Learnable:
    """A kind of policy that a gradient trains."""

    config: type[Any]
    """A frozen dataclass of plain values: how it starts."""
    actor: Callable[[Plan, Any], nn.Module]
    """Builds the untrained actor."""
    policy: Callable[[Composer, Any, bool], Policy]
    """What an actor is in use; True = it shows what is most likely, False = it draws."""
    intents: bool
    """Whether it acts in intents, (B, A) float32, and not in slates, (B, K) int64."""


def _intent_actor(plan: Plan, config: IntentConfig) -> IntentActor:
    return IntentActor(
        plan.width, plan.composer.intent_size, plan.hidden, config.log_std, plan.generator
    )


def _plackett_luce_actor(plan: Plan, config: PlackettLuceConfig) -> PlackettLuceActor:
    composer = plan.composer
    vectors, size, cues = composer.offset_vectors, composer.slate_size, len(composer.cues)
    return PlackettLuceActor(plan.width, cues, vectors, size, plan.hidden, config, plan.generator)


def _autoregressive_actor(plan: Plan, config: AutoregressiveConfig) -> AutoregressiveActor:
    composer = plan.composer
    items = Items(composer.offset_vectors, plan.catalog.category, plan.catalog.embedding)
    units, size, cues = composer.units[:2], composer.slate_size, len(composer.cues)
    return AutoregressiveActor(
        plan.width, cues, items, units, size, plan.hidden, config, plan.generator
    )


LEARNABLE: dict[str, Learnable] = {
    "composer": Learnable(
        IntentConfig,
        _intent_actor,
        lambda composer, actor, certain: ComposerPolicy(composer, actor, deterministic=certain),
        intents=True,
    ),
    "plackett_luce": Learnable(
        PlackettLuceConfig,
        _plackett_luce_actor,
        lambda composer, actor, certain: PlackettLucePolicy(composer, actor, deterministic=certain),
        intents=False,
    ),
    "autoregressive": Learnable(
        AutoregressiveConfig,
        _autoregressive_actor,
        lambda composer, actor, certain: AutoregressivePolicy(
            composer, actor, deterministic=certain
        ),
        intents=False,
    ),
}
"""Every kind by name."""
