"""Searches that several workers make together, with the trials in a journal that all of them read.

Each worker proposes the next trial by what all have found so far (Optuna's `JournalStorage`, a file
on the shared folder). Which trials there are then depends on who is faster, so that two such
searches find different parameters; `benchmarks.lab.tuning.trials_of` is a search that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from benchmarks.lab.cells import alone
from benchmarks.lab.tuning import Parameters, suggest
from policies.parameters import Range

WORKER = "worker"
"""What trials tell of who makes them."""


def joint_study(path: Path, seed: int = 0) -> optuna.Study:
    """The search whose trials lie in a journal; a new one where there is none.

    Args:
        path: The file of the journal.
        seed: The seed of this worker's sampler.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        study_name=path.stem,
        direction="maximize",
        load_if_exists=True,
    )


def search_together(
    path: Path,
    value: Callable[[Parameters, int], float],
    search: Mapping[str, Range],
    first: Sequence[Mapping[str, float]],
    trials: int,
    seed: int,
    worker: int,
) -> None:
    """Make trials until all are made or being made by others.

    A trial of this worker that was cut off is made again; a worker's number has one process.

    Args:
        path: The file of the journal.
        value: Gives the value of some parameters in the trial of a number.
        search: The range of every parameter.
        first: Settings that are tried first.
        trials: The number of trials of all workers together.
        seed: The seed of the search.
        worker: The number of this worker, 0 or more.
    """
    study = joint_study(path, seed + worker)
    while True:
        with alone(path):
            if not study.get_trials(deepcopy=False):
                for start in first:
                    study.enqueue_trial(dict(start))
            _give_up(study, worker)
            if len(made(study)) + len(_running(study)) >= trials:
                return
            trial = study.ask()
            trial.set_user_attr(WORKER, worker)
            parameters = suggest(trial, search)
        study.tell(trial, value(parameters, trial.number))


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
