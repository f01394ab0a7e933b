"""The page that leads from a log to an agent is typed in from top to bottom, and works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "your-own" / "log.md"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script() -> str:
    """The blocks of Python of the page as one script, in which the commands are run in between."""
    parts = []
    for language, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        command = f"__import__('subprocess').run(['bash', '-euc', {code!r}], check=True)\n"
        parts.append(code if language == "python" else command)
    return "\n".join(parts)


@pytest.mark.slow
def test_the_page_runs_without_another_line(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # as in a checkout
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", script()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "clicks     can be learned" in told
    # The example is learnable even with this budget: `register` would refuse it otherwise.
    assert "clicks: True. Clicks: the model ranks held-out clicks better" in told
    assert "order of policies: True." in told
    assert "report.html" in told
    # The agent and the table.
    assert re.search(r"above greedy CTR in the same \d+ episodes", told)
    assert all(name in told for name in ("uniform", "greedy", "composer"))
    slate = re.search(r"^items \[([\d\s]+)\]$", told, re.MULTILINE)
    assert slate is not None
    assert len(set(slate[1].split())) == 6
    assert (tmp_path / "shop" / "ranker.safetensors").is_file()
    assert list((tmp_path / "runs" / "train").rglob("events.out.tfevents.*"))


def test_the_page_shows_every_step_as_a_block() -> None:
    commands = " ".join(code for language, code in BLOCK.findall(PAGE.read_text()) if language)
    for step in ("check-log", "fit_log", "register(", "gym.make(", "agents.train", "agents.tune"):
        assert step in commands
    assert "agents.compare" in commands
    assert ".recommend(" in commands


def test_the_page_shows_the_first_rows_of_the_files() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, lines in (("shop_log.csv", 3), ("shop_items.csv", 2)):
        rows = (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()[:lines]
        assert "".join(f"    {row}\n" for row in rows) in page
