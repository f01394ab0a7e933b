"""Whether a training of PPO has converged, in one line, and what to type next.

Three figures tell. The *slope* of the return over the second half of the training, with its
interval, says whether it still rises. The *KL divergence* of the last update says whether steps are
too large for the policy to settle, or so small that it stands still. The *explained variance* of
the critic says whether the advantages are more than noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Level of the interval of the slope."""
FEWEST = 4
"""Fewest returns in the second half of a training from which a slope is read."""
LARGE_KL, SMALL_KL = 0.05, 1e-4
"""KL divergences of an update beyond which its step was too large, or next to nothing. Schulman et
al. 2017 aim at 0.003 to 0.03."""
LITTLE_EXPLAINED = 0.2
"""Explained variance below which the critic knows next to nothing."""
FLAT = 0.02
"""Rise over another training of the same length, as a share of the return, that counts as none."""


@dataclass(frozen=True)
class Slope:
    """The rise of the return for every visit, by least squares, with its interval."""

    value: float
    low: float
    high: float


def slope_of(visits: Sequence[float], returns: Sequence[float]) -> Slope:
    """The slope of returns over visits, with an interval by Student's t.

    Raises:
        ValueError: If there are fewer than three points, or they are not at several visits.
    """
    x, y = np.asarray(visits, float), np.asarray(returns, float)
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(
            f"visits and returns hold {len(x)} and {len(y)} numbers, but a slope needs at least 3 "
            "of each."
        )
    if np.ptp(x) == 0:
        raise ValueError(f"visits are all {x[0]:g}, but a slope needs several of them.")
    line = stats.linregress(x, y)
    margin = float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 2) * line.stderr)
    value = float(line.slope)
    return Slope(value, value - margin, value + margin)


@dataclass(frozen=True)
class Verdict:
    """What a training has come to."""

    converged: bool | None
    """Whether it has converged; None where that cannot be told."""
    line: str
    """The same in one sentence, with what it was read from."""
    advice: str
    """What to do next, for example options of `benchmarks.agents.train`."""


def verdict_of(
    visits: Sequence[int],
    returns: Sequence[float],
    *,
    total: int,
    kl: float,
    explained_variance: float,
    learning_rate: float,
    search: int = 0,
) -> Verdict:
    """Tell whether a training has converged.

    Args:
        visits: numbers of visits at which the return is known, ascending
        returns: the mean return there, of evaluations or of the rollouts themselves
        total: length of the training in visits
        search: most visits of a search that follows, which `--visits` counts as well
        kl: approximate KL divergence of the last update
        explained_variance: that of the critic at the last update
        learning_rate: with which the training began
    """
    figures = f"KL {kl:.2g}, explained variance {explained_variance:.2f}"
    smaller = f"--ppo.learning-rate {learning_rate / 3:.2g}"
    if not (math.isfinite(kl) and math.isfinite(explained_variance)):
        return Verdict(False, f"Broken: {figures}.", smaller)
    longer = f"--visits {2 * (total + search)}"
    half = [(at, found) for at, found in zip(visits, returns, strict=True) if 2 * at >= total]
    if kl > LARGE_KL:
        return Verdict(False, f"Not converged, as its steps are too large: {figures}.", smaller)
    if len(half) < FEWEST:
        line = f"Whether it has converged cannot be told from {len(half)} points: {figures}."
        return Verdict(None, line, longer)

    # how far another training of the same length would come at this slope
    slope = slope_of(*zip(*half, strict=True))
    ahead = [total * rise for rise in (slope.value, slope.low, slope.high)]
    level = float(np.mean([found for _, found in half]))
    small = FLAT * max(abs(level), 1e-9)
    told = (
        f"the return changes by {ahead[0]:+.2f} [{ahead[1]:.2f}, {ahead[2]:.2f}] over as many "
        f"visits again, {figures}"
    )
    if ahead[1] > 0 and ahead[0] > small:
        return Verdict(False, f"Still learning: {told}.", longer)
    if ahead[2] < 0 and ahead[0] < -small:
        return Verdict(False, f"It has become worse: {told}.", smaller)
    if explained_variance < LITTLE_EXPLAINED:
        line = f"It stands still, but the critic explains little: {told}."
        return Verdict(None, line, "more shoppers at once (--shoppers), or a smaller --ppo.gamma")
    if ahead[2] > small:
        return Verdict(None, f"It may still be learning: {told}.", longer)
    if kl < SMALL_KL:
        return Verdict(None, f"Its steps are next to nothing: {told}.", longer)
    return Verdict(True, f"Converged: {told}.", "")
