"""A name is given once; only the code that took it may take it again."""

from __future__ import annotations

import functools
import linecache
import warnings
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from recsim_env.registry import Registry

CELL = "def margin():\n    return {}\n"


def run(code: str, file: str, module: str = "__main__") -> Callable[[], Any]:
    """The function `margin` that a file or a cell of a notebook defines."""
    space: dict[str, Any] = {"__name__": module}
    scope = compile(code, file, "exec")
    function_code = next(part for part in scope.co_consts if isinstance(part, CodeType))
    margin = FunctionType(function_code, space, "margin")
    margin.__module__ = module
    return margin


def test_a_part_is_found_under_its_name_and_names_keep_their_order() -> None:
    registry: Registry[int] = Registry("toy")
    registry.add("b", 2, run)
    registry.add("a", 1, run)
    assert list(registry) == ["b", "a"]
    assert registry.find("toy", "a") == 1
    with pytest.raises(ValueError, match=r"toy is 'c', but it must be one of 'a', 'b'\."):
        registry.find("toy", "c")


def test_a_name_that_is_unknown_is_told_with_those_that_are_known() -> None:
    registry: Registry[int] = Registry("toy")
    registry.add("b", 2, run)
    registry.add("a", 1, run)
    with pytest.raises(KeyError, match=r"'c' is no toy; there are \['a', 'b'\]\."):
        registry["c"]
    assert registry.get("c") is None
    assert "c" not in registry


@pytest.mark.parametrize("name", [None, 3, "", [], {}, object(), ("a",), b"a", True])
def test_a_name_is_a_text(name: Any) -> None:
    registry: Registry[int] = Registry("toy")
    with pytest.raises(ValueError, match=r"name is .*, but it must be a text"):
        registry.add(name, 1, run)
    assert not registry


@pytest.mark.parametrize("maker", [5, None, "run", [run]])
def test_a_part_is_made_of_a_function_or_a_class(maker: Any) -> None:
    registry: Registry[int] = Registry("toy")
    with pytest.raises(TypeError, match=r"The toy 'a' is .*, but it must be a function or a class"):
        registry.add("a", 1, maker)
    assert not registry


def test_the_same_part_may_come_twice_in_silence() -> None:
    registry: Registry[Any] = Registry("toy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.add("run", run, run)
        registry.add("run", run, run)


@pytest.mark.parametrize(
    ("first", "again"), [("/tmp/cells/1.py", "/tmp/cells/2.py"), ("<cell 1>", "<cell 2>")]
)
def test_a_cell_that_runs_again_replaces_its_part_with_a_warning(first: str, again: str) -> None:
    """A notebook names each version of a cell after its text; no such file is on the disk."""
    registry: Registry[Callable[[], Any]] = Registry("reward term")
    old, new = run(CELL.format(1), first), run(CELL.format(2), again)
    registry.add("margin", old, old)
    with pytest.warns(UserWarning, match="reward term 'margin' is replaced"):
        registry.add("margin", new, new)
    assert registry["margin"]() == 2


def test_a_file_that_runs_again_replaces_its_part_and_another_file_does_not(tmp_path: Path) -> None:
    files = [tmp_path / "one.py", tmp_path / "two.py"]
    for file in files:
        file.write_text(CELL.format(1))
    registry: Registry[Callable[[], Any]] = Registry("reward term")
    old, new, other = (run(CELL.format(n), str(file)) for n, file in enumerate([files[0], *files]))
    registry.add("margin", old, old)
    with pytest.warns(UserWarning, match="replaced"):
        registry.add("margin", new, new)
    with pytest.raises(
        ValueError, match=r"name is 'margin', but a reward term of that name .*one\.py"
    ):
        registry.add("margin", other, other)
    assert registry["margin"] is new


def test_another_function_does_not_take_a_name() -> None:
    registry: Registry[Any] = Registry("toy")
    registry.add("x", run, run)
    for other in (
        run(CELL.format(1), "<cell>"),
        functools.partial(len, ()),
        ModuleType,
        linecache.getline,
    ):
        with pytest.raises(
            ValueError, match=r"registered already, by tests\.recsim_env\.test_registry\.run"
        ):
            registry.add("x", other, other)
    assert registry["x"] is run


def test_a_name_that_was_removed_is_free_again() -> None:
    registry: Registry[Any] = Registry("toy")
    registry.add("x", run, run)
    del registry["x"]
    registry.add("x", len, len)
    assert registry["x"] is len
