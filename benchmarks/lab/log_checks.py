"""Checks of a log as a whole: whether its tables fit together, and suffice for a fit.

Readers check each table alone (`recsim_env.logs.schema`). These checks come before a training,
because what they find would otherwise be found after it, or never; that of the calibration comes
before a shopper is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from recsim_env.logs import complete_journey
from recsim_env.logs.complete_journey import LOG_FILES
from recsim_env.logs.facts import FACTS_FILE
from recsim_env.logs.schema import SPLITS, LogError
from recsim_env.shoppers.household.shop import MIN_CANDIDATES
from recsim_env.shoppers.household.starts import EARLIER_VISITS

SHARED = ("shopper", "day", "week", "store", "split")
"""Columns of a visit that have the same value in every table."""
SCORED = ("case_control", "policy")
"""Impression tables that calibrate and judge a shopper, so that every split of them counts."""


def digest_of(folder: Path) -> str:
    """Compute a digest of the catalogue, the tables and the facts of a log."""
    facts = complete_journey.read_facts(folder).to_json()
    return digest_of_files([folder / name for name in LOG_FILES if name != FACTS_FILE], facts)


def digest_of_files(paths: list[Path], facts: object = None) -> str:
    """Compute a digest of files, by name and content, and of plain JSON values."""
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in paths:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        found.update(f" {path.name} {content}".encode())
    return found.hexdigest()


def check_log(
    folder: Path,
    baskets: pl.DataFrame,
    impressions: Mapping[str, pl.DataFrame],
    promotions: pl.DataFrame,
    popularity: pl.DataFrame,
) -> None:
    """Check that the tables of a log, each of which is as its schema says, fit together.

    Args:
        folder: Where they lie, for messages.
        baskets: Every visit.
        impressions: The slates, by the name of their table.
        promotions: What the stores promoted.
        popularity: How popular items were.

    Raises:
        LogError: If they do not; the sentence names the file.
    """
    _check_purchases(folder / "baskets.parquet", baskets)
    for name, slates in impressions.items():
        check_visits(folder / f"{name}.parquet", slates, baskets)
    for name in impressions.keys() & set(SCORED):
        _check_responses(folder / f"{name}.parquet", impressions[name])
    _check_promotions(folder / "promotions.parquet", promotions, baskets)
    if popularity.join(baskets, on="week", how="semi").is_empty():
        raise LogError(
            f"{folder / 'popularity.parquet'} holds weeks from {popularity['week'].min()!r} to "
            f"{popularity['week'].max()!r}, but those of the visits in baskets.parquet must be "
            "among them."
        )


def check_visits(path: Path, slates: pl.DataFrame, baskets: pl.DataFrame) -> None:
    """Check that every slate was shown in a visit of the baskets, and says the same of it.

    Args:
        path: The file of the slates, for messages.
        slates: An impression table.
        baskets: Every visit.

    Raises:
        LogError: If a visit is not there, or has another shopper, day, week, store or split.
    """
    seen = slates.select("visit", *SHARED).with_row_index("row")
    pairs = seen.join(baskets.select("visit", *SHARED), on="visit", how="left", suffix="_there")
    alone = pairs.filter(pl.col("shopper_there").is_null()).sort("row")
    if len(alone):
        raise LogError(
            f"{path}: column 'visit', row {alone['row'][0]}: found {alone['visit'][0]}, expected a "
            "visit of baskets.parquet."
        )
    for name in SHARED:
        other = pairs.filter(pl.col(name) != pl.col(f"{name}_there")).sort("row")
        if len(other):
            raise LogError(
                f"{path}: column '{name}', row {other['row'][0]}: found {other[name][0]}, expected "
                f"{other[f'{name}_there'][0]}, as visit {other['visit'][0]} has in baskets.parquet."
            )


def check_slates(path: Path, slates: pl.DataFrame) -> None:
    """Check that slates are alike, with purchases and placements.

    Args:
        path: The file of the slates, for messages.
        slates: An impression table.

    Raises:
        LogError: If a slate has another length than the first, or lacks purchases or placements.
    """
    for name in ("purchase", "placement"):
        missing = slates[name].is_null().arg_true()
        if len(missing):
            raise LogError(
                f"{path}: column '{name}', row {missing[0]}: found None, expected a value of each "
                "item, from which a ranker learns."
            )
    lengths = slates["slate"].list.len()
    other = (lengths != lengths[0]).arg_true()
    if len(other):
        raise LogError(
            f"{path}: column 'slate', row {other[0]}: found {lengths[other[0]]} items, expected "
            f"{lengths[0]}, as in the first row: a ranker learns from slates of one length."
        )


def check_scales(calibrations: Sequence[Mapping[str, float]]) -> None:
    """Check that the valid weeks agree with what the members learned from the train weeks.

    Raises:
        ValueError: If the scale of a calibration is not above 0: it would turn the order of items
            upside down.
    """
    for number, calibration in enumerate(calibrations):
        if not calibration["scale"] > 0:
            raise ValueError(
                f"the calibration scale of model {number} is {calibration['scale']:.3f}, but it "
                "must be above 0: in the valid weeks, what the model ranks low is bought more. "
                "Train for more epochs, or see whether the tables of both splits are alike."
            )


def _check_purchases(path: Path, baskets: pl.DataFrame) -> None:
    """Every split has visits; shoppers are fitted to, and calibrated on, first purchases."""
    bought = baskets.select("shopper", "items", "split").explode("items").drop_nulls()
    first = bought.unique(["shopper", "items"], keep="first", maintain_order=True)
    for split in SPLITS:
        if split not in baskets["split"]:
            raise LogError(
                f"{path} holds no visit of the {split} split, but every split needs some."
            )
        if split != "test" and split not in first["split"]:
            raise LogError(
                f"{path} holds no item that a shopper buys for the first time in the {split} "
                "split, but what is new to a shopper is learned from some."
            )


def _check_responses(path: Path, slates: pl.DataFrame) -> None:
    """Every split of a table that is scored has items that were responded to, and others."""
    response = "purchase" if slates["purchase"].null_count() < len(slates) else "click"
    for split in SPLITS:
        found = set(slates.filter(pl.col("split") == split)[response].explode().drop_nulls())
        if found != {False, True}:
            what = "no" if True not in found else "nothing but"
            raise LogError(
                f"{path} holds {what} items with a {response} in the {split} split, but every "
                "split needs items with and items without."
            )


def _check_promotions(path: Path, promotions: pl.DataFrame, baskets: pl.DataFrame) -> None:
    """Some visits are to a store that promotes enough for an episode to start there."""
    number = pl.int_range(pl.len()).over("shopper")
    late = baskets.filter(number >= EARLIER_VISITS)
    where = promotions.group_by("store", "week").len().filter(pl.col("len") >= MIN_CANDIDATES)
    if late.join(where, on=["store", "week"], how="semi").is_empty():
        raise LogError(
            f"{path} holds no store and week with {MIN_CANDIDATES} items or more that a shopper of "
            f"baskets.parquet visits after {EARLIER_VISITS} visits, but episodes start there."
        )
