"""Files are replaced whole or not at all; a folder has one writer."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
from filelock import FileLock
from safetensors import safe_open

from recsim_env import files, tables


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "text.txt"
    files.write_text(path, "one")
    files.write_text(path, "two")
    assert path.read_text() == "two"
    assert [child.name for child in path.parent.iterdir()] == ["text.txt"]


def test_a_write_that_fails_leaves_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    files.write_text(path, "one")

    def half() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert path.read_text() == "one"
    assert [child.name for child in tmp_path.iterdir()] == ["text.txt"]


def test_a_full_disk_is_one_sentence_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    files.write_text(path, "one")
    with (
        pytest.raises(
            OSError,
            match=r"could not be written \(.*\); what stood there before is whole: '.*text.txt'",
        ) as found,
        files.replacing(path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert found.value.errno == errno.ENOSPC
    assert path.read_text() == "one"


def test_a_folder_that_cannot_be_written_to_is_one_sentence_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    under = tmp_path / "file" / "under"
    sentence = r"the folder cannot be written to \(Not a directory\): '.*file/under'$"
    with pytest.raises(NotADirectoryError, match=sentence):
        files.made(under)
    with pytest.raises(NotADirectoryError, match=sentence), files.locked(under):
        pass

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    sentence = r"the folder cannot be written to \(Permission denied\): '.*{}'$"
    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", denied)
        with (
            pytest.raises(PermissionError, match=sentence.format("closed")),
            files.locked(tmp_path / "closed"),
        ):
            pass
    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(PermissionError, match=sentence.format("new")):
        files.made(tmp_path / "new")


def test_json_knows_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_tensors_and_their_description_lie_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, {"a": torch.arange(6).view(2, 3).t()}, {"kind": "toy"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"kind": "toy"}
        assert file.get_tensor("a").tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = pl.DataFrame({"a": range(100)})
    parts = pl.concat([rows[:30], rows[30:]], rechunk=False)
    tables.write_parquet(tmp_path / "a", rows)
    tables.write_parquet(tmp_path / "b", parts)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


HOLD = """
import sys, time
from recsim_env import files
with files.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_the_first_is_and_a_killed_one_holds_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / ".left.1.0123abcd.tmp").touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert not (tmp_path / ".left.1.0123abcd.tmp").exists()
        busy = rf"is being written by process {first.pid} on .*: wait for it, or use"
        with pytest.raises(RuntimeError, match=busy), files.locked(tmp_path):
            pass
        first.send_signal(signal.SIGKILL)
    with files.locked(tmp_path):
        assert json.loads((tmp_path / files.HOLDER).read_text())["process"] == os.getpid()
    assert not (tmp_path / files.HOLDER).exists()


def test_a_json_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    files.write_json(path, {"a": [1, 2]})
    assert files.read_json(path) == files.read_object(path) == {"a": [1, 2]}
    for content in ("", '{"a": [1, ', "\x00", "[" * 100_000):
        path.write_text(content)
        for read in (files.read_json, files.read_object):
            with pytest.raises(
                ValueError, match=r"config\.json is no readable JSON \(.*\): it is cut"
            ):
                read(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"config\.json is no readable JSON"):
        files.read_json(path)
    path.write_text("[]")
    assert files.read_json(path) == []
    with pytest.raises(ValueError, match=r"config\.json is \[\], but it must be a JSON object"):
        files.read_object(path)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "missing.json")


def test_temporary_names_are_those_that_are_swept(tmp_path: Path) -> None:
    for name in ("a", ".lock.json", "a.b.parquet"):
        with files.replacing(tmp_path / name) as temporary:
            temporary.touch()
            found = files.TEMPORARY.fullmatch(temporary.name)
            assert found is not None
            assert int(found["process"]) == os.getpid()


def test_a_folder_that_is_built_is_there_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def killed() -> None:
        with files.building(target) as part:
            part.mkdir()
            (part / "half").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert not target.exists()
    with files.building(target) as part:
        assert not part.exists()  # what was left half done is gone
        part.mkdir()
        (part / "whole").write_text("b")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in target.iterdir()] == ["whole"]


class Killed(BaseException):
    """The process ends here."""


def tree(folder: Path) -> dict[str, str]:
    """Name -> text of every file in a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


OLD = {"about": "old", "model/weights": "old", "model1/weights": "old", "notes": "mine"}
OPERATIONS = 23
"""Moves and removals of `refill`."""
NEW = {"about": "new", "model/weights": "new", "report": "new"}


def filled(folder: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        files.write_text(folder / name, text)


def refill(folder: Path) -> None:
    with files.refilling(folder, folder / "aside", "about", lambda at: [at / "model1"]) as part:
        filled(part, NEW)


def test_what_a_folder_holds_is_replaced_as_a_whole(tmp_path: Path) -> None:
    filled(tmp_path, OLD)
    filled(tmp_path, {"aside/kept": "unfinished"})
    refill(tmp_path)
    assert tree(tmp_path) == NEW | {"notes": "mine"}
    assert not (tmp_path / "aside").exists()

    def failed() -> None:
        with files.refilling(tmp_path, tmp_path / "aside", "about") as part:
            files.write_text(part / "model" / "weights", "half")
            raise Killed

    with pytest.raises(Killed):
        failed()
    assert tree(tmp_path) == NEW | {"notes": "mine"}
    assert not (tmp_path / "aside").exists()


@pytest.mark.parametrize("number", range(OPERATIONS + 1))
def test_a_process_killed_while_contents_change_loses_nothing(number: int, tmp_path: Path) -> None:
    """Killed before its n-th move or removal, whichever that is."""
    filled(tmp_path, OLD)
    filled(tmp_path, {"aside/kept": "unfinished"})
    left = [number]

    def counted(name: str, patch: pytest.MonkeyPatch) -> None:
        real = getattr(os, name)

        def called(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*arguments, **options)

        patch.setattr(os, name, called)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "unlink", "rmdir"):
            counted(name, patch)
        try:
            refill(tmp_path)
        except Killed:
            killed = True
        else:
            killed = False
    assert killed is (number < OPERATIONS)

    # One of both is whole somewhere, and the next writer ends what was begun.
    places = [tmp_path, *(tmp_path / "aside" / name for name in (files.FRESH, files.GONE))]
    whole = [tree(place) for place in places if place.is_dir()]
    gone = {name: text for name, text in OLD.items() if name != "notes"}
    assert any(one.items() >= NEW.items() or one.items() >= gone.items() for one in whole)
    files.refill(tmp_path, tmp_path / "aside", "about", lambda at: [at / "model1"])
    found = {name: text for name, text in tree(tmp_path).items() if not name.startswith("aside/")}
    assert found in (OLD, NEW | {"notes": "mine"})
    refill(tmp_path)
    assert tree(tmp_path) == NEW | {"notes": "mine"}
    assert not (tmp_path / "aside").exists()


def test_a_full_disk_is_told_whatever_a_library_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed() -> None:
        with files.replacing(tmp_path / "table.parquet"):
            raise OSError(0, "parquet: File out of specification")

    with pytest.raises(OSError, match="out of specification"):
        failed()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    told = r"could not be written \(No space left on device\): '.*table.parquet'"
    with pytest.raises(OSError, match=told):
        failed()
