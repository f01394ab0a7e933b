"""Cells that are the rows of one file each: measured where the file is missing, then read together.

    cells = [RowCell(path, place, partial(open_it, config), partial(measure_one, config, seed)), ..]
    measure_and_report(run, config, cells, report, told, config.work)

This is how a benchmark whose report is about all that was asked for plays its cells, with
`benchmarks.lab.playing`: here, or on the Ray cluster that `config` names. It goes on where it
stopped, and several may run side by side in one folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from agents.keeper import Keeper
from benchmarks.lab.options import Cells
from benchmarks.lab.playing import Task, end, play_cells, there
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import share_settings
from benchmarks.lab.threads import use_threads
from recsim_env.files import read_json, write_json
from recsim_env.tables import write_parquet

Rows = Sequence[Mapping[str, Any]] | pl.DataFrame
"""The rows of a cell: plain values for a file `.json`, a table for one `.parquet`."""
UNFINISHED = "unfinished"
"""Folder, beside the file of a cell, of what the cell needs to go on."""


class Cell(Protocol):
    """Anything that can be played as a cell."""

    @property
    def task(self) -> Task:
        """The cell, as it is played."""


@dataclass(frozen=True)
class RowCell:
    """One cell, whose rows are a file."""

    path: Path
    """The file of its rows, `.json` or `.parquet`."""
    place: str
    """Name of what `open` opens: cells of the same place share it within a process."""
    open: Callable[[], Any]
    """Opens what the cell is measured in."""
    measure: Callable[[Any], Rows]
    """Measures the cell in what `open` opened, and returns its rows."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def task(self) -> Task:
        """The cell, as it is played."""
        play, done = partial(_write, self.path, self.measure), partial(there, self.path)
        return Task(self.name, unfinished(self.path), self.place, self.open, play, done)


def unfinished(path: Path) -> Path:
    """The folder that is locked while the cell of a file is measured, and removed afterwards."""
    return path.parent / UNFINISHED / path.stem


def keeper_of(path: Path) -> Keeper:
    """Keeps the training of the cell of a file, which so goes on where a process was killed."""
    return Keeper(unfinished(path) / "training.safetensors")


def _write(path: Path, measure: Callable[[Any], Rows], opened: Any) -> None:
    rows = measure(opened)
    if isinstance(rows, pl.DataFrame):
        write_parquet(path, rows)
    else:
        write_json(path, rows)


def measure(cells: Sequence[Cell], config: Cells, title: str) -> None:
    """Measure every cell that is missing, see `benchmarks.lab.playing.play_cells`.

    Args:
        cells: The cells, those of a place one after the other.
        config: Where they are played, and on how many threads each.
        title: What is measured, for the progress bar.

    Raises:
        SystemExit: If a cell failed, or is left to another process that measures it.
        ValueError: If `config.ray` names no cluster, or one whose machines are too small.
        ConnectionError: If the cluster cannot be reached.
    """
    tasks = [cell.task for cell in cells]
    end(play_cells(tasks, config, title))
    if left := [task.name for task in tasks if not task.done()]:
        sys.exit(
            f"{len(left)} cells are measured by another process: run this again when they are "
            f"there: {', '.join(left)}"
        )


def read_cells(cells: Sequence[RowCell]) -> pl.DataFrame:
    """The rows of some cells, in their order; all of their files are of one kind."""
    if all(cell.path.suffix == ".parquet" for cell in cells):
        return pl.concat(pl.read_parquet(cell.path) for cell in cells)
    rows = [row for cell in cells for row in read_json(cell.path)]
    return pl.DataFrame(rows, infer_schema_length=None)


def measure_and_report(
    run: Run,
    config: Cells,
    cells: Sequence[RowCell],
    report: Callable[[pl.DataFrame], Report],
    told: Mapping[str, Any],
    folder: Path,
    read: Callable[[Sequence[RowCell]], pl.DataFrame] = read_cells,
) -> None:
    """Measure every cell that is missing, and report on the rows of all of them.

    Args:
        run: The run of the benchmark.
        config: Where the cells are played, and on how many threads each.
        cells: The cells, those of a place one after the other.
        report: Makes the report of the rows.
        told: The settings that everything in the work folder shares.
        folder: The work folder.
        read: Reads the rows of the cells.

    Raises:
        ValueError: If the folder holds measurements of other settings, or as `measure`.
        SystemExit: As `measure`.
        ConnectionError: As `measure`.
    """
    use_threads(config.threads)
    share_settings(folder, told)
    measure(cells, config, run.name)
    rows = read(cells)
    run.publish(rows, report(rows))
