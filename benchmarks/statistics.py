"""Estimates with 95 % bootstrap intervals, resampling what is independent: shoppers, and training seeds.

Percentile bootstrap (Efron 1979), with the deviations from the estimate scaled by sqrt(n / (n - 1)), n independent
units: the plain bootstrap's variance is (n - 1) / n of the unbiased one, which matters for a handful of training
seeds. Even so an interval over fewer than five seeds is on the narrow side; n says how many there were.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 10_000
_CHUNK = 4_000_000  # random numbers held at once


@dataclass(frozen=True)
class Estimate:
    """A measured figure and its 95 % interval; low and high are NaN where nothing was resampled."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 1  # independent units behind it: shoppers or training seeds, not rows

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap(
    values: ArrayLike,
    *,
    generator: np.random.Generator,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The weighted mean of `values` (n,), resampling whole clusters.

    weights:  (n,) of each row in the mean; all 1 by default.
    clusters: (n,) ids of what is independent (the household of a row); each row its own by default.

    Raises ValueError on an empty or non-finite sample, and on shapes that differ.
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
    totals = np.bincount(number, weights=weight * rows)  # (C,) of each cluster
    shares = np.bincount(number, weights=weight)
    if not shares.sum() > 0:
        raise ValueError("the weights sum to zero")
    n = len(totals)

    def resample(count: int) -> Floats:
        drawn = generator.integers(n, size=(count, n))
        # a resample of clusters that all weigh nothing has no mean; it counts as the estimate itself
        mass = shares[drawn].sum(axis=1)
        means: Floats = np.divide(totals[drawn].sum(axis=1), mass, out=np.full(count, value), where=mass > 0)
        return means

    value = float(totals.sum() / shares.sum())
    return _estimate(value, resample, draws_each=n, n=n, resamples=resamples)


def paired_difference(
    treatment: ArrayLike,
    control: ArrayLike,
    *,
    generator: np.random.Generator,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The mean of treatment - control (n,), row by row: both were measured on the same shopper-episode."""
    difference = _vector("treatment", treatment) - _vector("control", control, like=np.asarray(treatment))
    return bootstrap(difference, generator=generator, weights=weights, clusters=clusters, resamples=resamples)


def over_training_seeds(
    values: ArrayLike,
    *,
    generator: np.random.Generator,
    same_episodes: bool = True,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The mean of `values` (S, E): S training seeds, each evaluated in E episodes; both levels are resampled.

    same_episodes: column e is the same shopper-episode for every training seed (common random numbers), so columns
        are resampled once for all seeds (crossed). Otherwise each drawn seed resamples its own episodes (nested).

    `n` of the estimate counts the training seeds. `by_training_seed` makes the array from rows.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise ValueError(f"expected finite values (training seeds, episodes), found shape {table.shape}")
    seeds, episodes = table.shape

    def crossed(count: int) -> Floats:
        drawn_seeds = generator.integers(seeds, size=(count, seeds))
        drawn_episodes = generator.integers(episodes, size=(count, episodes))
        how_often = np.zeros((count, seeds))
        np.add.at(how_often, (np.arange(count)[:, None], drawn_seeds), 1.0 / seeds)
        seed_means = how_often @ table  # (count, E): the mean over the drawn seeds, by episode
        drawn: Floats = np.take_along_axis(seed_means, drawn_episodes, axis=1).mean(axis=1)
        return drawn

    def nested(count: int) -> Floats:
        drawn_seeds = generator.integers(seeds, size=(count, seeds, 1))
        drawn_episodes = generator.integers(episodes, size=(count, seeds, episodes))
        drawn: Floats = table[drawn_seeds, drawn_episodes].mean(axis=(1, 2))
        return drawn

    return _estimate(
        float(table.mean()),
        crossed if same_episodes else nested,
        draws_each=episodes if same_episodes else seeds * episodes,
        n=seeds,
        resamples=resamples,
    )


def by_training_seed(rows: pl.DataFrame, value: str, *, seed: str = "seed", episode: str = "episode") -> Floats:
    """Rows as the (S, E) array of `over_training_seeds`, both sorted by id; `seed` and `episode` name the columns.

    Raises ValueError where a (seed, episode) is missing or occurs twice.
    """
    seeds, episodes = rows[seed].unique().sort(), rows[episode].unique().sort()
    if rows.height != len(seeds) * len(episodes) or rows.select(seed, episode).is_duplicated().any():
        raise ValueError(
            f"expected one row for each of {len(seeds)} values of {seed!r} x {len(episodes)} of {episode!r}, "
            f"found {rows.height} rows, {rows.select(seed, episode).n_unique()} of them distinct"
        )
    values = rows.sort(seed, episode)[value].cast(pl.Float64).to_numpy()
    return np.asarray(values, dtype=np.float64).reshape(len(seeds), len(episodes))


def _estimate(value: float, resample: Callable[[int], Floats], *, draws_each: int, n: int, resamples: int) -> Estimate:
    """`value` with the interval of `resamples` resampled values, drawn in chunks; NaN bounds for a single unit."""
    if n < 2:
        return Estimate(value, n=n)
    chunk = max(1, _CHUNK // draws_each)
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    drawn = np.concatenate([resample(size) for size in sizes])
    tail = (1 - LEVEL) / 2
    low, high = value + math.sqrt(n / (n - 1)) * (np.quantile(drawn, [tail, 1 - tail]) - value)
    return Estimate(value, float(low), float(high), n)


def _vector(name: str, values: ArrayLike, like: NDArray[np.generic] | None = None) -> Floats:
    """`values` as finite floats (n,), n > 0, of the shape of `like`."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} must be one non-empty row of numbers, found shape {vector.shape}")
    if like is not None and vector.shape != like.shape:
        raise ValueError(f"{name} has shape {vector.shape}, expected {like.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(vector))} numbers that are not finite")
    return vector
