"""Ten kills of every command that goes on after one; `make kill` does all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kill.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on_and_ends_as_the_unbroken_one(name: str, tmp_path: Path) -> None:
    """In a process of its own: who forks must not have started threads."""
    found = tmp_path / "found.json"
    asked = [
        sys.executable,
        "-m",
        "tests.kill",
        "--commands",
        name,
        "--random",
        "10",
        "--json",
        str(found),
    ]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        asked, cwd=ROOT, env=os.environ | one_thread, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(found.read_text())
    assert result["trials"] == result["resumed"] == result["equal"] == 10
    assert result["killed"] >= 5
