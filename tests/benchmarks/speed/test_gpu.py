"""The report on a GPU says what the rows say."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch

from benchmarks.speed.gpu import ROW, Config, lines, measure, report
from benchmarks.speed.players import LEARNED, MARKET

JOURNEY = LEARNED[0]


def row(**told: Any) -> dict[str, Any]:
    return {name: told.get(name) for name in ROW}


def rows() -> pl.DataFrame:
    """Two ways at two sizes; at the larger one graphs ran out of memory."""
    journey = {"part": "simulate", "system": JOURNEY, "precision": "bf16"}
    speeds = {
        (1024, False): (10.0, 30.0),
        (1024, True): (50.0, 70.0),
        (4096, False): (80.0, 120.0),
        (4096, True): (None,),
    }
    found = [row(part="simulate", what="copy_bytes", round=0, value=4000.0)]
    found += [row(**journey, what="moved_bytes", value=4.0)]
    for (batch, graphs), values in speeds.items():
        for number, value in enumerate(values):
            told = {**journey, "batch": batch, "graphs": graphs, "round": number}
            found.append(row(**told, what="steps_per_s", value=value))
        found.append(row(**journey, batch=batch, graphs=graphs, what="bytes", value=2.0**20))
    for number, value in enumerate((3.0, 5.0)):
        told = {"part": "ppo", "system": MARKET, "batch": 64, "graphs": True, "round": number}
        found.append(row(**told, what="steps_per_s", value=value))
    found += [
        row(part="fit", what="slates_per_s", system=name, value=value)
        for name, value in (("cuda", 6.0), ("cpu", 2.0))
    ]
    found += [
        row(part="tests", what="passed", value=19.0),
        row(part="tests", what="failed", value=0.0),
    ]
    return pl.DataFrame(found, schema=ROW)


def test_the_best_speeds_by_hand() -> None:
    summary = {name: value.value for name, value in report(rows()).summary.items()}
    assert summary == {
        "simulate_steps_per_s/CompleteJourney-v0": 100.0,
        "simulate_most_at_once/CompleteJourney-v0": 4096.0,
        "ppo_steps_per_s/Market-v0": 4.0,
        "ppo_most_at_once/Market-v0": 64.0,
        "tests_passed": 19.0,
        "tests_failed": 0.0,
        "fit_over_one_thread": 3.0,
    }


def test_a_line_for_each_size() -> None:
    small, large, ppo = lines(rows())
    assert (small["batch"], large["batch"], ppo["batch"]) == (1024, 4096, 64)
    assert small["share"] == pytest.approx(60 * 4 / 4000)
    assert (small["gib"], large["gib"], ppo["gib"]) == (1.0, 4.0, None)
    assert large["graphs"] is None
    assert "PPO, all of it" in report(rows()).table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"^device is cpu, but this benchmark needs a GPU"):
        next(measure(Config()))
