"""The registry of policies that need no training, and how one of them is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from policies.inputs import PolicyInputs
from policies.parameters import Range, ranges, with_parameters
from recsim_env import checks
from recsim_env.registry import Registry
from recsim_env.shoppers.base import Shopper
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
    needs_keys: tuple[str, ...] = ()
    """Keys that the observation must have; `popularity` may be in `PolicyInputs` instead."""
    needs_bundles: bool = False
    """Whether slates must be bundles, of which a log told `PolicyInputs.lift`."""
    needs_hidden: type[Shopper[Any]] | None = None
    """Class of the shoppers whose hidden state it reads; None = it reads what the shop knows."""

    def lacking(self, inputs: PolicyInputs, shopper: Shopper[Any] | None = None) -> str | None:
        """Say what the policy needs and does not get; None where it can be built.

        Args:
            inputs: what it would be built from
            shopper: the shoppers that it would serve, for policies that read their hidden state
        """
        if self.needs_ranker and inputs.ranker is None:
            return "a ranker"
        for key in self.needs_keys:
            if key in inputs.observation_space.spaces:
                continue
            if key != "popularity" or inputs.popularity is None:
                return f"the observation `{key}`"
        if self.needs_bundles and (inputs.lift is None or not inputs.levels):
            return "the lift of categories in a log of bundles"
        if self.needs_hidden is not None and not isinstance(shopper, self.needs_hidden):
            return f"the hidden state of a {self.needs_hidden.__name__}"
        return None

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
    name: str,
    parameters: Callable[[], T],
    *,
    needs_ranker: bool = True,
    needs_keys: Collection[str] = (),
    needs_bundles: bool = False,
) -> Callable[[Builder[T]], Builder[T]]:
    """Register a builder: `@register_policy("mmr", MMRParameters)` above a function or class.

    The same code may register again, as a cell of a notebook does that is run once more: the new
    policy replaces the old one, with a warning.

    Args:
        name: of the policy
        parameters: a dataclass with defaults, or a function that makes one
        needs_ranker: whether `PolicyInputs.ranker` must be there
        needs_keys: keys that the observation must have; `popularity` may be in `PolicyInputs`
            instead. Commands leave the policy out, with a line, where one is missing
        needs_bundles: whether slates must be bundles, of which a log told `PolicyInputs.lift`

    Raises:
        ValueError: If other code took the name.
        TypeError: If `parameters` makes no dataclass.
    """
    if not callable(parameters) or not dataclasses.is_dataclass(parameters()):
        raise TypeError(
            f"parameters is {checks.told(parameters)}, but it must be a dataclass with defaults."
        )
    checks.flag("needs_ranker", needs_ranker)
    checks.flag("needs_bundles", needs_bundles)
    keys = tuple(checks.text("needs_keys", key) for key in checks.several("needs_keys", needs_keys))

    def add(builder: Builder[T]) -> Builder[T]:
        spec = PolicySpec(parameters, builder, needs_ranker, name, keys, needs_bundles)
        POLICIES.add(name, spec, builder)
        return builder

    return add
