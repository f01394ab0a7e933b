"""Kill commands and run them again.

python -m tests.kill [--commands train league] [--every] [--random 100]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro

from tests.kill.commands import COMMANDS, register_toys
from tests.kill.harness import Result, Trials


@dataclass(frozen=True)
class Config:
    """Kill commands, run them again, compare."""

    commands: tuple[str, ...] = tuple(COMMANDS)
    """Which commands."""
    every: bool = False
    """Before and after every file operation."""
    random: int = 50
    """Trials of one to three kills at random moments, operations and sizes of files."""
    seed: int = 0
    """Of what is random."""
    json: Path | None = None
    """File for the results."""


def trials_of(name: str, config: Config) -> Result:
    """All trials of a command."""
    with tempfile.TemporaryDirectory(prefix=f"kill-{name}-") as folder:
        trials = Trials(COMMANDS[name], Path(folder).resolve())
        plans = list(trials.every_operation()) if config.every else []
        plans += trials.at_random(config.random, random.Random(f"{config.seed} {name}"))
        for number, kills in enumerate(plans, 1):
            trials.play(kills)
            if sys.stderr.isatty():
                print(f"\r{name}: {number} of {len(plans)}", end="", file=sys.stderr)
    return trials.result


def main(config: Config) -> None:
    """The exit status is 1 where a trial did not go on, or ended otherwise."""
    torch.set_num_threads(1)
    register_toys()
    results = []
    print(f"{'command':12} trials killed  kills resumed  equal seconds")
    for name in config.commands:
        began = time.perf_counter()
        result = trials_of(name, config)
        results.append(result)
        counts = (result.trials, result.killed, result.kills, result.resumed, result.equal)
        spent = round(time.perf_counter() - began)
        print(
            f"{name:12} "
            + " ".join(
                f"{n:{w}}" for n, w in zip((*counts, spent), (6, 6, 6, 7, 6, 7), strict=True)
            )
        )
        for failure in result.failures:
            print(f"  {failure}")
        sys.stdout.flush()
    if config.json is not None:
        config.json.write_text(json.dumps([asdict(result) for result in results]))
    sys.exit(0 if all(result.passed for result in results) else 1)


if __name__ == "__main__":
    main(tyro.cli(Config))
