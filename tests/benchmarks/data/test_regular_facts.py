"""How households differ, on a handful of purchases whose figures are worked out by hand."""

from __future__ import annotations

import datetime
import math

import polars as pl
import pytest

from benchmarks.data.regular_facts import between, familiar, gaps, trips


def lines(purchases: list[tuple[int, int, str, int]]) -> pl.DataFrame:
    """Purchase lines of (household, product, category, day), with visits numbered by day."""
    table = pl.DataFrame(
        purchases, schema=["household_id", "product_id", "product_category", "day"], orient="row"
    )
    visit = pl.col("day").rank("dense").over("household_id").cast(pl.Int32) - 1
    date = pl.lit(datetime.date(2017, 1, 1)) + pl.duration(days=pl.col("day"))
    return table.with_columns(date=date, visit=visit).drop("day")


def test_gaps_and_trips_are_those_of_each_household() -> None:
    table = lines(
        [
            (1, 10, "milk", 0),
            (1, 10, "milk", 4),
            (1, 11, "milk", 4),
            (1, 12, "eggs", 4),
            (1, 13, "milk", 9),
            (2, 10, "milk", 3),
        ]
    )
    assert gaps(table)["days"].to_list() == [4, 5]
    found = trips(table)
    assert found["product_category"].to_list() == ["milk", "milk"]
    assert found["days"].to_list() == [4, 5]
    assert found["repeated"].to_list() == [True, False]  # product 13 was not in the trip before


def test_categories_are_familiar_for_ten_visits() -> None:
    every_day = [(1, 10, "milk", day) for day in range(12)]
    found = familiar(lines([*every_day, (1, 11, "eggs", 0), (1, 11, "eggs", 11)]))
    # visits 10 and 11 count: milk, milk and, eleven visits after the last, eggs
    assert found["known"].to_list() == [pytest.approx(2 / 3)]


def test_noise_within_a_household_is_no_difference_between_them() -> None:
    same = pl.DataFrame({"household_id": [1, 1, 2, 2], "days": [1.0, 3.0, 1.0, 3.0]})
    assert between(same, "days") == 0.0
    apart = pl.DataFrame({"household_id": [1, 1, 2, 2], "days": [2.0, 2.0, 4.0, 4.0]})
    assert between(apart, "days") == pytest.approx(math.sqrt(2))
