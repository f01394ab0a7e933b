"""Plain tables in files: CSV or parquet, scanned lazily so that a file may exceed the memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recsim_env import checks
from recsim_env.logs.schema import LogError

ROW = "(row)"
"""Name of the column that holds the number of a row, from 0 without the header."""
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PARQUET = (".parquet", ".pq")
_TWICE = re.compile(r"(.+)_duplicated_\d+")
"""How polars names a column whose name stands in the header of a CSV file before."""
_MISSING = ["", "NaN", "nan"]
"""Texts of a CSV file that stand for no value."""


@dataclass(frozen=True)
class Source:
    """One table, not read yet: every column of a CSV file is a text."""

    name: str
    """The file, for messages."""
    frame: pl.LazyFrame
    """The rows, with their number in `ROW`."""
    schema: dict[str, pl.DataType]
    """Types by column, without `ROW`."""
    headed: bool = False
    """Whether it is a CSV file, in which the row below the header is row 0."""

    def check_types(self, columns: Iterable[str]) -> None:
        """Raise LogError where a column holds lists or the like, and not one value a row."""
        for column in columns:
            dtype = self.schema[column]
            if dtype.is_nested() or dtype in (pl.Object(), pl.Binary()):
                raise LogError(
                    f"{self.name}: column '{column}', row 0: found {dtype}, expected one text, "
                    "number or time."
                )

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Run a query on the table.

        Raises:
            LogError: If the file cannot be read to its end.
        """
        try:
            return frame.collect(engine="streaming")
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise _unreadable(self.name, error) from error

    def value(self, column: str, row: int) -> Any:
        """Look up what stands in one row of a column."""
        here = self.frame.filter(pl.col(ROW) == row).select(column)
        return self.collect(here).item()

    def fault(self, column: str, row: int, expected: str, rows: int = 1) -> LogError:
        """Make the error that says what stands in a row and what was expected there.

        Args:
            column: Name of the column in the file.
            row: Number of the row.
            expected: What should stand there.
            rows: How many rows have a fault like this one.
        """
        value = self.value(column, row)
        value = value.to_list() if isinstance(value, pl.Series) else value
        found = "nothing (empty or NaN)" if value is None else checks.told(value)
        more = f" (and {rows - 1:,} more)" if rows > 1 else ""
        below = " Rows count from 0, below the header." if self.headed else ""
        return LogError(
            f"{self.name}: column '{column}', row {row}: found {found}{more}, expected "
            f"{expected}.{below}"
        )


def open_source(table: Path | str | pl.DataFrame, what: str) -> Source:
    """Open a CSV or parquet file, or take a frame.

    Args:
        table: The file or the frame.
        what: What it should hold, for messages.

    Raises:
        TypeError: If `table` is neither a path nor a polars DataFrame.
        LogError: If there is no such file, it is neither CSV nor parquet, or it has no rows.
    """
    if isinstance(table, pl.DataFrame):
        return _opened(what, table.lazy().with_row_index(ROW), table.schema)
    path = checks.path(what, table)
    suffix = path.suffix.lower()
    if path.is_dir():
        raise LogError(f"{path}: found a folder, expected {what} as one file.")
    if suffix not in (*_SEPARATORS, *_PARQUET):
        raise LogError(f"{path}: found a file named {suffix!r}, expected .csv, .tsv or .parquet.")
    if not path.is_file():
        raise LogError(f"{path}: found no such file, expected {what} as CSV or parquet.")
    try:
        frame = (
            pl.scan_parquet(path, row_index_name=ROW, glob=False)
            if suffix in _PARQUET
            else pl.scan_csv(
                path,
                separator=_SEPARATORS[suffix],
                infer_schema=False,
                null_values=_MISSING,
                row_index_name=ROW,
                glob=False,
            )
        )
        schema = frame.collect_schema()
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _unreadable(str(path), error) from error
    types = {name: dtype for name, dtype in schema.items() if name != ROW}
    return _opened(str(path), frame, types, headed=suffix in _SEPARATORS)


def _opened(name: str, frame: pl.LazyFrame, schema: Any, *, headed: bool = False) -> Source:
    source = Source(name, frame, dict(schema), headed)
    twice = [again[1] for again in map(_TWICE.fullmatch, source.header) if again]
    if twice:
        raise LogError(f"{name}: column '{twice[0]}': found it twice in the header, expected once.")
    if len(source.header) == 1 and (marks := set(source.header[0]) & {";", "\t", "|"}):
        raise LogError(
            f"{name}: found columns separated by {min(marks)!r}, expected commas, or tabs in .tsv."
        )
    if not len(source.collect(frame.select(ROW).head(1))):
        raise LogError(f"{name}: found no rows, expected at least one.")
    return source


def _unreadable(name: str, error: BaseException) -> LogError:
    reason = " ".join(str(error).split())[:200]
    return LogError(f"{name}: found no readable table ({reason}), expected CSV or parquet.")


def as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """Turn ids into texts, so that 5, "5" and the 5.0 that pandas writes are one id."""
    value = pl.col(column)
    if dtype == pl.String():
        return pl.when(value != "").then(value)
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        text = pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.cast(pl.String))
        return pl.when(value.is_not_nan()).then(text)
    return value.cast(pl.String)


def as_number(column: str, dtype: pl.DataType) -> pl.Expr:
    """Turn values into Float64; null where there is none, NaN, or a text that is no number."""
    value = pl.col(column)
    if dtype == pl.String():
        value = value.str.strip_chars()
    return value.cast(pl.Float64, strict=False).fill_nan(None)


def is_given(column: str, dtype: pl.DataType) -> pl.Expr:
    """Whether there is a value: neither null, nor NaN, nor an empty text."""
    value = pl.col(column)
    there = value.is_not_null()
    if dtype == pl.String():
        return there & (value != "")
    return there & value.is_not_nan() if dtype.is_float() else there


def first_rows(rows: pl.DataFrame, broken: pl.Expr) -> tuple[int, int] | None:
    """Find the first row of a file where something is broken, and count those rows.

    Args:
        rows: Rows with their number in `ROW`, in any order.
        broken: True where a row is broken.

    Returns:
        The number of the row and how many there are; None where all is well.
    """
    wrong = rows.select(pl.col(ROW).filter(broken)).to_series()
    return (int(wrong.min()), len(wrong)) if len(wrong) else None  # type: ignore[arg-type]
