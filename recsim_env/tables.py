"""Tables in files: parquet, read and written as a whole.

They stand apart from `recsim_env.files`, because polars takes a fifth of a second to import and not
everybody has a table.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsim_env import checks
from recsim_env.files import replacing


def write_parquet(path: Path | str, frame: pl.DataFrame) -> None:
    """Replace a parquet file; the same rows give the same bytes."""
    whole = (
        frame.rechunk()
    )  # row groups follow chunks, which follow threads: without this, bytes differ by run
    with replacing(path) as temporary:
        try:
            whole.write_parquet(temporary, compression="zstd", statistics=False)
        except pl.exceptions.PolarsError as error:
            raise OSError(0, str(error)) from error


def read_parquet(path: Path | str, expected: str) -> pl.DataFrame:
    """Read one parquet file.

    Args:
        path: The file.
        expected: What the file should hold, for messages.

    Raises:
        TypeError: If `path` is no path.
        ValueError: If there is no such file, or if it is not readable as parquet; the message names
            the file.
    """
    path = checks.path("path", path)
    try:
        if path.is_dir():  # polars would read all files in there
            raise ValueError(f"{path}: found a folder, expected {expected} as parquet.")
        if path.exists() and not path.is_file():  # a pipe may never end
            raise ValueError(f"{path}: found no regular file, expected {expected} as parquet.")
        return pl.read_parquet(path, glob=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: found no such file, expected {expected} as parquet.") from None
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: found no readable parquet ({reason}), expected {expected}."
        ) from error
