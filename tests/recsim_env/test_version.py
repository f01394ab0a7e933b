"""The package knows its own version."""

from __future__ import annotations

import tomllib
from pathlib import Path

import recsim_env


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert recsim_env.__version__ == project["version"]
