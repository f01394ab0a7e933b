"""Results that are files: what is there is read, and what is missing is made and written whole.

A long measurement consists of cells, each with a file of its own whose presence says that the cell
is done. So a measurement that was interrupted goes on with the cells that are missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import polars as pl

from recsim_env.files import locked, read_json, write_json
from recsim_env.tables import write_parquet

T = TypeVar("T")
ALONE = ".alone"
"""Folder, beside what several cells need, of the locks of those who make it."""


@contextlib.contextmanager
def once(path: Path) -> Iterator[bool]:
    """Let one process at a time make a file or folder that several cells need.

    Yields:
        Whether it is still missing; the others wait until it is there.
    """
    if path.exists():
        yield False
        return
    with alone(path):
        yield not path.exists()


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only process that makes a file or folder; another one that does is waited for."""
    with locked(path.parent / ALONE / f"{path.name}.lock", wait=True):
        yield


def rows_at(path: Path, measure: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """Read the rows of a cell from a parquet file, after measuring them where it is missing."""
    if not path.exists():
        write_parquet(path, measure())
    return pl.read_parquet(path)


def json_at(path: Path, make: Callable[[], T]) -> T:
    """Read plain values from a JSON file, after making them where it is missing."""
    if not path.exists():
        write_json(path, make())
    found: T = read_json(path)
    return found


def all_rows(paths: list[Path], folder: Path, command: str) -> pl.DataFrame:
    """Read the rows of all cells that are done.

    Args:
        paths: The cells' files.
        folder: Where they lie, for messages.
        command: The command that measures them, for messages.

    Raises:
        FileNotFoundError: If there are none.
    """
    if not paths:
        raise FileNotFoundError(f"{folder} has no rows yet: run python -m {command}.")
    return pl.concat(map(pl.read_parquet, sorted(paths)))
