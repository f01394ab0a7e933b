"""Build the Complete Journey logs: `python -m benchmarks.data.build_log`. Takes about a minute and 2.5 GB, once.

Prints the counts of the build beside those of the first measurement (another program, 22 Nov 2026).
A folder that holds tables which this command did not write is never written into.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from recsim_env.logs.complete_journey import (
    LOG_FILES,
    SUMMARY_FILE,
    UNFINISHED_FILE,
    build,
    is_built,
)

DEFAULT = Path(".cache/complete_journey")
"""Where the log lies unless another folder is named; the only one that is built without having been
asked for."""


@dataclass(frozen=True)
class Config:
    """Build the logs, unless the folder holds them already."""

    folder: Path = DEFAULT
    """Folder that the tables are written into. It must be new, empty, or hold a log that this
    command built."""
    seed: int = 0
    """Seed of the random choice of slates, cold items and held-out shoppers."""
    force: bool = False
    """Build the log again even where the folder holds one that this version built with this
    seed."""


def main(config: Config) -> None:
    """Build if need be, then print the counts.

    Raises:
        FileExistsError: If the folder holds files that are not of a build.
    """
    console = Console()
    if config.force or not is_built(config.folder, config.seed):
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
    summary = json.loads((config.folder / SUMMARY_FILE).read_text())
    table = Table("what", "here", "first measured")
    for what, here, before in rows(summary):
        table.add_row(what, here, before)
    console.print(table)


def ready(folder: Path, console: Console, *, output: Path | None = None) -> Path:
    """The folder of a log that can be read, which is never written into; only `DEFAULT` is built where it is missing.

    Args: output, the folder that the caller writes into.

    Raises:
        FileNotFoundError: If tables of another folder are missing, or where its build is not
            finished; the sentence names the command that builds a log.
        ValueError: If `output` lies in the folder.
    """
    if output is not None and output.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"output is {output}, but it must lie outside of the log, {folder}, which is read only."
        )
    if folder == DEFAULT and not folder.exists():
        console.print(
            f"{folder} is missing: the Complete Journey log is built there, once, in about a minute."
        )
        with console.status("reading") as status:
            build(folder, progress=status.update)
    missing = [name for name in LOG_FILES if not (folder / name).is_file()]
    if missing or (folder / UNFINISHED_FILE).exists():
        what = f"lacks {', '.join(missing)}" if missing else "holds a build that is not finished"
        raise FileNotFoundError(
            f"{folder} {what}: write the tables of recsim_env/logs/schema.py there, or build the Complete Journey log "
            f"by python -m benchmarks.data.build_log --folder {folder}."
        )
    return folder


def rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was counted, here and in the first measurement (facts/data.md, section 2)."""
    logs, exposed, qualifying = summary["logs"], summary["exposed"], summary["qualifying"]
    rate = {
        name: " / ".join(f"{100 * part['rate']:.2f}" for part in log.values())
        for name, log in logs.items()
    }
    splits = [f"{qualifying[split]:,}" for split in ("all", "train", "valid", "test")]
    return [
        ("visits", f"{summary['visits']:,}", "123,631"),
        ("households", f"{summary['households']:,}", "2,467"),
        ("catalogue share of lines, %", f"{100 * summary['catalogue_line_share']:.1f}", "54.8"),
        ("distinct texts", f"{summary['texts']:,}", "1,781"),
        (
            "visits with a slate, all / train / valid / test",
            " / ".join(splits),
            "114,672 / 93,466 / 9,557 / 11,649",
        ),
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
    main(tyro.cli(Config))
