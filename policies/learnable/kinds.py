"""The registry of policies that a gradient trains: how each is built, and how it is used.

To add a kind is to register a builder of its actor; training (`policies.learnable.sb3`,
`agents.ppo.algorithm`) and checkpoints find it here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from policies.composer import Composer, ComposerConfig
from policies.inputs import PolicyInputs
from policies.rankers.networks import Standardizer
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.registry import Registry
from recsim_env.rewards import as_reward
from recsim_env.settings import MOST, WIDEST, put
from recsim_env.types import Observation, Policy


class Actor(Protocol):
    """What training needs of a slate policy; always an `nn.Module`."""

    standardize: Standardizer

    def act(self, observation: Observation, draws: Tensor | None) -> Tensor:
        """Choose actions (B, ...): the most likely ones, or a sample by uniform numbers."""

    def judge(self, observation: Observation, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of actions and entropy of the policy, (B,) each."""


@dataclass(frozen=True)
class ActorInputs:
    """What every actor is built from."""

    composer: Composer
    """The composer that looks at a visit."""
    catalog: Catalog
    """The items that slates are made of."""
    width: int
    """Number of features F of a state."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    generator: torch.Generator
    """Generator of the initial weights."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            TypeError: If a part is of another class.
            ValueError: If a width is no whole number of 1 or more.
        """
        checks.instance("composer", self.composer, Composer)
        checks.instance("catalog", self.catalog, Catalog)
        checks.instance("generator", self.generator, torch.Generator)
        hidden = tuple(
            checks.whole(f"hidden[{at}]", width, 1, WIDEST)
            for at, width in enumerate(checks.several("hidden", self.hidden))
        )
        put(self, width=checks.whole("width", self.width, 1, MOST), hidden=hidden)


Build = Callable[[ActorInputs, Any], nn.Module]
"""Builds an untrained actor from its inputs and the configuration of its kind."""
B = TypeVar("B", bound=Build)


@dataclass(frozen=True)
class Learnable:
    """A kind of policy that a gradient trains."""

    config: type[Any]
    """A frozen dataclass of plain values: how it starts."""
    actor: Build
    """Builds the untrained actor."""
    policy: Callable[..., Policy]
    """Makes a policy of a composer and an actor; its argument `deterministic` says whether it shows
    what is most likely or draws."""
    intents: bool
    """Whether it acts in intents, (B, A) float32, and not in slates, (B, K) int64."""
    goals: bool = False
    """Whether it acts for any weights of several goals, which its `config` names as `goals`."""
    levels: bool = False
    """Whether it acts in slates that name a level of discount where slates are bundles."""

    def composer_for(
        self, inputs: PolicyInputs, config: ComposerConfig, start: Any = None
    ) -> Composer:
        """Make the composer that looks at visits for this kind.

        Args:
            inputs: what it is built from
            config: sizes of what it looks at
            start: how the actor starts, a `config`; None = its defaults. Where the kind has goals
                and it names none, they are the terms of the reward of `inputs`

        Raises:
            TypeError: As `Composer`.
            ValueError: As `Composer`.
        """
        if not self.goals:
            return Composer(inputs, config)
        named = () if start is None else start.goals
        return Composer(inputs, config, named or tuple(as_reward(inputs.reward).weights))


LEARNABLE: Registry[Learnable] = Registry("learnable policy")
"""Every kind of learnable policy by name. `import policies.learnable` fills it."""


def register_learnable(
    name: str,
    config: type[Any],
    policy: Callable[..., Policy],
    *,
    intents: bool,
    goals: bool = False,
    levels: bool = False,
) -> Callable[[B], B]:
    """Register a kind: `@register_learnable("composer", IntentConfig, ...)` above its builder.

    Args:
        name: of the kind
        config: frozen dataclass of plain values that tells how the actor starts
        policy: makes a policy of a composer and an actor
        intents: whether it acts in intents and not in slates
        goals: whether it acts for any weights of the goals that its configuration names
        levels: whether its slates name a level of discount where slates are bundles

    Raises:
        ValueError: If other code took the name.
    """

    def add(actor: B) -> B:
        LEARNABLE.add(name, Learnable(config, actor, policy, intents, goals, levels), actor)
        return actor

    return add
