"""Every command is listed, none imports another one, and every option says what it does."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from tyro._docstrings import get_field_docstring

from benchmarks.lab.run import RESULTS
from tests.test_layout import ROOT, imported, parse, sources

README = ROOT / "benchmarks" / "README.md"
STARTS = {
    "benchmarks.agents.demo": {"benchmarks.agents.train", "benchmarks.agents.compare"},
    "benchmarks.speed.check": {
        "benchmarks.speed.latency",
        "benchmarks.speed.ppo_speed",
        "benchmarks.speed.throughput",
    },
}
"""Commands that consist of others; `benchmarks.again` asks all of them for their reports."""
AGAIN = "benchmarks.again"
WORDS = 4
"""Least number of words of an option's help."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def is_command(path: Path) -> bool:
    """Whether a file does something when it is run."""
    tests = [ast.unparse(node.test) for node in parse(path).body if isinstance(node, ast.If)]
    return "__name__ == '__main__'" in tests


COMMANDS = sorted(module_of(path) for path in sources("benchmarks") if is_command(path))
CONFIGURED = [name for name in COMMANDS if name != "benchmarks.report"]


def test_every_command_is_listed_and_every_listed_one_is_there() -> None:
    listed = re.findall(r"^\| `(benchmarks\.[a-z_.]+)` \|", README.read_text(), re.MULTILINE)
    assert sorted(listed) == COMMANDS
    assert {
        module_of(path) for path in sources("benchmarks") if "\ndef main(" in path.read_text()
    } == set(COMMANDS)


def test_every_table_of_a_command_is_one_of_the_results() -> None:
    lines = re.findall(
        r"^\| `benchmarks\.(?:[a-z_]+\.)*([a-z_]+)` \|.*\| `([a-z_]+)` \|$",
        README.read_text(),
        re.MULTILINE,
    )
    assert len(lines) > 10
    for command, table in lines:
        assert command == table
        assert (ROOT / "benchmarks" / "results" / table / "table.md").exists()


@pytest.mark.parametrize("path", sources("benchmarks"), ids=module_of)
def test_no_command_is_imported(path: Path) -> None:
    own = module_of(path)
    names = {name for name, _ in imported(path)} | _members(path)
    found = (names & set(COMMANDS)) - STARTS.get(own, set())
    assert found == set() or own == AGAIN


def _members(path: Path) -> set[str]:
    """What `from package import module` could mean."""
    return {
        f"{node.module}.{alias.name}"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def test_a_command_that_is_imported_is_seen() -> None:
    assert "benchmarks.agents.train" in _members(ROOT / "benchmarks" / "agents" / "demo.py")


def options(config: Any, seen: set[type]) -> Iterator[tuple[type, str]]:
    """Every field of a configuration and of those inside it."""
    if config in seen:
        return
    seen.add(config)
    for field in dataclasses.fields(config):
        yield config, field.name
        kind = get_type_hints(config)[field.name]
        if dataclasses.is_dataclass(kind):
            yield from options(kind, seen)


@pytest.mark.parametrize("command", CONFIGURED)
def test_every_option_says_in_a_sentence_what_it_does(command: str) -> None:
    for config, name in options(importlib.import_module(command).Config, set()):
        told = get_field_docstring(config, name, ()) or ""
        assert len(told.split()) >= WORDS, f"{config.__name__}.{name}: {told!r}"
        assert told.endswith((".", "?", "!")), f"{config.__name__}.{name}: {told!r}"
        assert told[0].isupper() or told[0] in "`0123456789", f"{config.__name__}.{name}: {told!r}"


@pytest.mark.parametrize("command", [name for name in CONFIGURED if name != AGAIN])
def test_no_command_writes_over_committed_results_by_default(command: str) -> None:
    config = importlib.import_module(command).Config()
    told = {name: getattr(config, name, None) for name in ("results", "work", "output")}
    inside = [name for name, path in told.items() if path and RESULTS in path.absolute().parents]
    assert inside == []
    assert told["results"] != RESULTS
