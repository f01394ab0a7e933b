"""A table comes back as written; each way of being wrong gets one sentence that says where and
what."""

from __future__ import annotations

import math
import os
import random
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsim_env.logs import complete_journey, schema
from recsim_env.logs.schema import Column, LogError, Table

TABLES = (schema.IMPRESSIONS, schema.BASKETS, schema.PROMOTIONS, schema.POPULARITY, schema.SHOPPERS)

START = datetime(2017, 3, 1, 12)
AS_LONG = "as many values as the slate has items"
NO_NULLS = "a list without nulls"


def typed(table: Table, columns: dict[str, list[object]]) -> pl.DataFrame:
    return pl.DataFrame(columns, schema=table.schema)


def visits(n: int) -> dict[str, list[object]]:
    return {
        "shopper": [0] * n,
        "visit": list(range(n)),
        "time": [START + timedelta(days=2 * i) for i in range(n)],
        "day": [2 * i for i in range(n)],
        "week": [1] * n,
        "store": [31] * n,
    }


def ends(n: int) -> dict[str, list[object]]:
    return {
        "gap": [*([2] * (n - 1)), None],
        "follow_up": [2 * (n - 1 - i) for i in range(n)],
        "split": ["train"] * n,
    }


@pytest.fixture
def impressions() -> pl.DataFrame:
    columns: dict[str, list[object]] = {
        **visits(3),
        "scenario": ["shop"] * 3,
        "policy": [None, "greedy", None],
        "page": [0, 0, 0],
        "slate": [[4, 2], [0, 1, 3], [2]],
        "click": [None, [True, False, False], [False]],
        "purchase": [[True, False], None, [False]],
        "placement": [[0, 11], None, [3]],
        "propensity": [-1.5, None, 0.0],
        "weight": [None, [1.0, 2.5, 2.5], [1.0]],
        "query": [None, "yogurt", None],
        "cart": [None, [], [3, 0]],
        "discount": [None, 0.25, 0.0],
        **ends(3),
    }
    return typed(schema.IMPRESSIONS, columns)


@pytest.fixture
def baskets() -> pl.DataFrame:
    return typed(schema.BASKETS, {**visits(3), "items": [[1, 4], [], [0]], **ends(3)})


def with_row(frame: pl.DataFrame, column: str, row: int, value: object) -> pl.DataFrame:
    """The frame with one value replaced."""
    values = frame[column].to_list()
    values[row] = value
    return frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))


def complaint(table: Table, frame: pl.DataFrame, n_items: int | None = 5) -> str:
    with pytest.raises(LogError) as error:
        schema.check_table(table, frame, "log.parquet", n_items)
    return str(error.value)


def test_tables_come_back_as_written(
    impressions: pl.DataFrame, baskets: pl.DataFrame, tmp_path: Path
) -> None:
    schema.write_impressions(impressions, tmp_path / "a.parquet", 5)
    schema.write_baskets(baskets, tmp_path / "b.parquet", 5)
    assert schema.read_impressions(tmp_path / "a.parquet", 5).equals(impressions)
    assert schema.read_baskets(tmp_path / "b.parquet", 5).equals(baskets)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_small_tables_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    promotions = typed(
        schema.PROMOTIONS,
        {"store": [1, 1, 2], "week": [1, 1, 1], "item": [0, 2, 0], "placement": [1, 109, 3]},
    )
    schema.write_promotions(promotions, path, 3)
    assert schema.read_promotions(path, 3).equals(promotions)
    popularity = typed(
        schema.POPULARITY,
        {"week": [1, 1], "item": [0, 1], "popularity": [0.0, 0.5], "discount": [0.0, 1.0]},
    )
    schema.write_popularity(popularity, path, 2)
    assert schema.read_popularity(path, 2).equals(popularity)
    shoppers = typed(
        schema.SHOPPERS, {"shopper": [0, 1], "household_id": [1, 7], "holdout": [True, False]}
    )
    schema.write_shoppers(shoppers, path)
    assert schema.read_shoppers(path).equals(shoppers)


def test_tables_of_earlier_versions_have_neither_search_nor_cart(
    impressions: pl.DataFrame, tmp_path: Path
) -> None:
    older = impressions.drop("query", "cart", "discount")
    older.write_parquet(tmp_path / "a.parquet")
    read = schema.read_impressions(tmp_path / "a.parquet", 5)
    assert read.schema == impressions.schema
    assert read.select(older.columns).equals(older)
    assert all(read[name].null_count() == 3 for name in ("query", "cart", "discount"))


def test_columns_come_back_in_the_order_of_the_schema(baskets: pl.DataFrame) -> None:
    shuffled = baskets.select(*reversed(baskets.columns))
    assert schema.check_table(schema.BASKETS, shuffled, "log.parquet", 5).equals(baskets)


@pytest.mark.parametrize(
    ("column", "row", "value", "expected"),
    [
        ("shopper", 1, None, "column 'shopper', row 1: found None, expected a value."),
        ("shopper", 0, -1, "column 'shopper', row 0: found -1, expected a value from 0 to 1000000000000."),
        ("gap", 1, -2, "column 'gap', row 1: found -2, expected a value from 0 to 36500."),
        ("gap", 0, 9, "column 'gap', row 0: found 9, expected a gap within follow_up."),
        ("split", 2, "dev", "column 'split', row 2: found dev, expected one of train, valid, test."),
        ("cart", 2, [3, 3], "column 'cart', row 2: found [3, 3], expected distinct items."),
        ("cart", 2, [5], "column 'cart', row 2: found [5], expected catalogue items from 0 to 4."),
        ("discount", 1, 1.5, "column 'discount', row 1: found 1.5, expected a value from 0 to 1."),
        ("slate", 2, [], "column 'slate', row 2: found [], expected at least one item."),
        ("slate", 0, [4, None], "column 'slate', row 0: found [4, None], expected a list without nulls."),
        ("slate", 0, [4, 4], "column 'slate', row 0: found [4, 4], expected distinct items."),
        ("slate", 1, [0, 5, 3], "column 'slate', row 1: found [0, 5, 3], expected catalogue items from 0 to 4."),
        ("slate", 1, [0, -1, 3], "column 'slate', row 1: found [0, -1, 3], expected catalogue items from 0 to 4."),
        ("purchase", 0, None, "column 'purchase', row 0: found None, expected a click or a purchase list."),
        ("purchase", 0, [True], f"column 'purchase', row 0: found [True], expected {AS_LONG}."),
        ("click", 1, [True, None, False], f"column 'click', row 1: found [True, None, False], expected {NO_NULLS}."),
        ("placement", 2, [-1], "column 'placement', row 2: found [-1], expected values from 0 to 255."),
        ("placement", 2, [1, 1], f"column 'placement', row 2: found [1, 1], expected {AS_LONG}."),
        ("propensity", 0, 0.25, "column 'propensity', row 0: found 0.25, expected a value from -1000000.0 to 0."),
        ("propensity", 0, math.nan, "column 'propensity', row 0: found nan, expected a value from -1000000.0 to 0."),
        ("propensity", 0, -math.inf, "column 'propensity', row 0: found -inf, expected a value from -1000000.0 to 0."),
        ("weight", 2, [0.0], "column 'weight', row 2: found [0.0], expected finite weights > 0."),
        ("weight", 2, [math.nan], "column 'weight', row 2: found [nan], expected values from 0 to 1000000000.0."),
        ("visit", 1, 0, "column 'visit', row 0: found 0, expected no other row with this visit and page."),
        ("page", 1, -1, "column 'page', row 1: found -1, expected a value from 0 to 9999."),
    ],
)  # fmt: skip
def test_bad_impression_gets_one_sentence(
    impressions: pl.DataFrame, column: str, row: int, value: object, expected: str
) -> None:
    bad = with_row(impressions, column, row, value)
    assert complaint(schema.IMPRESSIONS, bad, 5) == f"log.parquet: {expected}"


def test_unsorted_rows_are_named(baskets: pl.DataFrame) -> None:
    late = with_row(baskets, "time", 0, START + timedelta(days=3))
    expected = "rows ascending by (shopper, time, visit) without repeats"
    found = "column 'shopper', row 1: found (0, 2017-03-03 12:00:00, 1)"
    assert complaint(schema.BASKETS, late) == f"log.parquet: {found}, expected {expected}."


def test_columns_must_be_those_of_the_schema(baskets: pl.DataFrame) -> None:
    missing = complaint(schema.BASKETS, baskets.drop("gap"))
    assert missing == "log.parquet: column 'gap', row 0: found no such column, expected Int32."
    wide = complaint(schema.BASKETS, baskets.cast({"day": pl.Int64}))
    assert wide == "log.parquet: column 'day', row 0: found type Int64, expected Int32."
    extra = complaint(schema.BASKETS, baskets.with_columns(mood=1))
    assert extra.startswith(
        "log.parquet: column 'mood', row 0: found an unknown column, expected only shopper, visit,"
    )


@pytest.mark.parametrize("n_items", [None, 0, -1, 2.0, "5", True])
def test_a_table_of_items_needs_the_size_of_the_catalogue(
    baskets: pl.DataFrame, n_items: Any
) -> None:
    with pytest.raises(ValueError, match=r"n_items is .*, but it must be a whole number from 1 to"):
        schema.check_table(schema.BASKETS, baskets, "log.parquet", n_items)


def test_only_promotions_may_be_none_at_all() -> None:
    for table in TABLES:
        frame = pl.DataFrame(schema=table.schema)
        if table is schema.PROMOTIONS:
            assert len(schema.check_table(table, frame, "log.parquet", 5)) == 0
        else:
            assert (
                complaint(table, frame)
                == f"log.parquet: found no rows, expected at least one in the {table.name} table."
            )


@pytest.mark.parametrize(
    "column", [column for column in schema.BASKETS.columns if column.span], ids=lambda c: c.name
)
def test_every_number_has_bounds_that_no_reader_allocates_without(
    baskets: pl.DataFrame, column: Column
) -> None:
    """At the end of its type's range a day asked for 17 GB, a store for 515 GB."""
    physical = pl.Int64() if column.dtype == pl.Datetime("us") else column.dtype
    end = 2 ** (int(str(physical).removeprefix("Int")) - 1)
    for value in (end - 1, -end):
        for row in range(3):
            values = baskets[column.name].cast(physical).to_list()
            values[row] = value
            bad = baskets.with_columns(
                pl.Series(column.name, values, dtype=physical).cast(column.dtype)
            )
            found = complaint(schema.BASKETS, bad)
            assert found.startswith(f"log.parquet: column '{column.name}', row {row}: found ")
            assert f"expected a value from {column.span[0]} to {column.span[1]}." in found  # type: ignore[index]


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("store", 2**31 - 1, "a value from 0 to 100000"),
        ("store", -1, "a value from 0 to 100000"),
        ("week", 32767, "a value from 0 to 5214"),
        ("item", 2**31 - 1, "catalogue items from 0 to 4"),
        ("item", -1, "catalogue items from 0 to 4"),
        ("placement", 32767, "a value from 1 to 255"),
        ("placement", 0, "a value from 1 to 255"),
    ],
)
def test_bad_promotions_get_one_sentence(column: str, value: int, expected: str) -> None:
    promotions = typed(
        schema.PROMOTIONS, {"store": [1], "week": [1], "item": [0], "placement": [109]}
    )
    assert len(schema.check_table(schema.PROMOTIONS, promotions, "log.parquet", 5)) == 1
    found = complaint(schema.PROMOTIONS, with_row(promotions, column, 0, value))
    assert found == f"log.parquet: column '{column}', row 0: found {value}, expected {expected}."


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("week", -1, "a value from 0 to 5214"),
        ("item", 2**31 - 1, "catalogue items from 0 to 4"),
        ("popularity", 1.5, "a value from 0 to 1"),
        ("popularity", math.nan, "a value from 0 to 1"),
        ("discount", -0.5, "a value from 0 to 1"),
        ("discount", math.inf, "a value from 0 to 1"),
    ],
)
def test_bad_popularity_gets_one_sentence(column: str, value: float, expected: str) -> None:
    popularity = typed(
        schema.POPULARITY, {"week": [1], "item": [0], "popularity": [0.5], "discount": [0.5]}
    )
    found = complaint(schema.POPULARITY, with_row(popularity, column, 0, value))
    assert found == f"log.parquet: column '{column}', row 0: found {value}, expected {expected}."


def test_a_placement_is_one_of_the_codes_that_the_facts_of_the_log_name(tmp_path: Path) -> None:
    assert len(complete_journey.PLACEMENTS) == complete_journey.FACTS.n_placements == 10 * 11
    rows: dict[str, list[object]] = {
        "store": [1, 1],
        "week": [1, 2],
        "item": [0, 0],
        "placement": [109, 110],
    }
    path = tmp_path / "promotions.parquet"
    schema.write_promotions(typed(schema.PROMOTIONS, rows), path, 3)
    assert len(schema.read_promotions(path, 3, 111)) == 2
    told = (
        r"promotions\.parquet: column 'placement', row 1: found 110, expected a value from 1 to 109"
    )
    with pytest.raises(schema.LogError, match=told):
        schema.read_promotions(path, 3, complete_journey.FACTS.n_placements)


def test_shoppers_are_numbered_without_a_gap(baskets: pl.DataFrame, tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "shopper": [0, 2],
        "household_id": [1, 7],
        "holdout": [True, False],
    }
    expected = "expected shoppers numbered 0, 1, .. without a gap."
    found = complaint(schema.SHOPPERS, typed(schema.SHOPPERS, columns))
    assert found == f"log.parquet: column 'shopper', row 1: found 2, {expected}"
    for wild in (2, 10**6):
        found = complaint(schema.BASKETS, with_row(baskets, "shopper", 2, wild))
        assert found == f"log.parquet: column 'shopper', row 2: found {wild}, {expected}"
    schema.write_baskets(with_row(baskets, "shopper", 2, 1), tmp_path / "b.parquet", 5)
    assert len(schema.read_baskets(tmp_path / "b.parquet", 5, 2)) == 3
    with pytest.raises(
        LogError,
        match=r"b\.parquet: column 'shopper', row 2: found 1, expected one of the 1 shoppers",
    ):
        schema.read_baskets(tmp_path / "b.parquet", 5, 1)


def test_days_go_by_in_order(baskets: pl.DataFrame) -> None:
    """A day that falls would be a negative time since the visit before."""
    found = complaint(schema.BASKETS, with_row(baskets, "day", 1, 9))
    expected = "no less than in the shopper's row above: rows go by time"
    assert found == f"log.parquet: column 'day', row 2: found 4, expected {expected}."


def test_columns_without_a_value_may_have_no_type(impressions: pl.DataFrame) -> None:
    none = impressions.with_columns(
        click=pl.lit(None, pl.List(pl.Boolean)),
        placement=pl.lit(None, pl.List(pl.Int16)),
        purchase=pl.Series([[False] * len(slate) for slate in impressions["slate"]]),
    )
    untyped = none.with_columns(pl.lit(None).alias(name) for name in ("click", "placement"))
    assert untyped.schema["click"] == pl.Null
    assert schema.check_table(schema.IMPRESSIONS, untyped, "log.parquet", 5).equals(none)
    bad = impressions.with_columns(day=pl.lit(None))
    assert (
        complaint(schema.IMPRESSIONS, bad)
        == "log.parquet: column 'day', row 0: found type Null, expected Int32."
    )


def test_a_log_that_pandas_rewrote_is_read(impressions: pl.DataFrame, tmp_path: Path) -> None:
    """pandas gives a column without values no type, and makes whole numbers with gaps floats."""
    pytest.importorskip("pandas")
    plain = impressions.with_columns(
        placement=pl.lit(None, pl.List(pl.Int16)), weight=pl.lit(None, pl.List(pl.Float32))
    )
    path = tmp_path / "log.parquet"
    plain.to_pandas().to_parquet(path)
    rewritten = pl.read_parquet(path)
    assert rewritten.schema["placement"] == pl.Null
    assert rewritten.schema["gap"] == pl.Float64
    assert schema.read_impressions(path, 5).equals(plain)
    rewritten.with_columns(pl.col("gap") + 0.5).write_parquet(path)
    with pytest.raises(LogError, match="column 'gap', row 0: found type Float64, expected Int32"):
        schema.read_impressions(path, 5)


@pytest.mark.parametrize("frame", [None, 3, {}, [], "log.parquet", pl.LazyFrame()])
def test_a_table_is_a_frame(frame: Any) -> None:
    with pytest.raises(TypeError, match=r"frame is .*, but it must be a polars DataFrame"):
        schema.check_table(schema.BASKETS, frame, "log.parquet", 5)


@pytest.mark.parametrize("path", [None, 3, [], {}, object(), 1.5])
def test_a_path_is_a_path(path: Any, baskets: pl.DataFrame) -> None:
    for call in (
        lambda: schema.read_baskets(path, 5),
        lambda: schema.write_baskets(baskets, path, 5),
    ):
        with pytest.raises(TypeError, match=r"path is .*, but it must be a path"):
            call()


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with pytest.raises(LogError) as error:
        schema.read_baskets(path, 5)
    assert str(error.value) == f"{path}: found no such file, expected the baskets table as parquet."
    path.write_text("shopper,visit\n1,2\n")
    with pytest.raises(
        LogError,
        match=r"log\.parquet: found no readable parquet \(.*\), expected the baskets table\.$",
    ):
        schema.read_baskets(path, 5)


def test_a_refused_table_leaves_the_old_one(baskets: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    schema.write_baskets(baskets, path, 5)
    with pytest.raises(LogError):
        schema.write_baskets(with_row(baskets, "gap", 0, -1), path, 5)
    assert schema.read_baskets(path, 5).equals(baskets)
    assert [file.name for file in tmp_path.iterdir()] == ["log.parquet"]


def test_whatever_is_no_file_is_named(tmp_path: Path) -> None:
    """A folder would be read as all the tables in it, a pipe would wait for ever, a link may lead
    nowhere."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for name in ("folder", "nowhere", "loop", "pipe", "empty", "*.parquet"):
        with pytest.raises(
            LogError,
            match=rf"{re.escape(str(tmp_path / name))}: found (a folder|no .*), expected the",
        ):
            schema.read_shoppers(tmp_path / name)


def test_a_file_that_is_cut_or_flipped_is_a_table_or_a_named_fault(
    baskets: pl.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "log.parquet"
    schema.write_baskets(baskets, path, 5)
    whole, rng = path.read_bytes(), random.Random(0)
    faults = 0
    for trial in range(300):
        broken = bytearray(whole)
        if trial % 3 == 0:
            del broken[rng.randrange(len(broken)) :]
        for _ in range(trial % 3):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        fault = ""
        try:
            assert schema.read_baskets(path, 5).schema == schema.BASKETS.schema
        except LogError as error:
            fault = str(error)
        assert fault == "" or fault.startswith(f"{path}: ")
        faults += fault != ""
    assert faults > 200
