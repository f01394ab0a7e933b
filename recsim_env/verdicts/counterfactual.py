"""Fit to the log without one of its policies, and predict that policy's users.

The protocol of ConvApparel (Google, 2026): a simulator is asked about policies that it was not
fitted to, so a log that has several can hide one of them as a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsim_env import metrics
from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate, from_samples, resamples
from recsim_env.logs.sessions import Sessions
from recsim_env.verdicts.closed_loop import owner_of
from recsim_env.verdicts.ratios import by_user
from recsim_env.verdicts.rows import Rows, item_rows, shown_of

Fit = Callable[[Sessions], Callable[[Sessions], Tensor]]
"""Fits a model to episodes. What it returns predicts the slates of other episodes, one after the
other as `Sessions.real` has them: (V, K) chances of a click, each from what was known before."""
FEWEST_CLICKS = 30
"""Clicks of a policy's users that a comparison needs at least."""
FEWEST_EPISODES = 200
"""Episodes that a fit without the policy needs at least."""
MODEL = "model"
SAMPLES = 1_000


@dataclass(frozen=True)
class Counterfactual:
    """How well a model predicts a policy that it was not fitted to."""

    policy: str
    """Name of the policy."""
    episodes: tuple[int, int]
    """Episodes that were learned from, none of which saw a slate of the policy, and predicted."""
    clicks: int
    """Clicks of the predicted episodes."""
    auc: float
    """Chance that a click is ranked above a non-click."""
    ratio: Estimate
    """Predicted over observed clicks, with its interval over users."""


def counterfactual(
    fit: Fit,
    learned_from: Sessions,
    held_out: Sessions,
    catalog: Catalog,
    *,
    policies: int = 2,
) -> tuple[list[Counterfactual], str | None]:
    """Hide the policies with the most held-out clicks, one at a time.

    Args:
        fit: How the model is fitted.
        learned_from: Episodes to learn from; those that saw the hidden policy are left out.
        held_out: Episodes of other users, of whom those of the hidden policy are predicted.
        catalog: The items.
        policies: How many policies are hidden; each costs a fit.

    Returns:
        The comparisons, and why there are none.
    """
    if len(held_out.policies) < 2:
        named = "names no policy" if not held_out.policies else "has a single policy"
        return [], f"the log {named}, so none can be hidden"
    owner = owner_of(held_out)
    clicks = (held_out.clicks & (held_out.slates >= 0)).sum(dim=(1, 2))
    known = owner >= 0
    total = torch.bincount(owner[known], clicks[known].double(), len(held_out.policies))
    found: list[Counterfactual] = []
    for code in total.argsort(descending=True, stable=True).tolist():
        if len(found) == policies or total[code] < FEWEST_CLICKS:
            break
        name = held_out.policies[code]
        one = _hidden(fit, name, learned_from, held_out.take(owner == code), catalog)
        if one is not None:
            found.append(one)
    if found:
        return found, None
    return [], (
        f"no policy has {FEWEST_CLICKS} held-out clicks of users who saw no other policy, beside "
        f"{FEWEST_EPISODES} episodes without it"
    )


def _hidden(
    fit: Fit, name: str, learned_from: Sessions, asked: Sessions, catalog: Catalog
) -> Counterfactual | None:
    """Fit without a policy and predict its users; None where too few episodes remain."""
    saw = torch.zeros(len(learned_from), dtype=torch.bool)
    if name in learned_from.policies:
        saw = (learned_from.policy == learned_from.policies.index(name)).any(dim=1)
    others = learned_from.take(~saw)
    if len(others) < FEWEST_EPISODES:
        return None
    chance = fit(others)(asked)[shown_of(asked)].double().clamp(0, 1).cpu().numpy()
    rows = item_rows(asked, catalog).with_prediction(MODEL, chance)
    return Counterfactual(
        name,
        (len(others), len(asked)),
        int(rows.label.sum()),
        metrics.auc(chance, rows.label),
        ratio_of(rows, MODEL),
    )


def ratio_of(rows: Rows, model: str) -> Estimate:
    """Predicted over observed responses of all rows, with an interval over users."""
    predicted, observed, _ = by_user(rows, model, np.zeros(len(rows), dtype=np.int64), 1)[:, :, 0]
    draws = resamples(len(observed), SAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (draws @ predicted) / (draws @ observed)
        value = np.float64(predicted.sum()) / observed.sum()
    return from_samples(float(value), drawn, len(observed))
