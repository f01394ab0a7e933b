"""Held-out scores of shopper models: ranking, calibration and recency curves, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agents.statistics import around
from recsim_env import metrics
from recsim_env.estimates import Estimate, resamples

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ITEM_BINS = (0, 1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 63, 91)
"""First day of each bin of the days since the last purchase of an item."""
COUNT_BINS = (0, 1, 2, 4, 8, 12, 20)
"""First number of each bin of the past purchases of an item."""


@dataclass(frozen=True)
class Rows:
    """Scored rows (R,): label, weight, chance (float64); shopper, slate (int64)."""

    label: Floats
    weight: Floats
    chance: Floats
    shopper: Ints
    slate: Ints

    @property
    def households(self) -> int:
        """The number of shoppers."""
        return len(np.unique(self.shopper))

    def only(self, keep: NDArray[np.bool_]) -> Rows:
        """Take a part of the rows."""
        return Rows(*(column[keep] for column in vars(self).values()))

    def curve(self, value: Floats, edges: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
        """Compute `recsim_env.metrics.curve` of the rows along a value (R,)."""
        return metrics.curve(self.chance, self.label, value, edges, self.weight)


Metric = Callable[[Rows, Floats], float]
"""Gives the value of rows with their weights in a bootstrap sample, NaN where it is not defined."""

METRICS: dict[str, Metric] = {
    "auc": lambda rows, weight: metrics.auc(rows.chance, rows.label, weight),
    "ne": lambda rows, weight: metrics.normalised_entropy(rows.chance, rows.label, weight),
    "log_loss": lambda rows, weight: metrics.log_loss(rows.chance, rows.label, weight),
    "ece": lambda rows, weight: metrics.calibration_error(rows.chance, rows.label, weight),
    "ratio": lambda rows, weight: metrics.ratio(rows.chance, rows.label, weight),
    "ndcg10": lambda rows, weight: metrics.ndcg(
        rows.chance, rows.label, rows.slate, weight, cut=10
    ),
}


def bootstrap(
    models: dict[str, Rows], metrics: tuple[str, ...], *, samples: int = 200
) -> dict[str, dict[str, tuple[float, Floats]]]:
    """Score several models on the same rows, with a bootstrap over households.

    Sample i draws the same households for every model, so differences of samples are paired.

    Returns:
        Model -> metric -> (value, (samples,) bootstrap values). A value is NaN where a sample does
        not define it (an AUC without a response).
    """
    who = np.unique(next(iter(models.values())).shopper)
    draws = resamples(len(who), samples)
    found: dict[str, dict[str, tuple[float, Floats]]] = {}
    for name, rows in models.items():
        index = np.searchsorted(who, rows.shopper)  # each model has its rows in an order of its own
        found[name] = {}
        for metric in metrics:
            value = METRICS[metric](rows, rows.weight)
            values = np.array([METRICS[metric](rows, rows.weight * draw[index]) for draw in draws])
            found[name][metric] = (value, values)
    return found


def with_samples(rows: Rows, metrics: tuple[str, ...], *, samples: int) -> dict[str, list[float]]:
    """The score of rows by each metric, followed by its bootstrap samples."""
    found = bootstrap({"": rows}, metrics, samples=samples)[""]
    return {name: [value, *drawn.tolist()] for name, (value, drawn) in found.items()}


def numbered(values: Mapping[str, Sequence[float]], **told: object) -> list[dict[str, object]]:
    """Rows of `what`, `n` and `value` for the values of each name, with what is told of all."""
    return [
        {**told, "what": what, "n": n, "value": value}
        for what, several in values.items()
        for n, value in enumerate(several)
    ]


def mean_of(rows: pl.DataFrame, what: str) -> float:
    """Average a fact that `numbered` rows hold once a fit, over the fits."""
    return float(rows.filter(pl.col("what") == what)["value"].to_numpy().mean())


def bootstrap_mean(values: Floats, shopper: Ints, samples: int) -> tuple[float, Floats, int]:
    """Average values of visits (V,), with a bootstrap over households.

    Args:
        values: One for each visit.
        shopper: (V,) whose visit each is.
        samples: Number of bootstrap samples, which draw the same households for the same shoppers.

    Returns:
        The mean, its (samples,) bootstrap values, and the number of households.
    """
    who, index = np.unique(shopper, return_inverse=True)
    draws = resamples(len(who), samples)
    total, number = np.bincount(index, values), np.bincount(index)
    return float(values.mean()), (draws @ total) / (draws @ number), len(who)


def estimate(
    value: float, samples: Floats, households: int, fits: Floats | None = None
) -> Estimate:
    """Turn a score and its bootstrap samples (S,) over households into an estimate.

    The 95 % interval is the critical value of `benchmarks.lab.statistics` times the standard
    deviation of the samples, which a hundred of them estimate better than their outer quantiles.
    Samples in which the score is not defined (NaN) are left out.

    Args:
        value: the score; the mean of `fits` where these are given
        samples: its bootstrap samples (S,)
        households: number of households
        fits: (F,) the score of each fit, whose spread is a second source of error, independent of
            the households; a single one has no interval

    Raises:
        ValueError: If fewer than half of the samples define it.
    """
    defined = samples[np.isfinite(samples)]
    if 2 * len(defined) < len(samples) or len(defined) < 2:
        raise ValueError(
            f"{len(defined)} of {len(samples)} bootstrap samples define the score, but at "
            "least half of them must: there are too few households or responses."
        )
    factor = math.sqrt(households / max(households - 1, 1))
    errors = [(factor * float(defined.std(ddof=1)), households)]
    if fits is not None:
        spread = float(fits.std(ddof=1)) if len(fits) > 1 else math.nan
        errors.append((spread / math.sqrt(len(fits)), len(fits)))
    return around(value, *errors, n=households)


def samples_by_fit(rows: pl.DataFrame) -> Floats:
    """Arrange scores and their bootstrap samples, one line a fit: (F, 1 + S).

    Args:
        rows: columns seed, n and value; n 0 is the score of a fit, the others are its samples
    """
    values = rows.sort("seed", "n").group_by("seed").agg(pl.col("value")).sort("seed")["value"]
    return np.array(values.to_list(), dtype=np.float64)


def over_fits(each: Floats, households: int) -> Estimate:
    """Average scores and their samples (F, 1 + S) over fits, with both sources of error."""
    mean = each.mean(axis=0)
    return estimate(mean[0], mean[1:], households, fits=each[:, 0])
