"""Folders that a script replaces as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path


def replace_folder(source: Path, target: Path) -> None:
    """Copy a folder over another one, whose old contents go when the new ones are whole.

    Locks, other hidden files and what is unfinished are not copied.
    """
    fresh, old = target.with_name(f"{target.name}.new"), target.with_name(f"{target.name}.old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(".*", "unfinished*"))
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
