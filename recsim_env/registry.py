"""Registries: parts such as reward terms, policies and agents by name."""

from __future__ import annotations

import functools
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from recsim_env import checks

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """The place where a function or class was written."""

    name: str
    """The module, and the qualified name in that module."""
    file: str
    """The source file; "" for code that was typed in, in a notebook or a console."""

    @classmethod
    def of(cls, maker: object) -> Source:
        """Find the place of a function or class, or of the class of any other object.

        A partial stands for the function inside.
        """
        while isinstance(maker, functools.partial):
            maker = maker.func
        named = maker if hasattr(maker, "__qualname__") else type(maker)
        module = named.__module__
        code = getattr(named, "__code__", None)
        file = (
            code.co_filename
            if code is not None
            else getattr(sys.modules.get(module), "__file__", None)
        )
        written = (
            file is not None and Path(file).is_file()
        )  # a notebook gives a cell the name of no file
        return cls(
            f"{module}.{getattr(named, '__qualname__', '')}",
            str(Path(str(file)).resolve()) if written else "",
        )

    def __str__(self) -> str:
        return f"{self.name} in {self.file}" if self.file else self.name


class Registry(dict[str, T]):
    """Registered parts by name, in the order of their registration.

    A name is given once. Only the very code that took a name may take it again, as when a cell of a
    notebook is run once more or a module is reloaded: the new part replaces the old one, with a
    warning.

    Args:
        kind: What is registered, in the singular, for messages: "reward term".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._sources: dict[str, Source] = {}

    def add(self, name: str, part: T, maker: object) -> None:
        """Register a part.

        Args:
            name: The name of the part.
            part: The part.
            maker: The function or class that it was made of; where that was written decides who may
                replace it.

        Raises:
            TypeError: If `maker` cannot be called.
            ValueError: If `name` is no text, or was taken by code that was written elsewhere.
        """
        checks.text("name", name)
        if not callable(maker):
            raise TypeError(
                f"The {self.kind} {name!r} is {checks.told(maker)}, but it must be a function or a "
                "class."
            )
        if name in self and self[name] is part:
            return
        source = Source.of(maker)
        if name in self and self._sources.get(name) != source:
            taken = f", by {self._sources[name]}" if name in self._sources else ""
            raise ValueError(
                f"name is {name!r}, but a {self.kind} of that name is registered already{taken}."
            )
        if name in self:
            warnings.warn(
                f"The {self.kind} {name!r} is replaced: {source} ran again.", stacklevel=3
            )
        self[name], self._sources[name] = part, source

    def __missing__(self, name: object) -> T:
        """Say what is registered, where a name is looked up that is not.

        Raises:
            KeyError: Always; the message lists the names that are known.
        """
        raise KeyError(f"{checks.told(name)} is no {self.kind}; there are {sorted(self)}.")

    def find(self, argument: str, name: str) -> T:
        """Return the part of a name.

        Args:
            argument: What messages call the argument.
            name: The name.

        Raises:
            ValueError: If nothing is registered under this name; the message lists the names that
                are.
        """
        return self[checks.choice(argument, name, sorted(self))]
