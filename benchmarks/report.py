"""Fill the tables and figures of the README and of `docs/` from the results.

    python -m benchmarks.report

Nothing is measured. `python -m benchmarks.again` makes tables and figures anew from the rows first.
"""

from __future__ import annotations

from benchmarks.lab.readme import documents, fill_file
from benchmarks.lab.run import ROOT


def main() -> None:
    """Fill every block, and print one line for each document."""
    for path in documents():
        blocks, changed = fill_file(path)
        outcome = "rewritten" if changed else "already up to date"
        print(f"{path.relative_to(ROOT)}: {blocks} blocks, {outcome}")


if __name__ == "__main__":
    main()
