"""Every command that consists of cells plays them on a Ray cluster as it does by itself."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from benchmarks.lab.options import Cells
from benchmarks.lab.playing import play_cells
from recsim_env.files import read_json
from tests.benchmarks.test_commands import CONFIGURED
from tests.support.small_commands import SMALL

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
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of all commands, with the logs and rankers that they share."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """This process has one thread, as a worker of the cluster has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("command", SMALL)
def test_rows_of_a_cluster_equal_those_of_one_process(
    command: str, cluster: str, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(caches)
    small = SMALL[command]
    for where, ray in (("here", None), ("ray", cluster)):
        tasks = small.tasks(small.config(Path(where) / command))
        assert play_cells(tasks, Cells(threads=1, ray=ray), where) == []
    here, there = (files_in(caches / where / command) for where in ("here", "ray"))
    assert here.keys() == there.keys()
    assert len(here) >= 2
    for name, path in here.items():
        assert rows_in(path) == rows_in(there[name]), name
    assert not list((caches / "ray" / command).rglob("unfinished"))


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
