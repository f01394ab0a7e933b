"""Build the Complete Journey log: `python -m benchmarks.data.build_log`.

It takes about a minute and 2.5 GB of memory, once. The counts of the build are printed beside those
of an earlier, independent program on the same data (22 Nov 2026). A folder that holds tables which
this command did not write is never written into.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from benchmarks.lab.logs import DEFAULT_LOG
from recsim_env.files import read_object
from recsim_env.logs.complete_journey import SUMMARY_FILE, build, damaged, is_built


@dataclass(frozen=True)
class Config(Checked):
    """Build the Complete Journey log, unless the folder holds it already."""

    folder: Path = DEFAULT_LOG
    """Folder that the tables are written into. It must be new, empty, or hold a log that this
    command built. All other commands read the default folder."""
    seed: int = 0
    """Seed of the random choice of slates, cold items and held-out shoppers. The results of this
    repository are from seed 0."""
    force: bool = False
    """Build the log again even where the folder holds a whole one that this version built with
    this seed. That is never needed for the same tables, and only replaces them."""


def main(config: Config) -> None:
    """Build the log where it is missing or has lost a file, then print its counts.

    Raises:
        FileExistsError: If the folder holds files that are not of a build.
    """
    console = Console()
    built = is_built(config.folder, config.seed)
    lost = damaged(config.folder) if built else []
    if lost:
        console.print(f"{config.folder} has lost {', '.join(lost)}: the log is built again there.")
    if config.force or lost or not built:
        start = time.perf_counter()
        with console.status("reading") as status:
            build(config.folder, seed=config.seed, progress=status.update)
        seconds = time.perf_counter() - start
        gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
        console.print(f"built in {seconds:.0f} s, at most {gigabytes:.1f} GiB, in {config.folder}")
    else:
        console.print(
            f"already built in {config.folder} (seed {config.seed}); --force builds again"
        )

    summary = read_object(config.folder / SUMMARY_FILE)
    table = Table("what", "here", "first measured")
    for what, here, before in rows(summary):
        table.add_row(what, here, before)
    console.print(table)


def rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """List what was counted: its name, the count here, and the count of the first measurement."""
    logs, exposed, qualifying = summary["logs"], summary["exposed"], summary["qualifying"]
    rate = {
        name: " / ".join(f"{100 * part['rate']:.2f}" for part in log.values())
        for name, log in logs.items()
    }
    splits = [f"{qualifying[split]:,}" for split in ("all", "train", "valid", "test")]

    return [
        # the tables
        ("visits", f"{summary['visits']:,}", "123,631"),
        ("households", f"{summary['households']:,}", "2,467"),
        ("catalogue share of lines, %", f"{100 * summary['catalogue_line_share']:.1f}", "54.8"),
        ("distinct texts", f"{summary['texts']:,}", "1,781"),
        (
            "visits with a slate, all / train / valid / test",
            " / ".join(splits),
            "114,672 / 93,466 / 9,557 / 11,649",
        ),
        # what could have been bought
        ("exposed items a visit, mean", f"{exposed['mean']:.1f}", "523"),
        (
            "exposed items a visit, 5 % and 95 %",
            f"{exposed['p5']:.0f} and {exposed['p95']:.0f}",
            "378 and 748",
        ),
        ("exposed pairs, million", f"{exposed['pairs'] / 1e6:.2f}", "59.98"),
        ("purchases among them", f"{summary['exposed_purchases']:,}", "234,370"),
        ("base rate, %", f"{100 * summary['base_rate']['all']:.3f}", "0.391"),
        (
            "visits with a purchase among them, %",
            f"{100 * summary['visits_with_purchase']:.1f}",
            "60.6",
        ),
        # logs of slates
        (
            "uniform CTR, %: all / train / valid / test",
            rate["uniform"],
            "0.41 / 0.41 / 0.37 / 0.43",
        ),
        ("policy CTR, %: all / train / valid / test", rate["policy"], "2.92 / 2.82 / 3.17 / 3.53"),
        (
            "policy slates with a purchase, %",
            f"{100 * logs['policy']['all']['with_response']:.1f}",
            "22.4",
        ),
        ("case-control rows", f"{logs['case_control']['all']['rows']:,}", "2,527,810"),
        ("case-control rows, test", f"{logs['case_control']['test']['rows']:,}", "254,360"),
    ]


if __name__ == "__main__":
    run_command(main, Config)
