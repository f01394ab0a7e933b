"""Held-out scores of several models on the same rows, with intervals over users."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recsim_env import metrics
from recsim_env.estimates import Estimate, Floats, from_samples, resamples, units_of
from recsim_env.verdicts.rows import Rows

SAMPLES = 200
"""Bootstrap samples of scores that sort the rows; each takes as long as the score itself."""

Metric = Callable[[Floats, Floats, Floats], float]
METRICS: dict[str, Metric] = {
    "auc": metrics.auc,
    "ne": metrics.normalised_entropy,
    "ratio": metrics.ratio,
}
"""Chance that a response is ranked above a non-response; log loss over that of always saying the
base rate (He et al. 2014); predicted over observed responses."""


@dataclass(frozen=True)
class Score:
    """A score of a model, and how much it differs from that of the judged model."""

    model: str
    """Name of the model."""
    metric: str
    """Name of the score, of `METRICS`."""
    value: Estimate
    """The score."""
    lead: Estimate | None
    """Score of the judged model less this one, on the same bootstrap samples of users; None for the
    judged model itself."""


def score(rows: Rows, judged: str, *, samples: int = SAMPLES, seed: int = 0) -> list[Score]:
    """Score every model that predicted the rows.

    Args:
        rows: Held-out rows.
        judged: Name of the model that is judged; the others are its baselines.
        samples: Number of bootstrap samples of users.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If `judged` predicted nothing, or there are no rows.
    """
    if judged not in rows.predicted:
        known = ", ".join(rows.predicted) or "nobody"
        raise ValueError(f"judged is {judged!r}, but the rows were predicted by {known}.")
    if len(rows) == 0:
        raise ValueError("rows is empty, but a score needs held-out rows.")
    of_row, users = units_of(rows.user)
    draws = resamples(users, samples, seed)

    # Values on the rows, and on each sample; the same users for all models.
    label = rows.label.astype(np.float64)
    names = [judged, *(name for name in rows.predicted if name != judged)]
    whole, sampled = {}, {}
    for name in names:
        chance = rows.predicted[name]
        order = np.argsort(chance, kind="stable")  # makes the sorts of the metrics cheap
        sorted_chance, sorted_label, sorted_user = chance[order], label[order], of_row[order]
        for metric, measure in METRICS.items():
            whole[name, metric] = measure(sorted_chance, sorted_label, np.ones(len(label)))
            sampled[name, metric] = np.array(
                [measure(sorted_chance, sorted_label, draw[sorted_user]) for draw in draws]
            )

    found = []
    for name in names:
        for metric in METRICS:
            lead = None
            if name != judged:
                lead = from_samples(
                    whole[judged, metric] - whole[name, metric],
                    sampled[judged, metric] - sampled[name, metric],
                    users,
                )
            value = from_samples(whole[name, metric], sampled[name, metric], users)
            found.append(Score(name, metric, value, lead))
    return found


def found_of(scores: Sequence[Score], model: str, metric: str) -> Score | None:
    """Look a score up; None where there is none."""
    return next((one for one in scores if (one.model, one.metric) == (model, metric)), None)


def mean_over_users(values: Floats, user: np.ndarray, *, samples: int = 1000) -> Estimate:
    """Average values (R,) with an interval over users, for example the log loss of gaps.

    Rows whose value is NaN are left out. The mean of nothing is NaN.
    """
    keep = np.isfinite(values)
    if not keep.any():
        return Estimate(math.nan, n=0)
    of_row, users = units_of(user[keep])
    total = np.bincount(of_row, values[keep], users)
    count = np.bincount(of_row, minlength=users).astype(np.float64)
    draws = resamples(users, samples)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (draws @ total) / (draws @ count)
    return from_samples(float(total.sum() / count.sum()), drawn, users)
