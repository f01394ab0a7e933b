"""What a benchmark leaves behind, and the README tables made from it.

A benchmark ends in one call, which writes `benchmarks/results/<name>/`:

    run = Run("compare", config)            # commit, versions and clock are read here
    rows = ...                              # as measured, one row a shopper-episode
    run.save(rows, summary={"ppo/return": estimate}, table=markdown(lines), figure=figure)

    rows.csv        the raw rows (rows.parquet above 5,000 rows), from which everything else can be redone
    config.json     the config, the command, commit, versions, hardware, date
    summary.json    figure name -> value, low, high, n
    table.md        the table of the README block `<!-- table:<name> -->`
    figure.png      the picture of the README block `<!-- figure:<name> -->`

`python -m benchmarks.lab.report` rewrites the README blocks from these files; `python -m
benchmarks.lab.again` makes figures, tables and pictures anew from the rows, without measuring
anything.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks.lab import headline
from benchmarks.lab.statistics import Estimate
from recsim_env.files import locked, replacing, sweep, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
LARGEST_CSV = 5_000  # rows; a small table as text can be reviewed
PACKAGES = ("torch", "gymnasium", "transformers", "stable-baselines3", "numpy", "polars")

_NAME = r"[a-z0-9][a-z0-9_-]*"
_MARK = re.compile(
    rf"^<!-- (?P<close>/?)(?P<kind>table|figure):(?P<name>{_NAME}) -->$", re.MULTILINE
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What the rows of a benchmark say."""

    table: str
    """Markdown, as `markdown` makes it."""
    summary: Mapping[str, Estimate]
    """The figures that anything else may quote, by name."""
    figure: Figure | None = None


class Run:
    """One run of a benchmark: what was asked for, and where its results go."""

    def __init__(self, name: str, config: object, *, results: Path = RESULTS) -> None:
        """`config` is a dataclass of numbers, strings, paths, enums, lists and dataclasses of these.

        Raises ValueError on a name that is no lower-case word, TypeError on a config that JSON
        cannot hold.
        """
        if not re.fullmatch(_NAME, name):
            raise ValueError(
                f"a benchmark's name is lower-case letters, digits, '-' and '_', found {name!r}"
            )
        self.name = name
        self.folder = results / name
        self._start = time.perf_counter()
        self._origin = {
            "config": config_as_json(config),
            "command": _command(),
            "date": _now(),
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
        """Write the folder and return it. Each file is replaced whole; those of an earlier run that this one lacks go.

        Raises:
            ValueError: If `rows` has nested columns.
            RuntimeError: If another process writes the folder.

        rows:    as measured; no nested columns.
        summary, table and figure: as in `Report`.
        curves:  further rows that a report is made from; `curves.parquet`.
        """
        if nested := [name for name, dtype in rows.schema.items() if dtype.is_nested()]:
            raise ValueError(
                f"the rows of {self.name!r} have nested columns {nested}: write one row a value"
            )
        with locked(self.folder):
            self._write(rows, Report(table, summary, figure), curves)
        return self.folder

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
        write_text(self.folder / "config.json", _json(origin))
        for stale in {"rows.csv", "rows.parquet", "curves.parquet", "figure.png"} - set(names):
            (self.folder / stale).unlink(missing_ok=True)


def report_again(name: str, found: Report, *, results: Path = RESULTS) -> None:
    """Replace the report of a saved run by one that was made anew from its rows.

    config.json goes on to say where the rows come from, and by what the report was made.
    """
    folder = results / name
    origin = read_origin(name, results=results)
    with locked(folder):
        _write_report(folder, found)
        origin["reported"] = {"command": _command(), "date": _now(), **git_state()}
        write_text(folder / "config.json", _json(origin))


def _write_report(folder: Path, found: Report) -> list[str]:
    """Write the files of a report; returns their names."""
    names = ["summary.json", "table.md"]
    if found.figure is not None:
        names.append("figure.png")
        with replacing(folder / "figure.png") as path:
            found.figure.savefig(
                path, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None}
            )
    write_text(
        folder / "summary.json",
        _json({name: _finite(value) for name, value in found.summary.items()}),
    )
    write_text(folder / "table.md", found.table.strip() + "\n")
    return names


def read_rows(name: str, *, results: Path = RESULTS) -> pl.DataFrame:
    """The raw rows of a saved run."""
    csv = results / name / "rows.csv"
    return (
        pl.read_csv(csv, infer_schema_length=None)
        if csv.exists()
        else pl.read_parquet(csv.with_suffix(".parquet"))
    )


def read_origin(name: str, *, results: Path = RESULTS) -> dict[str, Any]:
    """What config.json of a saved run says."""
    loaded: dict[str, Any] = json.loads((results / name / "config.json").read_text())
    return loaded


def read_summary(name: str, *, results: Path = RESULTS) -> dict[str, Estimate]:
    """The figures of a saved run, by name."""
    figures = json.loads((results / name / "summary.json").read_text())

    def estimate(value: float, low: float | None, high: float | None, n: int) -> Estimate:
        return Estimate(
            value, math.nan if low is None else low, math.nan if high is None else high, n
        )

    return {figure: estimate(**fields) for figure, fields in figures.items()}


# --- where a result comes from -------------------------------------------------------------------


def _command() -> str:
    return shlex.join(["python", *sys.orig_argv[1:]])


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def config_as_json(config: object) -> dict[str, Any]:
    """A config dataclass as what `json` can write: enums as their value, tuples as lists, paths as text.

    A path inside the checkout is told from its root.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(
            f"a benchmark's config is a dataclass instance, found {type(config).__name__}"
        )

    def plain(value: object) -> object:
        if isinstance(value, os.PathLike):
            path = Path(value)
            return os.fspath(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
        if isinstance(value, enum.Enum):
            return value.value
        raise TypeError(
            f"the config holds a {type(value).__name__}, which config.json cannot: {value!r}"
        )

    loaded: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=plain))
    return loaded


def remember_settings(folder: Path, told: Mapping[str, Any]) -> None:
    """Write down in `folder`/config.json what all that lies there has in common. What killed processes left goes.

    Raises:
        ValueError: If it was made with other settings.
    """
    path = folder / "config.json"
    if path.exists() and (found := json.loads(path.read_text())) != told:
        other = sorted(
            name for name in told.keys() | found.keys() if told.get(name) != found.get(name)
        )
        raise ValueError(
            f"{path} differs in {other}: give the same settings, name another folder, or delete the folder."
        )
    sweep(folder)
    write_text(path, json.dumps(told, indent=1) + "\n")


def git_state(root: Path = ROOT) -> dict[str, str | bool | None]:
    """The commit that is checked out, and whether files differ from it; None without git.

    Results and the README do not make a checkout dirty: running one benchmark after the other
    writes them.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git(
        "status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md", ":!docs/results"
    )
    return {
        "commit": git("rev-parse", "--verify", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a result; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, str | int | float | None]:
    """The processor, the cores this process may use, torch's threads, memory, and the GPU's name or None."""
    import torch

    sizes = getattr(os, "sysconf_names", {})
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if "SC_PHYS_PAGES" in sizes
        else None
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists() and (
        found := re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
    ):
        return found[1].strip()
    return platform.processor() or platform.machine()


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(estimate: Estimate) -> dict[str, float | int | None]:
    """An estimate's fields, with null for bounds that it does not have (JSON knows no NaN)."""
    if not math.isfinite(estimate.value):
        raise ValueError(f"a summary holds measured figures, found {estimate}")
    return {
        key: value if math.isfinite(value) else None
        for key, value in dataclasses.asdict(estimate).items()
    }


# --- tables --------------------------------------------------------------------------------------


def markdown(
    rows: pl.DataFrame | Sequence[Mapping[str, object]],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    digits: int = 2,
) -> str:
    """A markdown table of `rows`, numbers to the right.

    columns: which columns, in this order; a mapping also names their headers. All of the first row
        by default.
    digits:  significant digits of a float, and of half an estimate's interval. An estimate reads
             `53.0 [51.8, 54.3]`; all estimates of a column show the same number of decimals.
    """
    lines = list(rows.iter_rows(named=True)) if isinstance(rows, pl.DataFrame) else list(rows)
    if columns is None:
        columns = list(lines[0]) if lines else []
    headers = columns if isinstance(columns, Mapping) else {name: name for name in columns}
    if not headers:
        raise ValueError("a table needs columns: give rows, or name the columns")
    cells = {name: _column([line[name] for line in lines], digits) for name in headers}
    numeric = {name: any(_is_number(line[name]) for line in lines) for name in headers}
    table = [
        [_escape(header) for header in headers.values()],
        ["---:" if numeric[name] else "---" for name in headers],
        *([cells[name][i] for name in headers] for i in range(len(lines))),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Estimate)) and not isinstance(value, bool)


def _column(values: Sequence[object], digits: int) -> list[str]:
    widths = [(v.high - v.low) / 2 for v in values if isinstance(v, Estimate) and v.high > v.low]
    decimals = max((_decimals(width, digits) for width in widths), default=None)
    return [_cell(value, digits, decimals) for value in values]


def _cell(value: object, digits: int, decimals: int | None) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return _number(value, _decimals(value, digits))
        case Estimate():
            places = _decimals(value.value, digits + 1) if decimals is None else decimals
            centre = _number(value.value, places)
            if math.isnan(value.low):
                return centre
            return f"{centre} [{_number(value.low, places)}, {_number(value.high, places)}]"
        case _:
            return _escape(str(value))


def _decimals(value: float, digits: int) -> int:
    """Decimal places that show `digits` significant digits of `value`."""
    if not math.isfinite(value) or value == 0:
        return 0
    exponent = int(
        f"{value:.{digits - 1}e}".partition("e")[2]
    )  # after rounding: 0.0999... counts as 0.10
    return max(0, digits - 1 - exponent)


def _number(value: float, places: int) -> str:
    return f"{value:,.{places}f}" if math.isfinite(value) else "–"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# --- README blocks -------------------------------------------------------------------------------


def documents(root: Path = ROOT) -> list[Path]:
    """The README and the files below `docs/` that hold at least one block, in order of their paths."""
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [path for path in files if _MARK.search(path.read_text(encoding="utf-8"))]


def fill(text: str, folder: Path = ROOT, *, results: Path = RESULTS) -> str:
    """`text` with every block between `<!-- table:NAME -->` and `<!-- /table:NAME -->` made anew, figures likewise.

    `folder` is the one that the document lies in, to which the figures' paths are relative.

    A block whose benchmark has not been run says so. Raises ValueError on a block that is not
    closed by its own mark.
    """
    marks = list(_MARK.finditer(text))
    pieces, end = [], 0
    for opening, closing in zip(marks[::2], [*marks[1::2], None], strict=False):
        if (
            opening["close"]
            or closing is None
            or closing[0] != opening[0].replace("<!-- ", "<!-- /")
        ):
            after = "nothing" if closing is None else closing[0]
            raise ValueError(
                f"README block {opening[0]} is followed by {after}, not by its closing mark"
            )
        pieces += [
            text[end : opening.end()],
            "\n",
            _block(opening["kind"], opening["name"], folder, results),
        ]
        end = closing.start()
    return "".join([*pieces, text[end:]])


def _block(kind: str, name: str, folder: Path, results: Path) -> str:
    if kind == "table" and name == "headline":
        return headline.table(results)
    source = results / name / ("table.md" if kind == "table" else "figure.png")
    if not source.exists():
        return f"*Not measured yet: `python -m benchmarks.{name}` writes this {kind}.*\n"
    if kind == "table":
        return source.read_text(encoding="utf-8")
    return f"![{name}]({Path(os.path.relpath(source, folder)).as_posix()})\n"


def main() -> None:
    """Rewrite the blocks of the README and of the documentation from benchmarks/results."""
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = fill(before, path.parent)
        if after != before:
            write_text(path, after)
        blocks = sum(1 for mark in _MARK.finditer(after) if not mark["close"])
        told = "rewritten" if after != before else "already up to date"
        print(f"{path.relative_to(ROOT)}: {blocks} blocks, {told}")


if __name__ == "__main__":
    main()


# ---- names of points ------------------------------------------------------------------------------------------------


def name_beside(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    *,
    colours: Mapping[str, str] | None = None,
    room: float = 0.3,
) -> None:
    """Write the names of `points` (x, y) in a column to the right of all of them, a thin line to each.

    colours: of the names; dark grey where there is none. room: width of the column over that of the
    plot.
    """
    axes.margins(0.06)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ascending = sorted(points, key=lambda name: points[name][1])
    heights = spread([points[name][1] for name in ascending], 0.047 * (high - low))
    for name, height in zip(ascending, heights, strict=True):
        axes.annotate(
            name,
            points[name],
            (right + 0.02 * (right - left), height),
            va="center",
            fontsize=8,
            color=(colours or {}).get(name, "#444444"),
            arrowprops={
                "arrowstyle": "-",
                "color": "#d8d8d8",
                "linewidth": 0.7,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )
    axes.set_xlim(left, right + room * (right - left))
    room_for_text = 0.03 * (high - low)
    axes.set_ylim(min([low, *heights]) - room_for_text, max([high, *heights]) + room_for_text)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values moved as little as needed to stand `gap` apart or more: isotonic regression
    of values - i gap by pooling adjacent violators (Barlow et al. 1972).
    """
    blocks: list[tuple[float, int]] = []  # sum and size
    for at, value in enumerate(values):
        blocks.append((value - at * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, size = blocks.pop()
            blocks[-1] = (blocks[-1][0] + total, blocks[-1][1] + size)
    level = [total / size for total, size in blocks for _ in range(size)]
    return [value + at * gap for at, value in enumerate(level)]
