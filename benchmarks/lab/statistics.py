"""Statistics of policies' rows, and the bootstrap of few runs, with `agents.statistics`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from agents.statistics import (
    Floats,
    around,
    by_training_seed,
    estimate_mean,
    over_training_seeds,
    paired_difference,
)
from recsim_env.estimates import Estimate

RESAMPLES = 5_000
"""Number of resamples of a bootstrap."""


# ---- policies ------------------------------------------------------------------------------------


def policy_mean(rows: pl.DataFrame, column: str) -> Estimate:
    """The mean of a policy's column over episodes, and over training seeds where it has several.

    The rows have the columns `training_seed`, null where nothing was trained, and `episode`.
    """
    if rows["training_seed"].n_unique() > 1:
        return over_training_seeds(by_training_seed(rows, column, seed="training_seed"))
    return estimate_mean(rows[column].to_numpy())


def policy_difference(rows: pl.DataFrame, base: pl.DataFrame, column: str) -> Estimate:
    """By how much a policy's column is above that of another one, paired by episode.

    Args:
        rows: The policy's rows, as for `policy_mean`.
        base: The rows of a policy that was not trained, or was trained once.
        column: The column that is compared.
    """
    order = base.sort("episode")[column].to_numpy()
    if rows["training_seed"].n_unique() > 1:
        table = by_training_seed(rows, column, seed="training_seed")
        return over_training_seeds(table - order)
    return paired_difference(rows.sort("episode")[column].to_numpy(), order)


def returns_of(rows: pl.DataFrame, policy: str) -> Floats:
    """Returns (S, E) of a policy, a line for each training of it; one line without any.

    The rows have the columns `policy`, `seed`, null where nothing was trained, and `episode`.
    """
    lines = rows.filter(pl.col("policy") == policy).sort("seed").partition_by("seed")
    return np.stack([line.sort("episode")["return"].to_numpy() for line in lines])


# ---- bootstrap -----------------------------------------------------------------------------------


def bootstrap_error(resampled: ArrayLike, units: int) -> Floats:
    """The standard error that resamples (S, ...) of so many independent units tell: (...,).

    The spread of the resamples is too small by the factor sqrt((units - 1) / units), which is put
    right. The error of a single unit is NaN.
    """
    factor = math.sqrt(units / (units - 1)) if units > 1 else math.nan
    error: Floats = factor * np.std(np.asarray(resampled), axis=0)
    return error


def iqm(scores: Floats) -> Floats:
    """The interquartile mean of scores (..., n): the mean without the outer quarters, (...)."""
    cut = int(0.25 * scores.shape[-1])
    kept: Floats = np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1)
    return kept


def stratified(
    scores: Floats,
    statistic: Callable[[Floats], Floats],
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """A statistic of scores and its standard error, resampling the runs of each world on their own.

    Args:
        scores: The scores of R runs in W worlds.
        statistic: Gives the statistic of scores, along their last dimension.
        generator: Draws the resamples.
        resamples: The number of resamples.

    Shapes:
        scores: (R, W)
        statistic: (..., R * W) to (...) or (..., T)
        returns: () or (T,) each; the error is NaN for a single run.
    """
    runs, worlds = scores.shape
    drawn = generator.integers(runs, size=(resamples, runs, worlds))
    resampled = statistic(scores[drawn, np.arange(worlds)].reshape(resamples, -1))
    return statistic(scores.reshape(-1)), bootstrap_error(resampled, runs)


def units(runs: int, worlds: int) -> int:
    """The number of independent units behind the spread of runs within worlds.

    It is one more than the spread has degrees of freedom.
    """
    return worlds * (runs - 1) + 1


def iqm_estimate(
    scores: Floats, generator: np.random.Generator, resamples: int = RESAMPLES
) -> Estimate | None:
    """The interquartile mean of scores (R, W) with its interval, if there are several runs.

    None where there are no scores.
    """
    if not scores.size:
        return None
    value, error = stratified(scores, iqm, generator, resamples)
    return around(float(value), (float(error), units(*scores.shape)), n=scores.size)
