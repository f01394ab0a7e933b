"""Docstrings and links reach Sphinx in a form that it reads without a warning."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def recsim_docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.delitem(sys.modules, "recsim_docs", raising=False)
    return importlib.import_module("recsim_docs")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["Names `a_b` and `|x|`s."], ["Names \\ ``a_b``\\  and \\ ``|x|``\\ s."]),
        (["K * (K - 1) and last_ one"], ["K \\* (K - 1) and last\\_ one"]),
        (
            ["Shapes: B shoppers.", "    x*: (B,) `int`", "After."],
            ["Shapes: B shoppers.", "", "::", "", "    x*: (B,) `int`", "", "After."],
        ),
        (["Sum.", "", "Args:", "    x: a"], ["Sum.", "", "Args:", "    x: a"]),
        (
            ["- one", "  more", "    - two", "Text."],
            ["- one", "  more", "", "    - two", "", "Text."],
        ),
    ],
)
def test_docstrings_become_restructured_text(
    told: list[str], expected: list[str], recsim_docs: ModuleType
) -> None:
    assert recsim_docs.as_rest(told) == expected


def test_links_that_leave_the_folder_lead_to_the_repository(recsim_docs: ModuleType) -> None:
    page = ["[a](../../policies/cues.py) [b](../data.md) ![c](../../x.png) [d](https://e.f)"]
    app = SimpleNamespace(srcdir=DOCS, config=SimpleNamespace(source_url="https://x.y/z"))
    recsim_docs.link_to_source(app, "guides/policy", page)
    expected = "[a](https://x.y/z/blob/main/policies/cues.py) [b](../data.md) ![c](../../x.png)"
    assert page == [f"{expected} [d](https://e.f)"]


def test_a_colon_in_the_docstring_of_a_field_names_no_type(recsim_docs: ModuleType) -> None:
    napoleon = importlib.import_module("sphinx.ext.napoleon")
    lines = ["(B,) int64: the seeds", "of a batch."]
    recsim_docs.read_docstring(None, "attribute", "seed", None, None, lines)
    read = napoleon.GoogleDocstring(lines, napoleon.Config(), None, "attribute", "seed").lines()
    publish = importlib.import_module("docutils.core").publish_string
    shown = publish("\n".join(read), writer="pseudoxml").decode()
    assert [line.strip() for line in shown.splitlines()[1:]] == [
        "<paragraph>",
        "(B,) int64: the seeds",
        "of a batch.",
    ]
