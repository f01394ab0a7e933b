"""The report on text encoders whose heads were fitted to few rows and to many.

An interval holds two sources of error, the households and the seeds of the fits; differences are
paired in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl
from matplotlib.figure import Figure

from benchmarks.lab.encoders import ENCODERS
from benchmarks.lab.heldout import mean_of, over_fits, samples_by_fit
from benchmarks.lab.plots import intervals, panels
from benchmarks.lab.run import Report
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate

BASES = ("none", "random", "minilm")
"""Encoders that the others are compared with."""
METRICS = ("auc", "log_loss")
ROW = {
    "encoder": pl.String,
    "rows": pl.Int64,
    "seed": pl.Int64,
    "what": pl.String,
    "n": pl.Int64,
    "value": pl.Float64,
}
"""`rows` is the number of training rows. `what` is a metric, where `n` 0 is the score itself and
the others are bootstrap samples of households; `households`; `width` of the encoder's vectors; or
`seconds` of the processor that a text took."""


@dataclass(frozen=True)
class Sizes:
    """The numbers of training rows, fewest first, and how they are told."""

    numbers: tuple[int, ...]
    zero: Literal["all", "no"]
    """What 0 rows means."""

    @classmethod
    def of(cls, rows: pl.DataFrame, zero: Literal["all", "no"]) -> Sizes:
        """Those of some rows."""
        found = sorted(rows["rows"].unique())
        if zero == "all" and 0 in found:
            found = [*found[1:], 0]
        return cls(tuple(found), zero)

    def name(self, number: int) -> str:
        """Tell a number to a person."""
        return f"{number:,}" if number else self.zero

    def told(self, number: int) -> str:
        """Tell a number of rows to a person."""
        return f"{self.name(number)} rows"

    def key(self, encoder: str, number: int, what: str) -> str:
        """Name a figure in the summary."""
        return f"{encoder}/{number or self.zero}/{what}"


def encoder_report(
    rows: pl.DataFrame, zero: Literal["all", "no"], axis: str = "training rows"
) -> Report:
    """Make table, summary and figure.

    Args:
        rows: Columns as `ROW`.
        zero: What 0 rows means.
        axis: What the figure says of the rows.
    """
    encoders = [name for name in ENCODERS if name in rows["encoder"].unique()]
    sizes = Sizes.of(rows, zero)
    bases = [base for base in BASES if base in encoders]
    summary: dict[str, Estimate] = {}
    for number in sizes.numbers:
        own = rows.filter(pl.col("rows") == number)
        summary |= estimates_of(own, number, encoders, bases, sizes)

    # One line an encoder.
    told = {number: sizes.told(number) for number in sizes.numbers}
    lines: list[dict[str, object]] = []
    for encoder in encoders:
        own = rows.filter(pl.col("encoder") == encoder)
        ms = round(1e3 * mean_of(own, "seconds"), 1) or None  # of what reads texts
        line = {"encoder": f"`{encoder}`", "width": int(mean_of(own, "width")), "ms": ms}
        found = {name: summary[sizes.key(encoder, at, "auc")] for at, name in told.items()}
        lines.append(line | found)
    headers = {"encoder": "encoder", "width": "numbers", "ms": "ms a text"}
    headers |= {name: f"AUC, {name}" for name in told.values()}
    table = markdown(lines, headers)

    # Differences from each base: of the AUC everywhere, and of the log-loss at most rows.
    compared = [("auc", number) for number in sizes.numbers] + [("log_loss", sizes.numbers[-1])]
    titles = {"auc": "AUC", "log_loss": "log-loss"}
    for base in bases:
        lines = [
            {"encoder": f"`{encoder}`"}
            | {
                f"{what}, {number}": summary[f"{sizes.key(encoder, number, what)}_minus_{base}"]
                for what, number in compared
            }
            for encoder in encoders
            if encoder != base
        ]
        headers = {"encoder": f"less `{base}`"} | {
            f"{what}, {number}": f"{titles[what]}, {sizes.told(number)}"
            for what, number in compared
        }
        table += "\n\n" + markdown(lines, headers) if lines else ""
    return Report(table, summary, picture(summary, encoders, sizes, axis))


def estimates_of(
    rows: pl.DataFrame, number: int, encoders: list[str], bases: list[str], sizes: Sizes
) -> dict[str, Estimate]:
    """Estimate every metric of every encoder with one number of rows, and less those of bases."""
    households = int(mean_of(rows, "households"))
    found: dict[str, Estimate] = {}
    for what in METRICS:
        each = {
            encoder: samples_by_fit(
                rows.filter(pl.col("encoder") == encoder, pl.col("what") == what)
            )
            for encoder in encoders
        }
        for encoder in encoders:
            key = sizes.key(encoder, number, what)
            found[key] = over_fits(each[encoder], households)
            for base in bases:
                if base != encoder:
                    less = each[encoder] - each[base]
                    found[f"{key}_minus_{base}"] = over_fits(less, households)
    return found


def picture(summary: dict[str, Estimate], encoders: list[str], sizes: Sizes, axis: str) -> Figure:
    """Draw the AUC of each encoder over the number of rows."""
    figure, (axes,) = panels(6, 3.6, 1)
    places = range(len(sizes.numbers))
    for at, encoder in enumerate(encoders):
        found = [summary[sizes.key(encoder, number, "auc")] for number in sizes.numbers]
        shift = (at - (len(encoders) - 1) / 2) / 16
        intervals(
            axes,
            [place + shift for place in places],
            found,
            colour=f"C{at}",
            joined=True,
            label=encoder,
        )
    axes.set_xticks(list(places), [sizes.name(one) for one in sizes.numbers])
    axes.set_xlabel(axis)
    axes.set_ylabel("AUC of cold items")
    axes.legend(fontsize=8, frameon=False)
    return figure
