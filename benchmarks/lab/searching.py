"""Searches for parameters as cells, and those that several workers make together.

Several workers have their trials in a journal that all of them read: each proposes the next one by
what all have found so far (Optuna's `JournalStorage`, a file on the shared folder). Which trials
there are then depends on who is faster, so that two such searches find different parameters;
`benchmarks.lab.tuning.trials_of` is a search that does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from agents.places import Site
from benchmarks.lab.cells import alone
from benchmarks.lab.playing import Task
from benchmarks.lab.tuning import PLACE, Search, suggest, trials_of
from recsim_env.files import read_json

WORKER = "worker"
"""What trials tell of who makes them."""


def joint_study(path: Path, seed: int = 0) -> optuna.Study:
    """The search whose trials lie in a journal; the seed is that of this worker's sampler."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        study_name=path.stem,
        direction="maximize",
        load_if_exists=True,
    )


def search_together(path: Path, search: Search, worker: int) -> None:
    """Make trials until all are made or being made by others.

    A trial of this worker that was cut off is made again; a worker's number has one process. The
    trials of all workers lie in one journal.
    """
    study = joint_study(path, search.seed + worker)
    while True:
        with alone(path):
            if not study.get_trials(deepcopy=False):
                for start in search.first:
                    study.enqueue_trial(dict(start))
            _give_up(study, worker)
            if len(made(study)) + len(_running(study)) >= search.trials:
                return
            trial = study.ask()
            trial.set_user_attr(WORKER, worker)
            parameters = suggest(trial, search.ranges)
        study.tell(trial, search.value(parameters, trial.number))


def made(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that have a value, in the order in which they began."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _running(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _give_up(study: optuna.Study, worker: int) -> None:
    """Give up the trials that an earlier process of this worker left, and put them first again."""
    for trial in _running(study):
        if trial.user_attrs.get(WORKER, worker) == worker:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)


@dataclass(frozen=True)
class Searches:
    """Searches for the parameters of several players, each by one worker or by several together."""

    folder: Path
    """Folder of the trials."""
    trials: int
    """Number of trials of each."""
    searchers: int
    """Number of workers that make one search together."""
    names: tuple[str, ...]
    """Names of the players, in their order."""
    open: Callable[[], Site]
    """Opens the place in which they are tuned."""

    def search(self, name: str, site: Site) -> Search:
        """What is searched for, in the opened place."""
        raise NotImplementedError

    def tasks(self, name: str) -> list[Task]:
        """The search of a player as cells, one for each worker."""
        done = partial(self.done, name)
        if self.searchers == 1:
            return [self.task(name, partial(self.study, name), done)]
        return [
            self.task(f"{name}-worker{at}", partial(self._join, name, at), done)
            for at in range(self.searchers)
        ]

    def task(self, cell: str, play: Callable[[Site], object], done: Callable[[], bool]) -> Task:
        """A cell in the place."""
        return Task(cell, self.folder / "unfinished" / cell, PLACE, self.open, play, done)

    def done(self, name: str) -> bool:
        """Whether all trials of a player are there."""
        if self.searchers > 1:
            return len(made(joint_study(self._journal(name)))) >= self.trials
        path = self._kept(name)
        return path.exists() and len(read_json(path)) >= self.trials

    def study(self, name: str, site: Site) -> optuna.Study:
        """The search of a player, made here where it is not made yet."""
        if self.searchers > 1:
            return joint_study(self._journal(name))
        return trials_of(self._kept(name), self.search(name, site))

    def _join(self, name: str, worker: int, site: Site) -> None:
        search_together(self._journal(name), self.search(name, site), worker)

    def _kept(self, name: str) -> Path:
        """The file of the trials that one worker made."""
        return self.folder / f"{name}.trials.json"

    def _journal(self, name: str) -> Path:
        """The file of the trials that several workers made."""
        return self.folder / f"{name}.journal"
