"""Cells that are the rows of a file: measured once, read in order, and told where they are missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from benchmarks.lab.measuring import RowCell, Rows, keeper_of, measure, read_cells, unfinished
from benchmarks.lab.options import Cells
from tests.benchmarks.lab.test_locks import held

HERE = Cells(threads=1)


def three() -> int:
    return 3


def times(factor: int, opened: int) -> list[dict[str, int | None]]:
    return [{"factor": factor, "value": factor * opened}, {"factor": factor, "value": None}]


def table(factor: int, opened: int) -> Rows:
    return pl.DataFrame(times(factor, opened), schema={"factor": pl.Int64, "value": pl.Int64})


def fail(opened: int) -> Rows:
    raise ValueError(f"opened is {opened}, but nothing is right.")


@pytest.mark.parametrize(("suffix", "measured"), [("json", times), ("parquet", table)])
def test_rows_are_measured_once_and_read_in_the_order_of_the_cells(
    tmp_path: Path, suffix: str, measured: Callable[[int, int], Rows]
) -> None:
    cells = [
        RowCell(tmp_path / f"{at}.{suffix}", "place", three, partial(measured, at)) for at in (2, 1)
    ]
    measure(cells, HERE, "test")
    found = read_cells(cells)
    assert found.rows() == [(2, 6), (2, None), (1, 3), (1, None)]
    again = [RowCell(cell.path, "place", three, fail) for cell in cells]
    measure(again, HERE, "test")
    assert read_cells(again).equals(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"1.{suffix}", f"2.{suffix}"]


def test_a_cell_that_fails_ends_the_command_after_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = RowCell(tmp_path / "bad.json", "place", three, fail)
    good = RowCell(tmp_path / "good.json", "place", three, partial(times, 1))
    with pytest.raises(SystemExit, match=rf"^1 cells failed: {tmp_path.name}/bad$"):
        measure([bad, good], HERE, "test")
    assert good.path.exists()
    told = capsys.readouterr().err
    assert "/bad failed: " in told
    assert "opened is 3, but nothing is right." in told


def test_a_cell_that_another_process_measures_is_waited_for_by_the_user(tmp_path: Path) -> None:
    one = RowCell(tmp_path / "one.json", "place", three, partial(times, 1))
    sentence = r"^1 cells are measured by another process: run this again"
    with held(unfinished(one.path)), pytest.raises(SystemExit, match=sentence):
        measure([one], HERE, "test")
    assert not one.path.exists()


def test_what_a_training_keeps_lies_where_its_cell_is_locked(tmp_path: Path) -> None:
    """It is found by whoever plays the cell next, and gone when the cell is done."""
    path = tmp_path / "seed0.json"

    def train(opened: int) -> list[dict[str, int]]:
        keeper = keeper_of(path)
        like = {"steps": 0}
        before = keeper.found({"seed": 0}, like)
        if before is None:
            keeper.keep(lambda: {"steps": 7})
            raise ValueError("killed, but it must be played again.")
        return [before]

    cell = RowCell(path, "place", three, train)
    with pytest.raises(SystemExit):
        measure([cell], HERE, "test")
    measure([cell], HERE, "test")
    assert read_cells([cell])["steps"].to_list() == [7]
    assert not unfinished(path).parent.exists()
