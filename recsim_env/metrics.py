"""How well predicted chances fit what happened: ranking and calibration; one row is one prediction.

All functions take chance (R,) in [0, 1], label (R,) 0 or 1, and weight (R,) of each row, 0 or more
and 1 by default; arrays, or tensors in the memory of the processor. No function depends on the
order of the rows: rows of equal chance count as a group. A score that the rows do not define is
NaN: an AUC without a response, for example.

All functions raise ValueError if the shapes differ, or a number is not finite or out of its range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def auc(chance: ArrayLike, label: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Compute the area under the ROC curve; ties count half (Hanley & McNeil 1982).

    It is NaN where all labels are the same.
    """
    p, y, w = _columns(chance, label, weight)
    order, first = _ascending(p)
    w = w[order]
    positive = np.add.reduceat(w * y[order], first)
    negative = np.add.reduceat(w * (1 - y[order]), first)
    below = np.cumsum(negative) - negative
    return _ratio(
        float((positive * (below + negative / 2)).sum()), float(positive.sum() * negative.sum())
    )


def log_loss(chance: ArrayLike, label: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Compute the mean negative log-likelihood in nats, with chances kept 1e-7 away from 0 and 1.

    It is NaN where nothing has weight.
    """
    p, y, w = _columns(chance, label, weight)
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return _ratio(-float((w * (y * np.log(p) + (1 - y) * np.log1p(-p))).sum()), float(w.sum()))


def normalised_entropy(
    chance: ArrayLike, label: ArrayLike, weight: ArrayLike | None = None
) -> float:
    """Divide the log loss by that of always predicting the base rate (He et al. 2014, equation 3).

    It is NaN where all labels are the same.
    """
    _, y, w = _columns(chance, label, weight)
    base = _ratio(float((w * y).sum()), float(w.sum()))
    if not 0 < base < 1:
        return math.nan
    return log_loss(chance, label, weight) / -(
        base * math.log(base) + (1 - base) * math.log1p(-base)
    )


def calibration_error(
    chance: ArrayLike, label: ArrayLike, weight: ArrayLike | None = None, *, bins: int = 20
) -> float:
    """Compute the expected calibration error over bins of about equal weight.

    It is the mean distance of mean chance and response rate. A group of equal chances lies in one
    bin as a whole, the one in which the middle of its weight falls. It is NaN where nothing has
    weight.
    """
    p, y, w = _columns(chance, label, weight)
    order, first = _ascending(p)
    group = np.add.reduceat(w[order], first)
    total = float(group.sum())
    if total <= 0:
        return math.nan
    middle = (np.cumsum(group) - group / 2) / total
    bin_of = np.minimum((middle * bins).astype(np.int64), bins - 1)
    gap = np.bincount(bin_of, np.add.reduceat((w * (p - y))[order], first), bins)
    return float(np.abs(gap).sum()) / total


def ratio(chance: ArrayLike, label: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Divide predicted by observed responses; NaN where none was observed."""
    p, y, w = _columns(chance, label, weight)
    return _ratio(float((w * p).sum()), float((w * y).sum()))


def ndcg(
    chance: ArrayLike,
    label: ArrayLike,
    slate: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    cut: int = 10,
) -> float:
    """Compute the mean NDCG over slates with a response, for their first `cut` items by chance.

    Where chances are equal, the mean over all orders of these items counts (McSherry & Najork
    2008). It is NaN where no slate has a response.

    Args:
        chance: (R,)
        label: (R,)
        slate: (R,) id of the slate of a row; a slate weighs as much as its first row
        weight: (R,)
        cut: items of a slate that count
    """
    p, y, w = _columns(chance, label, weight)
    number = np.asarray(slate)
    if number.shape != p.shape:
        raise ValueError(
            f"slate has shape {number.shape}, but it must have {p.shape}, that of chance."
        )
    order = np.lexsort((-p, number))
    number, p, y, w = number[order], p[order], y[order], w[order]
    new_slate = np.diff(number, prepend=number[0] - 1) != 0
    first = np.flatnonzero(new_slate)
    lengths = np.diff(np.append(first, len(number)))
    rank = np.arange(len(number)) - np.repeat(first, lengths)
    discount = np.where(rank < cut, 1.0 / np.log2(rank + 2), 0.0)
    tie = np.flatnonzero(new_slate | (np.diff(p, prepend=-1.0) != 0))
    sizes = np.diff(np.append(tie, len(number)))
    discount = np.repeat(np.add.reduceat(discount, tie) / sizes, sizes)
    gained = np.add.reduceat(y * discount, first)
    bought = np.minimum(np.add.reduceat(y, first).astype(np.int64), cut)
    best = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(cut) + 2))])[bought]
    has, importance = bought > 0, w[first]
    return _ratio(
        float((importance[has] * gained[has] / best[has]).sum()), float(importance[has].sum())
    )


def curve(
    chance: ArrayLike,
    label: ArrayLike,
    value: ArrayLike,
    edges: Sequence[float],
    weight: ArrayLike | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Compute mean responses along a value, by bin: observed, predicted, and how many there are.

    Args:
        chance: (R,)
        label: (R,)
        value: (R,) for example the days since the last purchase
        edges: (bins,) first value of each bin; rows below the first lie in none
        weight: (R,)

    Returns:
        Observed and predicted mean response (NaN in an empty bin), and weighted responses, (bins,)
        each.
    """
    p, y, w = _columns(chance, label, weight)
    place = np.searchsorted(np.array(edges), np.asarray(value), side="right") - 1
    inside = place >= 0
    total = np.bincount(place[inside], w[inside], len(edges))
    positive = np.bincount(place[inside], (w * y)[inside], len(edges))
    predicted = np.bincount(place[inside], (w * p)[inside], len(edges))
    with np.errstate(invalid="ignore", divide="ignore"):
        return positive / total, predicted / total, positive.astype(np.float64)


def curve_error(observed: Floats, predicted: Floats, positive: Floats) -> float:
    """Average |predicted / observed - 1| over the bins of a curve, weighted by responses."""
    seen = positive > 0
    return float(
        (positive[seen] * np.abs(predicted[seen] / observed[seen] - 1)).sum() / positive[seen].sum()
    )


def _columns(
    chance: ArrayLike, label: ArrayLike, weight: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    """Check the three columns, and return them as float64 (R,)."""
    p, y = np.asarray(chance, dtype=np.float64), np.asarray(label, dtype=np.float64)
    w = np.ones_like(p) if weight is None else np.asarray(weight, dtype=np.float64)
    if p.ndim != 1 or not len(p):
        raise ValueError(
            f"chance has shape {p.shape}, but it must be one row of numbers, one or more."
        )
    for name, column, high in (("chance", p, 1.0), ("label", y, 1.0), ("weight", w, math.inf)):
        if column.shape != p.shape:
            raise ValueError(
                f"{name} has shape {column.shape}, but it must have {p.shape}, that of chance."
            )
        low, top = float(column.min()), float(column.max())
        if not (low >= 0 and top <= high and top < math.inf):
            bounds = "finite and 0 or more" if high == math.inf else "from 0 to 1"
            raise ValueError(
                f"{name} reaches from {low} to {top}, but every number must be {bounds}."
            )
    return p, y, w


def _ascending(chance: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the order of ascending chance, and where in it each group of equal chances begins."""
    order = np.argsort(chance, kind="stable")
    return order, np.flatnonzero(np.diff(chance[order], prepend=-1.0))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan
