"""Configurations whose fields are checked by their types.

A frozen dataclass calls `settle` in its `__post_init__`:

    @dataclass(frozen=True)
    class FitConfig:
        epochs: int = 4
        learning_rate: float = 3e-3
        precision: Literal["fp32", "bf16"] = "fp32"

        def __post_init__(self) -> None:
            settle(self, epochs=ONE_OR_MORE, learning_rate=POSITIVE)
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Union

from recsim_env import checks


@dataclass(frozen=True)
class Within:
    """The numbers that a field may hold: from `low` to `high`."""

    low: float
    high: float
    above: bool = False
    """Whether `low` itself is refused."""
    infinite: bool = False
    """Whether infinity is accepted, where it lies within."""


MOST = 10**9
"""Largest number of anything that is counted."""
LARGEST = 1e6
"""Largest size of a parameter: beyond it float32 cannot tell log-odds apart."""
WIDEST = 16_384
"""Largest width of a layer: a square of it takes a gigabyte."""

ONE_OR_MORE = Within(1, MOST)
"""The range of a number of things of which there is at least one."""
NONE_OR_MORE = Within(0, MOST)
"""The range of a number of things of which there may be none, and of every whole number for which
no other range is given."""
WIDTH = Within(1, WIDEST)
"""The range of the width of a layer."""
SEED = Within(0, checks.LARGEST_SEED)
"""The bounds of a seed of torch's or numpy's generators."""
POSITIVE = Within(0, LARGEST, above=True)
"""The range of a size, a duration or a factor that cannot be 0."""
AMOUNT = Within(0, LARGEST)
"""The range of what cannot be negative: a decay, a distance, a share of something."""
SHARE = Within(0, 1)
"""The range of a share or a probability, 0 and 1 among them."""
RATE = Within(0, 1, above=True)
"""The range of a learning rate, and of a share that is not 0."""
ANY = Within(-LARGEST, LARGEST)
"""The range of a number for which no other one is given."""


def settle(config: Any, **bounds: Within) -> None:
    """Check every field of a frozen dataclass, and set it to the plain Python value of its type.

    The annotated type of a field decides: `bool`, `int`, `float`, `Literal` of strings, `tuple` or
    `dict` of one of these, a class, or any of these or None. Other types are left to the dataclass
    itself.

    Args:
        config: The dataclass.
        bounds: The bounds of the numbers in a field, by its name. A field that tells its own range
            (`policies.parameters.tunable`) needs none; others have those of `NONE_OR_MORE` or
            `ANY`.

    Raises:
        ValueError: If a number, flag or choice is not as its field says.
        TypeError: If a part is of another class than its field's.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        allowed = bounds.get(field.name) or field.metadata.get("legal")
        put(
            config,
            **{
                field.name: _checked(
                    field.name, getattr(config, field.name), hints[field.name], allowed
                )
            },
        )


def put(config: object, **values: object) -> None:
    """Set fields of a frozen dataclass, for its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(config, name, value)


def _checked(name: str, value: Any, kind: Any, allowed: Within | None) -> Any:
    """Return the value as its type says."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)

    # an optional value is one of its other type; further unions are not checked
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [one for one in arguments if one is not type(None)]
        return _checked(name, value, kinds[0], allowed) if len(kinds) == 1 else value
    if origin is Literal:
        return checks.choice(name, value, arguments)

    # members of collections are checked by their own type
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        members = checks.several(name, value)
        return tuple(
            _checked(f"{name}[{at}]", one, arguments[0], allowed) for at, one in enumerate(members)
        )
    if origin is dict and arguments[0] is str:
        return {
            key: _checked(f"{name}[{key!r}]", one, arguments[1], allowed)
            for key, one in checks.mapping(name, value).items()
        }

    # single values; a number without bounds of its own has the widest that its type allows
    if kind is bool:
        return checks.flag(name, value)
    if kind is int:
        allowed = allowed or NONE_OR_MORE
        return checks.whole(
            name, value, math.ceil(allowed.low) + allowed.above, math.floor(allowed.high)
        )
    if kind is float:
        allowed = allowed or ANY
        return checks.number(
            name, value, allowed.low, allowed.high, above=allowed.above, infinite=allowed.infinite
        )
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and not isinstance(value, kind):
        raise TypeError(f"{name} is {checks.told(value)}, but it must be a {kind.__name__}.")
    return value
