"""Every command that consists of cells plays them on a Ray cluster as it does by itself."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.lab.options import Cells
from benchmarks.lab.playing import play_cells
from recsim_env.files import read_json
from tests.benchmarks.test_commands import CONFIGURED
from tests.support.small_commands import SMALL

EVERY_COMMAND = "RECSIM_EVERY_COMMAND_ON_RAY"
"""Environment variable with which every command is played on a cluster in the tests."""
OTHERS = {"league", "frontier", "transfer", "tune", "tune_agents"}
"""Commands with `--ray` whose cells have tests of their own."""


def takes_ray(command: str) -> bool:
    names = [field.name for field in fields(importlib.import_module(command).Config)]
    return "ray" in names


ON_RAY = [command for command in CONFIGURED if takes_ray(command)]


def rows_in(path: Path) -> Any:
    """The rows of a file in digits, so that NaN is NaN, but for the minutes that they took."""
    rows = pl.read_parquet(path).to_dicts() if path.suffix == ".parquet" else read_json(path)
    if not isinstance(rows, list):
        return rows
    kept = [row for row in rows if row.get("what") != "minutes"]
    return [{key: str(value) for key, value in row.items() if key != "minutes"} for row in kept]


def files_in(work: Path) -> dict[str, Path]:
    """The files of rows and trials of a command, but for those of models."""
    found = {path.relative_to(work): path for path in work.rglob("*.*")}
    return {
        str(name): path
        for name, path in found.items()
        if path.suffix in (".parquet", ".json")
        and not {"shop", "shopper", "model"} & set(name.parts)
    }


@pytest.fixture(scope="module")
def played(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which all commands were played, by this process and on a cluster."""
    folder = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for where, ray in (("here", None), ("ray", cluster)):
            tasks = [
                task
                for command, small in SMALL.items()
                for task in small.tasks(small.config(Path(where) / command))
            ]
            assert play_cells(tasks, Cells(threads=1, ray=ray), where) == []
        yield folder


@pytest.mark.skipif(
    not os.environ.get(EVERY_COMMAND),
    reason=f"plays every command twice, for minutes: set {EVERY_COMMAND}; "
    "tests/benchmarks/lab/test_playing.py tests clusters themselves",
)
@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL)
def test_rows_of_a_cluster_equal_those_of_one_process(command: str, played: Path) -> None:
    here, there = (files_in(played / where / command) for where in ("here", "ray"))
    assert here.keys() == there.keys()
    assert len(here) >= 2
    for name, path in here.items():
        assert rows_in(path) == rows_in(there[name]), name
    assert not list((played / "ray" / command).rglob("unfinished"))


def test_every_command_with_cells_is_played_in_small() -> None:
    short = {command.rpartition(".")[2] for command in ON_RAY}
    assert short >= OTHERS
    assert short - OTHERS <= {command.rpartition(".")[2] for command in SMALL} | {"sardine"}


@pytest.mark.parametrize("command", ON_RAY)
def test_a_head_that_nobody_reaches_is_one_sentence(
    command: str, nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(command)
    config = replace(module.Config(), ray=nowhere)
    with pytest.raises(
        ConnectionError, match=rf"^ray is '{nowhere}', but no head answers at "
    ) as e:
        module.main(config)
    assert len(str(e.value).splitlines()) == 1
    assert not list(tmp_path.rglob("rows.csv"))
