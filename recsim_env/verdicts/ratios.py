"""Predicted over observed responses in groups of held-out rows.

A model that is right on average can be wrong where it matters. Groups by logging policy at the
first slate show whether a policy knew something that the log does not hold: nothing else tells a
shopper's first slate of one policy from that of another, so a model without that knowledge predicts
too much for slates that were chosen blindly and too little for those that were chosen well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsim_env.estimates import Estimate, Floats, Ints, from_samples, resamples, units_of
from recsim_env.verdicts.rows import Rows

SAMPLES = 1_000
"""Bootstrap samples; sums over users make them cheap."""
FEW = 10
"""Responses below which a group tells nothing of its own; policies with fewer are taken together
as `OTHERS`."""
OTHERS = "all others"
UNKNOWN = "unknown"
ACTIVITY = (0, 1, 2, 4, 8, 16)
"""First number of clicks so far of each class of activity."""
VISITS = (0, 1, 2, 3, 5, 8, 13)
"""First number of earlier slates of each class of visits."""


@dataclass(frozen=True)
class Ratio:
    """Predicted over observed responses of a group of rows."""

    group: str
    """Name of the group."""
    rows: int
    """Number of rows."""
    observed: int
    """Number of responses."""
    predicted: float
    """Number of responses that the model expected."""
    ratio: Estimate
    """Predicted over observed, with its interval over users; NaN where nothing was observed and
    nothing is added to both."""


def ratios(
    rows: Rows,
    model: str,
    group: Ints,
    names: Sequence[str],
    *,
    prior: float = 0.0,
    samples: int = SAMPLES,
) -> list[Ratio]:
    """Compare predicted with observed responses by group.

    Args:
        rows: Held-out rows.
        model: Name of the model that predicted them.
        group: (R,) index into `names`; rows at -1 belong to no group.
        names: Name of each group; those without rows are left out.
        prior: Responses that are added to both numbers of a ratio: with some, groups in which
            nothing was observed have a ratio, and small groups are drawn to 1.
        samples: Number of bootstrap samples of users.
    """
    if not len(rows):
        return []
    sums = by_user(rows, model, group, len(names))
    users = sums.shape[1]
    drawn = np.einsum("su,kug->ksg", resamples(users, samples), sums)
    predicted, observed, count = sums.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (predicted + prior) / (observed + prior)
        sampled = (drawn[0] + prior) / (drawn[1] + prior)
    return [
        Ratio(
            name,
            int(count[g]),
            int(observed[g]),
            float(predicted[g]),
            from_samples(float(value[g]), sampled[:, g], users)
            if observed[g] + prior > 0
            else Estimate(math.nan, n=users),
        )
        for g, name in enumerate(names)
        if count[g]
    ]


def by_user(rows: Rows, model: str, group: Ints, groups: int) -> Floats:
    """Sum a model's chances, the responses and the rows: (3, users, groups)."""
    of_row, users = units_of(rows.user)
    inside = group >= 0
    cell = of_row[inside] * groups + group[inside]
    columns = (rows.predicted[model], rows.label.astype(np.float64), np.ones(len(rows)))
    return np.stack(
        [
            np.bincount(cell, column[inside], users * groups).reshape(users, groups)
            for column in columns
        ]
    )


def ratio_tables(rows: Rows, model: str, categories: Sequence[str]) -> dict[str, list[Ratio]]:
    """Compare predicted with observed responses by everything that a report shows.

    Args:
        rows: Held-out rows.
        model: Name of the model that is judged.
        categories: Names of the catalogue's categories.

    Returns:
        Title -> groups: logging policy at the first slate and later, position, category, activity.
    """
    later = rows.only(~rows.first)
    first = rows.only(rows.first)
    positions = [str(place + 1) for place in range(int(rows.position.max(initial=-1)) + 1)]
    bounds = [*ACTIVITY[1:], None]
    activity = [_range(low, high and high - 1) for low, high in zip(ACTIVITY, bounds, strict=True)]
    place = np.searchsorted(np.array(ACTIVITY), rows.activity, side="right") - 1
    return {
        "policy at the first slate": by_policy(first, model),
        "policy at later slates": by_policy(later, model),
        "position": ratios(rows, model, rows.position, positions),
        "category": ratios(rows, model, rows.category, categories),
        "clicks so far": ratios(rows, model, place.astype(np.int64), activity),
    }


def by_visit(slates: Rows, model: str) -> list[Ratio]:
    """Compare predicted with observed leavings by the number of the slate, `FEW` added to both.

    The slates after which nobody left have a ratio then.
    """
    bounds = [*VISITS[1:], None]
    names = [_range(low + 1, high) for low, high in zip(VISITS, bounds, strict=True)]
    place = np.searchsorted(np.array(VISITS), slates.visit, side="right") - 1
    return ratios(slates, model, place.astype(np.int64), names, prior=FEW)


def _range(low: int, high: int | None) -> str:
    """Name the whole numbers from `low` to `high`."""
    if high is None:
        return f"{low} or more"
    return str(low) if high == low else f"{low} to {high}"


def by_policy(rows: Rows, model: str) -> list[Ratio]:
    """Compare by logging policy, those with few responses taken together."""
    group, names = policy_groups(rows)
    return ratios(rows, model, group, names)


def policy_groups(rows: Rows, few: int = FEW) -> tuple[Ints, list[str]]:
    """Group rows by policy (R,); policies with few responses, or none, come last as `OTHERS`."""
    known = len(rows.policies)
    code = np.where(rows.policy >= 0, rows.policy, known)
    responses = np.bincount(code, rows.label, known + 1)
    kept = [p for p in range(known + 1) if responses[p] >= few]
    place = np.full(known + 1, len(kept), dtype=np.int64)
    place[kept] = np.arange(len(kept))
    names = [*rows.policies, UNKNOWN]
    return place[code], [*(names[p] for p in kept), OTHERS]
