"""What the rows of `benchmarks.latency` say: table, figure and summary, from rows alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from benchmarks.report import markdown
from benchmarks.statistics import Estimate, bootstrap, paired_difference

EVERY, EXACT, CLUSTERS = "every item", "exact index", "clusters"
"""What a way to serve compares a request with; the last two are followed by how numbers are kept."""
SERVED = f"{EXACT}, int8"
"""The way that the targets are read off: the cheapest that finds nearly all that ranking every item finds."""
ORDER = (EVERY, f"{EXACT}, fp32", SERVED, f"{CLUSTERS}, fp32", f"{CLUSTERS}, int8")
"""Every way to serve; the first is what the others are compared with."""
NAMES = {10_000: "10k", 100_000: "100k", 1_000_000: "1m"}
"""Sizes of a catalogue in the summary's names."""
STEPS = ("retrieval", "features", "policy")
"""Of a request, in their order."""
QUANTILES = (0.5, 0.95, 0.99)
COLOURS = ("#777777", "#3b6ea5", "#7fb0dd", "#c23b3b", "#e39a3c")


@dataclass(frozen=True)
class Report:
    """What `Run.save` takes."""

    table: str
    summary: dict[str, Estimate]
    figure: Figure


def report(rows: pl.DataFrame) -> Report:
    """From rows as `benchmarks.latency` writes them."""
    lines = lines_of(rows)
    load = rows["load"].drop_nulls().to_list()
    note = (
        f"Times are those of one thread. Meanwhile {min(load):.1f} to {max(load):.1f} processes wanted the machine's "
        "cores: the clock's times hold waiting, the processor's do not."
    )
    return Report(f"{markdown(lines, HEADERS)}\n{note}", summary_of(lines), draw(lines))


def quantile(values: pl.Series, share: float) -> Estimate:
    """A quantile and its 95 % interval by order statistics, for independent values (David & Nagaraja 2003, "Order
    Statistics", section 7.1).
    """
    ordered = np.sort(values.to_numpy())
    n, half = len(ordered), 1.96 * math.sqrt(len(ordered) * share * (1 - share))
    low, high = (int(np.clip(round(n * share + side * half), 0, n - 1)) for side in (-1, 1))
    return Estimate(float(np.quantile(ordered, share)), float(ordered[low]), float(ordered[high]), n)


def lines_of(rows: pl.DataFrame) -> list[dict[str, object]]:
    """A line a size and way."""
    generator = np.random.default_rng(0)
    found: list[dict[str, object]] = []
    for items, way in rows.select("items", "way").unique().sort("items", "way").rows():
        own = rows.filter(pl.col("items") == items, pl.col("way") == way)
        found.append({"items": items, "way": way, **times(own), **quality(rows, items, way, generator)})
    return sorted(found, key=lambda line: (int(str(line["items"])), ORDER.index(str(line["way"]))))


def times(own: pl.DataFrame) -> dict[str, object]:
    """How fast a way is: milliseconds of a request and of its steps, requests a second, and megabytes of its index."""
    single, batch = (own.filter(pl.col("what") == what) for what in ("request", "batch"))
    if single.is_empty():
        return {}
    line: dict[str, object] = {
        f"p{100 * share:.0f}_{clock}": quantile(single[f"{clock}_ms"], share)
        for clock in ("wall", "cpu")
        for share in QUANTILES
    }
    for step in STEPS:
        line[step] = _mean(own.filter(pl.col("what") == step)["cpu_ms"])
    for name, group in (("single", single), ("batch", batch)):
        for clock in ("wall", "cpu"):
            line[f"{name}_{clock}"] = 1e3 * float(group["size"].sum()) / float(group[f"{clock}_ms"].sum())
    return {**line, "index_mb": float(single["index_mb"][0]), "n": len(single)}


def quality(rows: pl.DataFrame, items: int, way: str, generator: np.random.Generator) -> dict[str, object]:
    """What a way finds of what ranking every item finds, and the share of the return that it loses.

    What is lost is the mean difference of the same episodes, over the mean of ranking every item; the interval is the
    difference's.
    """
    of_size = rows.filter(pl.col("items") == items)
    own = of_size.filter(pl.col("way") == way)
    line: dict[str, object] = {}
    for name in ("pool", "slate"):
        shares = own[name].drop_nulls()
        line[name] = bootstrap(shares.to_numpy(), generator=generator, resamples=2_000) if len(shares) else None
    played = of_size.filter(pl.col("what") == "episode")
    here, there = (played.filter(pl.col("way") == name).sort("seed") for name in (way, EVERY))
    line["return"] = bootstrap(here["return"].to_numpy(), generator=generator) if len(here) else None
    line["lost"] = None
    if len(here) and way != EVERY and here["seed"].equals(there["seed"]):
        lost = paired_difference(there["return"].to_numpy(), here["return"].to_numpy(), generator=generator)
        mean = float(there["return"].to_numpy().mean())
        line["lost"] = Estimate(lost.value / mean, lost.low / mean, lost.high / mean, lost.n)
    return line


def summary_of(lines: list[dict[str, object]]) -> dict[str, Estimate]:
    """Every figure: those of `SERVED` by their short names, and all of them with the way behind."""
    found: dict[str, Estimate] = {}
    figures = {"p99_wall": "p99_ms", "p99_cpu": "p99_cpu_ms", "lost": "return_lost", "pool": "pool_recall"}
    figures |= {"slate": "slate_recall"}
    for line in lines:
        size = NAMES.get(int(str(line["items"])), str(line["items"]))
        for column, name in figures.items():
            value = line.get(column)
            if isinstance(value, Estimate):
                found[f"{name}_{size}/{line['way']}"] = value
                if line["way"] == SERVED:
                    found[f"{name}_{size}"] = value
    return found


def _mean(values: pl.Series) -> float | None:
    return float(values.to_numpy().mean()) if len(values) else None


HEADERS = {
    "items": "items",
    "way": "compared with a request",
    "p50_wall": "p50, ms",
    "p95_wall": "p95, ms",
    "p99_wall": "p99, ms",
    "p99_cpu": "p99 of the processor's time, ms",
    "retrieval": "retrieval, processor ms",
    "features": "features",
    "policy": "policy",
    "single_cpu": "requests a processor second",
    "batch_cpu": "in batches of 64",
    "index_mb": "index, MB",
    "pool": "recall of the pool",
    "slate": "of the slate",
    "lost": "return lost",
}


def draw(lines: list[dict[str, object]]) -> Figure:
    """Processor time of a request by step, and return lost, for each size and way."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(str(line["way"]) for line in lines))
    sizes = sorted({int(str(line["items"])) for line in lines})
    for number, way in enumerate(names):
        own = [line for line in lines if line["way"] == way]
        for axes, column, scale in ((left, "p99_cpu", 1.0), (right, "lost", 100.0)):
            points = [(sizes.index(int(str(line["items"]))), line.get(column)) for line in own]
            found = [(at, value) for at, value in points if isinstance(value, Estimate)]
            x = [at + 0.12 * (number - 2) for at, _ in found]
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(x, [scale * e.value for _, e in found], "o", color=colour, markersize=5, label=way)
            axes.vlines(x, [scale * e.low for _, e in found], [scale * e.high for _, e in found], color=colour)
    left.set_yscale("log")
    left.set_ylabel("p99 of a request, processor ms")
    right.axhline(0, color="#444444", linewidth=0.8)
    right.set_ylabel("return lost, %")
    for axes in (left, right):
        axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
        axes.set_xlabel("items in the catalogue")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    left.legend(frameon=False, fontsize=8)
    return figure
