"""What this project adds to Sphinx: docstrings written as plain text, and links to source files.

Docstrings name things between single backticks and show samples as indented blocks. Pages link to
files outside docs/ by their relative path, which a reader of the repository can follow.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]

_SECTION = re.compile(r"(Args|Returns|Yields|Raises|Shapes|Attributes|Note|Example):$")
_ITEM = re.compile(r"([-*]|\d+\.) ")
_ALIAS = "Callable type;"  # how the docstring of `collections.abc.Callable` begins
_LINK = re.compile(r"((?<!!)\[[^\]]*\])\((\.\.?/[^)#]+)\)")


def as_rest(lines: list[str]) -> list[str]:
    """Return a docstring as reStructuredText: names are literals, indented blocks stay as they are.

    Lists and the sections that `sphinx.ext.napoleon` reads (`Args:` and so on) keep their form.
    """
    out: list[str] = []
    where = "text"  # or "section", "list", "block"
    for line in _with_literals(lines):
        if not line.strip():
            out.append("")
            continue
        if not line.startswith(" "):
            kind = "section" if _SECTION.match(line) else "list" if _ITEM.match(line) else "text"
            if kind != where and out and out[-1]:
                out.append("")
            where = kind
        elif where == "text":
            out += ["", "::", ""]
            where = "block"
        elif where == "list" and _ITEM.match(line.lstrip()) and out[-1]:
            out.append("")  # a list inside a list
        out.append(_as_written(line) if where == "block" else line)
    return out


def _with_literals(lines: list[str]) -> list[str]:
    """Mark what stands between backticks as literal, and escape markup characters elsewhere."""
    pieces = "\n".join(lines).split("`")
    if len(pieces) % 2 == 0:  # a backtick without its partner: Sphinx says where
        return lines
    for at, piece in enumerate(pieces):
        if at % 2:
            pieces[at] = f"\\ ``{piece}``\\ "
        else:
            escaped = re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", piece)
            pieces[at] = re.sub(r"^(\s*)\\\* ", r"\1* ", escaped, flags=re.MULTILINE)  # bullets
    return "".join(pieces).split("\n")


def _as_written(line: str) -> str:
    """Undo `_with_literals`, for a line that is shown as it stands."""
    line = re.sub(r"\\ ``(.*?)``\\ ", r"`\1`", line)
    return re.sub(r"\\([*|_])", r"\1", line)


def read_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Rewrite the lines of one docstring in place; type aliases without one have none."""
    lines[:] = [] if lines and lines[0].startswith(_ALIAS) else as_rest(lines)
    if lines and what in ("attribute", "data", "property"):
        # napoleon takes what stands before a colon in the first line as a type: give it a line
        # that shows nothing, an escaped line break
        lines.insert(0, "\\")


def link_to_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turn relative links that leave docs/ into links to the repository; pictures stay."""
    base = f"{app.config.source_url}/blob/main"

    def absolute(match: re.Match[str]) -> str:
        path = ((Path(app.srcdir) / docname).parent / match[2]).resolve()
        if path.is_relative_to(ROOT / "docs"):
            return match[0]
        return f"{match[1]}({base}/{path.relative_to(ROOT).as_posix()})"

    source[0] = _LINK.sub(absolute, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Join both to the build."""
    app.add_config_value("source_url", "", "env")
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # napoleon's is 500
    app.connect("source-read", link_to_source)
    return {"parallel_read_safe": True}
