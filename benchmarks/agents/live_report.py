"""The report of `benchmarks.agents.live`, made from its rows."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents.statistics import estimate_mean
from benchmarks.lab.plots import COLOURS, intervals, panels
from benchmarks.lab.run import Report
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate

FROZEN = "frozen"
CALENDARS = {"drift": "The market moves", "control": "The market stays"}
"""Calendar -> what headings call it."""
Floats = NDArray[np.float64]


def report(rows: pl.DataFrame) -> Report:
    """Make the tables and the picture; seeds are what varies independently."""
    summary: dict[str, Estimate] = {}
    parts = []
    told = [name for name in CALENDARS if name in rows["calendar"].unique()]
    for calendar in told:
        own = rows.filter(pl.col("calendar") == calendar)
        lines: list[tuple[float, dict[str, object]]] = []
        for update in own["update"].unique(maintain_order=True).sort():
            line = figures(own, update)
            summary |= {f"{calendar}/{update}/{name}": one for name, one in line.items()}
            lines.append((line["regret"].value, {"update": f"`{update}`", **line}))
        ordered = [line for _, line in sorted(lines, key=lambda one: one[0])]
        parts.append(f"{CALENDARS[calendar]}:\n\n{tables(ordered)}")
    return Report("\n".join(parts), summary, picture(rows, told))


def figures(own: pl.DataFrame, update: str) -> dict[str, Estimate]:
    """The figures of an update in the rows of a calendar, each over seeds."""
    mine = own.filter(pl.col("update") == update)
    last = int(own["block"].max())  # type: ignore[arg-type]
    of_first, of_last = mine.filter(pl.col("block") == 0), mine.filter(pl.col("block") == last)
    found = {
        "regret": estimate_mean(by_seed(mine, "regret")),
        "grew": estimate_mean(by_seed(of_last, "regret") - by_seed(of_first, "regret")),
    }
    if (base := own.filter(pl.col("update") == FROZEN)).height:
        less = by_seed(base, "regret") - by_seed(mine, "regret")
        found["below_frozen"] = estimate_mean(less)
    for name in ("score", "forgot", "coverage", "gini"):
        if of_last[name].null_count() == 0:
            found[name] = estimate_mean(by_seed(of_last, name))
    found["narrowed"] = estimate_mean(by_seed(of_last, "gini") - by_seed(of_first, "gini"))
    found["minutes"] = estimate_mean(by_seed(mine, "minutes"))
    for name in ("loss", "score"):
        if of_last[f"{name}_long"].null_count() == 0:
            lost = by_seed(of_last, f"{name}_long") - by_seed(of_last, f"{name}_new")
            found[f"plasticity_{name}"] = estimate_mean(lost)
    return found


def by_seed(rows: pl.DataFrame, column: str) -> Floats:
    """The mean of a column over the blocks of each seed, in the order of the seeds: (S,)."""
    means = rows.group_by("seed").agg(pl.col(column).mean()).sort("seed")
    return np.asarray(means[column].to_numpy(), dtype=np.float64)


EARNED = {
    "update": "update",
    "regret": "regret",
    "below_frozen": "below that of frozen",
    "grew": "last block minus first",
    "coverage": "share of items shown",
    "gini": "Gini",
    "narrowed": "Gini, last block minus first",
    "minutes": "CPU minutes a block",
}
KNOWN = {
    "update": "update",
    "score": "score on the last block",
    "forgot": "forgot of earlier blocks",
    "plasticity_loss": "log loss, trained long minus new",
    "plasticity_score": "score, trained long minus new",
}
"""Figure -> header of its column, of the tables of what was earned and of what rankers know."""


def tables(lines: list[dict[str, object]]) -> str:
    """The two tables of a calendar; columns that no update fills are left out."""
    parts = []
    for headers in (EARNED, KNOWN):
        there = {
            name: header
            for name, header in headers.items()
            if any(line.get(name) is not None for line in lines)
        }
        whole = [{name: line.get(name) for name in there} for line in lines]
        parts.append(markdown(whole, there))
    return "\n".join(parts)


def picture(rows: pl.DataFrame, calendars: list[str]) -> Figure:
    """Draw the regret of every update from block to block."""
    figure, axes = panels(5.2 * len(calendars), 3.6, len(calendars))
    for one, calendar in zip(axes, calendars, strict=True):
        own = rows.filter(pl.col("calendar") == calendar)
        updates = own["update"].unique().sort().to_list()
        for number, update in enumerate(updates):
            mine = own.filter(pl.col("update") == update)
            blocks = sorted(mine["block"].unique().to_list())
            told = [
                estimate_mean(by_seed(mine.filter(pl.col("block") == block), "regret"))
                for block in blocks
            ]
            aside = 0.08 * (number - len(updates) / 2)
            intervals(
                one,
                [block + 1 + aside for block in blocks],
                told,
                colour=COLOURS[number % len(COLOURS)],
                label=update,
                joined=True,
            )
        one.set_title(CALENDARS[calendar], fontsize=10)
        one.set_xlabel("block")
        one.set_ylabel("regret to the oracle, a shopper")
    axes[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
