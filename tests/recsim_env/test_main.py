"""The commands of the installed package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recsim_env.__main__ import main
from recsim_env.files import locked
from tests.support.plain_logs import catalog, log


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    log().rename({"user": "uid"}).write_csv(tmp_path / "log.csv")
    catalog().write_parquet(tmp_path / "items.parquet")
    return ["--log", str(tmp_path / "log.csv"), "--catalog", str(tmp_path / "items.parquet")]


def test_check_log_prints_the_report(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "out" / "report.json"
    assert main(["check-log", *files, "--columns", "user=uid", "--json", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "What can be learned" in printed
    assert json.loads(report.read_text())["counts"]["rows"] == 600


def test_wrong_input_is_one_sentence(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-log", *files, "--columns", "user=nobody"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("python -m recsim_env check-log: ")
    assert "column 'nobody': found no such column" in told.err
    assert told.err.count("\n") == 1


def test_the_report_is_written_over_no_input(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tmp_path / "log.csv").read_bytes()
    for over, told in (
        (files[1], "but that is read"),
        (files[3], "but that is read"),
        (str(tmp_path), "but that is a folder"),
    ):
        assert main(["check-log", *files, "--columns", "user=uid", "--json", over]) == 2
        said = capsys.readouterr()
        assert f"json is {over!r}, {told}" in said.err
        assert said.out == ""
    assert (tmp_path / "log.csv").read_bytes() == before


def test_a_folder_that_another_process_writes_is_one_sentence(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shop"
    with locked(output):
        assert main(["fit", *files, "--columns", "user=uid", "--output", str(output)]) == 2
    assert f"{output} is being written by" in capsys.readouterr().err


def test_it_runs_as_a_module(files: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recsim_env", "check-log", *files, "--columns", "user=uid"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "about 1,000 are needed" in done.stdout
