"""A table comes back as written; each way of being wrong gets one sentence that says where and what."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from recsim_env.logs import schema
from recsim_env.logs.schema import LogError, Table

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
        "page": [0, 0, 0],
        "slate": [[4, 2], [0, 1, 3], [2]],
        "click": [None, [True, False, False], [False]],
        "purchase": [[True, False], None, [False]],
        "placement": [[0, 11], None, [3]],
        "propensity": [-1.5, None, 0.0],
        "weight": [None, [1.0, 2.5, 2.5], [1.0]],
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


def complaint(table: Table, frame: pl.DataFrame, n_items: int | None = None) -> str:
    with pytest.raises(LogError) as error:
        schema.check_table(table, frame, "log.parquet", n_items)
    return str(error.value)


def test_tables_come_back_as_written(impressions: pl.DataFrame, baskets: pl.DataFrame, tmp_path: Path) -> None:
    schema.write_impressions(impressions, tmp_path / "a.parquet", 5)
    schema.write_baskets(baskets, tmp_path / "b.parquet", 5)
    assert schema.read_impressions(tmp_path / "a.parquet", 5).equals(impressions)
    assert schema.read_baskets(tmp_path / "b.parquet", 5).equals(baskets)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_small_tables_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    promotions = typed(
        schema.PROMOTIONS, {"store": [1, 1, 2], "week": [1, 1, 1], "item": [0, 2, 0], "placement": [1, 109, 3]}
    )
    schema.write_promotions(promotions, path, 3)
    assert schema.read_promotions(path, 3).equals(promotions)
    popularity = typed(
        schema.POPULARITY, {"week": [1, 1], "item": [0, 1], "popularity": [0.0, 0.5], "discount": [0.0, 1.0]}
    )
    schema.write_popularity(popularity, path, 2)
    assert schema.read_popularity(path, 2).equals(popularity)
    shoppers = typed(schema.SHOPPERS, {"shopper": [0, 1], "household_id": [1, 7], "holdout": [True, False]})
    schema.write_shoppers(shoppers, path)
    assert schema.read_shoppers(path).equals(shoppers)


def test_columns_come_back_in_the_order_of_the_schema(baskets: pl.DataFrame) -> None:
    shuffled = baskets.select(*reversed(baskets.columns))
    assert schema.check_table(schema.BASKETS, shuffled, "log.parquet").equals(baskets)


@pytest.mark.parametrize(
    ("column", "row", "value", "expected"),
    [
        ("shopper", 1, None, "column 'shopper', row 1: found None, expected a value."),
        ("shopper", 0, -1, "column 'shopper', row 0: found -1, expected a number >= 0."),
        ("gap", 1, -2, "column 'gap', row 1: found -2, expected a number >= 0."),
        ("gap", 0, 9, "column 'gap', row 0: found 9, expected a gap within follow_up."),
        ("split", 2, "dev", "column 'split', row 2: found dev, expected one of train, valid, test."),
        ("slate", 2, [], "column 'slate', row 2: found [], expected at least one item."),
        ("slate", 0, [4, None], "column 'slate', row 0: found [4, None], expected a list without nulls."),
        ("slate", 0, [4, 4], "column 'slate', row 0: found [4, 4], expected distinct items."),
        ("slate", 1, [0, 5, 3], "column 'slate', row 1: found [0, 5, 3], expected catalogue items in 0..4."),
        ("slate", 1, [0, -1, 3], "column 'slate', row 1: found [0, -1, 3], expected catalogue items in 0..4."),
        ("purchase", 0, None, "column 'purchase', row 0: found None, expected a click or a purchase list."),
        ("purchase", 0, [True], f"column 'purchase', row 0: found [True], expected {AS_LONG}."),
        ("click", 1, [True, None, False], f"column 'click', row 1: found [True, None, False], expected {NO_NULLS}."),
        ("placement", 2, [-1], "column 'placement', row 2: found [-1], expected values >= 0."),
        ("placement", 2, [1, 1], f"column 'placement', row 2: found [1, 1], expected {AS_LONG}."),
        ("propensity", 0, 0.25, "column 'propensity', row 0: found 0.25, expected a log-probability <= 0."),
        ("propensity", 0, math.nan, "column 'propensity', row 0: found nan, expected a log-probability <= 0."),
        ("propensity", 0, -math.inf, "column 'propensity', row 0: found -inf, expected a log-probability <= 0."),
        ("weight", 2, [0.0], "column 'weight', row 2: found [0.0], expected finite weights > 0."),
        ("weight", 2, [math.nan], "column 'weight', row 2: found [nan], expected finite weights > 0."),
        ("visit", 1, 0, "column 'visit', row 0: found 0, expected no other row with this visit and page."),
        ("page", 1, -1, "column 'page', row 1: found -1, expected a number >= 0."),
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
    assert extra.startswith("log.parquet: column 'mood', row 0: found an unknown column, expected only shopper, visit,")


def test_without_a_catalogue_items_need_only_be_numbers_from_0(baskets: pl.DataFrame) -> None:
    schema.check_table(schema.BASKETS, with_row(baskets, "items", 0, [10**6]), "log.parquet")
    found = complaint(schema.BASKETS, with_row(baskets, "items", 0, [-1]))
    assert found == "log.parquet: column 'items', row 0: found [-1], expected catalogue items >= 0."


def test_empty_table_is_a_table() -> None:
    assert len(schema.check_table(schema.BASKETS, pl.DataFrame(schema=schema.BASKETS.schema), "log.parquet", 5)) == 0


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with pytest.raises(LogError) as error:
        schema.read_baskets(path)
    assert str(error.value) == f"{path}: found no such file, expected the baskets table as parquet."
    path.write_text("shopper,visit\n1,2\n")
    with pytest.raises(
        LogError, match=r"log\.parquet: found no readable parquet \(.*\), expected the baskets table\.$"
    ):
        schema.read_baskets(path)


def test_a_refused_table_leaves_the_old_one(baskets: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    schema.write_baskets(baskets, path)
    with pytest.raises(LogError):
        schema.write_baskets(with_row(baskets, "gap", 0, -1), path)
    assert schema.read_baskets(path).equals(baskets)
    assert [file.name for file in tmp_path.iterdir()] == ["log.parquet"]
