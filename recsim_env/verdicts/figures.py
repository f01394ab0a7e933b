"""Figures of a report as SVG, which needs matplotlib; `drawable` tells whether it is installed."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from typing import Any
from warnings import catch_warnings, filterwarnings

from recsim_env.estimates import Estimate
from recsim_env.verdicts.findings import Findings

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
MODEL, BASELINE, BAD = "#2463a5", "#9aa5b1", "#c2410c"
"""Colours of the judged model, of what it is compared with, and of what misses a limit."""
MOST_GROUPS = 24
"""Groups that a figure of ratios shows at most, those with the most responses."""


def drawable() -> bool:
    """Tell whether figures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def figures(findings: Findings) -> dict[str, str]:
    """Draw every figure that there are numbers for: title -> SVG element."""
    found = {"Clicks: ranking": _scores(findings, "auc", "AUC, higher is better")}
    found["Clicks: likelihood"] = _scores(findings, "ne", "normalised entropy, lower is better")
    for title, table in findings.ratios.items():
        lines = sorted(table, key=lambda one: -one.observed)[:MOST_GROUPS]
        kept = [one for one in table if one in lines and one.observed]
        if len(kept) > 1:
            found[f"Predicted over observed clicks by {title}"] = _ratios(
                [(one.group, one.ratio) for one in kept], "predicted over observed"
            )
    if findings.closed_loop:
        for what in ("clicks", "visits"):
            found[f"Closed loop: simulated over observed {what} a user"] = _ratios(
                [(one.policy, one.ratio[what]) for one in findings.closed_loop],
                "simulated over observed",
            )
    return found


def _scores(findings: Findings, metric: str, label: str) -> str:
    lines = [(one.model, one.value) for one in findings.clicks if one.metric == metric]
    figure, axes = _canvas(len(lines))
    for place, (name, estimate) in enumerate(lines):
        _point(axes, place, estimate, MODEL if name == findings.model else BASELINE)
    own = next(estimate.value for name, estimate in lines if name == findings.model)
    axes.axvline(own, color=MODEL, linewidth=0.8, linestyle=(0, (2, 3)))
    return _finished(figure, axes, [name for name, _ in lines], label)


def _ratios(lines: Sequence[tuple[str, Estimate]], label: str) -> str:
    figure, axes = _canvas(len(lines))
    for place, (_, estimate) in enumerate(lines):
        clear = estimate.low > 1 or estimate.high < 1
        far = not 1 / 1.25 <= estimate.value <= 1.25
        _point(axes, place, estimate, BAD if clear and far else MODEL)
    axes.axvline(1.0, color=INK, linewidth=0.9)
    axes.set_xscale("log")
    ends = [
        value
        for _, one in lines
        for value in (one.value, one.low, one.high)
        if math.isfinite(value) and value > 0
    ]
    low, high = min([*ends, 0.8]), max([*ends, 1.25])
    low, high = max(low, 0.1), min(high, 10.0)
    axes.set_xlim(low / 1.08, high * 1.08)
    ticks = [
        tick
        for tick in (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10)
        if low / 1.08 <= tick <= high * 1.08
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    return _finished(figure, axes, [name for name, _ in lines], label)


def _canvas(lines: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.7 + 0.24 * lines), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", color=MUTED, labelcolor=MUTED, labelsize=8)
    return figure, axes


def _point(axes: Any, place: int, estimate: Estimate, colour: str) -> None:
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        axes.hlines(place, estimate.low, estimate.high, color=colour, linewidth=2, alpha=0.55)
    axes.plot([estimate.value], [place], "o", color=colour, markersize=5)


def _finished(figure: Any, axes: Any, names: Sequence[str], label: str) -> str:
    """Name the lines and write the figure as an SVG element, the same at every run."""
    from matplotlib import rc_context

    # Names are the shop's: a dollar sign in one begins no formula.
    axes.set_yticks(range(len(names)), names, fontsize=8.5, color=INK, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(label, fontsize=8, color=MUTED)
    held = io.StringIO()
    # Text stays text, whose glyphs the reader has; matplotlib only measures them.
    with rc_context({"svg.hashsalt": label + names[0], "svg.fonttype": "none"}), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(held, format="svg", transparent=True, metadata={"Date": None})
    text = held.getvalue()
    return text[text.index("<svg") :]
