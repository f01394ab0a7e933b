"""Who earns how much where: every policy and agent in every environment.

    python -m benchmarks.agents.league
    python -m benchmarks.agents.league --env my_module:shop/Mine-v0 --runs 0 1 2

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

import contextlib
import shutil
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from tqdm.auto import tqdm

from agents.places import Site
from benchmarks.agents.league_report import analyse
from benchmarks.lab import league_cells
from benchmarks.lab.cells import all_rows
from benchmarks.lab.command import run_command
from benchmarks.lab.league_cells import League, cells, check_work, place_of, settled
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.places import MARKET
from benchmarks.lab.playable import playable
from benchmarks.lab.run import Run
from benchmarks.lab.threads import use_threads
from policies.oracles import ORACLES
from recsim_env.files import FolderInUse, locked, sweep
from recsim_env.registration import PRESETS


@dataclass(frozen=True)
class Config(League, Threads, Results):
    """Play the cells of the league that are missing, and report on all that were played."""

    report_only: bool = False
    """Play no cell, and only report on those that were played before."""


def play_missing(config: Config) -> list[str]:
    """Play every cell that is asked for and missing.

    A cell that fails stops no other one: its traceback is printed, and the next league tries it
    again. A cell that another process plays is left to it, which a line on stderr says.

    Returns:
        The names of the cells that failed.
    """
    sweep(config.work)
    missing = [cell for cell in cells(config) if not cell.path(config).exists()]
    for env in sorted({cell.place.env for cell in missing} - PRESETS.keys()):
        print(f"{env} is no registered environment, so its cells are left out.")
    sites: dict[str, Site] = {}
    failed = []
    for cell in tqdm(
        [cell for cell in missing if cell.place.env in PRESETS], desc="league", unit="cell"
    ):
        try:
            with locked(cell.unfinished(config)):
                if not cell.path(config).exists():  # by another process, meanwhile
                    name = cell.place.name
                    if name not in sites:
                        sites[name] = cell.place.open(config.markets, config.slates, config.device)
                    if cell.contender in ORACLES or playable([cell.contender], sites[name]):
                        league_cells.play(cell, sites[name], config)
        except FolderInUse as error:
            print(f"{error} The cell is left to that process.", file=sys.stderr)
        except Exception:
            traceback.print_exc()
            failed.append(cell.name)
    _tidy(config)
    return failed


def _tidy(config: Config) -> None:
    """Remove what cells that are done needed to go on."""
    for cell in cells(config):
        if cell.path(config).exists():
            shutil.rmtree(cell.unfinished(config), ignore_errors=True)
    with contextlib.suppress(OSError):  # others are at work there
        (config.work / "unfinished").rmdir()


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
    print(report.table)
    run.save(rows, **vars(report), curves=curves)
    if failed:
        sys.exit(f"{len(failed)} cells failed: {', '.join(failed)}")


if __name__ == "__main__":
    run_command(main, Config)
