"""Held-out scores of shopper models: how well rows are ranked, calibrated and drawn along the recency curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ITEM_BINS = (0, 1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 63, 91)  # days since the last purchase, first day of each bin
COUNT_BINS = (0, 1, 2, 4, 8, 12, 20)  # past purchases of the item


@dataclass(frozen=True)
class Rows:
    """Scored rows: label, weight, chance (R,) float64; shopper, slate (R,) int64."""

    label: Floats
    weight: Floats
    chance: Floats
    shopper: Ints
    slate: Ints

    def only(self, keep: NDArray[np.bool_]) -> Rows:
        """A part of the rows."""
        return Rows(*(column[keep] for column in vars(self).values()))


Metric = Callable[[Rows, Floats], float]  # rows and their weights in a bootstrap sample -> value


def auc(rows: Rows, weight: Floats) -> float:
    """Weighted area under the ROC curve; ties count half."""
    order = np.argsort(rows.chance, kind="stable")
    chance, label, weight = rows.chance[order], rows.label[order], weight[order]
    edges = np.flatnonzero(np.diff(chance, prepend=-1.0, append=2.0))
    positive = np.add.reduceat(np.append(weight * label, 0.0), edges[:-1])
    negative = np.add.reduceat(np.append(weight * (1 - label), 0.0), edges[:-1])
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def log_loss(rows: Rows, weight: Floats) -> float:
    """Weighted mean negative log likelihood, nats."""
    chance = np.clip(rows.chance, 1e-7, 1 - 1e-7)
    each = rows.label * np.log(chance) + (1 - rows.label) * np.log1p(-chance)
    return float(-(weight * each).sum() / weight.sum())


def normalised_entropy(rows: Rows, weight: Floats) -> float:
    """Log loss over the entropy of the base rate (He et al. 2014, eq. 3)."""
    base = (weight * rows.label).sum() / weight.sum()
    return log_loss(rows, weight) / float(-(base * np.log(base) + (1 - base) * np.log1p(-base)))


def calibration_error(rows: Rows, weight: Floats, bins: int = 20) -> float:
    """Expected calibration error over bins of equal weight, absolute probability."""
    order = np.argsort(rows.chance, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    bin_of = np.minimum((share * bins).astype(np.int64), bins - 1)
    total = np.bincount(bin_of, weight[order], bins)
    gap = np.bincount(bin_of, (weight * (rows.chance - rows.label))[order], bins)
    return float(np.abs(gap[total > 0]).sum() / total.sum())


def ratio(rows: Rows, weight: Floats) -> float:
    """Predicted over observed."""
    return float((weight * rows.chance).sum() / (weight * rows.label).sum())


def ndcg(rows: Rows, weight: Floats) -> float:
    """NDCG of each slate with a response, its items re-ranked by the model; mean over slates."""
    order = np.lexsort((-rows.chance, rows.slate))
    slate, label = rows.slate[order], rows.label[order]
    first = np.flatnonzero(np.diff(slate, prepend=slate[0] - 1))
    lengths = np.diff(np.append(first, len(slate)))
    rank = np.arange(len(slate)) - np.repeat(first, lengths)
    discount = 1.0 / np.log2(rank + 2)
    gained = np.add.reduceat(label * discount, first)
    number = np.add.reduceat(label, first).astype(np.int64)
    best = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(lengths.max()) + 2))])[number]
    has, importance = number > 0, weight[order][first]
    return float((importance[has] * gained[has] / best[has]).sum() / importance[has].sum())


METRICS: dict[str, Metric] = {
    "auc": auc,
    "ne": normalised_entropy,
    "log_loss": log_loss,
    "ece": calibration_error,
    "ratio": ratio,
    "ndcg10": ndcg,
}


def bootstrap(
    models: dict[str, Rows], metrics: tuple[str, ...], *, samples: int = 200, seed: int = 0
) -> dict[str, dict[str, tuple[float, Floats]]]:
    """Metrics of several models on the same rows, with a bootstrap over households.

    Returns model -> metric -> (value, (samples,) bootstrap values); sample i draws the same households for every model,
    so differences of samples are paired.
    """
    who = np.unique(next(iter(models.values())).shopper)
    draws = np.random.default_rng(seed).multinomial(len(who), np.full(len(who), 1 / len(who)), samples)
    found: dict[str, dict[str, tuple[float, Floats]]] = {}
    for name, rows in models.items():
        index = np.searchsorted(who, rows.shopper)  # each model has its rows in an order of its own
        found[name] = {}
        for metric in metrics:
            value = METRICS[metric](rows, rows.weight)
            values = np.array([METRICS[metric](rows, rows.weight * draw[index]) for draw in draws])
            found[name][metric] = (value, values)
    return found


def interval(samples: Floats) -> tuple[float, float]:
    """Middle 95 % of bootstrap samples."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def curve(rows: Rows, value: Floats, edges: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """Observed and predicted mean response and responses (bins,) along a value, by bin."""
    place = np.searchsorted(np.array(edges), value, side="right") - 1
    inside = place >= 0
    total = np.bincount(place[inside], rows.weight[inside], len(edges))
    positive = np.bincount(place[inside], (rows.weight * rows.label)[inside], len(edges))
    predicted = np.bincount(place[inside], (rows.weight * rows.chance)[inside], len(edges))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed: Floats = positive / total
        return observed, predicted / total, positive.astype(np.float64)


def curve_error(observed: Floats, predicted: Floats, positive: Floats) -> float:
    """Mean |predicted / observed - 1| over the bins of a curve, weighted by responses."""
    seen = positive > 0
    return float((positive[seen] * np.abs(predicted[seen] / observed[seen] - 1)).sum() / positive[seen].sum())
