"""Two processes in one folder: the second one is told who the first one is."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.agents import demo, league, train, tune, tune_agents
from benchmarks.data import finetune, fit_market
from benchmarks.lab import league_cells, markets
from benchmarks.lab.logs import Log
from benchmarks.lab.markets import MarketWorld
from recsim_env import files

HOLD = """
import contextlib, sys, time
from recsim_env import files
with contextlib.ExitStack() as all:
    for folder in sys.argv[1:]:
        all.enter_context(files.locked(folder))
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held(*folders: Path) -> Iterator[int]:
    """Another process that writes into some folders; its number."""
    command = [sys.executable, "-c", HOLD, *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other.pid
        other.kill()


COMMANDS: dict[str, Callable[[Path], object]] = {
    "demo": lambda folder: demo.main(demo.Config(output=folder)),
    "finetune": lambda folder: finetune.main(finetune.Config(output=folder)),
    "fit_market": lambda folder: fit_market.main(fit_market.Config(output=folder)),
    "train": lambda folder: train.train(train.Config(output=folder.parents[1]), 0),
    "tune": lambda folder: tune.main(tune.Config(work=folder.parent)),
    "tune_agents": lambda folder: tune_agents.main(tune_agents.Config(work=folder)),
}
FOLDERS = {
    "train": "composer/seed0",
    "tune": "completejourney-v0",
}
LEAGUE = league.Config(contenders=("uniform",), runs=(0,), places=("market-v0-world0",))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder, and the process that holds a folder of each command in it."""
    path = tmp_path_factory.mktemp("work")
    (cell,) = league_cells.cells(replace(LEAGUE, work=path / "league"))
    cells = cell.unfinished(replace(LEAGUE, work=path / "league"))
    with held(cells, *(path / name / FOLDERS.get(name, "") for name in COMMANDS)) as process:
        yield path, process


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_process_is_told_who_holds_the_folder(
    name: str, work: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "ready", lambda folder, console, outputs: folder)
    monkeypatch.setattr(Log, "load", lambda folder: None)  # reads no log
    path, process = work
    folder = path / name / FOLDERS.get(name, "")
    with pytest.raises(
        files.FolderInUse,
        match=rf"{folder} is being written by process {process} on .* since .*: wait",
    ):
        COMMANDS[name](folder)
    assert {child.name for child in folder.iterdir()} == {".lock", ".lock.json"}


def test_a_cell_that_another_process_plays_is_left_to_it(
    work: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    path, process = work
    config = replace(LEAGUE, work=path / "league")
    assert league.play_missing(config) == []
    told = capsys.readouterr().err
    assert f"is being written by process {process} on" in told
    assert "The cell is left to that process." in told
    assert not (path / "league" / "cells").exists()


def test_a_market_that_another_process_builds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = MarketWorld(slates=100)
    folder = tmp_path / world.name

    class Built(Exception):
        """The rest is another test's."""

    made: list[Path] = []

    def logged(folder: Path, *_: object) -> None:
        made.append(folder)
        raise Built

    monkeypatch.setattr(markets, "logged", logged)
    with held(folder) as process:
        ended = threading.Timer(
            1.0, lambda: subprocess.run(["kill", "-9", str(process)], check=True)
        )
        ended.start()
        with pytest.raises(Built):
            world.open(tmp_path, "cpu")
    assert made == [folder]
    assert f"is being written by process {process} on" in (told := capsys.readouterr().err)
    assert told.endswith("waiting for it.\n")


def test_temporary_files_of_the_living_stay_where_no_lock_says_otherwise(tmp_path: Path) -> None:
    below = tmp_path / "cells"
    below.mkdir()
    with held(tmp_path / "other") as alive:
        living, dead = (
            below / f".a.parquet.{process}.0123abcd.tmp" for process in (alive, 999_999_999)
        )
        names = (
            ".vim.tmp",
            ".a.tmp",
            ".a.999999999.tmp",
            ".a.999999999.xyz.tmp",
            "a.1.0123abcd.tmp",
            ".a.999999999@another-machine.0123abcd.tmp",
        )
        foreign = [below / name for name in names]
        for path in (living, dead, *foreign):
            path.touch()
        files.sweep(tmp_path)
        assert sorted(below.iterdir()) == sorted([living, *foreign])
        with files.locked(tmp_path):
            assert sorted(below.iterdir()) == sorted([living, *foreign])
        with files.locked(below):
            assert not living.exists()
            assert all(path.exists() for path in foreign[:-1])
