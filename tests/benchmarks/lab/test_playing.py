"""Cells are played once, whoever plays them, and go on where a process was killed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab import playing
from benchmarks.lab.options import Cells
from benchmarks.lab.playing import Outcome, Outlook, Places, Task, end, play_cells, there
from recsim_env.files import locked, read_json, write_json
from tests.benchmarks.lab.test_locks import held
from tests.support.cells import KILLED, trainings

HERE = Cells(threads=1)


def task(work: Path, name: str, play: Callable[[Any], object] | None = None) -> Task:
    path = work / f"{name}.json"
    folder = work / "unfinished" / name
    return Task(
        name, folder, "place", lambda: 7, play or partial(write_json, path), partial(there, path)
    )


def test_missing_cells_are_played_once_and_leave_nothing_unfinished(tmp_path: Path) -> None:
    tasks = [task(tmp_path, name) for name in "ab"]
    (tmp_path / "unfinished" / "a").mkdir(parents=True)
    (tmp_path / "unfinished" / "a" / "checkpoint").write_text("some")
    write_json(tmp_path / "b.json", "before")
    assert play_cells(tasks, HERE, "test") == []
    assert read_json(tmp_path / "a.json") == 7  # what `open` gave
    assert read_json(tmp_path / "b.json") == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_cell_that_fails_stops_no_other_and_keeps_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(opened: int) -> None:
        (tmp_path / "unfinished" / "a" / "checkpoint").write_text("some")
        raise KeyError("made up")

    tasks = [task(tmp_path, "a", fail), task(tmp_path, "b")]
    failed = play_cells(tasks, HERE, "test")
    assert failed == ["a"]
    assert (tmp_path / "b.json").exists()
    assert (tmp_path / "unfinished" / "a" / "checkpoint").exists()
    told = capsys.readouterr().err
    assert "a failed: Traceback" in told
    assert "KeyError: 'made up'" in told
    with pytest.raises(SystemExit, match=r"^1 cells failed: a$"):
        end(failed)
    end([])


def test_a_cell_that_another_process_plays_is_left_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = task(tmp_path, "a"), task(tmp_path, "b")
    with held(one.folder) as process:
        assert play_cells([one, other], HERE, "test") == []
    assert not one.done()
    assert other.done()
    assert f"by process {process} on" in capsys.readouterr().err


def test_places_are_opened_once_and_the_oldest_goes_first() -> None:
    opened: list[str] = []
    places = Places(2)

    def opening(name: str) -> str:
        opened.append(name)
        return name

    for name in "abacab":  # c replaces b, which was used before a
        assert places.get(name, partial(opening, name)) == name
    assert opened == ["a", "b", "c", "b"]


def test_what_is_left_takes_the_mean_of_what_was_played() -> None:
    outlook = Outlook(5, workers=2)
    assert outlook.minutes is None
    outlook.note(Outcome("a", 2.0))
    outlook.note(Outcome("b", 4.0))
    assert outlook.minutes == 3 * (2.0 + 4.0) / 2
    assert str(outlook) == "about 9.0 minutes of computation left, 4.5 on 2 workers"
    outlook.note(Outcome("c", 100.0, failure="it broke"))
    outlook.note(Outcome("d", 100.0, left="another process"))
    assert outlook.minutes == 1 * 3.0  # neither says how long a cell takes
    assert str(outlook).endswith("3.0 on 2 workers")  # one cell has one worker


# ---- Ray -----------------------------------------------------------------------------------------


def test_a_head_that_does_not_answer_is_one_sentence(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = nowhere
    with pytest.raises(ConnectionError, match=rf"^ray is '{address}', but no head answers at"):
        play_cells([task(tmp_path, "a")], Cells(ray=address), "test")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConnectionError, match=rf"^ray is 'auto', but no head answers at {address}"):
        play_cells([task(tmp_path, "a")], Cells(ray="auto"), "test")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(
        ConnectionError, match=r"^ray is 'auto', but this machine belongs to no Ray"
    ):
        play_cells([task(tmp_path, "a")], Cells(ray="auto"), "test")
    for wrong in ("head", "ray://head:1", "head:port"):
        with pytest.raises(ValueError, match=rf"^ray is '{wrong}', but it must be auto or HOST:PO"):
            play_cells([task(tmp_path, "a")], Cells(ray=wrong), "test")
    assert not list(tmp_path.glob("*.json"))


def test_without_ray_the_sentence_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^ray is 'auto', but Ray is not installed: run pip inst"):
        play_cells([task(tmp_path, "a")], Cells(ray="auto"), "test")


@pytest.mark.slow
def test_rows_of_a_cluster_whose_worker_is_killed_equal_those_of_one_process(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert play_cells(trainings(here, 4), HERE, "here") == []
    assert play_cells(trainings(there, 4, kills=1), replace(HERE, ray=cluster), "ray") == []
    assert "minutes of computation left, 0.0 on 2 workers" in capsys.readouterr().err
    for seed in range(4):
        rows = f"cells/seed{seed}.json"
        assert read_json(there / rows) == read_json(here / rows)  # bit for bit

    # The cell of the killed worker went on from its checkpoint.
    before = read_json(there / "cells" / KILLED)
    after = read_json(there / "cells" / "seed1.seen.json")
    whole = read_json(here / "cells" / "seed1.seen.json")
    assert before == whole[:4]
    assert after == whole[-len(after) :]
    assert len(after) < len(whole)
    assert not (there / "unfinished").exists()

    # What is too large for every machine is refused, and what fails is told by its name.
    with pytest.raises(ValueError, match="no machine there has 3 processors and 0 GPUs"):
        play_cells(trainings(tmp_path / "large", 1), Cells(ray=cluster, threads=3), "ray")
    failing = task(tmp_path, "fails", partial(int, "no number"))
    assert play_cells([failing], replace(HERE, ray=cluster), "ray") == ["fails"]
    assert "fails failed: " in capsys.readouterr().err


def test_a_worker_of_another_commit_or_without_the_folder_refuses(tmp_path: Path) -> None:
    one = task(tmp_path, "a")
    found = playing.play_on_worker(one, tmp_path / "nowhere", "abc", 1, 1)
    assert f"does not see the folder {tmp_path / 'nowhere'}" in str(found.failure)
    found = playing.play_on_worker(one, tmp_path, "abc", 1, 1)
    assert "but the command has abc." in str(found.failure)
    assert not one.done()


def test_a_worker_waits_for_a_cell_that_another_process_plays(tmp_path: Path) -> None:
    one = task(tmp_path, "a")
    with locked(one.folder):
        waiting = threading.Thread(
            target=playing.play_task, args=(one, Places()), kwargs={"wait": True}
        )
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert not one.done()
    waiting.join(20)
    assert one.done()
