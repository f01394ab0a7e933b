"""What a run of a benchmark leaves behind: raw rows, where they come from, and the report on them.

A benchmark ends in one call, which writes `<results>/<name>/` and says so:

    run = Run("compare", config, results=config.results)   # commit, versions and clock
    rows = ...                              # as measured, one row a shopper-episode
    run.save(rows, summary={"ppo/return": estimate}, table=markdown(lines), figure=figure)

    rows.csv        the raw rows, from which all else can be made anew (rows.parquet above 5,000)
    config.json     the config, the command, commit, versions, hardware, date
    summary.json    figure name -> value, low, high, n
    table.md        the table of the blocks `<!-- table:<name> -->`
    figure.png      the picture of the blocks `<!-- figure:<name> -->`

The folder of results is `runs/results` unless `--results` names another one. Those that are
committed were measured with `--results benchmarks/results`: `python -m benchmarks.report` fills the
blocks of the README and of `docs/` from them, and `python -m benchmarks.again` makes their
summaries, tables and figures anew from the rows.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks.lab.provenance import ROOT, command, git_state, hardware, now, versions
from benchmarks.lab.settings import config_as_json
from recsim_env.estimates import Estimate
from recsim_env.files import locked, read_object, replacing, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = ROOT / "benchmarks" / "results"
"""The folder of the results that are committed."""
OUTPUT = Path("runs") / "results"
"""The folder of results where no other is named: a trial never replaces what is committed."""
NAME = r"[a-z0-9][a-z0-9_-]*"
"""Pattern of the names of benchmarks."""
LARGEST_CSV = 5_000
"""Most rows that are written as text, which can be reviewed."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What the rows of a benchmark say."""

    table: str
    """One or more markdown tables, see `benchmarks.lab.tables`."""
    summary: Mapping[str, Estimate]
    """The figures that anything else may quote, by name."""
    figure: Figure | None = None
    """The picture, where the benchmark draws one."""


class Run:
    """One run of a benchmark: what was asked for, and where its results go."""

    def __init__(self, name: str, config: object, *, results: Path = OUTPUT) -> None:
        """Note where the results will come from, and start the clock.

        Args:
            name: The benchmark's name, which is that of its folder.
            config: A dataclass of numbers, strings, paths, enums, lists and dataclasses of these.
            results: The folder in which the benchmark's folder lies.

        Raises:
            ValueError: If `name` is no lower-case word.
            TypeError: If `config` holds what JSON cannot.
        """
        if not re.fullmatch(NAME, name):
            raise ValueError(
                f"a benchmark's name is lower-case letters, digits, '-' and '_', found {name!r}"
            )
        self.name = name
        self.folder = results / name
        self._start = time.perf_counter()
        self._origin = {
            "config": config_as_json(config),
            "command": command(),
            "date": now(),
            **git_state(),
            "versions": versions(),
            "hardware": hardware(),
        }

    def save(
        self,
        rows: pl.DataFrame,
        *,
        summary: Mapping[str, Estimate],
        table: str,
        figure: Figure | None = None,
        curves: pl.DataFrame | None = None,
    ) -> Path:
        """Write the folder, print where it is, and return it.

        Files of an earlier run that this one lacks are removed.

        Args:
            rows: The rows as measured, without nested columns.
            summary: As in `Report`.
            table: As in `Report`.
            figure: As in `Report`.
            curves: Further rows that the report is made from; they become `curves.parquet`.

        Raises:
            ValueError: If `rows` has nested columns.
            RuntimeError: If another process writes the folder.
        """
        if nested := [name for name, dtype in rows.schema.items() if dtype.is_nested()]:
            raise ValueError(
                f"the rows of {self.name!r} have nested columns {nested}: write one row a value"
            )
        with locked(self.folder):
            self._write(rows, Report(table, summary, figure), curves)
        print(f"results: {self.folder}")
        return self.folder

    def publish(
        self, rows: pl.DataFrame, report: Report, curves: pl.DataFrame | None = None
    ) -> Path:
        """Print the table of a report, and `save` the report with its rows."""
        print(report.table)
        return self.save(rows, **vars(report), curves=curves)

    def _write(self, rows: pl.DataFrame, report: Report, curves: pl.DataFrame | None) -> None:
        names = ["config.json"]
        if rows.height <= LARGEST_CSV:
            names.append("rows.csv")
            with replacing(self.folder / "rows.csv") as path:
                rows.write_csv(path)
        else:
            names.append("rows.parquet")
            with replacing(self.folder / "rows.parquet") as path:
                rows.write_parquet(path)
        if curves is not None:
            names.append("curves.parquet")
            with replacing(self.folder / "curves.parquet") as path:
                curves.write_parquet(path)
        names += _write_report(self.folder, report)
        origin = self._origin | {"seconds": round(time.perf_counter() - self._start, 1)}
        write_json(self.folder / "config.json", origin)
        for stale in {"rows.csv", "rows.parquet", "curves.parquet", "figure.png"} - set(names):
            (self.folder / stale).unlink(missing_ok=True)


def report_again(name: str, found: Report, *, results: Path = RESULTS) -> None:
    """Replace the report of a saved run by one that was made anew from its rows.

    The file config.json keeps the origin of the rows, and says by what the report was made.
    """
    folder = results / name
    origin = read_origin(name, results=results)
    with locked(folder):
        _write_report(folder, found)
        origin["reported"] = {"command": command(), "date": now(), **git_state()}
        write_json(folder / "config.json", origin)


def _write_report(folder: Path, found: Report) -> list[str]:
    """Write the files of a report; returns their names."""
    names = ["summary.json", "table.md"]
    if found.figure is not None:
        names.append("figure.png")
        with replacing(folder / "figure.png") as path:
            found.figure.savefig(
                path, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None}
            )
    write_json(
        folder / "summary.json", {name: _finite(value) for name, value in found.summary.items()}
    )
    write_text(folder / "table.md", found.table.strip() + "\n")
    return names


def read_rows(name: str, *, results: Path = RESULTS) -> pl.DataFrame:
    """Read the raw rows of a saved run."""
    csv = results / name / "rows.csv"
    return (
        pl.read_csv(csv, infer_schema_length=None)
        if csv.exists()
        else pl.read_parquet(csv.with_suffix(".parquet"))
    )


def read_origin(name: str, *, results: Path = RESULTS) -> dict[str, Any]:
    """Read config.json of a saved run."""
    return read_object(results / name / "config.json")


def read_summary(name: str, *, results: Path = RESULTS) -> dict[str, Estimate]:
    """Read the figures of a saved run, by name."""
    figures = read_object(results / name / "summary.json")

    def estimate(value: float, low: float | None, high: float | None, n: int) -> Estimate:
        return Estimate(
            value, math.nan if low is None else low, math.nan if high is None else high, n
        )

    return {figure: estimate(**fields) for figure, fields in figures.items()}


def _finite(estimate: Estimate) -> dict[str, float | int | None]:
    """Give an estimate's fields, with null for bounds that it lacks, because JSON knows no NaN."""
    if not math.isfinite(estimate.value):
        raise ValueError(f"a summary holds measured figures, found {estimate}")
    return {
        key: value if math.isfinite(value) else None
        for key, value in dataclasses.asdict(estimate).items()
    }
