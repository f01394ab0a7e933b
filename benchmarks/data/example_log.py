"""Write the small log and catalogue that ship in `examples/`, as a shop would export them.

    python -m benchmarks.data.example_log

The shoppers are those of a small market, who click more often than those of Market-v0, so that a
file of a megabyte has enough to learn from; the goods have names of a grocer's. Shoppers arrive on
different days and come every few days, each at a pace of their own, which the market does not have.
The log ends on one day for all. Each shopper is served by one of three policies: `uniform` shows
any items, `favourites` mostly those of the two categories that a shopper named at registration
(`user_likes`, `user_likes_too`), and `noisy` does so with more noise.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from agents.places import seeds
from benchmarks.data.shelves import BRANDS, SHELVES
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Threads
from benchmarks.lab.provenance import ROOT
from benchmarks.lab.threads import use_threads
from recsim_env import Catalog, SlateSimulator, make_simulator
from recsim_env.logs.plain.writing import plain_rows, write_table
from recsim_env.logs.record import record
from recsim_env.noise import gumbel
from recsim_env.shoppers.market import MarketConfig
from recsim_env.types import Observation

LOG_FILE, CATALOG_FILE = "shop_log.csv", "shop_items.csv"
SLATE_SIZE = 6
MARKET = MarketConfig(
    items=120,
    categories=6,
    width=8,
    favourites=2,
    base=-3.0,
    interest=6.0,
    leave_base=-4.5,
)
"""A small shop with few items, each of which is shown often, and with strong tastes. Some shoppers
leave without a reason, which a log of a few weeks has to show."""
DAYS = 56
"""Days of the log."""
LAST_ARRIVAL = 35
"""Day on which the last shoppers arrive."""
PACES = (1.0, 4.0)
"""Mean days between visits of the shoppers who come most often and least often."""
DAY_ZERO = datetime.datetime(2025, 3, 3)
TASTE = (2.0, 1.5)
"""What the two favourite categories add to the score of an item."""
SERVERS = {"uniform": (0.0, 1.0, 0.2), "favourites": (1.0, 0.3, 0.4), "noisy": (1.0, 1.0, 0.4)}
"""Weight of the favourites, scale of the Gumbel noise, and share of the shoppers, by policy."""
FIRST_SEED = 60_000_000


@dataclass(frozen=True)
class Config(Threads):
    """Write the example's log and catalogue."""

    shoppers: int = 390
    """Number of shoppers. The default makes a log of about a megabyte."""
    world: int = 0
    """Seed of the market's catalogue."""
    output: Path = ROOT / "examples"
    """Folder that the two files are written to."""


def main(config: Config) -> None:
    """Play the log, write both files, and say how large they are."""
    use_threads(config.threads)
    simulator = make_simulator(
        "recsim_env/Market-v0",
        device="cpu",
        config=MARKET,
        world=config.world,
        slate_size=SLATE_SIZE,
        horizon_days=DAYS,
    )
    rows = played(simulator, config.shoppers)
    write_table(rows, config.output / LOG_FILE)
    write_table(goods(simulator.catalog), config.output / CATALOG_FILE)
    for name in (LOG_FILE, CATALOG_FILE):
        file = config.output / name
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
    print(f"{len(rows):,} rows, {int(rows['click'].sum()):,} clicks")


class Favourites:
    """Shows items of the categories that a shopper likes best by what was declared, with noise."""

    def __init__(self, catalog: Catalog, weight: float, temperature: float) -> None:
        self._category, self._centres = catalog.category, centres(catalog)
        self._weight, self._temperature = weight, temperature
        self.draws = len(catalog)

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Choose slates (B, K) of the whole catalogue."""
        liked = favourites(observation["declared"], self._centres)
        score = self._temperature * gumbel(draws)
        for place, taste in enumerate(TASTE):
            score = score + self._weight * taste * (self._category == liked[:, place : place + 1])
        return score.topk(SLATE_SIZE, dim=1).indices


def centres(catalog: Catalog) -> Tensor:
    """Mean directions of the categories (G, E)."""
    total = torch.zeros(len(catalog.categories), catalog.embedding.shape[1])
    return normalize(total.index_add_(0, catalog.category, catalog.embedding), dim=1)


def favourites(declared: Tensor, centres: Tensor) -> Tensor:
    """The categories (B, 2) nearest to what shoppers declared, the nearest one first."""
    return (declared @ centres.T).topk(len(TASTE), dim=1).indices


def played(simulator: SlateSimulator, shoppers: int) -> pl.DataFrame:
    """Play the whole log: one row an impressed item, in the order of time."""
    catalog, first, parts = simulator.catalog, FIRST_SEED, []
    for name, (weight, temperature, share) in SERVERS.items():
        numbers = seeds(first, max(round(share * shoppers), 1))
        policy = Favourites(catalog, weight, temperature)
        table, _ = record(simulator, policy, numbers, policy_name=name, split="train")
        declared = simulator.reset(numbers)["declared"].cpu()
        parts.append(_dated(table, declared, catalog, numbers))
        first += len(numbers)
    names = pl.format("u{}", pl.col("shopper").rank("dense").cast(pl.String).str.zfill(4))
    rows = pl.concat(parts).with_columns(user=names).sort("timestamp", "user", "position")
    return rows.drop("shopper").select("user", pl.exclude("user"))


def _dated(
    table: pl.DataFrame, declared: Tensor, catalog: Catalog, numbers: Tensor
) -> pl.DataFrame:
    """The rows of one policy, whose shoppers arrive on days of their own, until the log's end."""
    generator = torch.Generator().manual_seed(int(numbers[0]))
    arrival = torch.randint(0, LAST_ARRIVAL + 1, (len(numbers),), generator=generator)
    seconds = torch.randint(8 * 3600, 21 * 3600, (len(table),), generator=generator)
    low, high = (math.log(one) for one in PACES)
    pace = torch.exp(low + (high - low) * torch.rand(len(numbers), generator=generator))
    spread = torch.rand(len(table), generator=generator)

    # What every shopper tells the shop, and when it comes.
    shop = [name.split("/")[1] for name in named(catalog)["path"]]
    category = {int(code): name for code, name in zip(catalog.category, shop, strict=True)}
    liked = favourites(declared, centres(catalog)).tolist()
    told = pl.DataFrame(
        {
            "shopper": range(len(numbers)),
            "arrival": arrival.tolist(),
            "pace": pace.tolist(),
            "user_likes": [category[best] for best, _ in liked],
            "user_likes_too": [category[second] for _, second in liked],
        }
    )
    dated = (
        table.with_columns(seconds=pl.Series(seconds.tolist()), spread=pl.Series(spread.tolist()))
        .join(told, on="shopper", maintain_order="left")
        .with_columns(day=_days())
        .filter(pl.col("day") < DAYS)
        .with_columns(
            time=pl.lit(DAY_ZERO) + pl.duration(days=pl.col("day"), seconds=pl.col("seconds")),
            purchase=pl.lit(None, table.schema["purchase"]),
            click=pl.col("purchase"),
        )
    )

    # The rows as a shop exports them.
    rows = plain_rows(dated.select(table.columns))
    extra = dated.select("shopper", "visit", "user_likes", "user_likes_too")
    return (
        rows.join(extra, left_on="session", right_on="visit", how="left", maintain_order="left")
        .drop("session", "page", "scenario")
        .with_columns(
            pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(4)).alias("item"),
            pl.col("shopper") + int(numbers[0]),
        )
    )


def _days() -> pl.Expr:
    """Day of each visit: the first on that of arrival, the next ones a day or more later each.

    The days beyond the first are geometric, with the shopper's pace as the mean of the whole gap.
    """
    longer = ((1 - pl.col("spread")).log() / (1 - 1 / pl.col("pace")).log()).floor()
    gap = pl.when(pl.int_range(pl.len()) == 0).then(pl.col("arrival")).otherwise(1 + longer)
    return gap.cum_sum().over("shopper", order_by="day").cast(pl.Int32)


def named(catalog: Catalog) -> pl.DataFrame:
    """Titles, brands and paths for the items of a market, by category and type."""
    items: list[tuple[str, str, str]] = []
    sold: dict[tuple[int, int], int] = {}
    shelves = len(catalog.categories)
    for path in catalog.path:
        _, shelf, kind = path.split("/")
        number, side = int(shelf.removeprefix("category ")), int(kind.removeprefix("type "))
        department, category, types = SHELVES[number * len(SHELVES) // shelves]
        at = sold.get((number, side), 0)
        sold[number, side] = at + 1
        goods, brand = types[side][at % 5], BRANDS[(number + at // 5) % 5]
        items.append((f"{brand} {goods}", brand, f"{department}/{category}/{category} {side + 1}"))
    return pl.DataFrame(items, schema=["title", "brand", "path"], orient="row")


def goods(catalog: Catalog) -> pl.DataFrame:
    """The catalogue as a shop would export it."""
    department, category = (pl.col("path").str.split("/").list.get(level) for level in range(2))
    return named(catalog).select(
        pl.format("i{}", pl.int_range(pl.len()).cast(pl.String).str.zfill(4)).alias("item"),
        "title",
        department.alias("category"),
        category.alias("category2"),
        "brand",
        pl.Series("price", catalog.price.tolist()).round(2),
    )


if __name__ == "__main__":
    run_command(main, Config)
