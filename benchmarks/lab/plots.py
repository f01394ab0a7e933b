"""How every figure looks: colours, panels, intervals, curves over seeds, names of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from recsim_env.estimates import Estimate

RED, BLUE, GREEN, AMBER = "#c23b3b", "#3b6ea5", "#3f8f55", "#b07a1e"
VIOLET, TEAL, MAUVE, OLIVE = "#7a4fa3", "#2a9aa0", "#a0527d", "#6b6b2f"
COLOURS = (RED, BLUE, GREEN, AMBER, VIOLET, TEAL, MAUVE, OLIVE)
"""Colours of several series, in their order."""
INK, GREY = "#444444", "#888888"
"""Colours of references and of what is compared with."""
GRID, LEADER = "#e4e4e4", "#d8d8d8"


def panels(
    width: float, height: float, columns: int = 1, *, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of a width and height in inches, with plain axes beside each other.

    Args:
        width: The width of the figure.
        height: The height of the figure.
        columns: The number of axes.
        ratios: The widths of the axes in proportion to each other; equal by default.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False, width_ratios=ratios)[0])
    for one in axes:
        plain(one)
    return figure, axes


def plain(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Leave the frame away above and to the right, and draw a light grid below everything else."""
    axes.grid(visible=False)
    axes.grid(axis=grid, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_numbers(axes: Axes) -> None:
    """Let the horizontal axis be a logarithmic one of plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def intervals(
    axes: Axes,
    places: Sequence[float],
    estimates: Sequence[Estimate],
    *,
    colour: str,
    label: str | None = None,
    joined: bool = False,
    scale: float = 1.0,
) -> None:
    """Draw estimates as points above some places, with their intervals as vertical lines.

    Args:
        axes: The axes that are drawn on.
        places: The place of each estimate.
        estimates: The estimates.
        colour: The colour of the points and lines.
        label: The name of the series in a legend.
        joined: Whether a line joins the points.
        scale: The factor that all values are multiplied by.
    """
    values = [scale * estimate.value for estimate in estimates]
    axes.plot(places, values, "o-" if joined else "o", color=colour, markersize=5, label=label)
    low, high = ([scale * getattr(e, end) for e in estimates] for end in ("low", "high"))
    axes.vlines(places, low, high, color=colour, linewidth=1.2)


def level_intervals(
    lines: Sequence[tuple[str, Estimate, str]],
    label: str,
    *,
    mark: float | None = None,
    ink: str = INK,
) -> Figure:
    """Draw estimates below each other, each with its name, interval and colour.

    Args:
        lines: Name, estimate and colour of each line, from above.
        label: What the estimates are.
        mark: Where a thin vertical line stands, such as 0 for no difference.
        ink: The colour of that line.
    """
    figure, (axes,) = panels(8, 0.42 * len(lines) + 1.2)
    for place, (_, value, colour) in enumerate(reversed(lines)):
        axes.plot([value.low, value.high], [place] * 2, color=colour, linewidth=2)
        axes.plot([value.value], [place], "o", color=colour, markersize=6)
    axes.set_yticks(range(len(lines)), [name for name, _, _ in reversed(lines)])
    axes.set_xlabel(label)
    plain(axes, "x")
    axes.spines["left"].set_visible(False)
    if mark is not None:
        axes.axvline(mark, color=ink, linewidth=0.8)
    return figure


def paired_differences(axes: Axes, lines: Sequence[tuple[str, Estimate, str]], base: str) -> None:
    """Draw by how much several policies are above one of them, which is a line at 0.

    Means of policies that met the same shoppers overlap where their differences do not: the
    intervals are those of the paired differences.

    Args:
        axes: The axes that are drawn on.
        lines: Name, paired difference and colour of each policy, from above.
        base: The name of the policy that the others are compared with.
    """
    axes.axvline(0, color=INK, linewidth=1)
    for place, (_, value, colour) in enumerate(reversed(lines)):
        axes.plot([value.low, value.high], [place] * 2, color=colour, linewidth=2.2)
        axes.plot([value.value], [place], "o", color=colour, markersize=6)
        axes.annotate(
            f"{value.value:+.2f}",
            (value.value, place),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
        )
    axes.set_yticks(range(len(lines)), [name for name, _, _ in reversed(lines)])
    axes.set_ylim(-0.6, len(lines) - 0.3)
    axes.set_xlabel(f"return above {base}, paired by episode, 95 % interval")
    plain(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def seed_curves(
    axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], *, colour: str, label: str
) -> None:
    """Draw one thin line a seed, and the mean over seeds at the same number of points.

    Shapes: `curves` holds one pair of x (T,) and y (T,) for each seed.
    """
    for x, y in curves:
        axes.plot(x, y, color=colour, alpha=0.3, linewidth=0.8)
    x, y = (np.mean([curve[side] for curve in curves], axis=0) for side in (0, 1))
    axes.plot(x, y, "-o", color=colour, markersize=4, label=label)


def name_beside(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    *,
    colours: Mapping[str, str] | None = None,
    room: float = 0.3,
) -> None:
    """Write the names of points in a column to the right of all of them, with a thin line to each.

    Args:
        axes: The axes that the points were drawn on.
        points: The place (x, y) of each name's point.
        colours: The colours of the names, dark grey where there is none.
        room: The width of the column over that of the plot.
    """
    axes.margins(0.06)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ascending = sorted(points, key=lambda name: points[name][1])
    heights = spread([points[name][1] for name in ascending], 0.047 * (high - low))
    line = {"arrowstyle": "-", "color": LEADER, "linewidth": 0.7, "shrinkB": 4, "relpos": (0, 0.5)}
    for name, height in zip(ascending, heights, strict=True):
        axes.annotate(
            name,
            points[name],
            (right + 0.02 * (right - left), height),
            va="center",
            fontsize=8,
            color=(colours or {}).get(name, INK),
            arrowprops=line,
        )
    axes.set_xlim(left, right + room * (right - left))
    room_for_text = 0.03 * (high - low)
    axes.set_ylim(min([low, *heights]) - room_for_text, max([high, *heights]) + room_for_text)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move ascending values as little as needed for them to stand `gap` apart or more.

    This is isotonic regression of values - i gap by pooling adjacent violators (Barlow et al. 1972,
    "Statistical Inference under Order Restrictions").
    """
    blocks: list[tuple[float, int]] = []  # sum and size
    for at, value in enumerate(values):
        blocks.append((value - at * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, size = blocks.pop()
            blocks[-1] = (blocks[-1][0] + total, blocks[-1][1] + size)
    level = [total / size for total, size in blocks for _ in range(size)]
    return [value + at * gap for at, value in enumerate(level)]
