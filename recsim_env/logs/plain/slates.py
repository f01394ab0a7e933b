"""The rows of a log as slates: which rows were shown together, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from recsim_env.logs.plain.sources import ROW, Source

SILENCE = 30
"""Minutes without a row after which the next visit begins, where the log has no sessions."""
ALONE = 0.9
"""Share of slates of one item from which on rows of a slate are taken to have times of their own,
where positions or pages tell the slates apart."""
_LISTS = ("item", "click", "purchase")
_FIRST = ("shopper", "visit", "page", "scenario", "query", "cart", "discount")


@dataclass
class Slates:
    """Slates in the order of users and times, and what was found on the way."""

    frame: pl.DataFrame
    """One row a slate: `shopper`, `visit`, `time`, `end`, `slate`, `click` and others."""
    by_position: pl.DataFrame
    """`position` from 0, `shown` and `clicks`."""
    duplicates: int = 0
    """Rows that repeat another one."""
    uneven: int = 0
    """Slates in whose positions there are gaps."""
    tied: int = 0
    """Rows that have the position of the row above in their slate."""
    first_position: int | None = None
    """The least position of the log."""
    notes: list[str] = field(default_factory=list)
    """What was done, as sentences."""


def slates_of(source: Source, columns: Mapping[str, str], rows: pl.DataFrame, items: int) -> Slates:
    """Put the rows of each slate together.

    Rows of one user belong to one slate where they have the same session, page and scenario;
    without sessions or pages, where they have the same time. Where nearly every row has a time of
    its own, a new slate begins with a new page, or where positions begin again.

    Args:
        source: The log, for messages.
        columns: Names in the file by column.
        rows: What `read_rows` returned.
        items: The size of the catalogue.

    Raises:
        LogError: If an item stands twice in a slate, at two positions.
    """
    notes: list[str] = []
    rows = _with_visits(rows, notes)
    rows = _numbered(rows, notes)
    rows, duplicates = _distinct(source, columns, rows, items)
    place = pl.int_range(pl.len(), dtype=pl.Int32) - pl.int_range(pl.len(), dtype=pl.Int32).filter(
        pl.col("begins")
    ).gather(pl.col("slate"))
    uneven, tied, first = _steps(rows)

    # The positions that the log tells, where it tells any: those of a slate of one are kept so.
    told = pl.col("position") - first if first is not None else place
    by_position = (
        rows.select(position=told, click="click")
        .group_by("position")
        .agg(shown=pl.len().cast(pl.Int64), clicks=pl.col("click").sum().cast(pl.Int64))
        .sort("position")
    )
    return Slates(_joined(rows), by_position, duplicates, uneven, tied, first, notes)


def _with_visits(rows: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """Number the sessions by user and first time, where the log has sessions."""
    if "session" not in rows.columns:
        notes.append(f"The log has no sessions: {SILENCE} minutes of silence end a visit.")
        return rows
    visits = (
        rows.group_by("shopper", "session")
        .agg(start=pl.col("time").min(), first=pl.col(ROW).min())
        .sort("shopper", "start", "first")
        .select("shopper", "session", visit=pl.int_range(pl.len(), dtype=pl.Int32))
    )
    return rows.join(visits, on=["shopper", "session"], how="left", maintain_order="left").drop(
        "session"
    )


def _numbered(rows: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """Sort the rows, and add `begins`, true at the first of each slate, and `slate`, its number."""
    has = set(rows.columns)
    owner = "visit" if "visit" in has else "shopper"
    known = owner == "visit" and "page" in has  # then a slate may last
    keys = [owner, *([] if known else ["time"])]
    keys += [name for name in ("page", "scenario") if name in has]
    order = [*keys, *[name for name in ("position",) if name in has], ROW]
    rows = _sorted(rows, order)
    begins = _changes(keys)
    slates = int(rows.select(begins.sum()).item())
    if not known and len(rows) < slates / ALONE and {"page", "position"} & has:
        changed = [owner, *[name for name in ("page", "scenario") if name in has]]
        apart = _sorted(rows, [owner, "time", ROW])
        again = _changes(changed) | _silent()
        if "position" in has:
            again = again | (pl.col("position") <= pl.col("position").shift(1))
        if _look_like_slates(apart, again):
            notes.append(
                "Nearly every row has a time of its own: a slate begins where "
                + ("positions begin again." if "position" in has else "the page changes.")
            )
            rows, begins = apart, again
    return rows.with_columns(begins.fill_null(True).alias("begins")).with_columns(
        slate=pl.col("begins").cum_sum().cast(pl.Int32) - 1
    )


def _look_like_slates(rows: pl.DataFrame, begins: pl.Expr) -> bool:
    """Whether most runs begin at the first position and go on in steps of one."""
    if "position" not in rows.columns:
        return int(rows.select(begins.fill_null(True).sum()).item()) < ALONE * len(rows)
    position, first = pl.col("position"), begins.fill_null(True)
    found = rows.select(
        starts=(position == position.min()).filter(first).mean(),
        steps=(position == position.shift(1) + 1).filter(~first).mean(),
        runs=first.mean(),
    ).row(0)
    starts, steps, runs = (value or 0.0 for value in found)
    return starts > ALONE and steps > ALONE and runs < ALONE


def _changes(names: list[str]) -> pl.Expr:
    return pl.any_horizontal(
        pl.col(name).ne_missing(pl.col(name).shift(1)) | (pl.int_range(pl.len()) == 0)
        for name in names
    )


def _silent() -> pl.Expr:
    return pl.col("time") - pl.col("time").shift(1) > pl.duration(minutes=SILENCE)


def _sorted(rows: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Sort rows; those that are sorted already, which is cheap to see, stay as they are."""
    ascends, ties = pl.lit(False), pl.lit(True)
    for name in keys:
        value = pl.col(name)
        ascends = ascends | (ties & (value > value.shift(1)))
        ties = ties & value.eq_missing(value.shift(1))
    if rows.select(ascends.fill_null(False).slice(1).all()).item():
        return rows
    return rows.sort(keys)


def _distinct(
    source: Source, columns: Mapping[str, str], rows: pl.DataFrame, items: int
) -> tuple[pl.DataFrame, int]:
    """Merge rows that repeat another row of their slate: clicked where one of them was.

    Raises:
        LogError: If an item stands at two positions of a slate.
    """
    key = rows.select((pl.col("slate").cast(pl.Int64) * items + pl.col("item")).alias("key"))
    repeats = len(rows) - key["key"].n_unique()
    if not repeats:
        return rows, 0
    rows = rows.with_columns(key)
    alike = rows.filter(pl.col("key").is_duplicated())
    if "position" in rows.columns:
        other = alike.with_columns(same=pl.col("position").first().over("key")).filter(
            pl.col("position") != pl.col("same")
        )
        if len(other):
            row = int(other[ROW].sort()[0])
            expected = "items that are distinct within a slate: this one stands there twice"
            raise source.fault(columns["item"], row, expected, len(other))
    done = [name for name in ("click", "purchase") if name in rows.columns]
    merged = alike.group_by("key").agg(pl.col(done).any())
    begins = rows.filter("begins").select("slate", first=ROW)
    rows = (
        rows.filter(pl.col("key").is_first_distinct())
        .join(merged, on="key", how="left", maintain_order="left", suffix=" of all")
        .with_columns(pl.coalesce(f"{name} of all", name).alias(name) for name in done)
        .drop("key", *[f"{name} of all" for name in done])
    )
    assert rows["begins"].sum() == len(begins)  # the first row of a slate repeats none above
    return rows, repeats


def _steps(rows: pl.DataFrame) -> tuple[int, int, int | None]:
    """Count slates with gaps and rows that repeat the position above, and find the least one."""
    if "position" not in rows.columns:
        return 0, 0, None
    step = pl.col("position") - pl.col("position").shift(1)
    least = pl.col("position").min()
    gap = pl.when("begins").then(pl.col("position") > least).otherwise(step > 1)
    return rows.select(
        uneven=pl.col("slate").filter(gap).n_unique(),
        tied=((step == 0) & ~pl.col("begins")).sum(),
        first=least,
    ).row(0)


def _joined(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a slate, lists in the order of the rows."""
    has = set(rows.columns)
    wanted = [pl.col(name) for name in _LISTS if name in has]
    wanted += [pl.col(name).first() for name in _FIRST if name in has]
    wanted += [
        pl.col("time").min(),
        pl.col("time").max().alias("end"),
        pl.col(ROW).first(),
    ]
    if "policy" in has:  # several hands in one slate are none that is known
        told = pl.col("policy").drop_nulls()
        mixed = told.n_unique() > 1
        wanted.append(pl.when(~mixed).then(told.first()).alias("policy"))
        wanted.append(mixed.alias("mixed"))
    if "propensity" in has:
        known = pl.col("propensity").null_count() == 0
        wanted.append(pl.when(known).then(pl.col("propensity").log().sum()).alias("propensity"))
    return (
        rows.drop("begins", "position", strict=False)
        .with_columns(pl.col("slate").set_sorted())
        .group_by("slate", maintain_order=True)
        .agg(wanted)
        .drop("slate")
        .rename({"item": "slate"})
    )
