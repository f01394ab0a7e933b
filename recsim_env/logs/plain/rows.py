"""The rows of a log, read and checked: numbers of users and items, times, clicks."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from recsim_env.logs.plain.sources import ROW, Source, as_number, as_text, first_rows, is_given
from recsim_env.logs.plain.users import user_text
from recsim_env.logs.plain.values import (
    CLICK_EXPECTED,
    EARLIEST,
    LATEST,
    clock,
    deeds,
)
from recsim_env.logs.schema import LogError

SAMPLE = 1000  # values that are looked at to see how times are written
_WHOLE = "a whole number of 0 or more"
_CHANCE = "a probability above 0 and up to 1, or nothing"
_SHARE = "a share from 0 to 1, or nothing"
BETWEEN = "|"
"""What stands between two items of a cart."""


def read_rows(
    source: Source,
    columns: Mapping[str, str],
    users: pl.DataFrame,
    items: pl.DataFrame,
    catalog: str,
    zone: str | None,
) -> tuple[pl.DataFrame, list[str]]:
    """Read the rows of some users, in the order of the file.

    Args:
        source: The log.
        columns: Names in the file by column. Without `user` every row is a user of its own; without
            `click` every row is a click.
        users: The users to keep, in the order of shoppers.
        items: The catalogue, in order.
        catalog: The file of the catalogue, for messages.
        zone: The zone of the shop's clock; None is UTC.

    Returns:
        `ROW`, `shopper`, `item`, `time`, `click`, and those of `session`, `page`, `position`,
        `purchase`, `policy`, `propensity`, `scenario`, `query`, `cart`, `discount` that the log
        has; and what was changed, as sentences.

    Raises:
        LogError: If a value is missing or not as said.
    """
    stamp = columns["timestamp"]
    sample = source.collect(source.frame.select(stamp).head(SAMPLE)).to_series()
    try:
        times = clock(stamp, sample, zone)
    except LogError as error:
        raise LogError(f"{source.name}: {error}") from None
    wanted = [ROW, user_text(source, columns.get("user")).alias("user"), times.time.alias("time")]
    wanted += [
        as_text(columns[name], source.schema[columns[name]]).alias(name)
        for name in ("item", "session", "policy", "scenario", "query", "cart")
        if name in columns
    ]
    for name in ("page", "position"):
        if name in columns:
            number = as_number(columns[name], source.schema[columns[name]])
            whole = number.cast(pl.Int32, strict=False)
            wanted.append(pl.when(whole == number).then(whole).alias(name))
    if "propensity" in columns:
        column = columns["propensity"]
        chance = as_number(column, source.schema[column])
        given = is_given(column, source.schema[column])
        bad = (chance.is_null() | (chance <= 0) | (chance > 1)) & given
        wanted += [chance.alias("propensity"), bad.alias("bad")]
    if "discount" in columns:
        wanted += _discount(source, columns["discount"])
    wanted += [
        pl.col(columns[name]).alias(name) for name in ("click", "purchase") if name in columns
    ]

    numbered = users.lazy().select("user", shopper=pl.int_range(pl.len(), dtype=pl.Int32))
    known = items.lazy().select(item="item", number=pl.int_range(pl.len(), dtype=pl.Int32))
    rows = source.collect(
        source.frame.select(wanted)
        .join(numbered, on="user", how="inner")
        .drop("user")
        .join(known, on="item", how="left")
        .drop("item")
        .rename({"number": "item"})
    )
    rows = rows if rows[ROW].is_sorted() else rows.sort(ROW)
    _check_rows(
        source, columns, rows, f"one of the {len(items):,} items of {catalog}", times.expected
    )
    notes = [times.said]
    if "cart" in columns:
        rows = _with_carts(source, columns["cart"], rows, items, catalog)
    rows = _with_deeds(source, columns, rows.drop("bad", "wrong", strict=False), notes)
    return _in_time(source, columns, rows, notes), notes


def _check_rows(
    source: Source, columns: Mapping[str, str], rows: pl.DataFrame, item: str, time: str
) -> None:
    """Raise LogError at the first row whose item, time, page, position or propensity is wrong."""
    naive = pl.col("time").dt.replace_time_zone(None)
    rules = {
        "item": (pl.col("item").is_null(), item),
        "timestamp": (
            pl.col("time").is_null() | ~naive.is_between(EARLIEST, LATEST, closed="left"),
            time,
        ),
        "page": (pl.col("page").is_null() | (pl.col("page") < 0), _WHOLE),
        "position": (pl.col("position").is_null() | (pl.col("position") < 0), _WHOLE),
        "propensity": (pl.col("bad"), _CHANCE),
        "discount": (pl.col("wrong"), _SHARE),
        "session": (pl.col("session").is_null(), "the id of a visit"),
    }
    for name, (broken, expected) in rules.items():
        if name in columns and (wrong := first_rows(rows, broken)):
            raise source.fault(columns[name], wrong[0], expected, wrong[1])


def _discount(source: Source, column: str) -> list[pl.Expr]:
    """Read discounts, with a column `wrong` that marks values that are none."""
    share = as_number(column, source.schema[column])
    given = is_given(column, source.schema[column])
    wrong = (share.is_null() | (share < 0) | (share > 1)) & given
    return [share.alias("discount"), wrong.alias("wrong")]


def _with_carts(
    source: Source, column: str, rows: pl.DataFrame, items: pl.DataFrame, catalog: str
) -> pl.DataFrame:
    """Read carts as lists of numbers of items; an item that stands there twice counts once.

    Raises:
        LogError: If a cart holds an item that the catalogue does not have.
    """
    texts = rows.select("cart").unique().drop_nulls()
    listed = texts.with_columns(name=pl.col("cart").str.split(BETWEEN)).explode("name")
    listed = listed.with_columns(pl.col("name").str.strip_chars()).filter(pl.col("name") != "")
    known = items.select(name="item", number=pl.int_range(pl.len(), dtype=pl.Int32))
    numbered = listed.join(known, on="name", how="left", maintain_order="left")
    strange = numbered.filter(pl.col("number").is_null())["cart"].unique()
    if len(strange) and (wrong := first_rows(rows, pl.col("cart").is_in(strange.implode()))):
        expected = f"items of {catalog} with {BETWEEN!r} between them, or nothing"
        raise source.fault(column, wrong[0], expected, wrong[1])
    carts = numbered.group_by("cart", maintain_order=True).agg(
        pl.col("number").unique(maintain_order=True)
    )
    found = rows.join(carts, on="cart", how="left", maintain_order="left")
    empty = pl.lit([], dtype=pl.List(pl.Int32))
    given = pl.when(pl.col("cart").is_not_null()).then(pl.col("number").fill_null(empty))
    return found.with_columns(given.alias("cart")).drop("number")


def _with_deeds(
    source: Source, columns: Mapping[str, str], rows: pl.DataFrame, notes: list[str]
) -> pl.DataFrame:
    """Read clicks and purchases, and count a purchase as a click too."""
    for name in ("click", "purchase"):
        if name not in columns:
            continue
        done, counts, words = deeds(rows[name])
        missing = ~rows.select(is_given(name, rows.schema[name])).to_series()
        if name == "purchase":  # nothing there means that nothing was bought
            done = done.set(missing, False)
        rows = rows.with_columns(done.alias(name))
        if wrong := first_rows(rows, pl.col(name).is_null()):
            raise source.fault(columns[name], wrong[0], CLICK_EXPECTED, wrong[1])
        if counts:
            notes.append(f"Column {columns[name]!r} holds counts: one or more is one {name}.")
        if words:
            notes.append(f"Column {columns[name]!r} holds words, which are read as yes and no.")
    if "click" not in columns:
        return rows.with_columns(click=pl.lit(True))
    if "purchase" in columns:
        unclicked = int((rows["purchase"] & ~rows["click"]).sum())
        if unclicked:
            notes.append(f"{unclicked:,} purchases without a click count as clicks too.")
            rows = rows.with_columns(pl.col("click") | pl.col("purchase"))
    return rows


def _in_time(
    source: Source, columns: Mapping[str, str], rows: pl.DataFrame, notes: list[str]
) -> pl.DataFrame:
    """Say that rows will be sorted, or raise LogError where that would be a guess."""
    if rows["time"].is_sorted():
        return rows
    by_user = rows.select(ROW, "shopper", "time").sort("shopper", maintain_order=True)
    same = pl.col("shopper") == pl.col("shopper").shift(1)
    back = first_rows(by_user, same & (pl.col("time") < pl.col("time").shift(1)))
    if back is None:
        return rows
    if "session" not in columns and "position" not in columns:
        raise source.fault(
            columns["timestamp"],
            back[0],
            "no time before that of the user's row above, since the log has neither sessions nor "
            "positions that tell the order",
            back[1],
        )
    sorted_ones = "1 row was" if back[1] == 1 else f"{back[1]:,} rows were"
    notes.append(f"{sorted_ones} sorted, for the log had later rows of the same user above.")
    return rows
