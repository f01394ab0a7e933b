"""Commands that fit cells on a log with cold items, and go on where they stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import polars as pl
from rich.console import Console

from benchmarks.lab.logs import Log, opened_log
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import TABLES, check_settings
from benchmarks.lab.threads import use_threads
from recsim_env.files import read_json


class OnLog(Protocol):
    """The options of such a command that are read here."""

    @property
    def log(self) -> Path:
        """The folder of the log."""

    @property
    def output(self) -> Path:
        """The folder of the cells."""

    @property
    def results(self) -> Path:
        """The folder in which the results have one."""

    @property
    def threads(self) -> int:
        """The number of CPU threads."""


Cell = TypeVar("Cell")


def fit_and_report(
    name: str,
    config: OnLog,
    told: Mapping[str, Any],
    cells: Mapping[Cell, Sequence[Path]],
    play: Callable[[list[Cell], Log], None],
    schema: Mapping[str, Any],
    report: Callable[[pl.DataFrame], Report],
) -> None:
    """Fit and score the cells that are missing, and report on all that were asked for.

    Args:
        name: The name of the benchmark.
        config: Its options.
        told: The settings that everything in the output folder shares.
        cells: The cells, and the files of the rows of each.
        play: Fits and scores cells on the log, and writes their files.
        schema: The columns of the rows.
        report: Makes the report of the rows.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items, or the output folder holds scores of other settings or
            tables.
    """
    use_threads(config.threads)
    run = Run(name, config, results=config.results)
    check_settings(config.output, told, free=(TABLES,))
    missing = [cell for cell, paths in cells.items() if not all(map(Path.exists, paths))]
    if missing:
        outputs = {"output": config.output, "results": run.folder}
        play(missing, opened_log(config.log, outputs, told, Console()))
    found = [row for paths in cells.values() for path in paths for row in read_json(path)]
    table = pl.DataFrame(found, schema=dict(schema))
    run.publish(table, report(table))
