"""Fit a simulator and a ranker to a log of one's own.

    python -m benchmarks.data.fit_log --log log.csv --catalog items.csv --output shop

It is `python -m recsim_env fit` with all its options, and a two-tower ranker beside it, from which
`train`, `tune` and `compare` start with `--env shop`. The report is `shop/report.html`.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.lab.command import run_command
from benchmarks.lab.options import Device, Threads
from benchmarks.lab.provenance import ROOT
from benchmarks.lab.shops import fit_ranker_of
from benchmarks.lab.threads import use_threads
from benchmarks.lab.where import told_reward
from recsim_env.fitting import FitConfig, fit
from recsim_env.fitting.bar import stage_bar
from recsim_env.shop_file import CLICKS
from recsim_env.types import best_device


@dataclass(frozen=True, kw_only=True)
class Config(Threads, Device):
    """Fit a simulator and a ranker to a log."""

    log: Path = ROOT / "examples" / "shop_log.csv"
    """The log: CSV or parquet, one row an impressed item, with the columns `user`, `timestamp`,
    `item` and `click`; the documentation lists others that are known. The default is a small
    example."""
    catalog: Path = ROOT / "examples" / "shop_items.csv"
    """The catalogue: CSV or parquet, one row an item, with the columns `item`, `title` and
    `category`."""
    output: Path = Path("runs/shop")
    """Folder to write: a new or empty one, or one of an earlier fit."""
    columns: str | None = None
    """Names that columns have in the files, as in `user=uid,item=sku`."""
    time_zone: str | None = None
    """Zone of the shop's clock, such as Europe/Berlin, to which times that say their zone, and
    numbers, are converted. By default it is UTC."""
    reward: str = "clicks=1"
    """Weight of each reward term in the environment, as in `clicks=1,intra_list_distance=0.5`."""
    fit: Annotated[FitConfig, tyro.conf.arg(name="")] = field(default_factory=FitConfig)
    """How the simulator is fitted and judged."""


def main(config: Config) -> None:
    """Fit both, print the verdicts, and say what comes next.

    Raises:
        SystemExit: If the verdict on clicks is no; the folder is whole but for the ranker.
    """
    use_threads(config.threads)
    device = best_device(config.device)
    with stage_bar() as progress:
        fitted = fit(
            config.log,
            config.catalog,
            config.output,
            columns=config.columns,
            time_zone=config.time_zone,
            reward=told_reward(config.reward),
            config=config.fit,
            device=device,
            progress=progress,
        )
    print(fitted)
    print(f"Report: {config.output / 'report.html'}")
    if fitted.findings.verdict(CLICKS).holds is False:
        sys.exit(
            "No ranker was fitted: shoppers who are predicted so badly teach agents nothing. To "
            "train with them nonetheless: "
            f"python -m benchmarks.agents.train --env {shlex.quote(str(config.output))} --anyway"
        )
    fit_ranker_of(config.output, config.device)
    print(f"Next: python -m benchmarks.agents.train --env {shlex.quote(str(config.output))}")


if __name__ == "__main__":
    run_command(main, Config)
