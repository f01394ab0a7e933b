"""Searches of several workers: as many trials as were asked for, and none is lost."""

from __future__ import annotations

import multiprocessing
from functools import partial
from pathlib import Path

import pytest

from benchmarks.lab.options import Searchers
from benchmarks.lab.searching import joint_study, made, search_together
from benchmarks.lab.tuning import Search
from policies.parameters import Range

SEARCH = {"x": Range(-1.0, 1.0)}
FIRST = [{"x": 0.5}]


def value(parameters: dict[str, float], number: int) -> float:
    return -((parameters["x"] - 0.25) ** 2)


def search(path: Path, trials: int, worker: int) -> None:
    search_together(path, Search(value, SEARCH, FIRST, trials), worker)


def test_workers_share_the_trials(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=partial(search, path, 12), args=(at,)) for at in range(2)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(120)
        assert one.exitcode == 0
    found = made(joint_study(path))
    assert len(found) == 12
    assert found[0].params == FIRST[0]
    assert {trial.user_attrs["worker"] for trial in found} <= {0, 1}
    assert [trial.value for trial in found] == [value(trial.params, 0) for trial in found]
    search(path, 12, 0)  # nothing is left
    assert len(made(joint_study(path))) == 12


def test_a_trial_that_was_cut_off_is_made_again_by_its_worker_alone(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    tried: list[float] = []

    def cut_off(parameters: dict[str, float], number: int) -> float:
        tried.append(parameters["x"])
        if len(tried) == 3:
            raise KeyboardInterrupt
        return value(parameters, number)

    with pytest.raises(KeyboardInterrupt):
        search_together(path, Search(cut_off, SEARCH, FIRST, 5), 1)
    search(path, 5, 0)  # counts the trial that may still run elsewhere
    assert len(made(joint_study(path))) == 4
    search(path, 5, 1)
    found = made(joint_study(path))
    assert len(found) == 5
    assert tried[-1] == found[-1].params["x"]


def test_several_search_together_on_a_cluster_only() -> None:
    assert Searchers(ray="auto", searchers=2).searchers == 2
    with pytest.raises(ValueError, match=r"^searchers is 2, but it must be 1 where no cluster is"):
        Searchers(searchers=2)
