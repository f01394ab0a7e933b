"""The Dockerfile, which is built nowhere, names what the rest of the repository names."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CI = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_python_is_one_that_the_tests_run_with() -> None:
    (version,) = re.findall(r"^FROM python:([\d.]+)-slim$", DOCKERFILE, re.MULTILINE)
    (tested,) = re.findall(r"python: \[(.*)\]", CI)
    assert f'"{version}"' in tested
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = project["requires-python"].removeprefix(">=").split(".")
    assert [int(part) for part in version.split(".")] >= [int(part) for part in least]


def test_every_version_is_that_of_the_constraints() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    named = re.findall(r"[\w-]+==[\w.]+", DOCKERFILE)
    assert named == ["torch==2.13.0"]
    assert set(named) <= set(pins)


def test_torch_is_the_build_that_the_tests_run_with() -> None:
    (here,) = re.findall(r'TORCH="(.*)"', DOCKERFILE)
    (there,) = re.findall(r"^  TORCH: (.*)$", CI, re.MULTILINE)
    assert here == there
    assert "\nTORCH ?= torch==2.13.0\n" in MAKEFILE, "so that the environment is heard"


def test_it_runs_the_two_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    first = readme.split("```sh\n")[1].split("```")[0]
    commands = [line.partition("#")[0].strip() for line in first.splitlines()]
    assert commands == ["make demo", "make test"]
    assert DOCKERFILE.rstrip().endswith('CMD ["make", "demo"]')
    assert "docker run --rm recsim-env make test" in DOCKERFILE
    for command in (*commands, "make setup"):
        assert re.search(rf"^{command.removeprefix('make ')}:", MAKEFILE, re.MULTILINE)


def test_nothing_that_is_needed_is_left_out_of_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    left_out = [line for line in lines if line and not line.startswith("#")]
    needed = ("recsim_env", "policies", "agents", "benchmarks", "examples", "docs", "tests", ".git")
    files = ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
    for name in (*needed, *files):
        assert (ROOT / name).exists()
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in left_out), name
    ignored = {name.rstrip("/") for name in (ROOT / ".gitignore").read_text().split()}
    assert {".venv", ".cache", "build", "dist", "runs"} <= ignored
    assert {".venv", ".cache", "build", "dist", "runs"} <= set(left_out)
