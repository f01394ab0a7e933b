"""Baselines of responses: simple models that are fitted on the rows and counters of the shopper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.features import counter_features, without_item
from recsim_env.shoppers.household.memory import COUNT, NEVER, RECENT, RHYTHM, SINCE, STATS

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Baseline:
    """A model, and the columns that it sees."""

    label: str
    """The name of the model in messages."""
    model: Any
    """An estimator of scikit-learn."""
    columns: tuple[str, ...]
    """Names of columns of `features`, in order."""


def features(examples: Examples, rows: Tensor, placements: tuple[int, int]) -> dict[str, Floats]:
    """Make the columns of rows: counters, their logs, popularity, placement, rhythm, calendar.

    Args:
        examples: The log.
        rows: (R,) indices of its rows.
        placements: The number of display codes and of mailer codes.

    Returns:
        (R,) by name.
    """
    # The item, its popularity and placement, and the day of the visit.
    n_displays, n_mailers = placements
    stats = examples.row_stats[rows].float()
    item, visit = examples.row_item[rows], examples.row_visit[rows]
    visits = examples.visits
    context = examples.promotions.item_context[
        visits.week[visit].clamp(max=len(examples.promotions.item_context) - 1), item
    ]
    placement = examples.row_placement[rows]
    display, mailer = placement // n_mailers, placement % n_mailers
    columns: dict[str, Tensor] = {
        "popularity": context[:, 0],
        "discount": context[:, 1],
        "display": display,
        "mailer": mailer,
        "weekday": visits.day[visit] % 7,
        "since_visit": visits.since[visit],
    }

    # What the shopper bought before, as counts and as their logs.
    logs = counter_features(stats)
    for level, name in enumerate(("item", "kind", "category")):
        for index, part in enumerate(("count", "recent", "since", "interval")):
            columns[f"{name}_{part}"] = stats[:, level, index]
        for index, part in enumerate(("count", "recent", "since", "phase")):
            columns[f"log_{name}_{part}"] = logs[:, level, index]
        columns[f"{name}_never"] = (stats[:, level, SINCE] >= NEVER).float()
    for index, part in enumerate(("visits", "recent", "basket", "weekly")):
        columns[f"rhythm_{part}"] = examples.rhythm[visit, index]
    columns["item_share"] = torch.log(
        (stats[:, 0, COUNT] + 0.1) / (examples.rhythm[visit, 0].exp() + 1.0)
    )
    columns["item_recent_share"] = torch.log(
        (stats[:, 0, RECENT] + 0.1) / (examples.rhythm[visit, 1].exp() + 1.0)
    )

    # A column for each placement code.
    one_hot = torch.cat([F.one_hot(display, n_displays), F.one_hot(mailer, n_mailers)], dim=1)
    columns |= {f"placement_{i}": one_hot[:, i] for i in range(one_hot.shape[1])}
    return {name: value.numpy().astype(np.float32) for name, value in columns.items()}


def category_columns(examples: Examples, rows: Tensor) -> dict[str, Floats]:
    """Make the columns of rows (R,) that tell of an item's category, and nothing of the item."""
    others = without_item(examples.row_stats[rows].float())[:, 2]
    visit, item = examples.row_visit[rows], examples.row_item[rows]
    week = examples.visits.week[visit].clamp(max=len(examples.prospects) - 1)
    columns = {
        **{f"category_{at}": others[:, at] for at in range(others.shape[1])},
        **{f"rhythm_{at}": value for at, value in enumerate(examples.rhythm[visit].unbind(1))},
        "popularity": examples.prospects[week, item, 0],
        "placement": examples.row_placement[rows],
        "weekday": examples.visits.day[visit] % 7,
        "since_visit": examples.visits.since[visit],
    }
    return {name: value.numpy().astype(np.float32) for name, value in columns.items()}


def baselines(names: list[str]) -> dict[str, Baseline]:
    """Make the baselines, which are not fitted yet; `names` are the columns that there are."""

    def logistic() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200))

    def starting(*parts: str) -> tuple[str, ...]:
        return tuple(name for name in names if name.startswith(parts))

    own = ("log_item_count", "item_share", "item_recent_share", "log_item_recent")
    trees = HistGradientBoostingClassifier(
        max_iter=400,
        learning_rate=0.06,
        max_leaf_nodes=63,
        min_samples_leaf=100,
        l2_regularization=1.0,
        random_state=0,
    )
    raw = (
        "item_",
        "kind_",
        "category_",
        "rhythm_",
        "popularity",
        "discount",
        "display",
        "mailer",
        "weekday",
        "since_",
    )
    return {
        "popularity": Baseline("popularity", logistic(), ("popularity", "discount")),
        "frequency": Baseline("household x item frequency", logistic(), own),
        "logistic": Baseline(
            "logistic regression, all counters", logistic(), starting("log_", *raw, "placement_")
        ),
        "gbdt": Baseline("gradient boosting, all counters", trees, starting(*raw)),
    }


CATEGORY = Baseline(
    "gradient boosting, category alone",
    HistGradientBoostingClassifier(
        max_iter=200, learning_rate=0.08, min_samples_leaf=200, random_state=0
    ),
    (
        *(f"category_{at}" for at in range(STATS)),
        *(f"rhythm_{at}" for at in range(RHYTHM)),
        "popularity",
        "placement",
        "weekday",
        "since_visit",
    ),
)
"""What a category tells of responses to an item that nobody knows."""


def fit_predict(
    baseline: Baseline, train: dict[str, Floats], label: Floats, others: list[dict[str, Floats]]
) -> list[Floats]:
    """Fit a baseline on case-control rows, and predict the logits (R,) of each other set of rows.

    The rows are fitted as they were sampled, which shifts the logits by a constant (see `platt`):
    weights of sampled non-responses would only add noise.
    """

    def pick(table: dict[str, Floats]) -> Floats:
        return np.stack([table[name] for name in baseline.columns], axis=1)

    baseline.model.fit(pick(train), label)
    return [
        np.asarray(baseline.model.decision_function(pick(other)), dtype=np.float32)
        for other in others
    ]


def platt(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[float, float]:
    """Find the scale and shift of logits (R,) that fit weighted labels best (Platt 1999).

    Raises:
        ValueError: If all labels that have a weight are the same, or the method does not converge.
    """
    scale, shift = logistic(logit.unsqueeze(1), label, weight).tolist()
    return scale, shift


def logistic(read: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Find the scales and the shift of columns (R, C) that fit weighted labels best.

    Newton's method, in float64, from the first column alone.

    Returns:
        (C + 1,) float64, the shift last.

    Raises:
        ValueError: If all labels that have a weight are the same, or the method does not converge.
    """
    columns = torch.cat([read.double(), read.new_ones(len(read), 1).double()], dim=1)
    label, weight = label.double(), weight.double() / weight.double().sum()
    if not 0 < float((weight * label).sum()) < 1:
        raise ValueError("label must hold both responses and non-responses that have a weight.")

    def loss(at: Tensor) -> float:
        return float(
            (
                weight * F.binary_cross_entropy_with_logits(columns @ at, label, reduction="none")
            ).sum()
        )

    # A step that makes the loss worse is halved.
    found: Tensor = torch.zeros(columns.shape[1], dtype=torch.float64)
    found[0] = 1.0
    for _ in range(100):
        chance = torch.sigmoid(columns @ found)
        gradient = columns.T @ (weight * (chance - label))
        curvature = (columns * (weight * chance * (1 - chance)).unsqueeze(1)).T @ columns
        step = torch.linalg.solve(curvature, gradient)
        while loss(found - step) > loss(found) and float(step.abs().max()) > 1e-9:
            step = step / 2
        found = found.sub(step)
        if float(step.abs().max()) <= 1e-9:
            return found
    raise ValueError(
        "the scale and shift of the logits do not converge: do they tell the labels apart without "
        "error?"
    )
