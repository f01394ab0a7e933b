"""Simple models that a simulator's clicks must beat, fitted to the same training rows.

`item mean` and `item and user mean` need nothing but NumPy. `logistic regression` and `gradient
boosting` are those of scikit-learn, which is an extra; `without_extra` says that it is missing. All
of them see counters that were known before the slate, and the slate.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsim_env.estimates import Floats
from recsim_env.verdicts.history import before, in_last_slate, in_slate, taste_match
from recsim_env.verdicts.ratios import VISITS
from recsim_env.verdicts.rows import Rows

ITEM, ITEM_USER = "item mean", "item and user mean"
LOGISTIC, BOOSTING = "logistic regression", "gradient boosting"
LEAVING = "leave rate by visit and click"
FOLDS = 5
"""Parts of the training users; the rates that a row sees as features were counted in the others."""
MOST_ROWS = 500_000
"""Rows that scikit-learn's models are fitted to; a larger log is sampled by user."""
TINY = 1e-4
"""Least distance of a chance from 0 and 1."""


def without_extra() -> str | None:
    """Say which baselines are missing because scikit-learn is not installed; None if none are."""
    if importlib.util.find_spec("sklearn") is not None:
        return None
    return (
        f"{LOGISTIC} and {BOOSTING} are not among the baselines, because scikit-learn is not "
        "installed: pip install 'recsim-env[data]'."
    )


def click_baselines(
    train: Rows, test: Rows, embedding: Floats | None = None, *, seed: int = 0
) -> dict[str, Floats]:
    """Fit all baselines to training rows, and predict test rows.

    Args:
        train: Rows of whole episodes of users that the judged model learned from.
        test: Rows of whole episodes of other users.
        embedding: (N, E) of the items, of length 1; None leaves the match of tastes out.
        seed: Seed of the folds and of gradient boosting.

    Returns:
        Name -> (R,) chance of a click for each test row.

    Raises:
        ValueError: If the training rows are empty, or hold one class only.
    """
    clicks = int(train.label.sum())
    if not 0 < clicks < len(train):
        raise ValueError(
            f"train has {clicks} clicks in {len(train)} rows, but a baseline needs rows that were "
            "clicked and rows that were not."
        )
    size = int(max(train.item.max(), test.item.max(initial=0))) + 1
    means = Means.of(train, size)
    item = means.item[test.item]
    found = {ITEM: item, ITEM_USER: means.with_user(test, item)}
    if without_extra() is None:
        found |= _fitted(train, test, embedding, means, seed)
    return {name: np.clip(chance, TINY, 1 - TINY) for name, chance in found.items()}


# ---- item and user means -------------------------------------------------------------------------


@dataclass(frozen=True)
class Means:
    """Click rates of items, and how far the rate of a user can be trusted."""

    item: Floats
    """(N,) click rate of each item, shrunk to that of all."""
    user_strength: float
    """Rows that the prior of a user's difference weighs as much as."""

    @classmethod
    def of(cls, rows: Rows, items: int) -> Means:
        """Count the rates of rows; both shrinkages are estimated from them (empirical Bayes)."""
        shown = np.bincount(rows.item, minlength=items).astype(np.float64)
        clicked = np.bincount(rows.item, rows.label, items).astype(np.float64)
        rate = clicked.sum() / shown.sum()
        strength = shrinkage(clicked - rate * shown, shown, rate * (1 - rate))
        item = (clicked + strength * rate) / (shown + strength)
        residual = rows.label - item[rows.item]
        by_user = np.bincount(rows.user, residual).astype(np.float64)
        seen = np.bincount(rows.user).astype(np.float64)
        return cls(item, shrinkage(by_user, seen, float(np.mean(residual**2))))

    def with_user(self, rows: Rows, item: Floats) -> Floats:
        """Add to the rates (R,) of items what the user clicked more than expected so far."""
        more, shown = self.of_user(rows, item)
        return item + more / (shown + self.user_strength)

    @staticmethod
    def of_user(rows: Rows, item: Floats) -> tuple[Floats, Floats]:
        """Clicks above those expected by item, and rows, of the user before the slate: (R,)."""
        return (
            before(rows.visit, (rows.user,), rows.label - item),
            before(rows.visit, (rows.user,), np.ones(len(rows))),
        )


def shrinkage(excess: Floats, count: Floats, variance: float) -> float:
    """Estimate by moments how many rows the prior of groups weighs as much as.

    It is the variance within groups over that between them (Robbins 1956; here by DerSimonian &
    Laird 1986), kept between 1 and 10,000.

    Args:
        excess: (G,) sum of a group's responses less those expected.
        count: (G,) rows of each group.
        variance: Variance of a single row.
    """
    seen = count > 0
    total, groups = count.sum(), int(seen.sum())
    scatter = float((excess[seen] ** 2 / count[seen]).sum())
    between = (scatter - groups * variance) / max(total - float((count**2).sum()) / total, 1.0)
    return float(np.clip(variance / between if between > 0 else np.inf, 1.0, 1e4))


# ---- scikit-learn --------------------------------------------------------------------------------


def _fitted(
    train: Rows, test: Rows, embedding: Floats | None, means: Means, seed: int
) -> dict[str, Floats]:
    """Fit logistic regression and gradient boosting on the features of a sample of users."""
    generator = np.random.default_rng(seed)
    users = generator.permutation(np.unique(train.user))
    kept = users[: max(int(len(users) * MOST_ROWS / len(train)), 1)]
    sample = train.only(np.isin(train.user, kept)) if len(kept) < len(users) else train

    # Rates that a training row sees come from users of the other folds.
    rates = np.empty(len(sample))
    size = len(means.item)
    fold = generator.integers(FOLDS, size=int(train.user.max()) + 1)
    for number in range(FOLDS):
        here = fold[sample.user] == number
        others = train.only(fold[train.user] != number)
        source = others if 0 < others.label.sum() < len(others) else train
        rates[here] = Means.of(source, size).item[sample.item[here]]

    known = features(sample, rates, means.user_strength, embedding)
    asked = features(test, means.item[test.item], means.user_strength, embedding)
    found = {}
    for name, make in _models(seed).items():
        model = make()
        model.fit(known, sample.label)
        found[name] = np.asarray(model.predict_proba(asked)[:, 1], dtype=np.float64)
    return found


def features(
    rows: Rows, rate: Floats, user_strength: float, embedding: Floats | None = None
) -> Floats:
    """Make the columns (R, F) that the fitted baselines see, all known before the response.

    Args:
        rows: Rows of whole episodes.
        rate: (R,) click rate of the item among other users.
        user_strength: Shrinkage of the user's own rate; see `Means`.
        embedding: (N, E) of the items; None leaves the match of tastes out.
    """
    one, clicked = np.ones(len(rows)), rows.label.astype(np.float64)
    of_item, of_category = (rows.user, rows.item), (rows.user, rows.category)
    more, shown = Means.of_user(rows, rate)
    category_shown = before(rows.visit, of_category, one)
    category_clicked = before(rows.visit, of_category, clicked)
    chance = np.clip(rate, TINY, 1 - TINY)
    columns = [
        np.log(chance / (1 - chance)),
        more / (shown + user_strength),
        np.log1p(rows.visit),
        np.log1p(rows.activity),
        np.log1p(shown),
        rows.position.astype(np.float64),
        np.log1p(rows.position),
        np.log1p(before(rows.visit, of_item, one)),
        np.log1p(before(rows.visit, of_item, clicked)),
        np.log1p(category_shown),
        np.log1p(category_clicked),
        (category_clicked + 1) / (category_shown + 10),
        in_last_slate(rows, rows.category, one),
        in_last_slate(rows, rows.category, clicked),
        in_last_slate(rows, np.zeros(len(rows), dtype=np.int64), clicked),
        in_slate(rows, rows.category),
    ]
    if embedding is not None:
        columns.append(taste_match(rows, embedding))
    return np.stack(columns, axis=1)


def _models(seed: int) -> dict[str, Callable[[], Any]]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        LOGISTIC: lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        BOOSTING: lambda: HistGradientBoostingClassifier(
            max_iter=200,
            learning_rate=0.06,
            max_leaf_nodes=31,
            min_samples_leaf=100,
            l2_regularization=1.0,
            random_state=seed,
        ),
    }


# ---- leaving -------------------------------------------------------------------------------------


def leaving_baseline(train: Rows, clicked: Floats, test: Rows, test_clicked: Floats) -> Floats:
    """Leave rate by the number of the slate and whether something was clicked: (V,).

    Rates are shrunk to that of all by ten slates.

    Args:
        train: Slates that the judged model learned from.
        clicked: (V,) number of clicks in each of them.
        test: Slates of other users.
        test_clicked: The same of them.
    """

    def cell(rows: Rows, clicks: Floats) -> np.ndarray:
        visits = np.searchsorted(np.array(VISITS), rows.visit, side="right") - 1
        return np.asarray(2 * visits + (clicks > 0))

    size, rate = 2 * len(VISITS), float(train.label.mean())
    where = cell(train, clicked)
    left, seen = np.bincount(where, train.label, size), np.bincount(where, minlength=size)
    chance: Floats = ((left + 10 * rate) / (seen + 10))[cell(test, test_clicked)]
    return np.clip(chance, TINY, 1 - TINY)
