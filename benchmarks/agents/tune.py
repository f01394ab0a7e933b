"""Choose the re-rankers' parameters.

    python -m benchmarks.agents.tune

Every tuned policy gets the same number of trials on the same episodes, of training shoppers and of
seeds that no report uses. Run again, it goes on where it stopped. `benchmarks.agents.compare` reads
the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import tyro

from benchmarks.lab.checked import Checked
from benchmarks.lab.run import OUTPUT, Run
from benchmarks.lab.settings import remember_settings, settings_of
from agents.places import TUNING_SEED, seeds
from benchmarks.lab.where import Where
from benchmarks.lab.statistics import Estimate
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.tuning import PARAMETERS, policy_trials, starts
from policies import POLICIES
from recsim_env.files import locked, write_json


@dataclass(frozen=True)
class Config(Checked):
    """Choose the parameters of every policy that has some."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "policies": [name for name, spec in POLICIES.items() if spec.search()]
    }

    world: World = field(default_factory=World)
    """Environment, populations and device to tune in."""
    policies: tuple[str, ...] = tuple(name for name, spec in POLICIES.items() if spec.search())
    """Names of the policies to tune. By default, all that have parameters."""
    trials: int = 16
    """Number of settings tried for each policy, its defaults among them; the same for all to be
    fair."""
    episodes: int = 128
    """Number of episodes of a trial."""
    batch: int = 128
    """Number of shoppers served at a time, which changes the speed alone."""
    seed: int = 0
    """Seed of the search."""
    work: Path = Path("runs/tune")
    """Folder of the trials so far, which are not made again; delete it to start anew."""
    output: Path = OUTPUT / PARAMETERS.parent.name / PARAMETERS.name
    """File that the parameters are written to, with the other results beside it, for `--parameters`
    of `benchmarks.agents.compare`."""


def check_work(config: Config) -> None:
    """Remember what the trials in `config.work` have in common.

    Raises:
        ValueError: If they were made with other settings.
    """
    remember_settings(config.work, settings_of(config, only=("world", "episodes", "seed")))


def main(config: Config) -> None:
    """Tune every policy; save the parameters, and the trials as rows.

    Raises:
        RuntimeError: If another process tunes in the same folder.
        ValueError: If the environment cannot be used, or the folder holds other trials.
    """
    config.world.check()
    with locked(config.work):
        _tune(config)


def _tune(config: Config) -> None:
    # Where policies are tuned.
    use_threads(config.world.threads)
    simulator = config.world.simulator("train")
    inputs = config.world.inputs(simulator)
    check_work(config)
    run = Run("tune", config, results=config.output.parent.parent)

    # The trials of every policy; a later one may start from the best of those before it.
    best: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    for name in config.policies:
        study = policy_trials(
            config.work / f"{name}.trials.json",
            name,
            POLICIES[name],
            inputs,
            simulator,
            episodes=seeds(TUNING_SEED, config.episodes),
            first=starts(name, POLICIES[name], best),
            trials=config.trials,
            batch=config.batch,
            seed=config.seed,
        )
        best[name] = dict(study.best_params)
        rows += [
            {
                "policy": name,
                "trial": trial.number,
                "return": trial.value,
                "parameters": json.dumps(trial.params),
            }
            for trial in study.trials
            if trial.value is not None
        ]

    # What they brought.
    lines = [
        {
            "policy": name,
            "parameters": ", ".join(f"{key} {value:.3g}" for key, value in parameters.items()),
            "return, default": next(row["return"] for row in rows if row["policy"] == name),
            "return, tuned": max(row["return"] for row in rows if row["policy"] == name),
        }
        for name, parameters in best.items()
    ]
    table = markdown(lines, digits=4)
    print(table)
    summary = {
        f"{line['policy']}/return": Estimate(line["return, tuned"], n=config.episodes)
        for line in lines
    }
    run.save(pl.DataFrame(rows), summary=summary, table=table)
    write_json(config.output, best)
    print(f"Next: python -m benchmarks.agents.compare --parameters {config.output}")


if __name__ == "__main__":
    main(tyro.cli(Config))
