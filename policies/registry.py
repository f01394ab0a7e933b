"""TODO."""

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

    parameters: type[Any]
    """A frozen dataclass; fields made by `tunable` are searched."""
    builder: Builder[Any]
    needs_ranker: bool
    """Whether `PolicyInputs.ranker` must be there."""
    name: str = "unregistered"
    """In the registry, for messages."""

    def search(self) -> dict[str, Range]:
        """The range of every tuned parameter; empty where nothing is tuned."""
        return ranges(self.parameters())

    def build(self, inputs: PolicyInputs, parameters: Mapping[str, float] | None = None) -> Policy:
        """The policy with some parameters, defaults for the rest.

        Raises:
            TypeError: At an unknown parameter.
            ValueError: If a parameter is out of its range and where `inputs` lacks what the policy
                needs.
        """
        checks.instance("inputs", inputs, PolicyInputs)
        given = {} if parameters is None else parameters
        return self.builder(
            inputs, with_parameters(self.parameters(), given, f"the policy {self.name!r}")
        )


POLICIES: Registry[PolicySpec] = Registry("policy")
"""Every policy that needs no training of its own, by name. `import policies` fills it."""


def register_policy(
    name: str, parameters: type[T], *, needs_ranker: bool = True
) -> Callable[[Builder[T]], Builder[T]]:
    """Register a builder: `@register_policy("mmr", MMRParameters)` above `def mmr(inputs, parameters) -> Policy`.

    The same code may register again, as a cell of a notebook does that is run once more: the new
    policy replaces the old one, with a warning.

    Raises:
        ValueError: If other code took the name.
        TypeError: If `parameters` is no dataclass.
    """
    if not isinstance(parameters, type) or not dataclasses.is_dataclass(parameters):
        raise TypeError(
            f"parameters is {checks.told(parameters)}, but it must be a dataclass with defaults."
        )
    checks.flag("needs_ranker", needs_ranker)

    def add(builder: Builder[T]) -> Builder[T]:
        POLICIES.add(name, PolicySpec(parameters, builder, needs_ranker, name), builder)
        return builder

    return add
