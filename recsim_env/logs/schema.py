"""The tables of a log: their columns, and readers and writers that check all of it.

An item is its row number in the catalogue. Every error is one sentence: file, column, row (counted
from 0), what was found, what was expected. A table on disk is whole or not there.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recsim_env import checks
from recsim_env.tables import read_parquet, write_parquet
from recsim_env.types import MAX_DAYS

SPLITS = ("train", "valid", "test")

# Readers make tables with a row for each day, week and store: a wild number would ask for all the
# memory there is.
DAYS = int(MAX_DAYS)
WEEKS = DAYS // 7
STORES = 10**5
MOST_ITEMS = 2**31 - 1  # items are Int32
LAST_YEAR = 2 * 10**17  # microseconds: polars cannot tell a time far beyond
SHOPPERS_AND_VISITS = 10**12  # never the length of a table
MOST_PLACEMENTS = 256  # a shop keeps placement codes in a byte; `LogFacts` tells how many there are


class LogError(ValueError):
    """A table is not what its schema says; the message names file, column and row."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: pl.DataType
    meaning: str
    """What a value means, with its unit."""
    nullable: bool = False
    """Whether a row may leave it empty (null)."""
    span: tuple[Any, Any] | None = None
    """The smallest and the largest value, or those in its lists; None = any."""
    items: bool = False
    """Whether it holds catalogue items, numbers from 0 to below the size of the catalogue."""
    later: bool = False
    """Whether tables of earlier versions lack it: it is null there."""


@dataclass(frozen=True)
class Rule:
    """What must hold in a row: `holds` is true, or null where a nullable value is missing."""

    column: str
    holds: pl.Expr
    expected: str


@dataclass(frozen=True)
class Table:
    """The columns of a table in order, its key, and rules that hold in each row."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """Columns by which the rows ascend strictly."""
    rules: tuple[Rule, ...] = ()
    may_be_empty: bool = False

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Name and type of each column, in order."""
        return {column.name: column.dtype for column in self.columns}

    def completed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Select the table's columns from a frame, in their types and order.

        Columns that may be empty, and that the frame lacks, are empty in every row.
        """
        lacking = [c.name for c in self.columns if c.nullable and c.name not in frame.columns]
        whole = frame.with_columns(pl.lit(None).alias(name) for name in lacking)
        return whole.select(pl.col(name).cast(dtype) for name, dtype in self.schema.items())

    @property
    def has_items(self) -> bool:
        """Whether a column holds catalogue items."""
        return any(column.items for column in self.columns)


def _complete(name: str) -> Rule:
    values = pl.col(name).list
    return Rule(name, values.drop_nulls().list.len() == values.len(), "a list without nulls")


def _as_long_as_slate(name: str) -> Rule:
    same = pl.col(name).list.len() == pl.col("slate").list.len()
    return Rule(name, same, "as many values as the slate has items")


def _distinct(name: str) -> Rule:
    values = pl.col(name).list
    return Rule(name, values.n_unique() == values.len(), "distinct items")


def _not_below_the_row_above(name: str) -> Rule:
    same = pl.col("shopper") == pl.col("shopper").shift(1)
    holds = ~same | (pl.col(name) >= pl.col(name).shift(1))
    return Rule(name, holds, "no less than in the shopper's row above: rows go by time")


def _dense(above: pl.Expr) -> Rule:
    return Rule(
        "shopper", pl.col("shopper") <= above + 1, "shoppers numbered 0, 1, .. without a gap"
    )


_VISIT = (
    Column(
        "shopper", pl.Int64(), "dense index of the shopper, from 0", span=(0, SHOPPERS_AND_VISITS)
    ),
    Column(
        "visit",
        pl.Int64(),
        "number of the visit, unique in the log; the pages of a visit share it",
        span=(0, SHOPPERS_AND_VISITS),
    ),
    Column(
        "time",
        pl.Datetime("us"),
        "local time at which the visit began",
        span=(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)),
    ),
    Column("day", pl.Int32(), "local days since the log's day 0", span=(0, DAYS)),
    Column("week", pl.Int16(), "week of the log, as the shop counts weeks", span=(0, WEEKS)),
    Column("store", pl.Int32(), "store that was visited", span=(0, STORES)),
)
_RETURN = (
    Column(
        "gap",
        pl.Int32(),
        "days until the shopper's next visit; null: not seen before the watch ended",
        nullable=True,
        span=(0, DAYS),
    ),
    Column(
        "follow_up",
        pl.Int32(),
        "days watched after the visit, until the end of its split",
        span=(0, DAYS),
    ),
    Column("split", pl.String(), "train, valid or test"),
)
_VISIT_RULES = (
    Rule("gap", pl.col("gap") <= pl.col("follow_up"), "a gap within follow_up"),
    Rule("split", pl.col("split").is_in(SPLITS), "one of train, valid, test"),
    _not_below_the_row_above("day"),
)

IMPRESSIONS = Table(
    "impressions",
    (
        *_VISIT,
        Column("scenario", pl.String(), "what kind of slate it was"),
        Column(
            "policy", pl.String(), "name of the policy that chose the slate; null: unknown", True
        ),
        Column(
            "page", pl.Int16(), "0 for the first slate of a visit, 1 for the next", span=(0, 9999)
        ),
        Column(
            "slate",
            pl.List(pl.Int32()),
            "items shown, top first (an unordered sample where propensity is null)",
            items=True,
        ),
        Column(
            "click",
            pl.List(pl.Boolean()),
            "clicked, one value an item; null: not recorded",
            nullable=True,
        ),
        Column(
            "purchase",
            pl.List(pl.Boolean()),
            "bought in this visit, one value an item; null: not recorded",
            True,
        ),
        Column(
            "placement",
            pl.List(pl.Int16()),
            "where each item stood, a code from 0 (plain); null: unknown",
            nullable=True,
            span=(0, MOST_PLACEMENTS - 1),
        ),
        Column(
            "propensity",
            pl.Float64(),
            "log-probability of the ordered slate under the logging policy",
            nullable=True,
            span=(-1e6, 0),
        ),
        Column(
            "weight",
            pl.List(pl.Float32()),
            "1 / sampling probability of each item's row; null: 1",
            True,
            (0, 1e9),
        ),
        Column(
            "query",
            pl.String(),
            "words that were searched for; null: none, or not recorded",
            nullable=True,
            later=True,
        ),
        Column(
            "cart",
            pl.List(pl.Int32()),
            "items in the cart before the slate, in the order in which they came; null: not "
            "recorded",
            nullable=True,
            items=True,
            later=True,
        ),
        Column(
            "discount",
            pl.Float32(),
            "share of its price that was off the slate if it was bought whole; null: no bundle",
            nullable=True,
            span=(0, 1),
            later=True,
        ),
        *_RETURN,
    ),
    ("shopper", "time", "visit", "page"),
    (
        *_VISIT_RULES,
        Rule("slate", pl.col("slate").list.len() > 0, "at least one item"),
        *(_complete(name) for name in ("slate", "click", "purchase", "placement", "weight")),
        _complete("cart"),
        _distinct("slate"),
        _distinct("cart"),
        Rule(
            "purchase",
            pl.any_horizontal(pl.col("click", "purchase").is_not_null()),
            "a click or a purchase list",
        ),
        *(_as_long_as_slate(name) for name in ("click", "purchase", "placement", "weight")),
        Rule(
            "weight",
            (pl.col("weight").list.min() > 0) & pl.col("weight").list.sum().is_finite(),
            "finite weights > 0",
        ),
        Rule(
            "visit",
            ~pl.struct("visit", "page").is_duplicated(),
            "no other row with this visit and page",
        ),
    ),
)

BASKETS = Table(
    "baskets",
    (
        *_VISIT,
        Column(
            "items",
            pl.List(pl.Int32()),
            "catalogue items bought, distinct; may be empty",
            items=True,
        ),
        *_RETURN,
    ),
    ("shopper", "time", "visit"),
    (
        *_VISIT_RULES,
        _dense(pl.col("shopper").shift(1, fill_value=-1)),
        _complete("items"),
        _distinct("items"),
        Rule("visit", ~pl.col("visit").is_duplicated(), "no other row with this visit"),
    ),
)

PROMOTIONS = Table(
    "promotions",
    (
        Column("store", pl.Int32(), "store that promotes", span=(0, STORES)),
        Column("week", pl.Int16(), "week of the log", span=(0, WEEKS)),
        Column("item", pl.Int32(), "promoted catalogue item", items=True),
        Column(
            "placement",
            pl.Int16(),
            "where: code of the display and mailer pair",
            span=(1, MOST_PLACEMENTS - 1),
        ),
    ),
    ("store", "week", "item"),
    may_be_empty=True,
)

POPULARITY = Table(
    "popularity",
    (
        Column(
            "week", pl.Int16(), "week of the log in which the numbers may be used", span=(0, WEEKS)
        ),
        Column("item", pl.Int32(), "catalogue item", items=True),
        Column(
            "popularity",
            pl.Float32(),
            "visits that bought it / all visits, in the four weeks before",
            span=(0, 1),
        ),
        Column(
            "discount",
            pl.Float32(),
            "mean retail discount / shelf price of its lines in the four weeks before",
            span=(0, 1),
        ),
    ),
    ("week", "item"),
)

SHOPPERS = Table(
    "shoppers",
    (
        Column(
            "shopper",
            pl.Int64(),
            "dense index of the shopper, from 0",
            span=(0, SHOPPERS_AND_VISITS),
        ),
        Column("household_id", pl.Int64(), "the shopper's number in the source"),
        Column(
            "holdout",
            pl.Boolean(),
            "kept for evaluation: nothing may be learned from this shopper in RL",
        ),
    ),
    ("shopper",),
    (_dense(pl.int_range(pl.len()) - 1),),
)


def read_table(table: Table, path: Path | str, n_items: int | None) -> pl.DataFrame:
    """Read and check one table.

    Args:
        table: What the table must be.
        path: Its file.
        n_items: The size of the catalogue; None for a table without items.

    Raises:
        LogError: If the file is missing, no readable parquet, or not what the schema says.
    """
    try:
        frame = read_parquet(path, f"the {table.name} table")
    except ValueError as error:
        raise LogError(str(error)) from error
    return check_table(table, frame, path, n_items)


def write_table(table: Table, frame: pl.DataFrame, path: Path | str, n_items: int | None) -> None:
    """Check a table, then write it in one move.

    Raises:
        LogError: If the frame is not what the schema says; see `check_table`.
        OSError: If the file cannot be written.
    """
    path = checks.path("path", path)
    write_parquet(path, check_table(table, frame, path, n_items))


def check_table(
    table: Table, frame: pl.DataFrame, path: Path | str, n_items: int | None
) -> pl.DataFrame:
    """Check a frame, and put its columns into the order of the table.

    A nullable column may have the type Null, or be a float column of whole numbers: so pandas
    writes columns in which all or some values are missing.

    Args:
        table: What the frame must be.
        frame: The rows.
        path: The file that messages name.
        n_items: The size of the catalogue; None for a table without items.

    Raises:
        LogError: If the frame is not what the schema says.
        TypeError: If it is no frame.
        ValueError: If `n_items` is no whole number above 0 although the table holds items.
    """
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"frame is {checks.told(frame)}, but it must be a polars DataFrame.")
    if table.has_items:
        n_items = checks.whole("n_items", n_items, 1, MOST_ITEMS)

    frame = _typed(table, frame, path)
    if len(frame) == 0 and not table.may_be_empty:
        raise LogError(f"{path}: found no rows, expected at least one in the {table.name} table.")

    # First that there are values, then their ranges, then what the rules compare.
    _check_rules(
        [
            Rule(c.name, pl.col(c.name).is_not_null(), "a value")
            for c in table.columns
            if not c.nullable
        ],
        frame,
        path,
    )
    _check_rules([_range(column, n_items) for column in table.columns], frame, path)
    _check_rules(table.rules, frame, path)
    _check_key(table, frame, path)
    return frame


def _typed(table: Table, frame: pl.DataFrame, path: Path | str) -> pl.DataFrame:
    """Select the columns of a table, in its order and with its types."""
    for name in frame.columns:
        if name not in table.schema:
            known = ", ".join(table.schema)
            raise LogError(
                f"{path}: column '{name}', row 0: found an unknown column, expected only {known}."
            )
    typed = []
    for column in table.columns:
        if column.name not in frame.columns and column.later:
            typed.append(pl.Series(column.name, [None] * len(frame), dtype=column.dtype))
            continue
        if column.name not in frame.columns:
            raise LogError(
                f"{path}: column '{column.name}', row 0: found no such column, "
                f"expected {column.dtype}."
            )
        values = frame[column.name]
        if column.nullable and values.dtype != column.dtype:
            values = _without_loss(values, column.dtype)
        if values.dtype != column.dtype:
            found = f"found type {values.dtype}, expected {column.dtype}"
            raise LogError(f"{path}: column '{column.name}', row 0: {found}.")
        typed.append(values)
    return pl.DataFrame(typed)


def _without_loss(values: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Cast a column of nulls, or of floats that are whole numbers or missing; no other one."""
    if values.dtype == pl.Null():
        return values.cast(dtype)
    if values.dtype != pl.Float64() or not dtype.is_integer():
        return values
    whole = values.cast(dtype, strict=False)
    return whole if whole.cast(pl.Float64).equals(values) else values


def _range(column: Column, n_items: int | None) -> Rule:
    """Make the rule that all values lie in the range of the column, or in the catalogue."""
    span = (0, (n_items or 1) - 1) if column.items else column.span
    if span is None:
        return Rule(column.name, pl.lit(True), "any value")
    is_list = isinstance(column.dtype, pl.List)
    values = pl.col(column.name)
    least, most = (values.list.min(), values.list.max()) if is_list else (values, values)
    what = "catalogue items" if column.items else "values" if is_list else "a value"
    return Rule(
        column.name, (least >= span[0]) & (most <= span[1]), f"{what} from {span[0]} to {span[1]}"
    )


def _check_rules(rules: Sequence[Rule], frame: pl.DataFrame, path: Path | str) -> None:
    broken = (
        frame.select((~rule.holds).any().alias(str(i)) for i, rule in enumerate(rules)).row(0)
        if rules
        else ()
    )
    for rule, is_broken in zip(rules, broken, strict=True):
        if is_broken:
            row = frame.select((~rule.holds).fill_null(False).arg_max()).item()
            found = _written(frame[rule.column], row)
            raise LogError(
                f"{path}: column '{rule.column}', row {row}: found {found}, "
                f"expected {rule.expected}."
            )


def _check_key(table: Table, frame: pl.DataFrame, path: Path | str) -> None:
    """Check that rows ascend strictly by the key, each compared with the one above."""
    ascends, ties = pl.lit(False), pl.lit(True)
    for name in table.key:
        ascends = ascends | (ties & (pl.col(name) > pl.col(name).shift(1)))
        ties = ties & (pl.col(name) == pl.col(name).shift(1))
    rows = frame.select((~ascends).arg_true()).to_series()
    rows = rows.filter(rows > 0)  # the first row has none above
    if len(rows):
        key, row = ", ".join(table.key), int(rows[0])
        found = ", ".join(_written(frame[name], row) for name in table.key)
        above = f"rows ascending by ({key}) without repeats"
        raise LogError(
            f"{path}: column '{table.key[0]}', row {row}: found ({found}), expected {above}."
        )


def _written(column: pl.Series, row: int) -> str:
    number = column.to_physical()[row]
    if column.dtype == pl.Datetime("us") and number is not None and abs(number) > LAST_YEAR:
        return f"{number} microseconds since 1970"
    value = column[row]
    text = str(value.to_list()) if isinstance(value, pl.Series) else str(value)
    return text if len(text) <= checks.LONGEST else f"{text[: checks.LONGEST - 3]}..."


def read_impressions(path: Path | str, n_items: int) -> pl.DataFrame:
    """Read a log of slates, one row a slate."""
    return read_table(IMPRESSIONS, path, n_items)


def write_impressions(frame: pl.DataFrame, path: Path | str, n_items: int) -> None:
    """Check a log of slates, and write it."""
    write_table(IMPRESSIONS, frame, path, n_items)


def read_baskets(path: Path | str, n_items: int, n_shoppers: int | None = None) -> pl.DataFrame:
    """Read the visits and what was bought in each.

    Args:
        path: The file.
        n_items: The size of the catalogue.
        n_shoppers: The length of the shoppers table, if each visit must be of one of them.
    """
    baskets = read_table(BASKETS, path, n_items)
    last = baskets["shopper"][-1]
    if n_shoppers is not None and last >= n_shoppers:
        row = len(baskets) - 1
        expected = f"one of the {n_shoppers} shoppers of the shoppers table"
        raise LogError(f"{path}: column 'shopper', row {row}: found {last}, expected {expected}.")
    return baskets


def write_baskets(frame: pl.DataFrame, path: Path | str, n_items: int) -> None:
    """Check the visits, and write them."""
    write_table(BASKETS, frame, path, n_items)


def read_promotions(
    path: Path | str, n_items: int, n_placements: int | None = None
) -> pl.DataFrame:
    """Read what each store promoted in each week.

    Args:
        path: The file.
        n_items: The size of the catalogue.
        n_placements: The number of placement codes, if each code must be one of them.
    """
    promotions = read_table(PROMOTIONS, path, n_items)
    if n_placements is not None and len(promotions):
        row = promotions["placement"].arg_max()
        last = int(promotions["placement"].max())  # type: ignore[arg-type]
        if last >= n_placements:
            expected = f"a value from 1 to {n_placements - 1}"
            raise LogError(
                f"{path}: column 'placement', row {row}: found {last}, expected {expected}."
            )
    return promotions


def write_promotions(frame: pl.DataFrame, path: Path | str, n_items: int) -> None:
    """Check the promotions, and write them."""
    write_table(PROMOTIONS, frame, path, n_items)


def read_popularity(path: Path | str, n_items: int) -> pl.DataFrame:
    """Read the trailing popularity and discount of each item in each week."""
    return read_table(POPULARITY, path, n_items)


def write_popularity(frame: pl.DataFrame, path: Path | str, n_items: int) -> None:
    """Check the trailing popularity and discount, and write them."""
    write_table(POPULARITY, frame, path, n_items)


def read_shoppers(path: Path | str) -> pl.DataFrame:
    """Read who the shoppers are and which are held out."""
    return read_table(SHOPPERS, path, None)


def write_shoppers(frame: pl.DataFrame, path: Path | str) -> None:
    """Check who the shoppers are, and write them."""
    write_table(SHOPPERS, frame, path, None)
