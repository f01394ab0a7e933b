"""The build of the log in a folder: what is written, in which order, and what is replaced there."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsim_env import checks, files
from recsim_env.catalog_files import CATALOG_FILE, EMBEDDING_FILE
from recsim_env.logs import schema
from recsim_env.logs.complete_journey.encoder import Encoder, embed_texts
from recsim_env.logs.complete_journey.recipe import Recipe
from recsim_env.logs.complete_journey.slates import LOGS, make_logs
from recsim_env.logs.complete_journey.sources import FACTS, Sources, clean_lines
from recsim_env.logs.complete_journey.summary import VERSION, summarise
from recsim_env.logs.complete_journey.tables import (
    choose_cold,
    choose_products,
    describe,
    make_baskets,
    make_catalog,
    make_popularity,
    make_promotions,
    make_purchases,
    make_shoppers,
    make_visits,
    split_weeks,
)
from recsim_env.logs.facts import FACTS_FILE, LogFacts

SUMMARY_FILE = "summary.json"
UNFINISHED_FILE = "unfinished.json"  # lies in a folder as long as a build in it is not whole
TABLES = ("baskets", "promotions", "popularity", "shoppers", *LOGS)
LOG_FILES = (CATALOG_FILE, EMBEDDING_FILE, FACTS_FILE, *(f"{name}.parquet" for name in TABLES))
"""Files of a log besides its summary, those of the catalogue first."""


def build(
    folder: Path | str,
    *,
    seed: int = 0,
    sources: Sources | None = None,
    recipe: Recipe | None = None,
    encode: Encoder | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Write the catalogue, the tables, the three slate logs and the facts into a folder.

    The same seed gives the same tables. `summary.json` comes last: where it stands, the other files
    are whole.

    Args:
        folder: A new or an empty folder, or one that holds a build, whole or not, which is
            replaced.
        seed: Seed of the slates, the cold items and the held-out shoppers.
        sources: The source tables; None = those of the installed package.
        recipe: How the logs are cut; None = the default recipe.
        encode: Turns the texts of the items into vectors; None = `embed_texts`.
        progress: Called with the name of each stage.

    Returns:
        The summary: counts by split, as `summary.json` holds them.

    Raises:
        TypeError: If `folder` is no path; nothing is written then, nor in the next two cases.
        ValueError: If another argument is not as said.
        FileExistsError: If the folder holds files that are not of a build: nobody's tables are
            written over.
        RuntimeError: If another process builds there.
    """
    folder, seed = checks.path("folder", folder), checks.whole("seed", seed, 0)
    for name, value, kind in (("sources", sources, Sources), ("recipe", recipe, Recipe)):
        if value is not None and not isinstance(value, kind):
            raise ValueError(
                f"{name} is {checks.told(value)}, but it must be {kind.__name__} or None."
            )
    for name, function in (("encode", encode or embed_texts), ("progress", progress)):
        if not callable(function):
            raise ValueError(f"{name} is {checks.told(function)}, but it must be a function.")
    check_own(folder)
    with files.locked(folder):
        return _build(
            folder,
            seed,
            sources or Sources.installed(),
            recipe or Recipe(),
            encode or embed_texts,
            progress,
        )


def check_own(folder: Path) -> None:
    """Check that a build may be written into a folder: it is new, empty, or holds only a build.

    What a build left behind is known by `summary.json`, or by `unfinished.json` where it was
    interrupted.

    Raises:
        FileExistsError: If the folder holds anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"folder is {str(folder)!r}, which is a file, but it must be a folder to build the log "
            "in."
        )

    ours = {*LOG_FILES, SUMMARY_FILE, UNFINISHED_FILE}
    marks = (SUMMARY_FILE, UNFINISHED_FILE)
    begun = any({"seed", "version"} <= _content(folder / name).keys() for name in marks)
    temporary = tuple(f".{name}." for name in (*ours, files.HOLDER))
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        swept = path.name in (files.LOCK, files.HOLDER) or (
            path.name.startswith(temporary) and files.TEMPORARY.fullmatch(path.name)
        )
        if not swept and not (begun and path.name in ours):
            raise FileExistsError(
                f"folder is {str(folder)!r}, which holds {path.name}, but a log is only built in a "
                "folder that is new, empty or holds nothing but such a build: nobody's files are "
                "written over."
            )


def _content(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; the object is empty where the file is missing or no such."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _build(
    folder: Path,
    seed: int,
    sources: Sources,
    recipe: Recipe,
    encode: Encoder,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Compute every table, then write all of them."""
    progress("visits")
    lines = clean_lines(sources)
    visits = make_visits(lines, recipe)
    shoppers = make_shoppers(visits, np.random.default_rng([seed, 0]), recipe)

    progress("catalogue")
    products = choose_products(lines, sources, recipe)
    cold = choose_cold(products, np.random.default_rng([seed, 1]), recipe)
    texts = [describe(row) for row in products.iter_rows(named=True)]
    catalog = make_catalog(products, texts, cold, encode(texts))

    progress("promotions and popularity")
    purchases = make_purchases(lines, visits, products)
    promotions = make_promotions(sources, products)
    popularity = make_popularity(lines, visits, purchases, products)

    progress("slates")
    logs = make_logs(visits, purchases, promotions, popularity, catalog, recipe, seed)

    # The mark comes first and the summary last, so that a build that was stopped is known.
    progress("writing")
    n = len(catalog)
    files.write_json(folder / UNFINISHED_FILE, {"version": VERSION, "seed": seed})
    (folder / SUMMARY_FILE).unlink(missing_ok=True)  # from here on the folder is not whole
    catalog.save(folder)
    schema.write_shoppers(shoppers, folder / "shoppers.parquet")
    schema.write_baskets(make_baskets(visits, purchases), folder / "baskets.parquet", n)
    schema.write_promotions(promotions, folder / "promotions.parquet", n)
    schema.write_popularity(popularity, folder / "popularity.parquet", n)
    for name, log in logs.items():
        schema.write_impressions(log, folder / f"{name}.parquet", n)
    make_facts(visits, recipe).write(folder)
    summary = summarise(seed, recipe, lines, visits, shoppers, purchases, promotions, catalog, logs)
    files.write_json(folder / SUMMARY_FILE, summary)
    (folder / UNFINISHED_FILE).unlink()
    return summary


def make_facts(visits: pl.DataFrame, recipe: Recipe) -> LogFacts:
    """The facts of a log that is cut by a recipe: its first day, and the weeks of its splits."""
    day_zero, last_week = visits["date"].min(), visits["week"].max()
    assert isinstance(day_zero, datetime.date)
    assert isinstance(last_week, int)
    return replace(FACTS, day_zero=day_zero, splits=split_weeks(recipe, last_week))


def read_facts(folder: Path | str) -> LogFacts:
    """Read the facts of any log.

    A build of an earlier version has no `facts.json`: its facts are those of this data set, with
    the splits of the recipe in its summary.

    Raises:
        FileNotFoundError: If there is no `facts.json`, and no summary of a build.
        ValueError: If the file is not as said.
    """
    folder = checks.path("folder", folder)
    if has_facts(folder) and not (folder / FACTS_FILE).exists():
        recipe = Recipe(**_content(folder / SUMMARY_FILE)["recipe"])
        return replace(FACTS, splits=split_weeks(recipe, FACTS.weeks("test")[1]))
    return LogFacts.read(folder)


def has_facts(folder: Path) -> bool:
    """Whether a log has facts: `facts.json`, or the summary of a build of an earlier version."""
    return (folder / FACTS_FILE).is_file() or is_of_build(folder)


def is_of_build(folder: Path) -> bool:
    """Whether the summary in a folder says that its log was built from the Complete Journey."""
    return {"seed", "version", "recipe"} <= _content(folder / SUMMARY_FILE).keys()


def is_built(folder: Path | str, seed: int) -> bool:
    """Whether a folder holds a whole build of this seed and version.

    Files that were lost since then are found by `damaged`.
    """
    folder = checks.path("folder", folder)
    summary = _content(folder / SUMMARY_FILE)
    whole = not (folder / UNFINISHED_FILE).exists()
    return bool(whole and summary.get("seed") == seed and summary.get("version") == VERSION)


def damaged(folder: Path | str) -> list[str]:
    """Name the files of a built log that are missing, empty, cut off or something else.

    Their contents are not read. A build of an earlier version needs no `facts.json`.
    """
    folder = checks.path("folder", folder)
    return [name for name in LOG_FILES if not _is_whole(folder, name)]


def _is_whole(folder: Path, name: str) -> bool:
    try:
        if name == FACTS_FILE:
            read_facts(folder)
        elif name == EMBEDDING_FILE:
            files.read_tensors(folder / name, prefix="none")
        else:
            pl.read_parquet_schema(folder / name)
    except (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False
    return True
