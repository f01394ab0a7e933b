"""A log of a small shop whose shoppers each have favourites: its truth is known to tests."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recsim_env.catalog import Catalog
from recsim_env.logs import schema
from recsim_env.logs.facts import LogFacts

ITEMS, SHOPPERS, DAYS, STORES = 40, 60, 200, 2
FAVOURITES = 4  # items of a shopper
LOVED, OTHER = 0.5, 0.01  # chance to buy a favourite in a visit, and anything else
SPLIT_DAYS = (140, 161)  # first day of valid and of test
FACTS = LogFacts(
    day_zero=datetime.date(2020, 2, 29),
    weeks_a_year=52,
    placements=(4, 3),
    splits=((0, 19), (20, 22), (23, 28)),
)
"""As different from those of the Complete Journey as can be."""


def write_shop(folder: Path, seed: int = 0, cold: int | None = None) -> Catalog:
    """Write every table of a log, and return the catalogue.

    Nine of ten items are promoted in each store and week. The first of every `cold` items is cold;
    None marks none.
    """
    rng = np.random.default_rng(seed)
    catalog = Catalog.synthetic(ITEMS, 5, 8, torch.Generator().manual_seed(seed))
    if cold is not None:
        catalog = replace(catalog, cold=torch.arange(ITEMS) % cold == 0)
    catalog.save(folder)
    FACTS.write(folder)
    favourites = np.stack([rng.permutation(ITEMS)[:FAVOURITES] for _ in range(SHOPPERS)])
    chance = np.full((SHOPPERS, ITEMS), OTHER)
    np.put_along_axis(chance, favourites, LOVED, axis=1)
    weeks = DAYS // 7 + 2
    promoted = rng.random((STORES, weeks, ITEMS)) < 0.9
    visits = pl.concat([_visits(shopper, chance[shopper], rng) for shopper in range(SHOPPERS)])
    visits = visits.with_columns(visit=pl.int_range(pl.len(), dtype=pl.Int64))

    schema.write_baskets(_cast(schema.BASKETS, visits), folder / "baskets.parquet", ITEMS)
    for name in ("case_control", "policy", "uniform"):
        schema.write_impressions(_slates(visits, promoted, rng), folder / f"{name}.parquet", ITEMS)
    store, week, item = promoted.nonzero()
    promotions = {"store": store, "week": week, "item": item, "placement": placement_of(item)}
    schema.write_promotions(
        _cast(schema.PROMOTIONS, pl.DataFrame(promotions)), folder / "promotions.parquet", ITEMS
    )
    grid = np.indices((weeks, ITEMS)).reshape(2, -1)
    popularity = {
        "week": grid[0],
        "item": grid[1],
        "popularity": chance.mean(0)[grid[1]],
        "discount": 0.0 * grid[1],
    }
    schema.write_popularity(
        _cast(schema.POPULARITY, pl.DataFrame(popularity)), folder / "popularity.parquet", ITEMS
    )
    people = {
        "shopper": np.arange(SHOPPERS),
        "household_id": np.arange(SHOPPERS),
        "holdout": np.arange(SHOPPERS) % 5 == 0,
    }
    schema.write_shoppers(_cast(schema.SHOPPERS, pl.DataFrame(people)), folder / "shoppers.parquet")
    return catalog


def placement_of(item: Any) -> Any:
    """The placement code of an item (or of an array of them) wherever it is promoted."""
    return 1 + (item % 9)


def _cast(table: schema.Table, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col(name).cast(dtype) for name, dtype in table.schema.items())


def _visits(shopper: int, chance: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """Draw the visits of one shopper, two to nine days apart."""
    gaps = rng.integers(2, 10, DAYS)
    days = gaps.cumsum()
    days = days[days < DAYS]
    split = np.array(["train", "valid", "test"])[np.searchsorted(SPLIT_DAYS, days, side="right")]
    ends = np.array([*SPLIT_DAYS, DAYS])[np.searchsorted(SPLIT_DAYS, days, side="right")] - 1
    following = np.append(np.diff(days), 10_000)
    return pl.DataFrame(
        {
            "shopper": shopper,
            "time": [
                datetime.datetime.combine(FACTS.day_zero, datetime.time(12))
                + datetime.timedelta(days=int(day))
                for day in days
            ],
            "day": days,
            "week": days // 7,
            "store": rng.integers(0, STORES, len(days)),
            "items": [np.flatnonzero(rng.random(ITEMS) < chance).tolist() for _ in days],
            "gap": [
                int(gap) if day + gap <= end else None
                for day, gap, end in zip(days, following, ends, strict=True)
            ],
            "follow_up": ends - days,
            "split": split,
        },
        schema_overrides={"gap": pl.Int32, "items": pl.List(pl.Int32)},
    )


def _slates(
    visits: pl.DataFrame, promoted: np.ndarray, rng: np.random.Generator, size: int = 10
) -> pl.DataFrame:
    """Draw a uniform slate of the promoted items at each visit."""
    slates, bought = [], []
    for row in visits.iter_rows(named=True):
        slate = rng.permutation(np.flatnonzero(promoted[row["store"], row["week"]]))[:size].tolist()
        slates.append(slate)
        bought.append([item in row["items"] for item in slate])
    empty = dict.fromkeys(("click", "propensity", "weight", "query", "cart", "discount"))
    frame = visits.with_columns(
        pl.Series("slate", slates),
        pl.Series("purchase", bought),
        pl.Series("placement", [[placement_of(item) for item in slate] for slate in slates]),
        scenario=pl.lit("test"),
        policy=pl.lit(None),
        page=pl.lit(0),
        **{name: pl.lit(value) for name, value in empty.items()},
    )
    return _cast(schema.IMPRESSIONS, frame)
