"""The figure of the league: learning curves, performance profiles, and clicks against diversity."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents.statistics import Floats, critical
from benchmarks.lab.league_cells import GREEDY, MYOPIC, PPO, RERANKER, STATE
from benchmarks.lab.league_statistics import curve_of, matrix, of
from benchmarks.lab.plots import COLOURS, INK, name_beside, panels
from benchmarks.lab.statistics import stratified, units
from recsim_env.registration import PRESETS
from recsim_env.rewards import as_reward

LEVELS = {STATE: "-", MYOPIC: "--", RERANKER: "-.", GREEDY: ":"}
"""Line styles of the references, which are no agents."""


def draw(rows: pl.DataFrame, curves: pl.DataFrame, market: str) -> Figure:
    """Draw learning curves, where they were kept, performance profiles, and clicks by diversity."""
    trained = rows.filter(pl.col("mode") == "untrained")["contender"].unique()
    agents = sorted(trained, key=lambda name: (name != PPO, name))
    colour = dict(zip(agents, COLOURS * (len(agents) // len(COLOURS) + 1), strict=False))
    count = 2 if curves.is_empty() else 3
    figure, (*learning, middle, right) = panels(5.5 * count, 5.4, count)
    for left in learning:
        draw_curves(left, curves, colour)
    draw_profiles(middle, rows.filter(pl.col("weight").is_null()), colour)
    draw_frontier(right, rows, market, colour)
    named = {
        label: line
        for axes in (*learning, middle)
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=8,
        frameon=False,
        fontsize=9,
    )
    return figure


def draw_curves(axes: Axes, curves: pl.DataFrame, colour: dict[str, str]) -> None:
    """Draw mean returns by steps with 95 % bands, and references as horizontal lines."""
    for name in colour:
        runs, steps, returns, _ = curve_of(curves, name)
        if len(steps) < 2:
            continue
        axes.plot(
            steps / 1e6,
            returns.mean(axis=0),
            color=colour[name],
            label=_spoken(name),
            linewidth=1.8,
        )
        if len(returns) > 1:
            low, high = band(returns, runs["world"].to_numpy())
            axes.fill_between(steps / 1e6, low, high, color=colour[name], alpha=0.15, linewidth=0)
    for name, style in LEVELS.items():
        level = curves.filter(pl.col("contender") == name)["return"]
        if len(level):
            value = float(level.to_numpy().mean())
            axes.axhline(value, color=INK, linestyle=style, linewidth=1.1, label=_spoken(name))
    axes.set_xlabel("shopper-steps, millions")
    axes.set_ylabel("return of an episode")
    axes.set_title("Learning, mean and 95 % band over runs")


def band(curves: Floats, world: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The 95 % interval of the mean of curves (P, T) whose worlds are (P,): (T,) each.

    It is taken from the spread of the runs within each world. A mean of worlds with one run each
    has no band: its bounds are NaN.
    """
    number = np.unique(world, return_inverse=True)[1]
    sizes = np.bincount(number)
    freedom = len(curves) - len(sizes)
    mean: Floats = curves.mean(axis=0)
    if freedom < 1:
        return np.full_like(mean, math.nan), np.full_like(mean, math.nan)
    of_world = np.zeros((len(sizes), curves.shape[1]))
    np.add.at(of_world, number, curves)
    spread = ((curves - (of_world / sizes[:, None])[number]) ** 2).sum(axis=0) / freedom
    half = critical(freedom + 1) * np.sqrt(spread / len(curves))
    return mean - half, mean + half


def draw_profiles(axes: Axes, rows: pl.DataFrame, colour: dict[str, str]) -> None:
    """Draw the shares of runs that earned more than some multiples of greedy CTR's return."""
    generator = np.random.default_rng(4)
    base = of(rows, GREEDY).select("world", "run", pl.col("return").alias("greedy"))
    scaled = rows.filter(pl.col("mode") == "deterministic").join(base, on=["world", "run"])
    scaled = scaled.with_columns(pl.col("return") / pl.col("greedy"))
    if not len(scaled):
        return

    # one set of thresholds for everybody who is drawn
    scaled = scaled.filter(pl.col("contender").is_in([*colour, *LEVELS]))
    earned = scaled["return"].to_numpy()
    taus = np.linspace(float(earned.min()) - 0.02, float(earned.max()) + 0.02, 161)

    # a curve for each, in a band where there are several worlds
    for name in [*colour, *LEVELS]:
        scores = matrix(of(scaled, name))
        if not scores.size:
            continue
        value, error = stratified(scores, lambda s: profile(s, taus), generator, 500)
        ink, style, width = (
            colour.get(name, INK),
            LEVELS.get(name, "-"),
            1.8 if name in colour else 1.1,
        )
        axes.plot(taus, value, color=ink, linestyle=style, linewidth=width, label=_spoken(name))
        if len(scores) > 1:
            half = critical(units(*scores.shape)) * error  # no width where all runs lie on one side
            axes.fill_between(
                taus,
                np.clip(value - half, 0, 1),
                np.clip(value + half, 0, 1),
                color=ink,
                alpha=0.12,
                lw=0,
            )

    axes.set_xlabel("return, as a multiple of greedy CTR's on the same shoppers")
    axes.set_ylabel("share of runs that earned more")
    axes.set_title("Performance profiles")


def profile(scores: Floats, taus: Floats) -> Floats:
    """The share of scores (..., n) that lie above each threshold (T,): (..., T)."""
    share: Floats = np.stack([(scores > tau).mean(axis=-1) for tau in taus], axis=-1)
    return share


def draw_frontier(axes: Axes, rows: pl.DataFrame, market: str, colour: dict[str, str]) -> None:
    """Draw clicks of an episode against diversity in the first world.

    There is a point for each contender, and a line for two of them over the weight of diversity.
    Agents are known by their colour, the others by their name.
    """
    rows = rows.filter(
        (pl.col("mode") == "deterministic") & (pl.col("world") == pl.col("world").min())
    )

    # the lines; the agent's also passes through the weight that the market's own reward has
    own = (
        as_reward(PRESETS[market].reward).weights.get("intra_list_distance")
        if market in PRESETS
        else None
    )
    for name, ink, word, above in ((PPO, COLOURS[0], "λ", 7), ("mmr", INK, "w", -12)):
        swept = frontier(rows, name, own if name == PPO else None)
        if len(swept) > 1:
            _draw_sweep(axes, swept, ink, word, above)

    # a point for each contender as it is in the league
    means = (
        rows.filter(pl.col("weight").is_null())
        .group_by("contender")
        .agg(pl.col("clicks", "diversity").mean())
    )
    for line in means.iter_rows(named=True):
        ink = colour.get(line["contender"], INK)
        axes.plot([line["diversity"]], [line["clicks"]], "D", color=ink, markersize=6)

    others = means.filter(~pl.col("contender").is_in(list(colour)))
    name_beside(
        axes,
        {
            _spoken(line["contender"]): (line["diversity"], line["clicks"])
            for line in others.to_dicts()
        },
    )
    axes.set_xlabel("diversity: mean intra-list distance of a slate")
    axes.set_ylabel("clicks of an episode")
    axes.set_title("Clicks and diversity (λ: weight in PPO's reward, w: of MMR)")


def _draw_sweep(axes: Axes, swept: pl.DataFrame, ink: str, word: str, above: float) -> None:
    """Draw the line of one contender over the weight of diversity, with the weights beside it."""
    axes.plot(
        swept["diversity"], swept["clicks"], "-o", color=ink, markersize=4, linewidth=1.4, alpha=0.8
    )
    for line in swept.iter_rows(named=True):
        axes.annotate(
            f"{word}={line['weight']:g}",
            (line["diversity"], line["clicks"]),
            xytext=(0, above),
            textcoords="offset points",
            fontsize=7,
            color=ink,
        )


def frontier(rows: pl.DataFrame, name: str, own: float | None) -> pl.DataFrame:
    """One contender's deterministic rows by weight of diversity.

    Args:
        rows: The rows of one environment.
        name: The contender.
        own: The weight of its league row, which joins those of the frontier; None leaves it out.
    """
    rows = rows.filter(pl.col("contender") == name)
    swept = rows.filter(pl.col("weight").is_not_null())
    if own is not None and len(swept):
        world, run = swept["world"][0], swept["run"][0]
        league = rows.filter(
            pl.col("weight").is_null() & (pl.col("world") == world) & (pl.col("run") == run)
        )
        swept = pl.concat([swept, league.with_columns(pl.lit(own).alias("weight"))])
    return swept.select("weight", "diversity", "clicks").sort("weight")


def _spoken(name: str) -> str:
    return name.replace("ppo_", "PPO ").replace("_", " ").replace("greedy ctr", "greedy CTR")
