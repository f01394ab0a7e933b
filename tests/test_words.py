"""Docstrings are sentences: few begin with "Of" or "Its", and few have three words or fewer."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("recsim_env", "policies", "agents", "benchmarks")
MOST_FRAGMENTS, MOST_SHORT = 8, 25
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those below fields and constants included."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text
        body = node.body if isinstance(node, (ast.Module, ast.ClassDef)) else []
        for before, after in itertools.pairwise(body):
            if (
                isinstance(before, (ast.Assign, ast.AnnAssign))
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                yield after.lineno, after.value.value


def all_docstrings() -> list[tuple[str, str]]:
    """Place and text of every docstring of the four packages."""
    return [
        (f"{path.relative_to(ROOT)}:{line}", text)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
    ]


def is_fragment(text: str) -> bool:
    return text.split()[:1] in (["Of"], ["Its"])


def is_short(text: str) -> bool:
    return len(text.split()) <= 3


def test_few_docstrings_begin_with_of_or_its() -> None:
    found = [
        f"{place} {text.splitlines()[0]}" for place, text in all_docstrings() if is_fragment(text)
    ]
    assert len(found) <= MOST_FRAGMENTS, "\n".join(found)


def test_few_docstrings_have_three_words_or_fewer() -> None:
    found = [f"{place} {text}" for place, text in all_docstrings() if is_short(text)]
    assert len(found) <= MOST_SHORT, "\n".join(found)


def test_docstrings_of_fields_and_functions_are_seen() -> None:
    code = '''
"""A."""
X = 1
"""B."""
class C:
    """D."""
    x: int
    """E."""
def f():
    """F."""
    y = 1
    """No docstring."""
'''
    assert sorted(text for _, text in docstrings(ast.parse(code))) == ["A.", "B.", "D.", "E.", "F."]


@pytest.mark.parametrize(
    ("text", "fragment", "short"),
    [
        ("Of the search.", True, True),
        ("Its fields, by name.", True, False),
        ("Offers of a shop in a week.", False, False),
    ],
)
def test_fragments_are_seen(text: str, fragment: bool, short: bool) -> None:
    assert (is_fragment(text), is_short(text)) == (fragment, short)
