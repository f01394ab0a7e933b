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
