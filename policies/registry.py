"""The registry of policies that need no training, and how one of them is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from policies.inputs import PolicyInputs
from policies.parameters import Range, ranges, with_parameters
from recsim_env import checks
from recsim_env.registry import Registry
from recsim_env.types import Policy

T = TypeVar("T")

Builder = Callable[[PolicyInputs, T], Policy]
"""Makes a policy from its inputs and its parameters."""


@dataclass(frozen=True)
class PolicySpec:
    """How to build a registered policy."""

    parameters: Callable[[], Any]
    """Makes the default parameters, a frozen dataclass; its fields made by `tunable` are tuned."""
    builder: Builder[Any]
    """Makes the policy from its inputs and its parameters."""
    needs_ranker: bool
    """Whether `PolicyInputs.ranker` must be there."""
    name: str = "unregistered"
    """Name in the registry, for messages."""

    def search(self) -> dict[str, Range]:
        """The range of every tunable parameter; empty where there is none."""
        return ranges(self.parameters())

    def build(self, inputs: PolicyInputs, parameters: Mapping[str, float] | None = None) -> Policy:
        """Build the policy with some parameters, and defaults for the rest.

        Raises:
            TypeError: If a parameter is unknown.
            ValueError: If a parameter is out of its range, or `inputs` lacks what the policy needs.
        """
        checks.instance("inputs", inputs, PolicyInputs)
        given = {} if parameters is None else parameters
        chosen = with_parameters(self.parameters(), given, f"the policy {self.name!r}")
        return self.builder(inputs, chosen)


POLICIES: Registry[PolicySpec] = Registry("policy")
"""Every policy that needs no training of its own, by name. `import policies` fills it."""


def register_policy(
    name: str, parameters: Callable[[], T], *, needs_ranker: bool = True
) -> Callable[[Builder[T]], Builder[T]]:
    """Register a builder: `@register_policy("mmr", MMRParameters)` above a function or class.

    The same code may register again, as a cell of a notebook does that is run once more: the new
    policy replaces the old one, with a warning.

    Args:
        name: of the policy
        parameters: a dataclass with defaults, or a function that makes one
        needs_ranker: whether `PolicyInputs.ranker` must be there

    Raises:
        ValueError: If other code took the name.
        TypeError: If `parameters` makes no dataclass.
    """
    if not callable(parameters) or not dataclasses.is_dataclass(parameters()):
        raise TypeError(
            f"parameters is {checks.told(parameters)}, but it must be a dataclass with defaults."
        )
    checks.flag("needs_ranker", needs_ranker)

    def add(builder: Builder[T]) -> Builder[T]:
        POLICIES.add(name, PolicySpec(parameters, builder, needs_ranker, name), builder)
        return builder

    return add
