"""Who earns how much where: every policy and agent in every environment.

    python -m benchmarks.agents.league
    python -m benchmarks.agents.league --env my_module:shop/Mine-v0 --runs 0 1 2
    python -m benchmarks.agents.league --ray auto   # on the machines of a Ray cluster

Agents and policies (contenders) x environments (places) x runs, one *cell* at a time. Run r has the
training seed r and fresh shoppers of its own, the same for all contenders of a place, so policies
that are not trained have as many runs. A policy with parameters is tuned in each place on other
shoppers, each with the same number of trials; agents have the parameters that
`benchmarks.agents.tune_agents` found. `benchmarks.lab.league_cells` says what a cell consists of.

What is there is not made again, so a league goes on where it stopped, in the middle of a training
too. Two may run side by side, best on different `--places`, `--contenders` or `--runs`: each leaves
aside what the other one plays. `benchmarks.agents.league_report` makes table, figure and summary of
the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from agents.places import Site
from benchmarks.agents.league_report import analyse
from benchmarks.lab import league_cells
from benchmarks.lab.cells import all_rows
from benchmarks.lab.command import run_command
from benchmarks.lab.league_cells import Cell, League, cells, check_work, place_of, settled
from benchmarks.lab.options import Cells, Results
from benchmarks.lab.places import MARKET
from benchmarks.lab.playable import playable
from benchmarks.lab.playing import Places, Task, end, play_cells, there
from benchmarks.lab.run import Run
from benchmarks.lab.threads import use_threads
from policies.oracles import ORACLES
from recsim_env.files import sweep
from recsim_env.registration import PRESETS


@dataclass(frozen=True)
class Config(League, Cells, Results):
    """Play the cells of the league that are missing, and report on all that were played."""

    report_only: bool = False
    """Play no cell, and only report on those that were played before."""


def play_missing(config: Config) -> list[str]:
    """Play every cell that is asked for and missing, see `benchmarks.lab.playing`.

    Returns:
        The names of the cells that failed.
    """
    sweep(config.work)
    asked = cells(config)
    for env in sorted({cell.place.env for cell in asked} - PRESETS.keys()):
        print(f"{env} is no registered environment, so its cells are left out.")
    tasks = [_task(cell, config) for cell in asked if cell.place.env in PRESETS]
    return play_cells(tasks, config, "league", Places(len({task.place for task in tasks})))


def _task(cell: Cell, config: Config) -> Task:
    return Task(
        cell.name,
        cell.unfinished(config),
        cell.place.name,
        partial(cell.place.open, config.markets, config.slates, config.device),
        partial(_play, cell, config),
        partial(there, cell.path(config)),
    )


def _play(cell: Cell, config: Config, site: Site) -> None:
    """Play a cell, unless the contender cannot play there."""
    if cell.contender in ORACLES or playable([cell.contender], site):
        league_cells.play(cell, site, config)


def read_cells(work: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the rows and learning curves of every cell that was played.

    Raises:
        FileNotFoundError: If none was.
    """
    folder, command = work / "cells", "benchmarks.agents.league"
    curves = list(folder.glob("*.curve.parquet"))
    rows = set(folder.glob("*.parquet")) - set(curves)
    return all_rows(list(rows), folder, command), all_rows(curves, folder, command)


def note(config: Config) -> str:
    """The paragraph below the tables, which says how they were made."""
    fewer = ", ".join(f"{name} {factor:g}" for name, factor in config.factors.items())
    return (
        f"A run is a training seed and {config.episodes} fresh shoppers, the same for all "
        "contenders; brackets are 95 % intervals for other training seeds and other shoppers in "
        f"the same worlds. Policies with parameters had {config.trials} trials each, on other "
        "shoppers; agents have the parameters that `benchmarks.agents.tune_agents` found. Steps as "
        f"a multiple of those of the environment: {fewer}."
    )


def main(config: Config) -> None:
    """Play what is missing, then report on all cells; the exit status is 1 where a cell failed."""
    use_threads(config.threads)
    config = settled(config)
    check_work(config)
    run = Run("league", config, results=config.results)
    failed = [] if config.report_only else play_missing(config)
    rows, curves = read_cells(config.work)
    there = place_of(config)
    report = analyse(rows, curves, MARKET if there is None else there.env, note(config))
    run.publish(rows, report, curves)
    end(failed)


if __name__ == "__main__":
    run_command(main, Config)
