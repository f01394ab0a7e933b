"""How long a shop's own log takes to be read, checked and converted, and how much memory.

    python -m benchmarks.speed.read_log

A log is made up, with its rows in the order of time, users mixed, as a shop exports it. Each of its
files is read by a process of its own with one thread, so that the peak is that of the reading.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.lab.command import run_command
from benchmarks.lab.options import Results
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate

KINDS = ("csv", "parquet")
DAY = 86_400  # seconds
START = 1_700_000_000  # seconds since 1970


@dataclass(frozen=True)
class Config(Results):
    """Read a large log of one row an impressed item."""

    users: int = 25_000
    """Number of users in the log."""
    visits: int = 20
    """Number of slates of each user, one a visit."""
    size: int = 10
    """Number of items of a slate. The defaults make 5,000,000 rows and 500,000 slates."""
    items: int = 10_000
    """Number of items in the catalogue."""
    seed: int = 0
    """Seed of the made-up log."""


def main(config: Config) -> None:
    """Make the log, read each of its files in a fresh process, and report."""
    run = Run("read_log", config, results=config.results)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(config, folder)
        os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rows = pl.DataFrame(pool.map(measure, [(folder, kind) for kind in KINDS], 1))
    summary = {
        f"{row['file']}/{column}": Estimate(row[column])
        for row in rows.iter_rows(named=True)
        for column in ("read_cpu_s", "report_cpu_s", "peak_gb")
    }
    lines = [
        {"file": kind, **{c: summary[f"{kind}/{c}"] for c in HEADERS if c != "file"}}
        for kind in KINDS
    ]
    run.publish(rows, Report(markdown(lines, HEADERS), summary))


HEADERS = {
    "file": "file",
    "read_cpu_s": "read, checked and converted, CPU s",
    "report_cpu_s": "what can be learned, CPU s",
    "peak_gb": "peak memory, GB",
}


def write(config: Config, folder: Path) -> None:
    """Make up a log in which some items are clicked more often than others, and its catalogue."""
    generator = np.random.default_rng(config.seed)
    slates = config.users * config.visits
    user = np.repeat(np.arange(config.users), config.visits)
    days = generator.integers(1, 5, (config.users, config.visits)).cumsum(axis=1).reshape(-1)
    times = START + days * DAY + generator.integers(0, DAY // 2, slates)
    # Items of a slate are a run of the catalogue in an order of its own, so that none repeats.
    first, step = generator.integers(0, config.items, (2, slates, 1))
    shown = (first + (step * 2 + 1) * np.arange(config.size)) % config.items
    appeal = 0.02 + 0.2 * generator.random(config.items) ** 2
    clicked = generator.random(shown.shape) < appeal[shown] * 0.85 ** np.arange(config.size)
    log = pl.DataFrame(
        {
            "user": np.repeat(user, config.size),
            "timestamp": np.repeat(times, config.size),
            "item": shown.reshape(-1),
            "click": clicked.reshape(-1).astype(np.int8),
            "position": np.tile(np.arange(1, config.size + 1, dtype=np.int16), slates),
            "user_age": np.repeat(20 + user % 50, config.size),
        }
    ).select(
        pl.format("u{}", "user").alias("user"),
        pl.from_epoch("timestamp").cast(pl.Datetime("us")),
        pl.format("i{}", "item").alias("item"),
        pl.exclude("user", "timestamp", "item"),
        policy=pl.lit("all") + (pl.col("user") % 3).cast(pl.String),
    )
    log = log.unique(["user", "timestamp", "item"], maintain_order=True).sort(
        "timestamp", maintain_order=True
    )
    log.write_csv(folder / "log.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    log.write_parquet(folder / "log.parquet")
    number = pl.int_range(config.items, eager=True)
    pl.DataFrame(
        {
            "item": pl.select(pl.format("i{}", number)).to_series(),
            "title": pl.select(pl.format("Thing {}", number)).to_series(),
            "category": pl.select(pl.format("shelf {}", number % 200)).to_series(),
        }
    ).write_csv(folder / "items.csv")


def measure(task: tuple[Path, str]) -> dict[str, object]:
    """Read one file in a process of its own."""
    from recsim_env.logs.plain import read_plain
    from recsim_env.logs.report import report_of

    folder, kind = task
    start = time.process_time()
    plain = read_plain(folder / f"log.{kind}", folder / "items.csv")
    between = time.process_time()
    report = report_of(plain)
    end = time.process_time()
    return {
        "file": kind,
        "rows": report.counts["rows"],
        "slates": report.counts["slates"],
        "read_cpu_s": between - start,
        "report_cpu_s": end - between,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,  # of kB, on Linux
    }


if __name__ == "__main__":
    run_command(main, Config)
