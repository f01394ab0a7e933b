"""What a shop may know of a household beside its purchases: age, income, size and kids.

The Complete Journey data tell it of 801 of the 2,469 households. A portrait is a row of numbers
from 0 to 1; of everybody else it is zeros, the first of which says that nothing is known. The file
lies beside the shoppers of a folder; `python -m benchmarks.data.portraits` writes it from the
tables of the wheel.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recsim_env.tables import read_parquet, write_parquet

FILE = "portraits.parquet"
LEVELS: dict[str, tuple[str, ...]] = {
    "age": ("19-24", "25-34", "35-44", "45-54", "55-64", "65+"),
    "income": (
        "Under 15K",
        "15-24K",
        "25-34K",
        "35-49K",
        "50-74K",
        "75-99K",
        "100-124K",
        "125-149K",
        "150-174K",
        "175-199K",
        "200-249K",
        "250K+",
    ),
    "household_size": ("1", "2", "3", "4", "5+"),
    "kids_count": ("0", "1", "2", "3+"),
}
"""Column of the source -> its values from the lowest to the highest; income in dollars a year."""
PORTRAIT = ("known", *LEVELS)
"""Numbers of a portrait: whether it is known, then each of `LEVELS`, 0 the lowest, 1 the
highest."""
DROPOUT = 0.5
"""Share of the episodes of training shoppers whose portrait is hidden, so that an agent learns to
do without."""


def make_portraits(demographics: pl.DataFrame, shoppers: pl.DataFrame) -> pl.DataFrame:
    """Number the levels of the source for the shoppers of a log.

    Args:
        demographics: The table of the wheel, a row a household.
        shoppers: The table of the log's shoppers, with their `household_id`.

    Returns:
        `shopper` and the number of each of `LEVELS` from 0, for those of whom something is known.

    Raises:
        polars.exceptions.PolarsError: If a value of the source is none of `LEVELS`.
    """
    numbered = [
        pl.col(name).replace_strict(
            {level: at for at, level in enumerate(levels)}, return_dtype=pl.Int8
        )
        for name, levels in LEVELS.items()
    ]
    joined = shoppers.join(demographics, on="household_id", how="inner")
    return joined.select("shopper", *numbered).sort("shopper")


def write_portraits(folder: Path, portraits: pl.DataFrame) -> None:
    """Write what `make_portraits` made into a folder of shoppers, atomically."""
    write_parquet(folder / FILE, portraits)


def read_portraits(folder: Path, shoppers: int) -> Tensor:
    """Read the portraits of a folder: (S, `len(PORTRAIT)`) float32.

    Args:
        folder: The folder of the shoppers.
        shoppers: S, the number of shoppers in the log.

    Raises:
        ValueError: If there is no such file, or it holds other columns, shoppers or levels.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"portrait is True, but {str(folder)!r} holds no {FILE}.")
    frame = read_parquet(path, "portraits")
    wanted = ("shopper", *LEVELS)
    if tuple(frame.columns) != wanted or not all(kind.is_integer() for kind in frame.dtypes):
        raise ValueError(
            f"{path}: found the columns {frame.schema}, expected whole numbers in {list(wanted)}."
        )
    numbers = torch.from_numpy(frame.cast(pl.Int64).to_numpy().copy())
    highest = torch.tensor([shoppers, *map(len, LEVELS.values())])
    who = numbers[:, 0]
    if bool(((numbers < 0) | (numbers >= highest)).any()) or len(who.unique()) < len(who):
        raise ValueError(
            f"{path}: found a shopper twice or a number out of its range, expected shoppers below "
            f"{shoppers}, each once, and levels below {highest[1:].tolist()}."
        )
    portraits = torch.zeros(shoppers, len(PORTRAIT), dtype=torch.float32)
    portraits[who, 0] = 1.0
    portraits[who, 1:] = numbers[:, 1:] / (highest[1:] - 1)
    return portraits
