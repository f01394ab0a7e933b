"""The headline table quotes the summaries of the results, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.lab import headline
from benchmarks.lab.headline import Row, table
from benchmarks.lab.run import RESULTS, ROOT


def figure(value: float, low: float | None, high: float | None) -> dict[str, float | int | None]:
    return {"value": value, "low": low, "high": high, "n": 3}


def test_a_row_shows_both_figures_with_their_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (
        Row("speed", "fast:ours", "theirs", "fast:theirs", 0, "docs/a.md"),
        Row("score", "fast:score", "1 is the best", None, 2, "docs/b.md"),
    )
    monkeypatch.setattr(headline, "ROWS", rows)
    (tmp_path / "fast").mkdir()
    found = {
        "ours": figure(12345.6, 12000.0, 12700.4),
        "theirs": figure(99.5, None, None),
        "score": figure(0.987, 0.98, 0.99),
    }
    (tmp_path / "fast" / "summary.json").write_text(json.dumps(found))
    assert table(tmp_path).splitlines()[2:] == [
        "| speed | 12,346 [12,000, 12,700] | theirs: 100 | [a](docs/a.md) |",
        "| score | 0.99 [0.98, 0.99] | 1 is the best | [b](docs/b.md) |",
    ]


def test_every_row_has_a_result_and_a_page() -> None:
    assert len(headline.ROWS) <= 8
    assert len(table(RESULTS).splitlines()) == 2 + len(headline.ROWS)
    assert [row.page for row in headline.ROWS if not (ROOT / row.page).exists()] == []


def test_a_figure_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headline, "ROWS", (Row("a", "fast:lost", "b", None, 0, "docs/a.md"),))
    with pytest.raises(FileNotFoundError):
        table(tmp_path)
    (tmp_path / "fast").mkdir()
    (tmp_path / "fast" / "summary.json").write_text("{}")
    with pytest.raises(KeyError, match="lost"):
        table(tmp_path)
