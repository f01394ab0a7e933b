"""Folders that scripts read and write: which of them may lie where, and their replacement."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path


def check_apart(inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Check that nothing that is read lies where something is written, links resolved.

    What is written may be replaced as a whole, and then takes everything below it along.

    Args:
        inputs: Paths that are read only, by what messages call them.
        outputs: Paths of folders or files that are written, by the names of their options.

    Raises:
        ValueError: If an input and an output are the same, or one of them lies in the other.
    """
    for (read, source), (written, target) in product(inputs.items(), outputs.items()):
        here, there = source.resolve(), target.resolve()
        if there.is_relative_to(here):
            raise ValueError(
                f"{written} is {target}, but it must lie outside of the {read}, {source}, which is "
                "read only."
            )
        if here.is_relative_to(there):
            raise ValueError(
                f"{written} is {target}, but it must not hold the {read}, {source}: what lies "
                "there may be replaced."
            )


def replace_folder(source: Path, target: Path) -> None:
    """Copy a folder over another one, whose old contents go when the new ones are whole.

    Locks, other hidden files and what is unfinished are not copied.
    """
    fresh, old = target.with_name(f"{target.name}.new"), target.with_name(f"{target.name}.old")
    if not target.exists() and old.exists():
        old.rename(target)  # an earlier replacement was cut off between its two moves
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(".*", "unfinished*"))
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
