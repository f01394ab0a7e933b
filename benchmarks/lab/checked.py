"""Options that are checked when a configuration is made, before a command does anything."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Union

from recsim_env import checks
from recsim_env.settings import ONE_OR_MORE, SEED, Within, settle

FEW = Within(1, 1024)
"""Of processor threads."""


@dataclass(frozen=True)
class Checked:
    """A configuration whose options are checked by their types.

    A whole number is 1 or more, a list holds something and nothing twice, and a text is not empty,
    unless the class or one that it is made of says otherwise below. Other numbers need a range
    there.
    """

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        **dict.fromkeys(("seed", "seeds", "world", "worlds"), SEED),
        "threads": FEW,
    }
    """Option -> the numbers that it may hold, or its members may be."""
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {}
    """Option -> the names that it may hold, or its members may be."""
    EMPTY: ClassVar[Collection[str]] = ()
    """Lists that may be empty."""
    REPEATED: ClassVar[Collection[str]] = ()
    """Lists that may hold a value twice."""
    FOLDERS: ClassVar[Collection[str]] = ("cache", "markets", "output", "results", "work")
    """Options that name a folder, which need not be there."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ValueError: If an option is outside its range, or a file stands where a folder is
                named; the message names it.
            TypeError: If a part is of another class than its option's, or an option that is a
                number with a fraction has no range.
        """
        bounds, choices = told_of(type(self), "BOUNDS"), told_of(type(self), "CHOICES")
        kinds = hints_of(type(self))
        of_floats = {name for name, kind in kinds.items() if float in kinds_in(kind)}
        if endless := sorted(of_floats - bounds.keys()):
            raise TypeError(f"{type(self).__name__}.BOUNDS lacks {', '.join(endless)}.")
        counts = {name: ONE_OR_MORE for name, kind in kinds.items() if int in kinds_in(kind)}
        own = {name: within for name, within in bounds.items() if name in kinds}
        settle(self, **(counts | own))
        for name, kind in kinds.items():
            _check_texts(name, getattr(self, name), kind, choices.get(name))
        self._check_lists()
        self._check_folders()

    def _check_lists(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, tuple):
                continue
            if not value and field.name not in self.EMPTY:
                raise ValueError(f"{field.name} is empty, but it must hold one value or more.")
            if field.name not in self.REPEATED and len(set(value)) < len(value):
                raise ValueError(
                    f"{field.name} is {checks.told(value)}, but nothing in it may be named twice."
                )

    def _check_folders(self) -> None:
        for name in self.FOLDERS:
            value = getattr(self, name, None)
            if isinstance(value, Path) and os.path.isfile(value):
                raise ValueError(
                    f"{name} is {checks.told(str(value))}, a file, but it must be a folder."
                )


def told_of(config: type, name: str) -> dict[str, Any]:
    """What a class and those that it is made of say of their options, the nearest class last."""
    found: dict[str, Any] = {}
    for base in reversed(config.__mro__):
        found |= vars(base).get(name, {})
    return found


def hints_of(config: type) -> dict[str, Any]:
    """The types of a configuration's fields."""
    found = typing.get_type_hints(config)
    return {field.name: found[field.name] for field in fields(config)}


def kinds_in(kind: Any) -> set[Any]:
    """The plain types that a field's type is made of: `int` of `tuple[int, ...]`."""
    if typing.get_origin(kind) in (Union, types.UnionType, tuple, dict):
        return set().union(*(kinds_in(part) for part in typing.get_args(kind)))
    return {kind}


def _check_texts(name: str, value: Any, kind: Any, known: Collection[str] | None) -> None:
    """Check a text, or the texts in a list."""
    if str not in kinds_in(kind) or value is None or isinstance(value, dict):
        return
    for at, one in enumerate(value if isinstance(value, tuple) else (value,)):
        place = f"{name}[{at}]" if isinstance(value, tuple) else name
        if known is None:
            checks.text(place, one)
        else:
            checks.choice(place, one, known)
