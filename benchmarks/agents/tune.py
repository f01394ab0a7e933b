"""Choose the re-rankers' parameters.

    python -m benchmarks.agents.tune

Every tuned policy gets the same number of trials on the same episodes, of training shoppers and of
seeds that no report uses. Run again, it goes on where it stopped. The parameters are those of one
place: they lie in `runs/tune/<place>/parameters.json`, where `benchmarks.agents.compare` finds
those of its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from agents.places import TUNING_SEED, seeds
from agents.places.site import is_slow
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Results
from benchmarks.lab.playable import playable
from benchmarks.lab.run import Run
from benchmarks.lab.settings import remember_settings, settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.tuning import PARAMETERS, PLACE, TUNED, policy_trials, starts
from benchmarks.lab.where import Here, Where
from policies import POLICIES
from recsim_env.estimates import Estimate
from recsim_env.files import locked, write_json

EPISODES, SLOW_EPISODES = 128, 24
"""Number of episodes of a trial by default, and where shoppers are served one by one."""


@dataclass(frozen=True)
class Config(Results):
    """Choose the parameters of every policy that has some."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "policies": [name for name, spec in POLICIES.items() if spec.search()]
    }

    place: Here = field(default_factory=Where)
    """Environment, log and ranker to tune with."""
    policies: tuple[str, ...] = tuple(name for name, spec in POLICIES.items() if spec.search())
    """Names of the policies to tune. By default, all that have parameters."""
    trials: int = 16
    """Number of settings tried for each policy, its defaults among them; the same for all to be
    fair."""
    episodes: int | None = None
    """Number of episodes of a trial. By default it is 128, and 24 in environments of others, whose
    shoppers are served one by one."""
    batch: int = 128
    """Number of shoppers served at a time, which changes the speed alone."""
    seed: int = 0
    """Seed of the search."""
    work: Path = TUNED
    """Folder of the trials so far, which are not made again, and of the parameters, for each place
    in a folder of its own; delete it to start anew."""

    @property
    def folder(self) -> Path:
        """The folder of the place."""
        return self.work / self.place.name


def check_work(config: Config, episodes: int) -> None:
    """Remember what the trials in the folder of the place have in common.

    Raises:
        ValueError: If they were made with other settings.
    """
    told = settings_of(config, only=("place", "seed"))
    remember_settings(config.folder, told | {"episodes": episodes})


def main(config: Config) -> None:
    """Tune every policy; save the parameters, and the trials as rows.

    Raises:
        RuntimeError: If another process tunes in the same folder.
        ValueError: If the environment cannot be used, or the folder holds other trials.
    """
    config.place.check()
    with locked(config.folder):
        _tune(config)


def _tune(config: Config) -> None:
    # Where policies are tuned.
    use_threads(config.place.threads)
    site = config.place.open()
    simulator = site.simulator("train")
    inputs = site.inputs_for(simulator)
    episodes = config.episodes or (SLOW_EPISODES if is_slow(simulator) else EPISODES)
    check_work(config, episodes)
    run = Run("tune", config, results=config.results)

    # The trials of every policy; a later one may start from the best of those before it.
    best: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    for name in playable(config.policies, site, simulator.shopper):
        study = policy_trials(
            config.folder / f"{name}.trials.json",
            name,
            POLICIES[name],
            inputs,
            simulator,
            episodes=seeds(TUNING_SEED, episodes),
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
        f"{line['policy']}/return": Estimate(line["return, tuned"], n=episodes) for line in lines
    }
    folder = run.save(pl.DataFrame(rows), summary=summary, table=table)
    told = {PLACE: config.place.about, **best}
    write_json(folder / PARAMETERS.name, told)
    write_json(config.folder / PARAMETERS.name, told)
    print(f"parameters: {config.folder / PARAMETERS.name}")
    print(f"Next: python -m benchmarks.agents.compare{config.place.arguments}")


if __name__ == "__main__":
    run_command(main, Config)
