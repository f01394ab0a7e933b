"""What the README and the documentation tell a reader to type works, and their links exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
    + [path for path in [ROOT / "benchmarks" / "README.md"] if path.exists()]
)
CODE = re.compile(r"(<!-- not run: .+ -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block of Python, and before it the remark that it is not run, with the reason."""
WITH_COMMANDS = {"docs/your-own/log.md"}
"""Pages whose blocks need the commands between them; `tests/test_own_log.py` runs both."""
PACKAGES = ("recsim_env", "policies", "agents", "benchmarks")
MODULE = re.compile(r"python -m ((?:benchmarks|agents|policies|recsim_env|examples|tests)[\w.]*\w)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_of(path: Path) -> str:
    """The blocks of a page one after the other, as a reader types them."""
    return "\n".join(code for skipped, code in CODE.findall(text_of(path)) if not skipped)


def run(code: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "a page's code prints what it found"


each_page = pytest.mark.parametrize("path", PAGES, ids=relative)


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if code_of(path) and relative(path) not in WITH_COMMANDS],
    ids=relative,
)
def test_the_code_of_a_page_runs_from_another_folder(path: Path, tmp_path: Path) -> None:
    run(code_of(path), tmp_path)


def test_the_readme_is_short_and_begins_with_ten_lines_of_code() -> None:
    assert len(README.splitlines()) <= 150
    ((_, first),) = CODE.findall(README)
    assert len([line for line in first.splitlines() if line.strip()]) <= 12


def test_the_headline_table_has_eight_rows_at_most() -> None:
    table = README.partition("<!-- table:headline -->\n")[2].partition("<!-- /table")[0]
    assert 2 + 4 <= len(table.splitlines()) <= 2 + 8


@each_page
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text_of(path), re.MULTILINE))
    assert named <= targets


def test_the_readme_names_the_two_commands() -> None:
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z][\w-]*)", README, re.MULTILINE))


@each_page
def test_modules_run_with_python_m_exist(path: Path) -> None:
    modules = {name for name in MODULE.findall(text_of(path)) if not name.endswith("NAME")}
    paths = {name: ROOT / name.replace(".", "/") for name in modules}
    missing = [
        name
        for name, module in sorted(paths.items())
        if not module.with_suffix(".py").exists() and not (module / "__main__.py").exists()
    ]
    assert missing == []


@each_page
def test_links_and_pictures_exist(path: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    links = set(re.findall(r"\]\(([^)#\s]+)", prose)) | set(re.findall(r'src="([^"]+)"', prose))
    local = {link for link in links if not re.match(r"[a-z]+:", link)}
    assert [link for link in sorted(local) if not (path.parent / link).exists()] == []


def test_the_architecture_names_existing_files() -> None:
    tree = text_of(ROOT / "docs" / "architecture.md").partition("## The tree")[2].partition("##")[0]
    files = [
        *(path for name in PACKAGES for path in (ROOT / name).rglob("*")),
        *(ROOT / "tests").rglob("*"),
    ]
    known = {path.name for path in files}
    names = {part.rstrip("/").split("/")[-1] for part in re.findall(r"[\w/]+(?:\.py|/)", tree)}
    assert sorted(names - known - {"NAME"} - set(PACKAGES)) == []


def test_every_page_is_in_the_table_of_contents() -> None:
    docs = ROOT / "docs"
    listed = {"index"}
    for path in docs.rglob("*.md"):
        for block in re.findall(r"^```{toctree}\n(.*?)^```$", text_of(path), re.M | re.S):
            entries = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {
                (path.parent / entry).relative_to(docs).as_posix().strip() for entry in entries
            }
    pages = {path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.md")}
    assert pages == listed


def test_the_version_is_told_once() -> None:
    import recsim_env

    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    citation = text_of(ROOT / "CITATION.cff")
    changes = text_of(ROOT / "CHANGELOG.md")
    assert recsim_env.__version__ == project["version"]
    assert f"version: {project['version']}\n" in citation
    assert f"## {project['version']}" in changes
