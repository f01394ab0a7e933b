"""Tables and figures in the README and in `docs/`, filled from `benchmarks/results`.

A markdown file holds the table of a benchmark between `<!-- table:NAME -->` and
`<!-- /table:NAME -->`, and its figure between `<!-- figure:NAME -->` and `<!-- /figure:NAME -->`.
`python -m benchmarks.report` fills all of these blocks; a test compares them with the results.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from benchmarks.lab import headline
from benchmarks.lab.provenance import ROOT
from benchmarks.lab.run import NAME, RESULTS
from recsim_env.files import write_text

_MARK = re.compile(
    rf"^<!-- (?P<close>/?)(?P<kind>table|figure):(?P<name>{NAME}) -->$", re.MULTILINE
)


def documents(root: Path = ROOT) -> list[Path]:
    """The README and the files below `docs/`, sorted, as far as they hold a block."""
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [path for path in files if path.exists() and _MARK.search(_read(path))]


def fill(text: str, folder: Path = ROOT, *, results: Path = RESULTS) -> str:
    """Make every block of a document anew; the block of a benchmark that was not run says so.

    Args:
        text: The document.
        folder: The folder that the document lies in, to which the figures' paths are relative.
        results: The folder of the results.

    Returns:
        The document with its blocks filled. Filling it twice changes nothing.

    Raises:
        ValueError: If a block is not closed by its own mark.
    """
    marks = list(_MARK.finditer(text))
    pieces, end = [], 0
    for opening, closing in zip(marks[::2], [*marks[1::2], None], strict=False):
        expected = opening[0].replace("<!-- ", "<!-- /")
        if opening["close"] or closing is None or closing[0] != expected:
            after = "nothing" if closing is None else closing[0]
            raise ValueError(
                f"The block {opening[0]} is followed by {after}, not by its closing mark."
            )
        block = _block(opening["kind"], opening["name"], folder, results)
        pieces += [text[end : opening.end()], "\n", block]
        end = closing.start()
    return "".join([*pieces, text[end:]])


def fill_file(path: Path, *, results: Path = RESULTS) -> tuple[int, bool]:
    """Fill the blocks of a file in place; returns how many there are, and whether any changed."""
    before = _read(path)
    after = fill(before, path.parent, results=results)
    if after != before:
        write_text(path, after)
    return sum(1 for mark in _MARK.finditer(after) if not mark["close"]), after != before


def command(name: str) -> str:
    """The command that measures a benchmark, for a person to type."""
    scripts = sorted((ROOT / "benchmarks").glob(f"*/{name}.py"))
    path = scripts[0] if scripts else ROOT / "benchmarks" / name
    return f"python -m {'.'.join(path.relative_to(ROOT).with_suffix('').parts)}"


def _block(kind: str, name: str, folder: Path, results: Path) -> str:
    if (kind, name) == ("table", "headline"):
        return headline.table(results)
    source = results / name / ("table.md" if kind == "table" else "figure.png")
    if not source.exists():
        return f"*Not measured yet: `{command(name)}` writes this {kind}.*\n"
    if kind == "table":
        return _read(source)
    return f"![{name}]({Path(os.path.relpath(source, folder)).as_posix()})\n"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
