"""Counts of a build by split, which its summary file holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from recsim_env.catalog import Catalog
from recsim_env.logs import schema
from recsim_env.logs.complete_journey.recipe import Recipe
from recsim_env.logs.complete_journey.slates import Exposures, qualifying

VERSION = 1
"""Version of the files of a build; it is raised when their content changes."""


def summarise(
    seed: int,
    recipe: Recipe,
    lines: pl.DataFrame,
    visits: pl.DataFrame,
    shoppers: pl.DataFrame,
    purchases: pl.DataFrame,
    promotions: pl.DataFrame,
    catalog: Catalog,
    logs: dict[str, pl.DataFrame],
) -> dict[str, Any]:
    """Count what a build holds, by split; rates are shares (0.01 = 1 %)."""
    assert catalog.cold is not None
    assert catalog.product_id is not None

    # Full exposure, with the cold items, and what was bought of it.
    exposures = Exposures.of(promotions, np.zeros(len(catalog), dtype=bool), recipe)
    chosen = qualifying(visits, exposures, recipe)
    hits = purchases.join(chosen.select("visit", "store", "week"), on="visit").join(
        promotions, on=["store", "week", "item"], how="semi"
    )
    counts = chosen.join(
        hits.group_by("visit").agg(bought=pl.len()), on="visit", how="left"
    ).with_columns(pl.col("bought").fill_null(0), pl.col("exposed").cast(pl.Int64))

    in_catalogue = lines["product_id"].is_in(catalog.product_id.tolist())
    return {
        "version": VERSION,
        "seed": seed,
        "recipe": asdict(recipe),
        "lines": len(lines),
        "households": len(shoppers),
        "visits": len(visits),
        "items": len(catalog),
        "categories": len(catalog.categories),
        "kinds": len(catalog.kinds),
        "texts": len(set(catalog.text)),
        "catalogue_line_share": in_catalogue.mean(),
        "promotion_rows": len(promotions),
        "promotion_stores": promotions["store"].n_unique(),
        "qualifying": {
            "all": len(chosen),
            **dict(chosen.group_by("split").len().sort("split").iter_rows()),
        },
        "exposed": {
            "pairs": counts["exposed"].sum(),
            "mean": counts["exposed"].mean(),
            "p5": counts["exposed"].quantile(0.05),
            "p95": counts["exposed"].quantile(0.95),
        },
        "exposed_purchases": counts["bought"].sum(),
        "visits_with_purchase": (counts["bought"] > 0).mean(),
        "base_rate": {
            split: int(rows["bought"].sum()) / int(rows["exposed"].sum())
            for split, rows in _by_split(counts)
            if len(rows)
        },
        "logs": {
            name: {split: _rates(rows) for split, rows in _by_split(log) if len(rows)}
            for name, log in logs.items()
        },
        "cold_items": catalog.cold.nonzero()[:, 0].tolist(),
        "holdout_shoppers": shoppers.filter("holdout")["shopper"].to_list(),
    }


def _by_split(frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    yield "all", frame
    for split in schema.SPLITS:
        yield split, frame.filter(pl.col("split") == split)


def _rates(log: pl.DataFrame) -> dict[str, float]:
    """Count slates and rows of a log, and its rates of responses and of slates with one."""
    bought = log["purchase"].explode().cast(pl.Float64).to_numpy()
    weight = (
        log["weight"].explode().to_numpy().astype(np.float64)
        if log["weight"].null_count() == 0
        else None
    )
    return {
        "slates": len(log),
        "rows": len(bought),
        "rate": float(bought.mean()),
        "weighted_rate": float(np.average(bought, weights=weight)),
        "with_response": float(log["purchase"].list.any().cast(pl.Float64).to_numpy().mean()),
    }
