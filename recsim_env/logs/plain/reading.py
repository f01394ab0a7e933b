"""A shop's own log and catalogue, read from CSV or parquet and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recsim_env import checks
from recsim_env.logs.facts import LogFacts
from recsim_env.logs.plain.columns import LOG_COLUMNS, column_names, log_columns, missing
from recsim_env.logs.plain.items import read_items
from recsim_env.logs.plain.rows import read_rows
from recsim_env.logs.plain.slates import Slates, slates_of
from recsim_env.logs.plain.sources import ROW, Source, open_source
from recsim_env.logs.plain.users import (
    LEAST_USERS,
    Feature,
    as_told,
    count_users,
    declared_of,
    features_of,
    first_values,
    sampled,
    split,
)
from recsim_env.logs.plain.visits import facts_of, impressions_of
from recsim_env.logs.schema import IMPRESSIONS, LogError, check_table

MOST_SLATES = 500_000
MOST_ROWS = 5_000_000
"""Sizes that are read in less than 3 GB; of a larger log, users are drawn at random."""
Plain = Path | str | pl.DataFrame
"""A CSV or parquet file, or a frame."""


@dataclass(frozen=True)
class Dropped:
    """Rows of the log that are not used."""

    reason: str
    """Why not, as a sentence."""
    rows: int


@dataclass(frozen=True)
class PlainLog:
    """A shop's log in the tables of this package, and what was met on the way to them."""

    name: str
    """The file of the log."""
    catalog_name: str
    """The file of the catalogue."""
    impressions: pl.DataFrame
    """One row a slate, as `recsim_env.logs.schema.IMPRESSIONS`; users are split, not weeks."""
    declared: pl.DataFrame | None
    """`shopper` and `declared`: the numbers that `user_*` columns became; None without them."""
    features: tuple[Feature, ...]
    """How `user_*` columns became numbers."""
    items: pl.DataFrame
    """One row an item in the order of the catalogue, columns as `items.ITEMS`."""
    users: pl.DataFrame
    """`shopper` Int64 and `user` String: ids in the shop's files, and `split`."""
    facts: LogFacts
    """The first day and the weeks."""
    columns: Mapping[str, str]
    """Names in the log's file of the columns that were read."""
    rows: int
    """Rows of the log's file."""
    dropped: tuple[Dropped, ...]
    """Rows that are not used, and why."""
    notes: tuple[str, ...]
    """How values that can be meant in several ways were read, as sentences."""
    ignored: tuple[str, ...]
    """Columns of the log that are not known and not read."""
    ignored_of_catalog: tuple[str, ...]
    """The same of the catalogue."""
    by_position: pl.DataFrame
    """`position` from 0, `shown` items and their `clicks`."""
    uneven: int
    """Slates in whose positions there are gaps; their items were moved up."""
    problems: tuple[str, ...]
    """Why no model can learn from the log, as sentences; `read_plain` raises the first of them."""

    @property
    def declared_names(self) -> tuple[str, ...]:
        """Names of the numbers in `declared`."""
        return tuple(name for feature in self.features for name in feature.names)


def read_plain(
    log: Plain,
    catalog: Plain,
    *,
    columns: Mapping[str, str] | str | None = None,
    time_zone: str | None = None,
    most_slates: int = MOST_SLATES,
    most_rows: int = MOST_ROWS,
    seed: int = 0,
) -> PlainLog:
    """Read a log of one row an impressed item, and its catalogue.

    The columns are `recsim_env.logs.plain.LOG_COLUMNS` and `CATALOG_COLUMNS`. Rows are counted from
    0, without the header.

    Args:
        log: CSV or parquet file, or a frame.
        catalog: The same for the catalogue.
        columns: Names in the files by column, as a mapping or as `user=uid,item=sku`.
        time_zone: The zone of the shop's clock, such as `Europe/Berlin`, to which times that say
            their zone, and numbers, are converted; None is UTC.
        most_slates: Number of slates that are used at most. Users are drawn by a hash of their ids
            until there are so many.
        most_rows: Number of rows that are held in memory at most, drawn likewise.
        seed: Seed of the draw, and of the split into 80 % of the users to train on, 10 % to check
            and 10 % to test on.

    Raises:
        TypeError: If `log` or `catalog` is neither a path nor a frame.
        ValueError: If another argument is not as said.
        LogError: If a file is not as said, or if nothing can be learned from it: no clicks or only
            clicks, too few users, or one kind of response only among the users to test on.
    """
    plain = read_leniently(
        log,
        catalog,
        columns=columns,
        time_zone=time_zone,
        most_slates=most_slates,
        most_rows=most_rows,
        seed=seed,
        may_lack=(),
    )
    if plain.problems:
        raise LogError(f"{plain.name}: {plain.problems[0]}")
    return plain


def read_leniently(
    log: Plain,
    catalog: Plain,
    *,
    columns: Mapping[str, str] | str | None = None,
    time_zone: str | None = None,
    most_slates: int = MOST_SLATES,
    most_rows: int = MOST_ROWS,
    seed: int = 0,
    may_lack: Sequence[str] = ("user", "click"),
    told_features: Sequence[Feature] | None = None,
) -> PlainLog:
    """Read a log even where nothing can be learned from it, as `check_log` does.

    `may_lack` are required columns that may be missing: without `user` every row is a user of its
    own, and without `click` every row is a click. `told_features` say how `user_*` columns become
    numbers, where an earlier log decided that; None decides it by this one. See `read_plain` for
    all else.
    """
    names = column_names(columns)
    most_slates = checks.whole("most_slates", most_slates, 1)
    most_rows = checks.whole("most_rows", most_rows, 1)
    seed = checks.whole("seed", seed, 0, checks.LARGEST_SEED)
    source, goods = open_source(log, "log"), open_source(catalog, "catalog")
    told = log_columns(names, source.header, source.name)
    for column in LOG_COLUMNS:
        if column.required and column.name not in (*told, *may_lack):
            raise missing(column.name, names.get(column.name), source.header, source.name)
    source.check_types(told.values())
    items, notes, ignored_of_catalog = read_items(goods, names)

    # Whose rows are read.
    features = {name: column for name, column in told.items() if name.startswith("user_")}
    users = count_users(source, told.get("user"), features)
    _check_users(source, told, users)
    total, found = int(users["rows"].sum()), len(users)
    dropped: list[Dropped] = []
    users = sampled(users, "rows", most_rows, seed)
    if len(users) < found:
        dropped.append(_not_drawn(users, found, f"{most_rows:,} rows", total))

    # Rows, slates, and the users of these.
    rows, said = read_rows(source, told, users, items, goods.name, time_zone)
    slates = slates_of(source, told, rows, len(items))
    earliest = pl.col(ROW).get(pl.col("time").arg_min())
    first = rows.group_by("shopper").agg(earliest) if features else None
    del rows
    sizes = slates.frame.group_by("shopper").len("slates").sort("shopper")
    users = users.with_columns(sizes["slates"].cast(pl.Int64), old=pl.int_range(pl.len()))
    kept = sampled(users, "slates", most_slates, seed)
    if len(kept) < len(users):
        dropped.append(
            _not_drawn(kept, len(users), f"{most_slates:,} slates", int(users["rows"].sum()))
        )
    frame = _renumbered(slates.frame, kept) if len(kept) < len(users) else slates.frame
    splits = split(kept["user"], seed)
    impressions = impressions_of(
        frame.with_columns(pl.col("shopper").cast(pl.Int64)), splits, source.name
    )
    del frame

    # What was known of the users beforehand.
    declared, encodings = None, tuple[Feature, ...]()
    if first is not None:
        known, changing = first_values(source, features, kept, _renumbered(first, kept))
        notes += _changes(changing, features)
        if told_features is None:
            typed, encodings = features_of(known, splits)
        else:
            typed, encodings = as_told(known, told_features, source.name)
        declared = declared_of(typed, encodings)
    notes += [*said, *slates.notes, *_of_positions(slates, told)]
    if slates.duplicates:
        dropped.append(
            Dropped(
                "They repeat another row of their slate; clicked where one was.", slates.duplicates
            )
        )
    return PlainLog(
        name=source.name,
        catalog_name=goods.name,
        impressions=check_table(IMPRESSIONS, impressions, source.name, len(items)),
        declared=declared,
        features=encodings,
        items=items,
        users=kept.select(
            shopper=pl.int_range(pl.len(), dtype=pl.Int64), user="user", split=splits
        ),
        facts=facts_of(impressions),
        columns=told,
        rows=total,
        dropped=tuple(dropped),
        notes=tuple(notes),
        ignored=tuple(name for name in source.header if name not in told.values()),
        ignored_of_catalog=tuple(ignored_of_catalog),
        by_position=slates.by_position,
        uneven=slates.uneven,
        problems=tuple(_problems(impressions, len(kept))),
    )


def _check_users(source: Source, columns: Mapping[str, str], users: pl.DataFrame) -> None:
    nobody = users.filter(pl.col("user").is_null())
    if len(nobody):
        raise source.fault(
            columns["user"], int(nobody["first"][0]), "the id of a user", int(nobody["rows"][0])
        )


def _not_drawn(users: pl.DataFrame, found: int, most: str, total: int) -> Dropped:
    rows = int(users["rows"].sum())
    return Dropped(
        f"The log has more than {most}: {len(users):,} of {found:,} users were drawn at random.",
        total - rows,
    )


def _renumbered(frame: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """Keep the rows of some shoppers, who are numbered anew."""
    numbers = kept.select(pl.col("old").cast(frame["shopper"].dtype), new=pl.int_range(pl.len()))
    return (
        frame.join(numbers, left_on="shopper", right_on="old", how="inner", maintain_order="left")
        .drop("shopper")
        .rename({"new": "shopper"})
    )


def _changes(changing: Mapping[str, int], features: Mapping[str, str]) -> list[str]:
    return [
        f"Column {features[name]!r} changes for {users:,} users: what stood in a user's first row "
        "counts, since only that was known before the first visit."
        for name, users in changing.items()
    ]


def _of_positions(slates: Slates, columns: Mapping[str, str]) -> list[str]:
    """Say how positions were read."""
    if "position" not in columns:
        return ["The log has no positions: the order of rows is taken for that of the slate."]
    notes = [f"Positions begin at {slates.first_position}."]
    if slates.uneven:
        notes.append(
            f"{slates.uneven:,} slates have gaps in their positions; their items are moved up."
        )
    if slates.tied:
        notes.append(
            f"{slates.tied:,} rows have the position of the row above in their slate; the order of "
            "rows decides."
        )
    if "mixed" in slates.frame.columns and (mixed := int(slates.frame["mixed"].sum())):
        notes.append(f"{mixed:,} slates name several policies; theirs is taken as unknown.")
    return notes


def _problems(impressions: pl.DataFrame, users: int) -> list[str]:
    """Say why no model can learn from a log, where it is so."""
    found = impressions.select(
        shown=pl.col("slate").list.len().sum(), clicks=pl.col("click").list.sum().sum()
    ).row(0)
    shown, clicks = (int(value) for value in found)
    column = "column 'click'"
    problems = []
    if clicks in (0, shown):
        kind = "no click" if clicks == 0 else "only clicks"
        problems.append(f"{column}: found {kind} in {shown:,} rows, expected both 0 and 1.")
    if users < LEAST_USERS:
        problems.append(
            f"column 'user': found {users:,} user{'s' * (users != 1)}, expected at least "
            f"{LEAST_USERS}, of whom a tenth each is held out to check and to test."
        )

    # Users to learn from, and users to test on.
    learned = impressions.filter(pl.col("split") == "train")["click"].list.any().any()
    if not problems and not learned:
        problems.append(
            f"{column}: found no click in the rows of the users to learn from, expected some: the "
            "log is too small, or another seed is needed."
        )
    tested = impressions.filter(pl.col("split") == "test").select(
        shown=pl.col("slate").list.len().sum(), clicks=pl.col("click").list.sum().sum()
    )
    of_test: tuple[Any, ...] = tested.row(0)
    if not problems and of_test[1] in (0, of_test[0]):
        kind = "no click" if of_test[1] == 0 else "only clicks"
        problems.append(
            f"{column}: found {kind} in the {of_test[0]:,} rows of the users to test on, expected "
            "both: the log is too small, or another seed is needed."
        )
    return problems
