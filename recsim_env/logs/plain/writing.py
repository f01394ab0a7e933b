"""Any impression table written out as a shop would export it: a plain log and a catalogue."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.files import replacing
from recsim_env.logs.plain.rows import BETWEEN
from recsim_env.logs.schema import IMPRESSIONS, check_table
from recsim_env.tables import write_parquet


def write_plain(
    impressions: pl.DataFrame,
    catalog: Catalog,
    log_file: Path | str,
    catalog_file: Path | str,
    *,
    declared: pl.DataFrame | None = None,
    embedding: bool = False,
) -> None:
    """Write a log and its catalogue as two plain tables, which `read_plain` reads again.

    Slates, responses, policies, log-probabilities, searches, carts, discounts and times are the
    same then. Splits, gaps and the
    time that users were watched are not written: they follow from the log.

    Args:
        impressions: The log (`recsim_env.logs.schema.IMPRESSIONS`).
        catalog: The catalogue.
        log_file: File of the log, .csv or .parquet.
        catalog_file: File of the catalogue, likewise.
        declared: `shopper` and `declared`: becomes columns `user_0`, `user_1`, ..
        embedding: Whether the catalogue tells the item vectors.

    Raises:
        LogError: If `impressions` is not what the schema says.
        ValueError: If a file is neither .csv nor .parquet.
        OSError: If a file cannot be written.
    """
    rows = plain_rows(check_table(IMPRESSIONS, impressions, "impressions", len(catalog)), declared)
    write_table(rows, log_file)
    write_table(plain_items(catalog, embedding=embedding), catalog_file)


def plain_rows(impressions: pl.DataFrame, declared: pl.DataFrame | None = None) -> pl.DataFrame:
    """Make one row for each impressed item; a slate's probability is spread evenly over its rows.

    Without clicks the purchases stand for them. Columns that are empty throughout are left out.
    """
    width = len(str(int(impressions["shopper"].max() or 0)))  # type: ignore[arg-type]
    length = pl.col("slate").list.len()
    told = impressions.select(
        pl.format("u{}", pl.col("shopper").cast(pl.String).str.zfill(width)).alias("user"),
        pl.col("shopper"),
        pl.col("time").alias("timestamp"),
        pl.col("visit").alias("session"),
        "page",
        pl.int_ranges(1, length + 1).alias("position"),
        pl.col("slate").alias("item"),
        pl.coalesce("click", "purchase").alias("click"),
        *[
            pl.col(name)
            for name in ("purchase", "policy", "scenario", "query", "discount")
            if impressions[name].null_count() < len(impressions)
        ],
        *([_cart()] if impressions["cart"].null_count() < len(impressions) else []),
        *(
            [(pl.col("propensity") / length).exp().alias("propensity")]
            if impressions["propensity"].null_count() < len(impressions)
            else []
        ),
    )

    # One row for each item.
    lists = [name for name in ("position", "item", "click", "purchase") if name in told.columns]
    if "purchase" in told.columns:
        nothing = pl.col("item").list.eval(pl.element().is_null())
        told = told.with_columns(pl.coalesce("purchase", nothing))
    rows = told.explode(lists).with_columns(
        pl.col(name).cast(pl.Int8) for name in ("click", "purchase") if name in lists
    )
    if declared is not None:
        numbers = int(declared["declared"].list.len().max() or 0)  # type: ignore[arg-type]
        said = declared.select(
            pl.col("shopper").cast(pl.Int64),
            *(pl.col("declared").list.get(at).alias(f"user_{at}") for at in range(numbers)),
        )
        rows = rows.join(said, on="shopper", how="left", maintain_order="left")
    return rows.drop("shopper")


def _cart() -> pl.Expr:
    """Write carts as texts; an empty one, which is not an unknown one, is `BETWEEN` alone."""
    cart = pl.col("cart")
    joined = cart.list.eval(pl.element().cast(pl.String)).list.join(BETWEEN)
    return pl.when(cart.list.len() == 0).then(pl.lit(BETWEEN)).otherwise(joined).alias("cart")


def plain_items(catalog: Catalog, *, embedding: bool = False) -> pl.DataFrame:
    """Make one row for each item; an item is called by its number in the catalogue."""
    levels = [path.split("/") for path in catalog.path]
    price = catalog.price.cpu()
    columns: dict[str, object] = {
        "item": range(len(catalog)),
        "title": [text.split("; ")[0] for text in catalog.text],
        "category": [level[0] for level in levels],
        "category2": [level[1] for level in levels],
        "category3": [level[2] for level in levels],
    }
    if not bool(torch.isnan(price).all()):
        columns["price"] = [None if value != value else value for value in price.tolist()]
    if embedding:
        columns["embedding"] = catalog.embedding.cpu().tolist()
    return pl.DataFrame(columns)


def write_table(frame: pl.DataFrame, file: Path | str) -> None:
    """Write a frame as CSV or parquet, by the file's suffix; lists become texts in CSV.

    Raises:
        ValueError: If the suffix is neither .csv nor .parquet.
        OSError: If the file cannot be written.
    """
    path = checks.path("file", file)
    if path.suffix == ".parquet":
        write_parquet(path, frame)
        return
    if path.suffix != ".csv":
        raise ValueError(f"file is {str(path)!r}, but it must end in .csv or .parquet.")
    flat = frame.with_columns(
        pl.col(name).list.eval(pl.element().cast(pl.String)).list.join(" ")
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.List)
    )
    with replacing(path) as temporary:
        flat.write_csv(temporary, datetime_format="%Y-%m-%d %H:%M:%S%.f")
