"""Choose the re-rankers' parameters.

    python -m benchmarks.agents.tune

Every tuned policy gets the same number of trials on the same episodes, of training shoppers and of
seeds that no report uses. Run again, it goes on where it stopped. The parameters are those of one
place: they lie in `runs/tune/<place>/parameters.json`, where `benchmarks.agents.compare` finds
those of its own. `--ray` searches for the policies at once on a cluster, and `--searchers` has
several workers make each search together.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from agents.places import Site
from agents.places.site import is_slow
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Crew, Results, Searchers
from benchmarks.lab.playable import playable
from benchmarks.lab.playing import Places, Task, check_cluster, end, play_cells
from benchmarks.lab.run import Report, Run
from benchmarks.lab.searching import Searches
from benchmarks.lab.settings import remember_settings, settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.tuning import (
    PARAMETERS,
    PLACE,
    SPECIAL_CASES,
    TUNED,
    Search,
    policy_search,
    starts,
)
from benchmarks.lab.where import Here, Where
from policies import POLICIES
from recsim_env.estimates import Estimate
from recsim_env.files import locked, write_json

EPISODES, SLOW_EPISODES = 128, 24
"""Number of episodes of a trial by default, and where shoppers are served one by one."""


@dataclass(frozen=True)
class Config(Results, Searchers):
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


@dataclass(frozen=True)
class Tuning(Searches):
    """The searches for the parameters of some policies, a later one from the best before it."""

    config: Config
    """How they are made."""
    episodes: int
    """Number of episodes of a trial."""

    def stages(self) -> list[list[Task]]:
        """Searches as cells: those of a stage are made at once, after those of earlier stages."""
        each = [self.tasks(name) for name in self.names]
        return each if self.searchers > 1 else [[task for (task,) in each]]

    def search(self, name: str, site: Site) -> Search:
        """What is searched for, from the defaults and the tuned special case on."""
        case, before = SPECIAL_CASES.get(name, ""), self.names[: self.names.index(name)]
        best = {case: dict(self.study(case, site).best_params)} if case in before else {}
        simulator, first = site.simulator("train"), starts(name, POLICIES[name], best)
        told = (first, self.trials, self.episodes, self.config.batch, self.config.seed)
        return policy_search(name, site.inputs_for(simulator), simulator, *told)


def main(config: Config) -> None:
    """Tune every policy; save the parameters, and the trials as rows.

    Raises:
        ConnectionError: If the cluster cannot be reached.
        RuntimeError: If another process tunes in the same folder.
        ValueError: If the environment cannot be used, or the folder holds other trials.
    """
    check_cluster(config.ray)
    config.place.check()
    with locked(config.folder):
        _tune(config)


def _tune(config: Config) -> None:
    # Where policies are tuned.
    use_threads(config.place.threads)
    site = config.place.open()
    simulator = site.simulator("train")
    episodes = config.episodes or (SLOW_EPISODES if is_slow(simulator) else EPISODES)
    check_work(config, episodes)
    run = Run("tune", config, results=config.results)

    # The trials of every policy.
    names = playable(config.policies, site, simulator.shopper)
    searches = (config.folder, config.trials, config.searchers, tuple(names), config.place.open)
    tuning = Tuning(*searches, config, episodes)
    crew = Crew(ray=config.ray, threads=config.place.threads, device=config.place.device)
    places = Places()
    places.get(PLACE, lambda: site)
    for tasks in tuning.stages():
        end(play_cells(tasks, crew, "tune", places))
    best: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    for name in names:
        study = tuning.study(name, site)
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
    summary = {
        f"{line['policy']}/return": Estimate(line["return, tuned"], n=episodes) for line in lines
    }
    folder = run.publish(pl.DataFrame(rows), Report(markdown(lines, digits=4), summary))
    for path in (folder, config.folder):
        write_json(path / PARAMETERS.name, {PLACE: config.place.about, **best})
    print(f"parameters: {config.folder / PARAMETERS.name}")
    print(f"Next: python -m benchmarks.agents.compare{config.place.arguments}")


if __name__ == "__main__":
    run_command(main, Config)
