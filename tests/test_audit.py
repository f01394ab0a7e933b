"""`make audit` tells what is vulnerable, and says when nothing was looked at."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import urllib.error
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOUND = [
    {"name": "sound", "version": "1.0", "vulns": []},
    {"name": "old", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1", "3.0"]}]},
    {"name": "open", "version": "3.0", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]},
    {"name": "unknown", "skip_reason": "Dependency not found on PyPI"},
]


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(monkeypatch: pytest.MonkeyPatch, answer: object, found: str, status: int = 0) -> None:
    """Let the service answer so, or raise, and pip-audit print something."""

    def open_url(url: str, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(json.dumps(answer).encode())

    def run(command: list[str], **options: Any) -> Any:
        assert command[1:4] == ["-m", "pip_audit", "--requirement"]
        assert (ROOT / command[4]).is_file()
        return subprocess.CompletedProcess(command, status, found, "it broke")

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    monkeypatch.setattr("subprocess.run", run)


def test_what_is_vulnerable_or_was_not_audited_is_told(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, {"vulnerabilities": []}, json.dumps({"dependencies": FOUND}), status=1)
    assert audit.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "not found, and not audited: unknown",
        "vulnerable: old 2.0: PYSEC-1, fixed in 2.1, 3.0",
        "vulnerable: open 3.0: PYSEC-2, fixed in no version yet",
        "4 dependencies, 2 vulnerable",
    ]
    answers(monkeypatch, {"vulnerabilities": []}, json.dumps({"dependencies": FOUND[:1]}))
    assert audit.main() == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (urllib.error.URLError("no route"), "does not answer: no route."),
        (TimeoutError("timed out"), "does not answer: timed out."),
        ({"info": {}}, "tells of no vulnerabilities: it is a mirror."),
    ],
)
def test_a_silent_service_is_a_clear_skip(
    answer: object,
    why: str,
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(monkeypatch, answer, "never asked")
    assert audit.main() == 0
    told = capsys.readouterr().out
    assert told.startswith("SKIPPED: nothing was audited. https://pypi.org/pypi/pip/json ")
    assert told.rstrip().endswith(why)


def test_a_mirror_that_finds_nothing_is_a_clear_skip(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, {"vulnerabilities": []}, json.dumps({"dependencies": FOUND[-1:]}))
    assert audit.main() == 0
    told = "SKIPPED: nothing was audited. None of 1 dependencies was found.\n"
    assert capsys.readouterr().out == told


def test_a_broken_auditor_is_no_pass(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, {"vulnerabilities": []}, "", status=1)
    assert audit.main() == 2
    assert "pip-audit failed with status 1:\nit broke" in capsys.readouterr().err
