"""Results that are files: what is there is read, and what is missing is made and written whole.

A long measurement consists of cells, each with a file of its own whose presence says that the cell
is done. So a measurement that was interrupted goes on with the cells that are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import polars as pl

from recsim_env.files import read_json, write_json
from recsim_env.tables import write_parquet

T = TypeVar("T")


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
