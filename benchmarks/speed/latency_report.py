"""What the rows of `benchmarks.speed.latency` say: table, figure and summary, from rows alone."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.plots import AMBER, BLUE, GREY, INK, RED, TEAL, intervals, panels, plain
from benchmarks.lab.run import Report
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate

EVERY, EXACT, CLUSTERS = "every item", "exact index", "clusters"
"""What a request is compared with; the last two are followed by how numbers are kept."""
SERVED = f"{EXACT}, int8"
"""The way to serve whose figures are quoted: the cheapest that finds nearly all that ranking every
item finds."""
ORDER = (EVERY, f"{EXACT}, fp32", SERVED, f"{CLUSTERS}, fp32", f"{CLUSTERS}, int8")
"""All ways to serve; the others are compared with the first."""
PLAYED = (EVERY, SERVED, ORDER[4])
"""Ways that play episodes; the others find the same or more, as their requests show."""
NAMES = {10_000: "10k", 100_000: "100k", 1_000_000: "1m"}
"""Sizes of a catalogue as they are written in the summary."""
STEPS = ("retrieval", "features", "policy")
"""Steps of a request, in their order."""


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows of `benchmarks.speed.latency`."""
    order = pl.col("way").cast(pl.Enum(ORDER))
    kinds = rows.select("items", "way").unique().sort(pl.col("items"), order).rows()
    lines = [line_of(rows, items, way) for items, way in kinds]
    load = rows["load"].to_list()
    note = (
        f"Times are those of one thread. Meanwhile {min(load):.1f} to {max(load):.1f} processes "
        "wanted the machine's cores: the clock's times hold waiting, the processor's do not."
    )
    table = [{**line, **{name: percent(line[name]) for name in SHARES}} for line in lines]
    return Report(f"{markdown(table, HEADERS)}\n{note}", summary_of(lines), draw(lines))


def percent(share: object) -> str | None:
    """Write a share in percent, with its interval where that has a width; -0.0 becomes 0.0."""
    if not isinstance(share, Estimate):
        return None
    value, low, high = (
        f"{round(100 * number, 1) + 0.0:.1f}" for number in (share.value, share.low, share.high)
    )
    return value if low == high else f"{value} [{low}, {high}]"


def quantile(values: pl.Series, share: float) -> Estimate:
    """A quantile of independent values and its 95 % interval by order statistics.

    The interval is that of David & Nagaraja 2003, "Order Statistics", section 7.1.
    """
    ordered = np.sort(values.to_numpy())
    n, half = len(ordered), 1.96 * math.sqrt(len(ordered) * share * (1 - share))
    low, high = (int(np.clip(round(n * share + side * half), 0, n - 1)) for side in (-1, 1))
    return Estimate(
        float(np.quantile(ordered, share)), float(ordered[low]), float(ordered[high]), n
    )


def line_of(rows: pl.DataFrame, items: int, way: str) -> dict[str, object]:
    """Make a line of the table for one size and way, with None where nothing was measured.

    The return that is lost is the mean difference of the same episodes over the mean of ranking
    every item; its interval is that of the difference.
    """
    of_size = rows.filter(pl.col("items") == items)
    own = of_size.filter(pl.col("way") == way)
    single, batch, retrieval = (
        own.filter(pl.col("what") == what) for what in ("request", "batch", "retrieval")
    )
    steps = [own.filter(pl.col("what") == step)["cpu_ms"].to_numpy().mean() for step in STEPS]
    line: dict[str, object] = {
        "items": items,
        "way": way,
        "p50": quantile(single["wall_ms"], 0.5).value,
        "p95": quantile(single["wall_ms"], 0.95).value,
        "p99": quantile(single["wall_ms"], 0.99),
        "p99_cpu": quantile(single["cpu_ms"], 0.99),
        "steps": " + ".join(f"{step:.1f}" for step in steps),
        "index_mb": float(own["index_mb"][0]),
        "lost": None,
    }
    for name, group in (("single", single), ("batch", batch)):
        line[name] = 1e3 * float(group["size"].sum()) / float(group["cpu_ms"].sum())
    for name in ("pool", "slate"):
        line[name] = estimate_mean(retrieval[name].to_numpy())
    played = of_size.filter(pl.col("what") == "episode").sort("number")
    here, there = (
        played.filter(pl.col("way") == name)["return"].to_numpy() for name in (way, EVERY)
    )
    if way != EVERY and len(here):
        lost = paired_difference(there, here)
        mean = float(there.mean())
        line["lost"] = Estimate(lost.value / mean, lost.low / mean, lost.high / mean, lost.n)
    return line


def summary_of(lines: list[dict[str, object]]) -> dict[str, Estimate]:
    """Name every figure by size and way, and those of `SERVED` by their size alone as well."""
    found: dict[str, Estimate] = {}
    figures = {
        "p99": "p99_ms",
        "p99_cpu": "p99_cpu_ms",
        "lost": "return_lost",
        "pool": "pool_recall",
    }
    figures |= {"slate": "slate_recall"}
    for line in lines:
        size = NAMES.get(int(str(line["items"])), str(line["items"]))
        for column, name in figures.items():
            value = line[column]
            if isinstance(value, Estimate):
                found[f"{name}_{size}/{line['way']}"] = value
                if line["way"] == SERVED:
                    found[f"{name}_{size}"] = value
    return found


HEADERS = {
    "items": "items",
    "way": "compared with a request",
    "p50": "p50, ms",
    "p95": "p95, ms",
    "p99": "p99, ms",
    "p99_cpu": "p99 of the processor's time, ms",
    "steps": "retrieval + features + policy, processor ms",
    "single": "requests a processor second",
    "batch": "in batches",
    "index_mb": "index, MB",
    "pool": "recall of the pool, %",
    "slate": "of the slate, %",
    "lost": "return lost, %",
}
SHARES = ("pool", "slate", "lost")
"""Columns of the table that are shares."""


# ---- figure --------------------------------------------------------------------------------------

COLOURS = dict(zip(ORDER, (GREY, BLUE, TEAL, RED, AMBER), strict=True))
"""Colours of the ways to serve."""
TICKS = (2, 5, 10, 20, 50, 100)
"""Ticks of the axis of times, in milliseconds."""


def draw(lines: list[dict[str, object]]) -> Figure:
    """Draw p99 of a request, recall of the pool and return lost, for each size and way."""
    figure, (left, middle, right) = panels(13, 4.2, 3)
    _points(left, lines, "p99_cpu", "p99 of a request, processor ms")
    _points(middle, lines, "pool", "recall of the pool, %", 100.0)
    _points(right, lines, "lost", "return lost, %", 100.0)
    left.set_yscale("log")
    left.set_yticks(TICKS, [str(tick) for tick in TICKS])
    left.minorticks_off()
    right.axhline(0, color=INK, linewidth=0.8)
    figure.legend(
        *left.get_legend_handles_labels(), frameon=False, ncols=len(ORDER), loc="outside upper left"
    )
    return figure


def _points(
    axes: Axes, lines: list[dict[str, object]], column: str, label: str, scale: float = 1.0
) -> None:
    """Draw a point and its interval for each line that has the column, ways beside each other."""
    sizes = sorted({int(str(line["items"])) for line in lines})
    for number, way in enumerate(ORDER):
        found = [(line["items"], line[column]) for line in lines if line["way"] == way]
        points = [
            (sizes.index(int(str(size))), value)
            for size, value in found
            if isinstance(value, Estimate)
        ]
        places = [at + 0.12 * (number - 2) for at, _ in points]
        values = [value for _, value in points]
        intervals(axes, places, values, colour=COLOURS[way], label=way, scale=scale)
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.set_xlabel("items in the catalogue")
    axes.set_ylabel(label)
    plain(axes, "y")
