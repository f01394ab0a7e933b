"""Estimates with 95 % intervals that hold for a handful of training seeds as well.

What varies independently are training seeds, shoppers or whole clusters of rows.

An interval is the mean plus and minus a critical value times its standard error. The critical value
is Student's t, widened by an allowance for skewed samples: the coverage error of a t interval over
n values of skewness g is, by its Edgeworth expansion (Hall 1992, "The Bootstrap and Edgeworth
Expansion", section 2.6), that of a critical value which is short by the factor 1 + 1.08 g^2 / n.
The skewness of a few trainings cannot be estimated, so it is taken to be 1.4 for all. A test
simulates the coverage: of 95 % intervals over 3, 5 and 10 values at least .93 hold the mean where
the values are normal, uniform or exponential (skewness 2), and where episodes vary beside the
seeds. Over many values the interval is that of the normal distribution.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from recsim_env.estimates import LEVEL, Estimate

Floats = NDArray[np.float64]

SKEWNESS = 1.4
"""Skewness of the samples that intervals allow for."""


@functools.cache
def critical(n: int) -> float:
    """How many standard errors an interval over n >= 2 independent units extends to each side."""
    return float(student.ppf((1 + LEVEL) / 2, n - 1)) * (1 + 1.08 * SKEWNESS**2 / n)


def around(value: float, *errors: tuple[float, int], n: int) -> Estimate:
    """Give a value the interval of its independent sources of error.

    The half widths of the sources are added as squares, which covers at least as often as promised
    whatever their ratio is (Banerjee 1960, Sankhya 22). Without two units there is no interval.

    Args:
        value: The figure.
        errors: The standard error of each source, and the number of its units.
        n: The number of units that the estimate counts.
    """
    if min(units for _, units in errors) < 2:
        return Estimate(value, n=n)
    half = math.hypot(*(critical(units) * error for error, units in errors))
    return Estimate(value, value - half, value + half, n)


def estimate_mean(
    values: ArrayLike, *, weights: ArrayLike | None = None, clusters: ArrayLike | None = None
) -> Estimate:
    """The weighted mean of some values, whose independent units are whole clusters of them.

    The standard error is that of a ratio of cluster sums (Cochran 1977, "Sampling Techniques", eq.
    2.46).

    Args:
        values: The values (n,).
        weights: The weight (n,) of each value in the mean; all 1 by default.
        clusters: The id (n,) of what is independent, such as the household of a value; by default
            each value stands for itself.

    Raises:
        ValueError: If the sample is empty or not finite, or shapes differ.
    """
    rows = _vector("values", values)
    weight = np.ones_like(rows) if weights is None else _vector("weights", weights, like=rows)
    if clusters is None:
        number = np.arange(len(rows))
    else:
        ids = np.asarray(clusters)
        if ids.shape != rows.shape:
            raise ValueError(f"clusters has shape {ids.shape}, values {rows.shape}")
        number = np.unique(ids, return_inverse=True)[1]
    shares = np.bincount(number, weights=weight)  # (C,) of each cluster
    if not shares.sum() > 0:
        raise ValueError("the weights sum to zero")
    value = float((weight * rows).sum() / shares.sum())
    residuals = np.bincount(number, weights=weight * (rows - value))
    n = int(np.count_nonzero(shares))  # a cluster that weighs nothing tells nothing
    error = math.sqrt(n / max(n - 1, 1) * float((residuals**2).sum())) / float(shares.sum())
    return around(value, (error, n), n=n)


def paired_difference(
    treatment: ArrayLike,
    control: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
) -> Estimate:
    """The mean of treatment - control (n,), whose rows are the same shopper-episodes."""
    difference = _vector("treatment", treatment) - _vector(
        "control", control, like=np.asarray(treatment)
    )
    return estimate_mean(difference, weights=weights, clusters=clusters)


def over_training_seeds(values: ArrayLike, *, same_episodes: bool = True) -> Estimate:
    """The mean of values (S, E) of S training seeds, each of which was evaluated in E episodes.

    The interval covers what other training seeds would have earned from other episodes; `n` of the
    estimate counts the training seeds.

    Args:
        values: The values, as `by_training_seed` makes them from rows.
        same_episodes: Whether column e is the same shopper-episode for every training seed (common
            random numbers), so that seeds and episodes are two crossed sources of error. Otherwise
            the spread of the seeds' means holds both.

    Raises:
        ValueError: If the values are no table, or not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise ValueError(
            f"expected finite values (training seeds, episodes), found shape {table.shape}"
        )
    sources = [_error_of_mean(table.mean(axis=1))]
    if same_episodes:
        sources.append(_error_of_mean(table.mean(axis=0)))
    return around(float(table.mean()), *sources, n=len(table))


def _error_of_mean(values: Floats) -> tuple[float, int]:
    """The standard error of the mean of independent values (n,), and n."""
    n = len(values)
    return (float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan), n


def by_training_seed(
    rows: pl.DataFrame, value: str, *, seed: str = "seed", episode: str = "episode"
) -> Floats:
    """Arrange a column as the table (S, E) of `over_training_seeds`, both dimensions sorted by id.

    Args:
        rows: One row for each training seed and episode.
        value: The name of the column.
        seed: The name of the column of training seeds.
        episode: The name of the column of episodes.

    Raises:
        ValueError: If a training seed and episode are missing or occur twice.
    """
    seeds, episodes = rows[seed].unique().sort(), rows[episode].unique().sort()
    if (
        rows.height != len(seeds) * len(episodes)
        or rows.select(seed, episode).is_duplicated().any()
    ):
        raise ValueError(
            f"expected one row for each of {len(seeds)} values of {seed!r} x {len(episodes)} of "
            f"{episode!r}, found {rows.height} rows, "
            f"{rows.select(seed, episode).n_unique()} of them distinct"
        )
    values = rows.sort(seed, episode)[value].cast(pl.Float64).to_numpy()
    return np.asarray(values, dtype=np.float64).reshape(len(seeds), len(episodes))


def _vector(name: str, values: ArrayLike, like: NDArray[np.generic] | None = None) -> Floats:
    """`values` as finite floats (n,), n > 0, of the shape of `like`."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} must be one non-empty row of numbers, found shape {vector.shape}")
    if like is not None and vector.shape != like.shape:
        raise ValueError(f"{name} has shape {vector.shape}, expected {like.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(
            f"{name} holds {np.count_nonzero(~np.isfinite(vector))} numbers that are not finite"
        )
    return vector
