"""The tables of a log: which columns they have, what each means, and readers and writers that check all of it.

An item is its row number in the catalogue. Every complaint is one sentence: file, column, row (counted from 0),
what was found, what was expected. Writes go to a temporary file first, so a table on disk is whole or not there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

SPLITS = ("train", "valid", "test")


class LogError(ValueError):
    """A table is not what its schema says; the message names file, column, row, finding and expectation."""


@dataclass(frozen=True)
class Column:
    """One column: its name, type, meaning with unit, and whether a row may leave it empty (null)."""

    name: str
    dtype: pl.DataType
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Rule:
    """What must hold in a row: `holds` is true, or null where a nullable value is missing."""

    column: str
    holds: pl.Expr
    expected: str


@dataclass(frozen=True)
class Table:
    """A table: its columns in order, the key it is sorted by (strictly ascending) and rules that hold in each row."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    items: tuple[str, ...] = field(default=())  # columns that hold catalogue items, checked against n_items

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Name and type of each column, in order."""
        return {column.name: column.dtype for column in self.columns}


def _at_least(name: str, bound: int) -> Rule:
    return Rule(name, pl.col(name) >= bound, f"a number >= {bound}")


def _complete(name: str) -> Rule:
    values = pl.col(name).list
    return Rule(name, values.drop_nulls().list.len() == values.len(), "a list without nulls")


def _as_long_as_slate(name: str) -> Rule:
    same = pl.col(name).list.len() == pl.col("slate").list.len()
    return Rule(name, same, "as many values as the slate has items")


def _distinct(name: str) -> Rule:
    values = pl.col(name).list
    return Rule(name, values.n_unique() == values.len(), "distinct items")


def _list_at_least(name: str, bound: int) -> Rule:
    return Rule(name, pl.col(name).list.min() >= bound, f"values >= {bound}")


_VISIT = (
    Column("shopper", pl.Int64(), "dense index of the shopper, from 0"),
    Column("visit", pl.Int64(), "number of the visit, unique in the log; the pages of a visit share it"),
    Column("time", pl.Datetime("us"), "local time at which the visit began"),
    Column("day", pl.Int32(), "local days since the log's day 0"),
    Column("week", pl.Int16(), "week of the log, as the shop counts weeks"),
    Column("store", pl.Int32(), "store that was visited"),
)
_RETURN = (
    Column("gap", pl.Int32(), "days until the shopper's next visit; null: not seen before the watch ended", True),
    Column("follow_up", pl.Int32(), "days watched after the visit, until the end of the visit's split"),
    Column("split", pl.String(), "train, valid or test"),
)
_VISIT_RULES = (
    *(_at_least(name, 0) for name in ("shopper", "visit", "day", "week", "gap", "follow_up")),
    Rule("gap", pl.col("gap") <= pl.col("follow_up"), "a gap within follow_up"),
    Rule("split", pl.col("split").is_in(SPLITS), "one of train, valid, test"),
)

IMPRESSIONS = Table(
    "impressions",
    (
        *_VISIT,
        Column("scenario", pl.String(), "what kind of slate it was"),
        Column("page", pl.Int16(), "0 for the first slate of a visit, 1 for the next"),
        Column("slate", pl.List(pl.Int32()), "items shown, top first (an unordered sample where propensity is null)"),
        Column("click", pl.List(pl.Boolean()), "clicked, one value an item; null: not recorded", True),
        Column("purchase", pl.List(pl.Boolean()), "bought in this visit, one value an item; null: not recorded", True),
        Column("placement", pl.List(pl.Int16()), "where each item stood, a code from 0 (plain); null: unknown", True),
        Column("propensity", pl.Float64(), "log-probability of the ordered slate under the logging policy", True),
        Column("weight", pl.List(pl.Float32()), "1 / sampling probability of each item's row; null: 1", True),
        *_RETURN,
    ),
    ("shopper", "time", "visit", "page"),
    (
        *_VISIT_RULES,
        _at_least("page", 0),
        Rule("slate", pl.col("slate").list.len() > 0, "at least one item"),
        *(_complete(name) for name in ("slate", "click", "purchase", "placement", "weight")),
        _distinct("slate"),
        Rule("purchase", pl.any_horizontal(pl.col("click", "purchase").is_not_null()), "a click or a purchase list"),
        *(_as_long_as_slate(name) for name in ("click", "purchase", "placement", "weight")),
        _list_at_least("placement", 0),
        Rule("propensity", pl.col("propensity").is_finite() & (pl.col("propensity") <= 0), "a log-probability <= 0"),
        Rule(
            "weight",
            (pl.col("weight").list.min() > 0) & pl.col("weight").list.sum().is_finite(),
            "finite weights > 0",
        ),
        Rule("visit", ~pl.struct("visit", "page").is_duplicated(), "no other row with this visit and page"),
    ),
    ("slate",),
)

BASKETS = Table(
    "baskets",
    (*_VISIT, Column("items", pl.List(pl.Int32()), "catalogue items bought, distinct; may be empty"), *_RETURN),
    ("shopper", "time", "visit"),
    (
        *_VISIT_RULES,
        _complete("items"),
        _distinct("items"),
        Rule("visit", ~pl.col("visit").is_duplicated(), "no other row with this visit"),
    ),
    ("items",),
)

PROMOTIONS = Table(
    "promotions",
    (
        Column("store", pl.Int32(), "store that promotes"),
        Column("week", pl.Int16(), "week of the log"),
        Column("item", pl.Int32(), "promoted catalogue item"),
        Column("placement", pl.Int16(), "where: code of the display and mailer pair, 0 = not promoted"),
    ),
    ("store", "week", "item"),
    (_at_least("week", 0), _at_least("placement", 1)),
    ("item",),
)

POPULARITY = Table(
    "popularity",
    (
        Column("week", pl.Int16(), "week of the log in which the numbers may be used"),
        Column("item", pl.Int32(), "catalogue item"),
        Column("popularity", pl.Float32(), "visits that bought it / all visits, in the four weeks before"),
        Column("discount", pl.Float32(), "mean retail discount / shelf price of its lines in the four weeks before"),
    ),
    ("week", "item"),
    (
        _at_least("week", 0),
        Rule("popularity", pl.col("popularity").is_between(0, 1), "a share in 0..1"),
        Rule("discount", pl.col("discount").is_between(0, 1), "a share in 0..1"),
    ),
    ("item",),
)

SHOPPERS = Table(
    "shoppers",
    (
        Column("shopper", pl.Int64(), "dense index of the shopper, from 0"),
        Column("household_id", pl.Int64(), "the shopper's number in the source"),
        Column("holdout", pl.Boolean(), "kept for evaluation: nothing may be learned from this shopper in RL"),
    ),
    ("shopper",),
    (_at_least("shopper", 0),),
)


def read_table(table: Table, path: Path | str, n_items: int | None = None) -> pl.DataFrame:
    """Read and check one table; items must lie in 0..n_items-1 where `n_items` is given."""
    path = Path(path)
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        raise LogError(f"{path}: found no such file, expected the {table.name} table as parquet.") from None
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"{path}: found no readable parquet ({reason}), expected the {table.name} table.") from error
    return check_table(table, frame, path, n_items)


def write_table(table: Table, frame: pl.DataFrame, path: Path | str, n_items: int | None = None) -> None:
    """Check a table, then write it in one move."""
    path = Path(path)
    write_parquet(check_table(table, frame, path, n_items), path)


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write any frame to a temporary file beside `path`, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        whole = frame.rechunk()  # row groups follow chunks, which follow threads: without this, bytes differ by run
        whole.write_parquet(temporary, compression="zstd", statistics=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_table(table: Table, frame: pl.DataFrame, path: Path | str, n_items: int | None = None) -> pl.DataFrame:
    """Return the frame with its columns in the table's order, or raise a LogError."""
    _check_columns(table, frame, path)
    frame = frame.select(*table.schema)
    rules = [Rule(c.name, pl.col(c.name).is_not_null(), "a value") for c in table.columns if not c.nullable]
    _check_rules(rules, frame, path)
    _check_rules([*table.rules, *(_in_catalogue(table, name, n_items) for name in table.items)], frame, path)
    _check_key(table, frame, path)
    return frame


def _check_columns(table: Table, frame: pl.DataFrame, path: Path | str) -> None:
    for name, dtype in table.schema.items():
        if name not in frame.columns:
            raise LogError(f"{path}: column '{name}', row 0: found no such column, expected {dtype}.")
        if frame.schema[name] != dtype:
            raise LogError(f"{path}: column '{name}', row 0: found type {frame.schema[name]}, expected {dtype}.")
    for name in frame.columns:
        if name not in table.schema:
            known = ", ".join(table.schema)
            raise LogError(f"{path}: column '{name}', row 0: found an unknown column, expected only {known}.")


def _in_catalogue(table: Table, name: str, n_items: int | None) -> Rule:
    is_list = isinstance(table.schema[name], pl.List)
    low = pl.col(name).list.min() if is_list else pl.col(name)
    high = pl.col(name).list.max() if is_list else pl.col(name)
    if n_items is None:
        return Rule(name, low >= 0, "catalogue items >= 0")
    return Rule(name, (low >= 0) & (high < n_items), f"catalogue items in 0..{n_items - 1}")


def _check_rules(rules: list[Rule], frame: pl.DataFrame, path: Path | str) -> None:
    broken = frame.select((~rule.holds).any().alias(str(i)) for i, rule in enumerate(rules)).row(0)
    for rule, is_broken in zip(rules, broken, strict=True):
        if is_broken:
            row = frame.select((~rule.holds).fill_null(False).arg_max()).item()
            found = _written(frame[rule.column][row])
            raise LogError(f"{path}: column '{rule.column}', row {row}: found {found}, expected {rule.expected}.")


def _check_key(table: Table, frame: pl.DataFrame, path: Path | str) -> None:
    """Rows ascend strictly by the key: compare each with the one above, most significant column first."""
    ascends, ties = pl.lit(False), pl.lit(True)
    for name in table.key:
        ascends = ascends | (ties & (pl.col(name) > pl.col(name).shift(1)))
        ties = ties & (pl.col(name) == pl.col(name).shift(1))
    rows = frame.select((~ascends).arg_true()).to_series()
    rows = rows.filter(rows > 0)  # the first row has none above
    if len(rows):
        key, row = ", ".join(table.key), int(rows[0])
        found = ", ".join(_written(value) for value in frame.select(table.key).row(row))
        above = f"rows ascending by ({key}) without repeats"
        raise LogError(f"{path}: column '{table.key[0]}', row {row}: found ({found}), expected {above}.")


def _written(value: object) -> str:
    return str(value.to_list()) if isinstance(value, pl.Series) else str(value)


def read_impressions(path: Path | str, n_items: int | None = None) -> pl.DataFrame:
    """Read a log of slates, one row a slate."""
    return read_table(IMPRESSIONS, path, n_items)


def write_impressions(frame: pl.DataFrame, path: Path | str, n_items: int | None = None) -> None:
    """Check and write a log of slates."""
    write_table(IMPRESSIONS, frame, path, n_items)


def read_baskets(path: Path | str, n_items: int | None = None) -> pl.DataFrame:
    """Read the visits and what was bought in each."""
    return read_table(BASKETS, path, n_items)


def write_baskets(frame: pl.DataFrame, path: Path | str, n_items: int | None = None) -> None:
    """Check and write the visits."""
    write_table(BASKETS, frame, path, n_items)


def read_promotions(path: Path | str, n_items: int | None = None) -> pl.DataFrame:
    """Read what each store promoted in each week."""
    return read_table(PROMOTIONS, path, n_items)


def write_promotions(frame: pl.DataFrame, path: Path | str, n_items: int | None = None) -> None:
    """Check and write the promotions."""
    write_table(PROMOTIONS, frame, path, n_items)


def read_popularity(path: Path | str, n_items: int | None = None) -> pl.DataFrame:
    """Read the trailing popularity and discount of each item in each week."""
    return read_table(POPULARITY, path, n_items)


def write_popularity(frame: pl.DataFrame, path: Path | str, n_items: int | None = None) -> None:
    """Check and write the trailing popularity and discount."""
    write_table(POPULARITY, frame, path, n_items)


def read_shoppers(path: Path | str) -> pl.DataFrame:
    """Read who the shoppers are and which are held out."""
    return read_table(SHOPPERS, path)


def write_shoppers(frame: pl.DataFrame, path: Path | str) -> None:
    """Check and write the shoppers."""
    write_table(SHOPPERS, frame, path)
