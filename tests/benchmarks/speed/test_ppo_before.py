"""Two commits are compared update by update, and a work tree is gone when it is not needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import polars as pl
import pytest

from benchmarks.lab.provenance import ROOT
from benchmarks.speed.ppo_before import lines, summarise, work_tree
from benchmarks.speed.ppo_speed import report


def rows(steps: int = 100) -> pl.DataFrame:
    """Two seeds and three updates; the earlier commit takes three times as long and earns less."""
    return pl.DataFrame(
        [
            {
                "ground": "market",
                "seed": seed,
                "code": code,
                "update": update,
                "steps": update * (100 if code == "now" else steps),
                "wall_s": 9.0,
                "cpu_s": (50.0 if update == 1 else 1.0) * (1.0 if code == "now" else 3.0),
                "return": None if update < 3 else 10.0 + seed + (code == "now"),
            }
            for seed in (0, 1)
            for code in ("now", "before")
            for update in (1, 2, 3)
        ]
    )


def test_the_ratio_is_that_of_processor_seconds_after_the_first_update() -> None:
    summary = summarise(rows())
    assert summary["market_over_before"].value == pytest.approx(3.0)
    assert summary["market_return_minus_before"].value == pytest.approx(1.0)
    assert summary["market_return_now"].value == pytest.approx(11.5)
    assert [line["ground"] for line in lines(summary)] == ["market"]
    found = report(rows())
    assert found.figure is None
    assert "| market |" in found.table


def test_trainings_of_other_lengths_are_not_compared() -> None:
    with pytest.raises(ValueError, match="market: both trainings must make the same number"):
        summarise(rows(steps=90))


def test_a_work_tree_is_that_of_the_commit_and_goes() -> None:
    try:
        subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no checkout")
    with work_tree("HEAD") as tree:
        assert (tree / "benchmarks").is_dir()
        kept = Path(tree)
    assert not kept.exists()


def test_an_unknown_commit_is_refused() -> None:
    refused = pytest.raises(ValueError, match="before is 'nothing', but it must be a commit")
    with refused, work_tree("nothing"):
        pass
