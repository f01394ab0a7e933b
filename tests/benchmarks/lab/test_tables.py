"""Tables show numbers as precisely as they are known."""

from __future__ import annotations

import polars as pl
import pytest

from agents.statistics import Estimate
from benchmarks.lab.tables import markdown

ROWS = pl.DataFrame({"policy": ["greedy", "uniform"], "seed": [0, 1], "return": [2.5, 0.5]})


def test_markdown_shows_numbers_as_precisely_as_they_are_known() -> None:
    lines = [
        {
            "policy": "greedy|CTR",
            "return": Estimate(53.04, 51.78, 54.31, 5),
            "steps": 12_000,
            "share": 0.123,
            "on": True,
        },
        {
            "policy": "uniform",
            "return": Estimate(6.0, 5.9, 6.1, 5),
            "steps": None,
            "share": 0.5,
            "on": False,
        },
        {"policy": "one run", "return": Estimate(1234.5), "steps": 7, "share": 20.0, "on": True},
    ]
    assert markdown(
        lines,
        {"policy": "Policy", "return": "Return", "steps": "Steps", "share": "Share", "on": "On"},
    ) == (
        "| Policy | Return | Steps | Share | On |\n"
        "| --- | ---: | ---: | ---: | --- |\n"
        "| greedy\\|CTR | 53.04 [51.78, 54.31] | 12,000 | 0.12 | yes |\n"
        "| uniform | 6.00 [5.90, 6.10] | – | 0.50 | no |\n"
        "| one run | 1,234.50 | 7 | 20 | yes |\n"
    )


def test_markdown_of_a_frame_takes_its_columns() -> None:
    assert markdown(ROWS) == (
        "| policy | seed | return |\n| --- | ---: | ---: |\n"
        "| greedy | 0 | 2.5 |\n| uniform | 1 | 0.50 |\n"
    )
    assert markdown([], ["a"]) == "| a |\n| --- |\n"
    with pytest.raises(ValueError, match="needs columns"):
        markdown([])
