"""Tunable parameters: dataclass fields that know their range, and how their values are replaced."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from recsim_env import checks
from recsim_env.settings import LARGEST, Within

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The values among which a tunable parameter is searched."""

    low: float
    """Least value that is searched."""
    high: float
    """Largest value that is searched."""
    integer: bool = False
    """Whether it is a whole number."""
    log: bool = False
    """Whether it is searched by its order of magnitude."""

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            ValueError: If `high` is below `low`, if an order of magnitude would be that of 0 or
                less, or a number or a flag is none.
        """
        checks.flag("integer", self.integer)
        log = checks.flag("log", self.log)
        low = checks.number("low", self.low, 0 if log else -LARGEST, LARGEST, above=log)
        checks.number("high", self.high, low, LARGEST)


def tunable(
    default: float,
    low: float,
    high: float,
    *,
    integer: bool = False,
    log: bool = False,
    least: float = -LARGEST,
    most: float = LARGEST,
) -> Any:
    """A dataclass field that is tuned in [low, high], and accepted in [least, most].

    Args:
        default: value where nothing else is said
        low: least value that tuning tries
        high: largest value that tuning tries
        integer: whether it is a whole number
        log: whether it is searched by its order of magnitude
        least: least value that `recsim_env.settings.settle` accepts
        most: largest value that it accepts

    Raises:
        ValueError: If a number is none, if `high` is below `low`, or if `default` is not
            accepted.
    """
    searched = Range(low, high, integer, log)
    checks.number("default", default, least, most)
    return dataclasses.field(
        default=default, metadata={"range": searched, "legal": Within(least, most)}
    )


def ranges(parameters: Any) -> dict[str, Range]:
    """Ranges of all fields made by `tunable`; those of dataclasses inside it as `field.inner`."""
    found: dict[str, Range] = {}
    for field in dataclasses.fields(parameters):
        if "range" in field.metadata:
            found[field.name] = field.metadata["range"]
        elif dataclasses.is_dataclass(getattr(parameters, field.name)):
            inner = ranges(getattr(parameters, field.name))
            found |= {f"{field.name}.{name}": allowed for name, allowed in inner.items()}
    return found


def value_of(parameters: Any, name: str) -> Any:
    """The value of a field as `ranges` names it."""
    return functools.reduce(getattr, name.split("."), parameters)


def with_parameters(parameters: T, values: Mapping[str, Any], owner: str = "") -> T:
    """Copy parameters with other values of some fields, which are named as by `ranges`.

    Args:
        parameters: a dataclass
        values: new values by name of the field
        owner: what the parameters belong to, for messages: "the policy 'mmr'"

    Raises:
        TypeError: If a field is unknown or `values` is no mapping.
        ValueError: If the dataclass refuses a value.
    """
    values = checks.mapping("parameters", values)
    known = list(_names(parameters))
    for name in values:
        if name not in known:
            has = ", ".join(map(repr, known)) or "no parameters"
            raise TypeError(
                f"parameters names {name!r}, but {owner or type(parameters).__name__} has {has}."
            )
    return _with_parameters(parameters, values)


def _with_parameters(parameters: T, values: Mapping[str, Any]) -> T:
    changed = {name: value for name, value in values.items() if "." not in name}
    for part in {name.partition(".")[0] for name in values if "." in name}:
        inner = {
            name.removeprefix(f"{part}."): value
            for name, value in values.items()
            if name.startswith(f"{part}.")
        }
        changed[part] = _with_parameters(changed.get(part, getattr(parameters, part)), inner)
    return dataclasses.replace(parameters, **changed)  # type: ignore[type-var]


def _names(parameters: Any) -> Iterator[str]:
    """Names of all fields, those of dataclasses inside it as `ranges` names them."""
    for field in dataclasses.fields(parameters):
        yield field.name
        value = getattr(parameters, field.name)
        if dataclasses.is_dataclass(value):
            yield from (f"{field.name}.{name}" for name in _names(value))


@dataclass(frozen=True)
class NoParameters:
    """The parameters of a policy that has none."""
