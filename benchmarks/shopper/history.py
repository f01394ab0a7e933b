"""How many visits a shopper must remember.

    python -m benchmarks.shopper.history
    python -m benchmarks.shopper.history --ray auto   # trainings on the machines of a Ray cluster

The household shopper reads the past twice: its encoder attends to the last `window` visits, and its
counters hold everything. For several windows, with counters and without, one shopper is fitted from
nothing, each with the same seed, the same batches and the same small number of passes over the log,
and scored on the test weeks, on items that training knows. Then all of them play in turns on one
thread: microseconds of the processor for a step of one of many shoppers, and bytes of its state.

Every training is a cell with a file of its own: a command that was stopped goes on with those that
are missing. Steps are timed anew each time, on the machine of the command. A window is compared
with `BASE` on the same households. There is one training for each window, so that the intervals are
about other households, not about other trainings.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from agents.statistics import estimate_mean
from benchmarks.lab.command import run_command
from benchmarks.lab.heldout import estimate, numbered, with_samples
from benchmarks.lab.logs import Log, ReadsLog, opened_log, sorted_rows
from benchmarks.lab.measuring import RowCell, measure, read_cells
from benchmarks.lab.options import Cells, Results
from benchmarks.lab.playing import check_cluster
from benchmarks.lab.plots import BLUE, RED, intervals, panels
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import TABLES, check_settings, settings_of
from benchmarks.lab.shopper_folder import write_shopper
from benchmarks.lab.stopwatch import Clock
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import FITTING_THREADS, use_threads
from benchmarks.speed.players import Crowd, state_bytes
from recsim_env.estimates import Estimate
from recsim_env.registration import EnvConfig
from recsim_env.settings import MOST, POSITIVE, Within
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.fit import FinetuneConfig, calibrate, fit, new_shopper, score
from recsim_env.shoppers.weights import MOST as SIZES

BASE = 64
"""The window that the others are compared with: that of the shipped shopper."""
METRICS = ("auc", "ne")
WINDOWS = Within(1, SIZES["window"])
COMMON = ("shopper", "log", "samples")
"""Settings that all scores in an output folder share."""


@dataclass(frozen=True)
class Config(ReadsLog, Cells, Results):
    """Fit shoppers that remember more visits or fewer, score them, and time their steps."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "seconds": POSITIVE,
        "windows": WINDOWS,
        "without_counters": WINDOWS,
        "samples": Within(2, MOST),
    }
    EMPTY: ClassVar[Collection[str]] = ("without_counters",)

    windows: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    """Numbers of visits that the encoder attends to, for shoppers with counters."""
    without_counters: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    """The same for shoppers without counters."""
    shopper: FinetuneConfig = field(
        default_factory=lambda: FinetuneConfig(pretrain_epochs=0.0, epochs=0.5)
    )
    """Settings of every training; window and counters are those of each variant. The default of
    half a pass from nothing keeps the command within half an hour."""
    output: Path = Path("runs/history")
    """Folder of the fitted shoppers and of their scores. A command that was stopped goes on from
    there."""
    samples: int = 50
    """Number of bootstrap samples of households behind the width of every interval."""
    shoppers: int = 1024
    """Number of shoppers that take a step together where steps are timed."""
    rounds: int = 3
    """Number of times that every window is timed, in turns."""
    seconds: float = 1.0
    """Least length of a turn in seconds."""
    threads: int = FITTING_THREADS
    """Number of processor threads for the trainings; steps are timed on one."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ValueError: If an option is outside its range, or the training is told what the variants
                differ in.
        """
        super().__post_init__()
        for name in ("window", "use_counters"):
            if getattr(self.shopper, name) != getattr(FinetuneConfig, name):
                raise ValueError(
                    f"shopper.{name} is {getattr(self.shopper, name)}, but it must stay at its "
                    "default: windows and without_counters tell what each shopper remembers."
                )


@dataclass(frozen=True, order=True)
class Variant:
    """What a shopper remembers."""

    counters: bool
    window: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{'counters' if self.counters else 'no_counters'}_{self.window}"


def variants(config: Config) -> list[Variant]:
    """All that are asked for, those with counters first."""
    return [Variant(True, window) for window in config.windows] + [
        Variant(False, window) for window in config.without_counters
    ]


@dataclass(frozen=True)
class Ground:
    """The log, replayed for trainings and for scores."""

    log: Log
    hidden: Examples
    """Histories without cold items, as training must have them."""
    full: Examples
    """Histories with all items."""


def ground_of(config: Config) -> Ground:
    """Read the log and replay it, with and without cold items."""
    log = Log.load(config.log)
    return Ground(log, log.examples(cold_hidden=True), log.examples(cold_hidden=False))


def cells_of(config: Config) -> list[RowCell]:
    """One cell for each variant, all of them in one replay of the log."""
    return [
        RowCell(
            config.output / f"{variant.name}.parquet",
            "log",
            partial(ground_of, config),
            partial(fitted, config, variant),
        )
        for variant in variants(config)
    ]


def main(config: Config) -> None:
    """Fit and score what is missing, time all of them in turns, and write the results.

    Raises:
        ConnectionError: If the cluster cannot be reached.
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items, or the output folder holds scores of other settings or
            tables.
        SystemExit: If a training failed, or another process makes one.
    """
    use_threads(config.threads)
    check_cluster(config.ray)
    run = Run("history", config, results=config.results)
    told = settings_of(config, only=COMMON)
    check_settings(config.output, told, free=(TABLES,))
    cells = cells_of(config)
    if not all(cell.path.exists() for cell in cells):
        outputs = {"output": config.output, "results": run.folder}
        opened_log(config.log, outputs, told, Console())
        measure(cells, config, "history")
    rows = pl.concat([read_cells(cells), pl.DataFrame(timed(config), schema=ROW)])
    run.publish(rows, report(rows))


# ---- rows ----------------------------------------------------------------------------------------

ROW = {
    "what": pl.String,
    "window": pl.Int64,
    "counters": pl.Boolean,
    "n": pl.Int64,
    "value": pl.Float64,
}
"""`what` is `auc` or `ne`, where `n` 0 is the score itself and the others are bootstrap samples of
households; `households`; `cut`, the share of the scored visits with more visits before them than
the window holds;
`minutes` of the training; `us`, microseconds of a step in round `n`; or `bytes` of a shopper."""


def fitted(config: Config, variant: Variant, ground: Ground) -> pl.DataFrame:
    """Fit one variant, keep its folder, and score it on the test weeks: its rows."""
    log, hidden, full = ground.log, ground.hidden, ground.full
    began = time.perf_counter()
    settings = replace(config.shopper, window=variant.window, use_counters=variant.counters)
    cold = log.cold
    model = new_shopper(log.catalog, settings, log.facts, known=~cold)
    folder = config.output / variant.name
    for stage in ("pretrain", "finetune"):
        fit(model, hidden, settings, folder / "training", stage=stage, resume=False)
    minutes = (time.perf_counter() - began) / 60
    calibrate(model, full, hidden)
    write_shopper(folder / "shopper", [model], config.log)
    shutil.rmtree(folder / "training", ignore_errors=True)

    scores = score(model, full, "test", kinds=("case_control",))
    warm = ~cold[full.row_item[scores.row]]
    table = sorted_rows(full, scores.row[warm], scores.logit[warm])
    values = with_samples(table, METRICS, samples=config.samples)
    values["households"] = [float(table.households)]
    values["cut"] = [cut_of(full, scores.row[warm], variant.window)]
    values["minutes"] = [minutes]
    return pl.DataFrame(numbered(values, **vars(variant)), schema=ROW)


def cut_of(examples: Examples, rows: Tensor, window: int) -> float:
    """The share of the visits of some rows (R,) that have more than `window` visits before them."""
    earlier = examples.visits.rank[examples.row_visit[rows].unique()]
    return float((earlier > window).double().mean())


def timed(config: Config) -> list[dict[str, Any]]:
    """Time a step of every variant in turns on one thread, and count the bytes of a shopper."""
    use_threads(1)
    device, rows = torch.device("cpu"), []
    for number in range(config.rounds):
        for variant in variants(config):
            env = EnvConfig(config.output / variant.name / "shopper")
            crowd, clock = Crowd(env, config.shoppers, device), Clock(device)
            crowd.play(Clock(device), min(config.seconds, 0.2))  # warm-up
            steps = crowd.play(clock, config.seconds)
            us = {"what": "us", "n": number, "value": 1e6 * clock.cpu / steps}
            rows.append(vars(variant) | us)
            if number == 0:
                bytes_each = state_bytes(crowd.simulator.hidden) / config.shoppers
                rows += numbered({"bytes": [bytes_each]}, **vars(variant))
    return rows


# ---- report --------------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    summary: dict[str, Estimate] = {}
    lines: list[dict[str, object]] = []
    places = (
        rows.select("counters", "window")
        .unique()
        .sort("counters", "window", descending=[True, False])
        .rows()
    )

    # One line a window, and its difference from the default.
    for counters, window in places:
        own, base = _own(rows, counters, window), _own(rows, counters, BASE)
        households = int(_values(own, "households")[0])
        line: dict[str, object] = {
            "counters": "with" if counters else "without",
            "window": window,
            "cut": 100 * _values(own, "cut")[0],
        }
        for what in METRICS:
            found, values = _values(own, what), _values(base, what)
            line[what] = estimate(found[0], found[1:], households)
            summary[f"{_key(counters, window)}/{what}"] = line[what]  # type: ignore[assignment]
            if len(base) and window != BASE:
                less = estimate(found[0] - values[0], found[1:] - values[1:], households)
                line[f"{what}_difference"] = less
                summary[f"{_key(counters, window)}/{what}_minus_{BASE}"] = less
            else:
                line[f"{what}_difference"] = None

        # What it costs.
        line["us"] = estimate_mean(_values(own, "us"))
        line["kib"] = _values(own, "bytes")[0] / 2**10
        summary[f"{_key(counters, window)}/us"] = line["us"]  # type: ignore[assignment]
        summary[f"{_key(counters, window)}/bytes"] = Estimate(_values(own, "bytes")[0])
        lines.append(line)
    headers = {
        "counters": "counters",
        "window": "window, visits",
        "cut": "scored visits with a longer past, %",
        "auc": "AUC",
        "auc_difference": f"AUC less that of {BASE}",
        "ne": "NE",
        "ne_difference": f"NE less that of {BASE}",
        "us": "µs a step",
        "kib": "KiB a shopper",
    }
    return Report(markdown(lines, headers), summary, picture(rows))


def _own(rows: pl.DataFrame, counters: bool, window: int) -> pl.DataFrame:
    return rows.filter((pl.col("counters") == counters) & (pl.col("window") == window))


def _values(own: pl.DataFrame, what: str) -> np.ndarray:
    return own.filter(pl.col("what") == what).sort("n")["value"].to_numpy()


def _key(counters: bool, window: int) -> str:
    return f"{'counters' if counters else 'no_counters'}/{window}"


def picture(rows: pl.DataFrame) -> Figure:
    """Draw AUC with and without counters, and what a step costs, over the window."""
    figure, axes = panels(12, 3.4, 4)
    for counters, colour, label in ((True, BLUE, "with counters"), (False, RED, "without")):
        windows = sorted(rows.filter(pl.col("counters") == counters)["window"].unique())
        own = {window: _own(rows, counters, window) for window in windows}
        found = []
        for one in own.values():
            scores = _values(one, "auc")
            found.append(estimate(scores[0], scores[1:], int(_values(one, "households")[0])))
        if windows:
            place = axes[0 if counters else 1]
            intervals(place, windows, found, colour=colour, joined=True)
            place.set_ylabel(f"AUC, {label}")
            for panel, what, scale in ((axes[2], "us", 1.0), (axes[3], "bytes", 2.0**-10)):
                costs = [scale * _values(one, what).mean() for one in own.values()]
                panel.plot(windows, costs, "o-", color=colour, markersize=4, label=label)
    for panel in axes:
        panel.set_xscale("log", base=2)
        panel.set_xlabel("window, visits")
    axes[2].set_ylabel("µs a step")
    axes[3].set_ylabel("KiB a shopper")
    axes[2].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_command(main, Config)
