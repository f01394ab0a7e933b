"""What the rows of `benchmarks.agents.ope` say: tables, figure and summary.

Of an estimator, over the policies P and the logs of one size, with the estimate v of clicks a
slate, the truth m of a slate where the log leads (`LOGGED`), and clicks an episode e of the
estimate and t of the market:

    bias     mean over P of (mean over logs of v) / m - 1: off from what it estimates; of the
             simulator, whose slates lead its shoppers, m is that of the market (`MARKET`)
    spread   mean over P of (standard deviation over logs of v) / m
    error    root of the mean over logs and P of (e / t - 1)^2: off from what a shop wants to know
    tau      rank correlation of e and t over P (tau-b, Kendall 1945), of each log
    regret   1 - t of the policy that wins in e / t of the best one, of each log

Intervals are 95 % intervals of the mean over logs. An estimate that is not a number counts as one
of 0 clicks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from agents.statistics import estimate_mean
from benchmarks.lab.plots import BLUE, GREY, RED, panels
from benchmarks.lab.run import Report
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate, Floats

MARKET, LOGGED = "market", "market, as logged"
"""`estimator` of the market's own rows: where a policy leads the shoppers itself, and where the
logging policy does."""
SIMULATOR, MODEL, EPISODES = "simulator", "model", "episodes"
"""`estimator` of the fitted simulator, of the model of doubly robust estimators on its own, and of
the weights of whole episodes, which has no clicks a slate."""
ROWS: dict[str, pl.DataType] = {
    "world": pl.Int64(),  # seed of the market's catalogue
    "seed": pl.Int64(),  # of the log; null in the market
    "size": pl.Int64(),  # slates that were asked for; null in the market
    "slates": pl.Int64(),  # slates of the log
    "estimator": pl.String(),
    "policy": pl.String(),
    "clicks_a_slate": pl.Float64(),
    "low": pl.Float64(),  # of the bootstrap's interval over users, where there is one
    "high": pl.Float64(),
    "clicks_an_episode": pl.Float64(),
    "effective": pl.Float64(),  # effective number of slates, of estimators
}
"""Columns of the rows, of which there is one for each policy, estimator and log."""
MOST_DRAWN = 1.0
"""The largest error in the picture: intervals of IPS and its kind reach farther."""
OTHER = "simulator of another log"
"""`estimator` of a simulator of the market that was fitted to another, larger log."""
NAMES = {
    SIMULATOR: "fitted simulator",
    MODEL: "click model alone",
    "ips": "IPS",
    "snips": "SNIPS",
    "dr": "DR",
    "rips": "RIPS (cascade)",
    "snrips": "SNRIPS",
    "cascade_dr": "cascade-DR",
    "iips": "IIPS",
    "sniips": "SNIIPS",
    "pseudo_inverse": "pseudo-inverse",
    EPISODES: "IPS of episodes, normalised",
}
"""Estimators in the order of the tables, and their names there."""
DRAWN = {
    SIMULATOR: RED,
    "sniips": BLUE,
    "pseudo_inverse": "#2a9d8f",
    "cascade_dr": "#8a5fb0",
    "snips": GREY,
}
"""Estimators that are drawn, and their colours."""


@dataclass(frozen=True)
class Judged:
    """An estimator at one size of log."""

    bias: float | None
    """Off from what it estimates, as a share; None where clicks a slate are not estimated."""
    spread: float | None
    """Standard deviation over logs, as a share of the truth; None of a single log."""
    error: Estimate
    """Error of clicks an episode, as a share."""
    tau: Estimate
    """Rank correlation with the market."""
    regret: Estimate
    """What is lost by the choice of its best policy, as a share."""


def judge(rows: pl.DataFrame, size: int | None, estimator: str) -> Judged | None:
    """Compare an estimator with the market; None where it was not measured at this size.

    Args:
        rows: The rows of all estimators and of the market.
        size: The size of the logs; None for an estimator that knows none of them.
        estimator: Which one.
    """
    found = rows.filter(pl.col("estimator") == estimator)
    found = found.filter(pl.col("size").is_null() if size is None else pl.col("size") == size)
    if found.is_empty():
        return None
    slate, episode, logged = (
        _table(rows.filter(pl.col("estimator") == name), column)
        for name, column in (
            (MARKET, "clicks_a_slate"),
            (MARKET, "clicks_an_episode"),
            (LOGGED, "clicks_a_slate"),
        )
    )
    slates, episodes = (_table(found, at) for at in ("clicks_a_slate", "clicks_an_episode"))
    own = slate if estimator in (SIMULATOR, OTHER) else logged
    taus = [_tau(one, episode[0]) for one in episodes]
    chosen = episode[0][episodes.argmax(axis=1)]
    told = estimator != EPISODES
    squared = estimate_mean(((episodes / episode - 1) ** 2).mean(axis=1))
    return Judged(
        bias=float((slates.mean(axis=0) / own[0] - 1).mean()) if told else None,
        spread=float((slates.std(axis=0, ddof=1) / own[0]).mean())
        if told and len(slates) > 1
        else None,
        error=Estimate(_root(squared.value), _root(squared.low), _root(squared.high), n=squared.n),
        tau=estimate_mean(taus).within(-1, 1),
        regret=estimate_mean(1 - chosen / episode.max()).within(0, 1),
    )


def _root(squared: float) -> float:
    """The root of a mean square; 0 where the interval of that reaches below."""
    return float(np.sqrt(np.maximum(squared, 0.0)))


def _table(rows: pl.DataFrame, column: str) -> Floats:
    """A column as a table (logs, policies), policies in the order of their names."""
    wide = rows.sort("policy", "seed").group_by("policy", maintain_order=True).agg(column)
    return np.nan_to_num(np.array(wide[column].to_list(), dtype=np.float64).T, posinf=0.0)


def _tau(values: Floats, truth: Floats) -> float:
    """Kendall's tau; 0 where all values are the same, which order nothing."""
    found = float(kendalltau(values, truth).statistic)
    return 0.0 if np.isnan(found) else found


def report(rows: pl.DataFrame) -> Report:
    """Say how far each estimator can be believed at each size of log."""
    sizes = sorted(rows["size"].drop_nulls().unique().to_list())
    judged = {
        (name, size): found
        for name in NAMES
        for size in sizes
        if (found := judge(rows, size, name)) is not None
    }
    summary, table = _summary(judged), _tables(judged, sizes, rows)
    other = judge(rows, None, OTHER)
    if other is not None:
        for figure in ("error", "tau", "regret"):
            summary[f"other/{figure}"] = getattr(other, figure)
        line = {"name": OTHER, "error": other.error, "tau": other.tau, "regret": other.regret}
        headers = {"name": "", "error": "error", "tau": "Kendall's tau", "regret": "regret"}
        table += "\n" + markdown([line], headers)
    return Report(table, summary, _drawn(judged, sizes, other))


def _summary(judged: dict[tuple[str, int], Judged]) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for (name, size), one in judged.items():
        for figure in ("error", "tau", "regret"):
            found[f"{name}/{size}/{figure}"] = getattr(one, figure)
        for figure in ("bias", "spread"):
            value = getattr(one, figure)
            if value is not None:
                found[f"{name}/{size}/{figure}"] = Estimate(value, n=one.error.n)
    return found


def _tables(judged: dict[tuple[str, int], Judged], sizes: list[int], rows: pl.DataFrame) -> str:
    """Error and tau by size, what there is more of at the largest size, and the policies."""
    parts = []
    for figure, title in (
        ("error", "error of clicks an episode"),
        ("tau", "Kendall's tau with the market"),
        ("regret", "regret of the policy chosen"),
    ):
        headers = {"name": title} | {str(size): f"{size:,} slates" for size in sizes}
        lines = [
            {"name": label}
            | {
                str(size): getattr(judged[name, size], figure) if (name, size) in judged else None
                for size in sizes
            }
            for name, label in NAMES.items()
        ]
        parts.append(markdown(lines, headers))
    headers = {"name": "bias and spread of clicks a slate"}
    headers |= {str(size): f"{size:,} slates" for size in sizes}
    lines = [
        {"name": label} | {str(size): _off(judged.get((name, size))) for size in sizes}
        for name, label in NAMES.items()
    ]
    parts.append(markdown(lines, headers))
    return "\n".join([*parts, _of_policies(rows, sizes)])


def _off(one: Judged | None) -> str | None:
    if one is None or one.bias is None:
        return None
    spread = "" if one.spread is None else f", ±{100 * one.spread:.1f}"
    return f"{100 * one.bias:+.1f} %{spread}"


def _of_policies(rows: pl.DataFrame, sizes: list[int]) -> str:
    """What each policy earns, and how many slates of it the largest log is worth."""

    def column(estimator: str, name: str, title: str) -> pl.DataFrame:
        part = rows.filter(pl.col("estimator") == estimator)
        return part.select("policy", pl.col(name).alias(title))

    largest = rows.filter((pl.col("size") == sizes[-1]) & (pl.col("estimator") == "ips"))
    found = (
        column(MARKET, "clicks_an_episode", "clicks an episode")
        .join(column(MARKET, "clicks_a_slate", "clicks a slate"), on="policy")
        .join(column(LOGGED, "clicks_a_slate", "where the log leads"), on="policy")
        .join(largest.group_by("policy").agg(pl.col("effective").mean()), on="policy", how="left")
        .rename({"effective": f"effective slates of {sizes[-1]:,}"})
        .sort("clicks an episode", descending=True)
    )
    return markdown(found, digits=3)


def _drawn(judged: dict[tuple[str, int], Judged], sizes: list[int], other: Judged | None) -> Figure:
    """Error and tau by the size of the log, with a simulator of another log as a line."""
    figure, (errors, taus) = panels(10, 3.6, 2)
    for name, colour in DRAWN.items():
        there = [size for size in sizes if (name, size) in judged]
        if not there:
            continue
        for axes, at in ((errors, "error"), (taus, "tau")):
            found = [getattr(judged[name, size], at) for size in there]
            axes.plot(there, [one.value for one in found], "-o", color=colour, label=NAMES[name])
            axes.fill_between(
                there,
                [one.low for one in found],
                [one.high for one in found],
                color=colour,
                alpha=0.12,
                linewidth=0,
            )
    if other is not None:
        for axes, at in ((errors, "error"), (taus, "tau")):
            value = getattr(other, at).value
            axes.axhline(value, color=RED, linestyle="--", linewidth=1, label=OTHER)
    errors.set_ylim(0, MOST_DRAWN)
    errors.set_title("error of clicks an episode")
    taus.set_title("Kendall's tau with the market")
    for axes in (errors, taus):
        axes.set_xscale("log")
        axes.set_xlabel("logged slates")
    taus.axhline(0, color=GREY, linewidth=0.8)
    errors.legend(loc="upper right", framealpha=0.9, edgecolor="none", fontsize=8)
    return figure
