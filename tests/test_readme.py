"""What the README tells a reader to type works, and what it points to exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=[f"block-{i}" for i in range(len(BLOCKS))])
def test_python_blocks_run_from_another_folder(code: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "a README block prints what it found"


def test_there_are_blocks_to_run() -> None:
    assert len(BLOCKS) >= 2


def test_the_first_block_has_about_ten_lines() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 12


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", README))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_modules_run_with_python_m_exist() -> None:
    modules = set(
        re.findall(r"python -m ((?:benchmarks|agents|policies|recsim_env)\.[a-z_.]+)", README)
    )
    missing = [
        name for name in sorted(modules) if not (ROOT / f"{name.replace('.', '/')}.py").exists()
    ]
    assert missing == []


def test_relative_links_and_pictures_exist() -> None:
    links = set(re.findall(r"\]\(([^)#]+)\)", README)) | set(re.findall(r'src="([^"]+)"', README))
    local = {link for link in links if not re.match(r"[a-z]+:", link)}
    assert "LICENSE" in local
    assert [link for link in sorted(local) if not (ROOT / link).exists()] == []
