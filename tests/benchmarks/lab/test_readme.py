"""The tables and figures of the README and the docs are the files that the benchmarks wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lab.provenance import ROOT
from benchmarks.lab.readme import command, documents, fill, fill_file
from benchmarks.lab.run import Run
from benchmarks.lab.tables import markdown
from tests.benchmarks.lab.test_run import ROWS, Config, figure


def test_blocks_are_filled_and_filling_twice_changes_nothing(tmp_path: Path) -> None:
    results = tmp_path / "results"
    Run("compare", Config(), results=results).save(
        ROWS, summary={}, table=markdown(ROWS), figure=figure()
    )
    text = (
        "above\n<!-- table:compare -->\nold\n<!-- /table:compare -->\n"
        "between `<!-- table:NAME -->`\n<!-- figure:compare -->\n<!-- /figure:compare -->\n"
        "<!-- table:later -->\n<!-- /table:later -->\nbelow\n"
    )
    filled = fill(text, tmp_path, results=results)
    assert filled == (
        f"above\n<!-- table:compare -->\n{markdown(ROWS)}<!-- /table:compare -->\n"
        "between `<!-- table:NAME -->`\n<!-- figure:compare -->\n"
        "![compare](results/compare/figure.png)\n<!-- /figure:compare -->\n<!-- table:later -->\n"
        "*Not measured yet: `python -m benchmarks.later` writes this table.*\n"
        "<!-- /table:later -->\nbelow\n"
    )
    assert fill(filled, tmp_path, results=results) == filled


@pytest.mark.parametrize(
    "text",
    [
        "<!-- table:a -->\n",
        "<!-- /table:a -->\n",
        "<!-- table:a -->\n<!-- /table:b -->\n",
        "<!-- table:a -->\n<!-- table:b -->\n<!-- /table:b -->\n<!-- /table:a -->\n",
        "<!-- table:a -->\n<!-- /figure:a -->\n",
    ],
)
def test_blocks_that_do_not_close(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The block"):
        fill(text, tmp_path, results=tmp_path)


def test_a_figure_is_named_from_where_the_document_lies(tmp_path: Path) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs" / "results"
    Run("compare", Config(), results=results).save(ROWS, summary={}, table="", figure=figure())
    filled = fill("<!-- figure:compare -->\n<!-- /figure:compare -->\n", docs, results=results)
    assert "\n![compare](../../results/compare/figure.png)\n" in filled


def test_every_document_with_blocks_is_found_and_filled_once(tmp_path: Path) -> None:
    (tmp_path / "docs" / "results").mkdir(parents=True)
    block = "<!-- table:nowhere -->\n<!-- /table:nowhere -->\n"
    for name, text in (("README.md", block), ("docs/results/a.md", 2 * block), ("docs/b.md", "")):
        (tmp_path / name).write_text(text)
    found = documents(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "README.md",
        "docs/results/a.md",
    ]
    assert [fill_file(path, results=tmp_path) for path in found] == [(1, True), (2, True)]
    assert [fill_file(path, results=tmp_path) for path in found] == [(1, False), (2, False)]


def test_a_benchmark_that_was_not_run_is_told_by_its_command() -> None:
    assert command("league") == "python -m benchmarks.agents.league"
    assert command("throughput") == "python -m benchmarks.speed.throughput"


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_document_is_what_the_results_say(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == fill(text, path.parent), "run `python -m benchmarks.report`"
