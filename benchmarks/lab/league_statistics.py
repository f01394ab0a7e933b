"""Statistics of the league, from its rows alone.

Means over few runs are judged as Agarwal et al. 2021, "Deep reinforcement learning at the edge of
the statistical precipice", say: by the interquartile mean over runs and worlds, whose spread is
found by resampling the runs of each world on their own (stratified bootstrap, section 4.1), and by
performance profiles (section 4.2). Their percentile intervals cover the truth too rarely over five
runs (.90 to .92 of 95 % ones by simulation), so here an interval is the value and a critical value
of `benchmarks.lab.statistics` times the bootstrap's standard error. Intervals cover other training
seeds and other shoppers in the same worlds. The authors' package rliable draws from numpy's global
generator, so all is computed here with a generator that is handed in; tests hold the statistics to
rliable's.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from agents.statistics import Floats, around, estimate_mean
from benchmarks.lab.league_cells import GREEDY
from benchmarks.lab.statistics import RESAMPLES, bootstrap_error
from recsim_env.estimates import Estimate


def at(rows: pl.DataFrame, env: str, believing: bool | None = None) -> pl.DataFrame:
    """The rows of one environment, with a belief, without one, or both."""
    rows = rows.filter(pl.col("env") == env)
    return rows if believing is None else rows.filter(pl.col("believing") == believing)


def baseline(rows: pl.DataFrame, env: str) -> pl.DataFrame:
    """The rows of greedy CTR in an environment: those on the ranker, where they are there."""
    greedy = of(at(rows, env), GREEDY)
    on_ranker = greedy.filter(~pl.col("believing"))
    return greedy if on_ranker.is_empty() else on_ranker


def of(rows: pl.DataFrame, contender: str, mode: str = "deterministic") -> pl.DataFrame:
    """The rows of one contender in a mode."""
    return rows.filter((pl.col("contender") == contender) & (pl.col("mode") == mode))


def matrix(rows: pl.DataFrame) -> Floats:
    """Arrange returns of one contender and mode as (R, W), with the runs that all worlds have."""
    if rows.is_empty():
        return np.empty((0, 0))
    wide = rows.sort("world", "run").pivot("world", index="run", values="return")
    return wide.drop_nulls().sort("run").drop("run").to_numpy().astype(np.float64)


def pairs(one: pl.DataFrame, other: pl.DataFrame, column: str = "return") -> tuple[Floats, Floats]:
    """A column of two contenders, for each world and run that both have: (P,) each."""
    both = one.join(other, on=["env", "world", "run"], suffix="_other").sort("world", "run")
    return both[column].to_numpy(), both[f"{column}_other"].to_numpy()


def ratio(one: Floats, other: Floats) -> Estimate:
    """The mean of one (P,) over the mean of the other, in which pairs are independent."""
    return estimate_mean(one / other, weights=other)


def first_above(curve: Floats, level: float) -> int | None:
    """The first point from which on a curve (T,) stays above a level; None if it ends below."""
    below = np.flatnonzero(~(curve > level))
    first = int(below[-1]) + 1 if len(below) else 0
    return first if first < len(curve) else None


def to_pass(
    returns: Floats, cost: Floats, level: Floats, generator: np.random.Generator
) -> Estimate | None:
    """What it cost until the mean curve passed the mean level for good; None where it did not.

    Pairs of world and run are resampled. A resample that does not pass counts as one that passed at
    the end, and no cost lies outside those that were seen.

    Args:
        returns: The learning curves of the pairs.
        cost: What each point of a curve cost.
        level: The level that each pair's curve should pass, on the same shoppers.
        generator: Draws the resamples.

    Shapes:
        returns, cost: (P, T)
        level: (P,)
    """
    number, length = returns.shape
    first = first_above(returns.mean(axis=0), float(level.mean()))
    if first is None:
        return None
    value = float(cost[:, first].mean())
    if number < 2:
        return Estimate(value, n=number)
    found = []
    for drawn in generator.integers(number, size=(RESAMPLES, number)):
        at = first_above(returns[drawn].mean(axis=0), float(level[drawn].mean()))
        found.append(cost[drawn, length - 1 if at is None else at].mean())
    error = float(bootstrap_error(found, number))
    return around(value, (error, number), n=number).within(float(cost.min()), float(cost.max()))


def curve_of(curves: pl.DataFrame, contender: str) -> tuple[pl.DataFrame, Floats, Floats, Floats]:
    """The learning curves of one contender's runs at the steps that all have, and at their end.

    Searches play whole episodes, so that runs end at slightly different steps; the end counts as
    that of the longest run.

    Returns:
        The runs (P rows of `env`, `world` and `run`), steps (T,), returns (P, T), minutes (P, T).
    """
    own = curves.filter(pl.col("contender") == contender).unique(
        ["world", "run", "steps"], keep="last"
    )
    ends = pl.col("steps") == pl.col("steps").max().over("world", "run")
    own = own.with_columns(pl.when(ends).then(pl.col("steps").max()).otherwise("steps"))
    runs = own.select("env", "world", "run").unique().sort("world", "run")
    shared = own.group_by("steps").len().filter(pl.col("len") == len(runs))["steps"]
    own = own.filter(pl.col("steps").is_in(shared.implode())).sort("world", "run", "steps")
    shape = (len(runs), len(shared))
    returns, minutes = (own[name].to_numpy().reshape(shape) for name in ("return", "minutes"))
    return runs, np.sort(shared.to_numpy()).astype(np.float64), returns, minutes
