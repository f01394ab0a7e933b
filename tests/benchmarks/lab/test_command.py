"""What is wrong with the input is one sentence; a fault of the program has its traceback."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from benchmarks.agents import compare, train, tune
from benchmarks.lab.command import run_command
from recsim_env import files, make_simulator


@dataclass(frozen=True)
class Config:
    """Do nothing."""


def test_errors_on_purpose_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    (tmp_path / "file").touch()
    cases: list[tuple[Callable[[Config], Any], str]] = [
        (lambda _: files.read_object(tmp_path / "none.json"), "No such file or directory"),
        (lambda _: files.write_text(tmp_path / "file" / "b", ""), "could not be written"),
        (lambda _: make_simulator("none/Shop-v0"), "id is 'none/Shop-v0'"),
        (lambda _: gymnasium.spec("a b c"), "Malformed environment ID"),
        (lambda _: train.Config(visits=0), "visits is 0"),
    ]
    for act, told in cases:
        with pytest.raises(SystemExit) as ended:
            run_command(act, Config)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert told in said
        assert len(said.splitlines()) == 1


def test_ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run_command(stopped, Config)
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip().startswith("Stopped by Ctrl-C.")


def test_a_fault_has_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    faults: list[tuple[Callable[[Config], Any], type[Exception]]] = [
        (lambda _: torch.zeros(2) @ torch.zeros(3), RuntimeError),
        (lambda _: int("x"), ValueError),
    ]
    for fault, kind in faults:
        with pytest.raises(kind):
            run_command(fault, Config)


def test_what_to_type_next_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "train_all", lambda _: None)
    train.main(train.Config(output=Path("my runs")))
    watch, then = map(shlex.split, capsys.readouterr().out.splitlines())
    assert watch[-2:] == ["--logdir", "my runs"]
    assert then[-4:] == ["--trained", "my runs", "--agents", "composer"]


@pytest.mark.parametrize("command", [train, tune, compare])
def test_commands_end_with_a_sentence(
    command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--env", "/nope"])
    with pytest.raises(SystemExit):
        run_command(command.main, command.Config)
    said = capsys.readouterr().err
    assert said.startswith("env is '/nope', but there is no such folder")
    assert len(said.splitlines()) == 1
