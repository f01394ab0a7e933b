"""The commands of the installed package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recsim_env import fitting
from recsim_env.__main__ import main
from recsim_env.commands import check_log
from recsim_env.files import locked
from recsim_env.fitting import Fitted
from recsim_env.verdicts.findings import Findings
from recsim_env.verdicts.verdict import Verdict
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


def test_ctrl_c_is_one_line(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check_log, "run", stopped)
    assert main(["check-log", *files]) == 130
    assert capsys.readouterr().err.strip().startswith("Stopped by Ctrl-C.")


def test_a_folder_that_another_process_writes_is_one_sentence(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shop"
    with locked(output):
        assert main(["fit", *files, "--columns", "user=uid", "--output", str(output)]) == 2
    assert f"{output} is being written by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("holds", "told"),
    [
        (True, 'Next: recsim_env.register("shop/Mine-v0", "{}")'),
        (None, 'Next: recsim_env.register("shop/Mine-v0", "{}")'),
        (False, 'recsim_env.register("shop/Mine-v0", "{}", anyway=True)'),
    ],
)
def test_what_is_said_to_come_next_works(
    holds: bool | None,
    told: str,
    files: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shop = tmp_path / "my shöp"
    findings = Findings("shop", {}, [Verdict("clicks", holds, "Clicks: so.")], [])
    fitted = Fitted(shop, findings, 30.0, ())
    monkeypatch.setattr(fitting, "fit", lambda *_, **__: fitted)
    assert main(["fit", *files, "--output", str(shop)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(told.format(shop))
    assert last.startswith("Next: ") == (holds is not False)


def test_it_runs_as_a_module(files: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recsim_env", "check-log", *files, "--columns", "user=uid"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "about 1,000 are needed" in done.stdout
