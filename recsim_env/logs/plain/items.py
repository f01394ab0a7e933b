"""A shop's catalogue, one row an item, as the items of a log."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from recsim_env.logs.plain.columns import catalog_columns
from recsim_env.logs.plain.sources import ROW, Source, as_number, as_text, first_rows, is_given
from recsim_env.logs.schema import MOST_ITEMS, LogError

NO_CATEGORY = "unknown"
_LEVELS = ("category", "category2", "category3")
ITEMS = {
    "item": pl.String(),
    "title": pl.String(),
    "path": pl.String(),
    "price": pl.Float32(),
    "brand": pl.String(),
    "embedding": pl.List(pl.Float32()),
}
"""Columns of the table of items: `item` is the id in the shop's files, and `path` has three
levels."""


def read_items(source: Source, names: dict[str, str]) -> tuple[pl.DataFrame, list[str], list[str]]:
    """Read and check a catalogue.

    Args:
        source: The catalogue.
        names: What `column_names` returned.

    Returns:
        The items in the order of the file, columns as `ITEMS`; what was changed, as sentences; and
        the columns that are ignored.

    Raises:
        LogError: If a column is missing or a row is not as said.
    """
    columns = catalog_columns(names, source.header, source.name)
    source.check_types(column for name, column in columns.items() if name != "embedding")
    rows = source.collect(source.frame.select(ROW, *set(columns.values()))).sort(ROW)
    if len(rows) > MOST_ITEMS:
        raise LogError(
            f"{source.name}: found {len(rows):,} items, expected {MOST_ITEMS:,} at most."
        )
    notes: list[str] = []
    item = rows.select(as_text(columns["item"], source.schema[columns["item"]])).to_series()
    _check_ids(source, columns["item"], rows.select(ROW, item=item))

    texts = {
        name: rows.select(
            as_text(column, source.schema[column]).str.strip_chars().replace("", None)
        )
        .to_series()
        .rename(name)
        for name, column in columns.items()
        if name in ("title", "brand", *_LEVELS)
    }
    items = pl.DataFrame({"item": item, **texts})
    title, path = _titles(items, notes), _paths(items, notes)
    return (
        pl.DataFrame(
            {
                "item": item,
                "title": title,
                "path": path,
                "price": _prices(source, columns, rows),
                "brand": texts.get("brand", pl.repeat(None, len(rows), eager=True)),
                "embedding": _embeddings(source, columns, rows, notes),
            },
            schema=ITEMS,
        ),
        notes,
        [name for name in source.header if name not in columns.values()],
    )


def _check_ids(source: Source, column: str, ids: pl.DataFrame) -> None:
    if missing := first_rows(ids, pl.col("item").is_null()):
        raise source.fault(column, missing[0], "the id of an item", missing[1])
    if again := first_rows(ids, ~pl.col("item").is_first_distinct()):
        raise source.fault(column, again[0], "an id that no row above has", again[1])


def _titles(items: pl.DataFrame, notes: list[str]) -> pl.Series:
    bare = items["title"].null_count()
    if bare:
        notes.append(f"{bare:,} items without a title are called by their id.")
    return items.select(pl.coalesce("title", "item").str.replace_all(";", ",")).to_series()


def _paths(items: pl.DataFrame, notes: list[str]) -> pl.Series:
    """Three levels for each item: a level that is missing repeats the one above."""
    bare = items["category"].null_count()
    if bare:
        notes.append(f"{bare:,} items without a category are put into {NO_CATEGORY!r}.")
    levels = [name for name in _LEVELS if name in items.columns]
    if items.select(pl.any_horizontal(pl.col(levels).str.contains("/").any())).item():
        notes.append("A slash in the name of a category is written as a hyphen.")
    names = items.select(pl.col(levels).str.replace_all("/", "-"))
    first = pl.coalesce("category", pl.lit(NO_CATEGORY))
    second = pl.coalesce(*[pl.col(n) for n in levels[1:2]], first)
    third = pl.coalesce(*[pl.col(n) for n in levels[2:3]], second)
    return names.select(pl.concat_str(first, second, third, separator="/")).to_series()


def _prices(source: Source, columns: dict[str, str], rows: pl.DataFrame) -> pl.Series:
    if "price" not in columns:
        return pl.repeat(None, len(rows), dtype=pl.Float32, eager=True)
    column = columns["price"]
    price = rows.select(
        ROW,
        price=as_number(column, source.schema[column]),
        given=is_given(column, source.schema[column]),
    )
    bad = (pl.col("price").is_null() & pl.col("given")) | (pl.col("price") < 0)
    if wrong := first_rows(price, bad | pl.col("price").cast(pl.Float32).is_infinite()):
        raise source.fault(column, wrong[0], "a price of 0 or more, or nothing", wrong[1])
    return price["price"].cast(pl.Float32)


def _embeddings(
    source: Source, columns: dict[str, str], rows: pl.DataFrame, notes: list[str]
) -> pl.Series:
    """Vectors as they are given: finite, of one width, and not all 0; a column may be empty."""
    nothing = pl.repeat(None, len(rows), eager=True).cast(ITEMS["embedding"])
    if "embedding" not in columns:
        return nothing
    column, dtype = columns["embedding"], source.schema[columns["embedding"]]
    value = pl.col(column)
    if not rows.select(is_given(column, dtype).any()).item():
        notes.append(f"Column {column!r} of the catalogue is empty.")
        return nothing
    if dtype == pl.String():
        value = value.str.extract_all(r"[^\s,;\[\]()]+").list.eval(
            pl.element().cast(pl.Float32, strict=False)
        )
    elif isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    elif not isinstance(dtype, pl.List):
        raise LogError(f"{source.name}: column '{column}': found {dtype}, expected vectors.")
    vectors = rows.select(ROW, vector=value.cast(ITEMS["embedding"]))
    width = int(vectors["vector"].list.len().drop_nulls().mode().sort()[-1])
    numbers = pl.col("vector").list
    good = (
        (numbers.len() == width)
        & (numbers.drop_nulls().list.len() == width)
        & numbers.eval(pl.element().is_finite()).list.all()
        & numbers.eval(pl.element().abs()).list.max().gt(0)
    )
    if wrong := first_rows(vectors, ~good.fill_null(False)):
        expected = f"a vector of {width} finite numbers that are not all 0"
        raise source.fault(column, wrong[0], expected, wrong[1])
    return vectors["vector"]


def texts_of(items: pl.DataFrame) -> Sequence[str]:
    """Sentences "title; brand; narrowest category", which catalogues hold and encoders read."""
    return (
        items.select(
            pl.concat_str(
                "title",
                "brand",
                pl.col("path").str.split("/").list.last(),
                separator="; ",
                ignore_nulls=True,
            )
        )
        .to_series()
        .to_list()
    )
