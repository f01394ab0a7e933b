"""Which items a shop has on which days: intervals of days, as candidates of each visit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.tables import read_parquet
from recsim_env.types import MAX_DAYS

COLUMNS = ("item", "first_day", "last_day")
"""Columns of the table, whole numbers: an item is there from its first to its last day."""
MOST_CELLS = 2 * 10**9
"""Largest number of items times periods."""


@dataclass(frozen=True)
class Availability:
    """The items that are there in each period; within a period nothing comes or goes.

    Before the first day of the table, and after its last one, it is as on that day.

    Shapes: P periods, N items, C the most items that are there at a time.
    """

    begins: Tensor
    """(P,) float32 first day of each period."""
    there: Tensor
    """(P, N) bool."""
    items: Tensor
    """(P, C) int64 numbers of the items that are there, padded at the end with -1."""

    @classmethod
    def of(cls, table: pl.DataFrame, n_items: int, name: str = "available") -> Availability:
        """Make it from a table with the columns `item`, `first_day` and `last_day`.

        An item may have several rows, and one without a row is never there.

        Args:
            table: The table.
            n_items: N.
            name: What messages call the table.

        Raises:
            ValueError: If the table is not as said, or has a day without any item.
        """
        columns = _checked(table, n_items, name)
        item, first, last = (columns[column] for column in COLUMNS)

        # Periods begin where an item comes, or is gone after its last day.
        end = int(last.max())
        changes = torch.cat([first, last[last < end] + 1]).unique()
        if len(changes) * n_items > MOST_CELLS:
            raise ValueError(
                f"{name} changes on {len(changes)} days, but with {n_items} items at most "
                f"{MOST_CELLS // n_items} are possible."
            )
        there = torch.zeros(len(changes), n_items, dtype=torch.bool)
        for period, day in enumerate(changes):
            there[period, item[(first <= day) & (day <= last)]] = True
        number = there.sum(dim=1)
        if not bool((number > 0).all()):
            day = int(changes[int((number == 0).nonzero()[0])])
            raise ValueError(f"{name} has no item on day {day}, but there must be one every day.")

        # Their numbers, ascending.
        order = (~there).to(torch.int8).argsort(dim=1, stable=True)[:, : int(number.max())]
        beyond = torch.arange(order.shape[1]) >= number.unsqueeze(1)
        return cls(changes.float(), there, order.masked_fill(beyond, -1))

    @classmethod
    def read(cls, path: Path, n_items: int) -> Availability:
        """Read the table from a parquet file.

        Raises:
            ValueError: If the file is no readable table, or as in `of`.
        """
        return cls.of(read_parquet(path, "the table of available items"), n_items, str(path))

    def to(self, device: torch.device) -> Availability:
        """Copy it to a device."""
        return Availability(self.begins.to(device), self.there.to(device), self.items.to(device))

    def period(self, day: Tensor) -> Tensor:
        """Return the period (B,) of days (B,)."""
        return (torch.bucketize(day, self.begins, right=True) - 1).clamp(min=0)

    def candidates(self, day: Tensor) -> Tensor:
        """Return the items that are there on days (B,): (B, C), padded with -1."""
        return self.items[self.period(day)]

    def offers(self, day: Tensor, items: Tensor) -> Tensor:
        """Tell which of items (B, K) are there on days (B,), and False for padding: (B, K) bool."""
        return self.there[self.period(day).unsqueeze(1), items.clamp(min=0)] & (items >= 0)


def _checked(table: pl.DataFrame, n_items: int, name: str) -> dict[str, Tensor]:
    """Return the columns (R,) int64.

    Raises:
        ValueError: If one is missing, holds other than whole numbers in range, or none.
    """
    if not isinstance(table, pl.DataFrame):
        raise ValueError(f"{name} is {checks.told(table)}, but it must be a polars DataFrame.")
    missing = sorted(set(COLUMNS) - set(table.columns))
    if missing:
        raise ValueError(f"{name} lacks the columns {missing}, but it must have {list(COLUMNS)}.")
    if len(table) == 0:
        raise ValueError(f"{name} has no rows, but it must say when which item is there.")
    found = {}
    for column, most in zip(COLUMNS, (n_items - 1, MAX_DAYS, MAX_DAYS), strict=True):
        values = table[column]
        if not values.dtype.is_integer() or values.null_count():
            raise ValueError(f"{name} has no whole number in each row of {column!r}, but needs it.")
        found[column] = torch.from_numpy(values.cast(pl.Int64).to_numpy().copy())
        wrong = ((found[column] < 0) | (found[column] > most)).nonzero().flatten()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"{name} has {int(found[column][row])} as {column!r} in row {row}, but it must be "
                f"a number from 0 to {int(most)}."
            )
    backwards = (found["last_day"] < found["first_day"]).nonzero().flatten()
    if len(backwards):
        row = int(backwards[0])
        raise ValueError(f"{name} has a last_day before the first_day in row {row}.")
    return found
