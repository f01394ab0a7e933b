"""Estimates with intervals, by a bootstrap over independent units such as users."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 0.95
"""Share of intervals that hold the truth."""


@dataclass(frozen=True)
class Estimate:
    """A measured figure and its 95 % interval; low and high are NaN where nothing was repeated."""

    value: float
    """The figure as it was measured."""
    low: float = math.nan
    """Lower end of the interval."""
    high: float = math.nan
    """Upper end of the interval."""
    n: int = 1
    """Number of independent units behind it: shoppers or training seeds, not rows."""

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def within(self, low: float, high: float) -> Estimate:
        """The same figure with its interval cut to the values that it can take; NaN bounds stay."""
        return Estimate(
            self.value,
            float(np.clip(self.low, low, high)),
            float(np.clip(self.high, low, high)),
            self.n,
        )


def units_of(ids: ArrayLike) -> tuple[Ints, int]:
    """Number the independent units that rows belong to: (R,) from 0, and how many there are."""
    found, number = np.unique(np.asarray(ids), return_inverse=True)
    return number.astype(np.int64), len(found)


def resamples(units: int, samples: int, seed: int = 0) -> Floats:
    """Draw bootstrap samples of units: (samples, units), how often each unit is in each sample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), samples).astype(np.float64)


def from_samples(value: float, samples: ArrayLike, units: int) -> Estimate:
    """Give a figure the interval between the outer quantiles of its bootstrap samples.

    Quantiles, for ratios of rare responses are skewed. Samples that do not define the figure (NaN,
    infinity) are left out; where they are more than half, there is no interval, and neither is
    there with a single unit.
    """
    drawn = np.asarray(samples, dtype=np.float64)
    defined = drawn[np.isfinite(drawn)]
    if units < 2 or 2 * len(defined) < max(len(drawn), 2):
        return Estimate(value, n=units)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), units)
