"""The tables of the log: visits, shoppers, catalogue, baskets, promotions and popularity.

Everything that picks items uses the past alone: the catalogue comes from the training weeks, and
popularity from the four weeks before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.logs import schema
from recsim_env.logs.complete_journey.recipe import Recipe
from recsim_env.logs.complete_journey.sources import DISPLAYS, MAILERS, Sources

POPULARITY_WEEKS = 4
"""Weeks before each week over which its popularity and discounts are counted."""


def make_visits(lines: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """Make one row a visit, numbered by (shopper, time, store).

    `earlier` counts the shopper's visits before; `gap` is the days until the next one. A gap that
    ends after its split counts as unseen (censored), so that a training row tells nothing of the
    valid weeks.
    """
    visits = (
        lines.group_by("household_id", "date", "store")
        .agg(pl.col("time").min(), pl.col("week").min())
        .sort("household_id", "time", "store")
        .with_columns(
            shopper=pl.col("household_id").rank("dense").cast(pl.Int64) - 1,
            day=(pl.col("date") - pl.col("date").min()).dt.total_days().cast(pl.Int32),
            split=_split(recipe),
        )
        .with_row_index("visit")
        .with_columns(
            pl.col("visit").cast(pl.Int64),
            earlier=pl.int_range(pl.len()).over("shopper"),
            gap=(pl.col("day").shift(-1) - pl.col("day")).over("shopper", "split"),
            follow_up=pl.col("day").max().over("split") - pl.col("day"),
        )
    )
    return visits


def split_weeks(
    recipe: Recipe, last_week: int
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """First and last week of each split of a log whose last week is given; weeks begin at 1."""
    train = recipe.train_until
    valid = max(train, recipe.valid_until)
    return (1, train), (train + 1, valid), (valid + 1, max(valid, last_week))


def _split(recipe: Recipe) -> pl.Expr:
    week = pl.col("week")
    later = pl.when(week <= recipe.valid_until).then(pl.lit("valid")).otherwise(pl.lit("test"))
    return pl.when(week <= recipe.train_until).then(pl.lit("train")).otherwise(later)


def make_shoppers(visits: pl.DataFrame, rng: np.random.Generator, recipe: Recipe) -> pl.DataFrame:
    """Number the shoppers, and choose those that are held out."""
    households = visits.select("shopper", "household_id").unique().sort("shopper")
    holdout = _choose(rng, len(households), round(recipe.holdout * len(households)))
    return households.with_columns(holdout=pl.Series(holdout))


def choose_cold(
    products: pl.DataFrame, rng: np.random.Generator, recipe: Recipe
) -> NDArray[np.bool_]:
    """Choose the items of the catalogue that training never shows, as an (N,) mask."""
    return _choose(rng, len(products), recipe.n_cold)


def _choose(rng: np.random.Generator, n: int, size: int) -> NDArray[np.bool_]:
    """Draw an (n,) mask with `size` true values."""
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[:size]] = True
    return chosen


def choose_products(lines: pl.DataFrame, sources: Sources, recipe: Recipe) -> pl.DataFrame:
    """Choose the products of the catalogue from the training weeks alone, sorted by product_id.

    The price is the median over lines of (sales_value + retail_disc + coupon_match_disc) /
    quantity: that of the shelf, before any discount.
    """
    in_training = pl.col("week") <= recipe.train_until
    promoted = sources.promotions.filter(in_training).select("product_id").unique()
    paid = pl.col("sales_value") + pl.col("retail_disc") + pl.col("coupon_match_disc")
    return (
        lines.lazy()
        .filter(in_training)
        .group_by("product_id")
        .agg(
            visits=pl.struct("household_id", "date", "store").n_unique(),
            households=pl.col("household_id").n_unique(),
            price=(paid / pl.col("quantity")).median().cast(pl.Float32),
        )
        .filter(pl.col("households") >= recipe.min_households)
        .join(promoted, on="product_id", how="semi")
        .sort("visits", "product_id", descending=[True, False])
        .head(recipe.n_items)
        .join(sources.products, on="product_id", how="left")
        .sort("product_id")
        .with_row_index("item")
        .with_columns(pl.col("item").cast(pl.Int32))
        .collect()
    )


def describe(product: dict[str, Any]) -> str:
    """Write a product's fields as text, as in "yogurt; grocery; national brand; 7 oz"."""
    fields = [product["product_type"], product["product_category"], product["department"]]
    words = [*fields, f"{product['brand']} brand", product["package_size"]]
    return "; ".join(" ".join(word.lower().split()) for word in words if word)


def _path(product: dict[str, Any]) -> str:
    levels = (
        product["department"],
        product["product_category"],
        product["product_type"] or "other",
    )
    return "/".join(" ".join(level.replace("/", " & ").lower().split()) for level in levels)


def make_catalog(
    products: pl.DataFrame, texts: list[str], cold: NDArray[np.bool_], embedding: Tensor
) -> Catalog:
    """Put the products, their texts and embeddings together."""
    return Catalog(
        text=tuple(texts),
        path=tuple(_path(row) for row in products.iter_rows(named=True)),
        price=torch.from_numpy(products["price"].to_numpy().copy()),
        embedding=embedding,
        product_id=torch.from_numpy(products["product_id"].to_numpy().copy()),
        cold=torch.from_numpy(cold),
    )


def make_purchases(
    lines: pl.DataFrame, visits: pl.DataFrame, products: pl.DataFrame
) -> pl.DataFrame:
    """List the catalogue items bought in each visit, as distinct and sorted (visit, item) pairs."""
    keys = ["household_id", "date", "store"]
    return (
        lines.select(*keys, "product_id")
        .join(products.select("product_id", "item"), on="product_id")
        .join(visits.select(*keys, "visit"), on=keys)
        .select("visit", "item")
        .unique()
        .sort("visit", "item")
    )


def make_baskets(visits: pl.DataFrame, purchases: pl.DataFrame) -> pl.DataFrame:
    """Join every visit with the catalogue items that it bought; the list may be empty."""
    items = purchases.group_by("visit", maintain_order=True).agg(items=pl.col("item"))
    empty = pl.lit([], dtype=pl.List(pl.Int32))
    baskets = visits.join(items, on="visit", how="left").with_columns(
        pl.col("items").fill_null(empty)
    )
    return baskets.select(*schema.BASKETS.schema).sort(schema.BASKETS.key)


def make_promotions(sources: Sources, products: pl.DataFrame) -> pl.DataFrame:
    """Find the placement code of each promoted (store, week, catalogue item).

    Where the source repeats one, its largest display code and its largest mailer code are taken,
    so that any placement comes before none.
    """
    display = pl.col("display_location").replace_strict(
        {code: i for i, code in enumerate(DISPLAYS)}
    )
    mailer = pl.col("mailer_location").replace_strict({code: i for i, code in enumerate(MAILERS)})
    return (
        sources.promotions.join(products.lazy().select("product_id", "item"), on="product_id")
        .select(
            "item",
            store=pl.col("store_id").cast(pl.Int32),
            week=pl.col("week").cast(pl.Int16),
            display=display.cast(pl.Int16),
            mailer=mailer.cast(pl.Int16),
        )
        .group_by("store", "week", "item")
        .agg(pl.col("display", "mailer").max())
        .select(
            "store", "week", "item", placement=pl.col("display") * len(MAILERS) + pl.col("mailer")
        )
        .filter(pl.col("placement") > 0)
        .sort("store", "week", "item")
        .collect(engine="streaming")
    )


def make_popularity(
    lines: pl.DataFrame, visits: pl.DataFrame, purchases: pl.DataFrame, products: pl.DataFrame
) -> pl.DataFrame:
    """Count the popularity and discount of each item in the four weeks before each week.

    Popularity is the share of visits, in all stores, that bought the item; discount is the mean
    over the item's lines of retail_disc / (sales_value + retail_disc). Both are zero where there is
    no past.
    """
    # Purchases and visits of each week.
    weeks, n_items = int(visits["week"].max()) + 1, len(products)  # type: ignore[arg-type]
    bought = purchases.join(visits.select("visit", "week"), on="visit", maintain_order="left")
    counts = _per_week(bought, weeks, n_items)
    total = np.bincount(visits["week"].to_numpy(), minlength=weeks).astype(np.float64)

    # Lines with their discount; a share outside of 0 to 1 is an error of the source.
    share = pl.col("retail_disc") / (pl.col("sales_value") + pl.col("retail_disc"))
    goods = (
        lines.select("week", "product_id", share=share)
        .filter(pl.col("share").is_between(0, 1))
        .join(products.select("product_id", "item"), on="product_id", maintain_order="left")
    )
    shares = _per_week(goods, weeks, n_items, goods["share"].to_numpy())

    # Sums over the four weeks before, one row a week and item.
    week, item = np.divmod(np.arange(weeks * n_items), n_items)
    popularity = trailing(counts) / np.maximum(trailing(total[:, None]), 1)
    discount = trailing(shares) / np.maximum(trailing(_per_week(goods, weeks, n_items)), 1)
    return pl.DataFrame(
        {
            "week": week.astype(np.int16),
            "item": item.astype(np.int32),
            "popularity": popularity.ravel().astype(np.float32),
            "discount": discount.clip(0, 1).ravel().astype(np.float32),
        }
    ).filter(pl.col("week") >= 1)


def _per_week(
    rows: pl.DataFrame, weeks: int, n_items: int, values: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Sum `values`, or count rows, by `week` and `item` in row order: (weeks, N)."""
    cells = rows["week"].to_numpy().astype(np.int64) * n_items + rows["item"].to_numpy()
    return (
        np.bincount(cells, values, minlength=weeks * n_items)
        .reshape(weeks, n_items)
        .astype(np.float64)
    )


def trailing(weekly: NDArray[np.float64], window: int = POPULARITY_WEEKS) -> NDArray[np.float64]:
    """Sum the `window` rows before each row, the row itself left out: (weeks, ...) in and out."""
    padded = np.concatenate([np.zeros((window, *weekly.shape[1:])), weekly])
    return np.stack([padded[i : i + window].sum(axis=0) for i in range(len(weekly))])
