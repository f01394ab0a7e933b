"""Make summaries, tables and figures anew from the rows of `benchmarks/results`.

    python -m benchmarks.again compare transfer

Nothing is measured. `ablation` and `fidelity` are not among them: their rows are figures, and the
predictions behind those are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import tyro

from benchmarks.agents import (
    behaviour,
    bundle,
    cold,
    compare,
    constraint,
    frontier,
    frontier_report,
    knowing,
    league,
    league_report,
    live_report,
    ope_report,
    sardine,
    transfer_report,
    visit_report,
)
from benchmarks.lab import places
from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from benchmarks.lab.run import RESULTS, Report, read_origin, read_rows, report_again
from benchmarks.shopper import (
    belief,
    carts,
    explained,
    history,
    language,
    other_shop,
    own_log,
    portrait,
    searches,
    stress,
    teacher,
    verdict_cases,
    young_shop,
)
from benchmarks.speed import (
    gpu,
    latency_report,
    learning_curves,
    ppo_speed,
    small_report,
    throughput,
    two_stages,
)


def of_league(rows: pl.DataFrame, config: Mapping[str, Any], folder: Path) -> Report:
    """Report on the league, which takes its learning curves as well as its rows.

    Raises:
        FileNotFoundError: If the run kept no curves.
    """
    if not (folder / "curves.parquet").is_file():
        raise FileNotFoundError(
            f"{folder} lacks curves.parquet: "
            f"run python -m benchmarks.agents.league --report-only --results {folder.parent} again."
        )
    told = {name: config[name] for name in ("episodes", "trials", "factors")}
    curves = pl.read_parquet(folder / "curves.parquet")
    return league_report.analyse(
        rows, curves, places.MARKET, league.note(replace(league.Config(), **told))
    )


def of_frontier(rows: pl.DataFrame, config: Mapping[str, Any], folder: Path) -> Report:
    """Report on the frontier of the goals and weights that were played."""
    played = frontier.Config(
        env=config["env"],
        goals=tuple(config["goals"]),
        weights=tuple(config["weights"]),
        parts=config["parts"],
    )
    return frontier_report.report(rows, played.weighed, frontier.ENVS[played.env])


FRONTIERS = (
    "frontier",
    "frontier-marketcontrol-v0-clicks-intra_list_distance",
    "frontier-market-v0-clicks-intra_list_distance-kept",
    "frontier-market-v0-clicks-intra_list_distance-category_entropy-kept",
    "frontier-learnedmarket-v0-clicks-intra_list_distance",
    "frontier-completejourney-v0-clicks-intra_list_distance",
)
"""Frontiers of the market, and those of other environments and goals that are kept."""
REPORTS: dict[str, Callable[[pl.DataFrame, Mapping[str, Any], Path], Report]] = {
    "behaviour": lambda rows, config, folder: behaviour.report(rows),
    "belief": lambda rows, config, folder: belief.report(rows),
    "carts": lambda rows, config, folder: carts.report(
        rows, pl.read_parquet(folder / "curves.parquet")
    ),
    "bundle": lambda rows, config, folder: bundle.report(rows),
    **dict.fromkeys(("cold", "cold_belief"), lambda rows, config, folder: cold.report(rows)),
    "constraint": lambda rows, config, folder: constraint.report(rows),
    "compare": lambda rows, config, folder: compare.report(rows),
    "explained": lambda rows, config, folder: explained.report(rows),
    **dict.fromkeys(FRONTIERS, of_frontier),
    "gpu": lambda rows, config, folder: gpu.report(rows),
    "history": lambda rows, config, folder: history.report(rows),
    "knowing": lambda rows, config, folder: knowing.report(rows),
    "language": lambda rows, config, folder: language.report(rows),
    "latency": lambda rows, config, folder: latency_report.report(rows),
    "league": of_league,
    "learning_curves": lambda rows, config, folder: learning_curves.report(rows),
    "live": lambda rows, config, folder: live_report.report(rows),
    "ope": lambda rows, config, folder: ope_report.report(rows),
    "other_shop": lambda rows, config, folder: other_shop.report(rows),
    "own_log": lambda rows, config, folder: own_log.report(rows, own_log.read_public(folder)),
    "portrait": lambda rows, config, folder: portrait.report(rows),
    "ppo_speed": lambda rows, config, folder: ppo_speed.report(rows),
    **dict.fromkeys(
        ("sardine", "sardine_two_tower"), lambda rows, config, folder: sardine.report(rows)
    ),
    "searches": lambda rows, config, folder: searches.report(rows),
    "small": lambda rows, config, folder: small_report.report(rows),
    "stress": lambda rows, config, folder: stress.report(rows),
    "teacher": lambda rows, config, folder: teacher.report(rows),
    "throughput": lambda rows, config, folder: throughput.report(rows),
    "transfer": lambda rows, config, folder: transfer_report.report(
        rows, config["slates"], config["mixture"]
    ),
    "two_stages": lambda rows, config, folder: two_stages.report(rows),
    "verdict_cases": lambda rows, config, folder: verdict_cases.report(rows),
    "visit": lambda rows, config, folder: visit_report.report(rows),
    "young_shop": lambda rows, config, folder: young_shop.report(rows),
}
"""Rows, the configuration that they were measured with and the folder of the run -> report."""


@dataclass(frozen=True)
class Config(Checked):
    """Make the reports on finished measurements anew from their rows."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"names": REPORTS}

    names: tyro.conf.Positional[tuple[str, ...]] = tuple(REPORTS)
    """Names of the benchmarks to report on. By default, all whose rows are kept."""
    results: Path = RESULTS
    """Folder that the rows are read from and the reports are written to."""


def main(config: Config) -> None:
    """Read the rows of each benchmark and replace its report.

    Raises:
        FileNotFoundError: If a benchmark has no rows.
    """
    for name in config.names:
        told = read_origin(name, results=config.results)["config"]
        found = REPORTS[name](read_rows(name, results=config.results), told, config.results / name)
        report_again(name, found, results=config.results)
        print(f"**{name}**\n\n{found.table}")


if __name__ == "__main__":
    run_command(main, Config)
