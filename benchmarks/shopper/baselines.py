"""What the fine-tuned shopper is measured against: simple models fitted on the same rows with the same counters."""

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
from recsim_env.shoppers.household.memory import COUNT, NEVER, RECENT, SINCE
from recsim_env.shoppers.household.model import GAP_EDGES, MAILERS, counter_features

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Baseline:
    """A model and the columns it sees."""

    label: str
    model: Any
    columns: tuple[str, ...]


def features(examples: Examples, rows: Tensor) -> dict[str, Floats]:
    """Columns of the rows (R,): raw counters, their logs, popularity, placement, rhythm, calendar."""
    stats = examples.row_stats[rows].float()
    item, visit = examples.row_item[rows], examples.row_visit[rows]
    visits = examples.visits
    context = examples.market.item_context[
        visits.week[visit].clamp(max=len(examples.market.item_context) - 1), item
    ]
    placement = examples.row_placement[rows]
    columns: dict[str, Tensor] = {
        "popularity": context[:, 0],
        "discount": context[:, 1],
        "display": placement // MAILERS,
        "mailer": placement % MAILERS,
        "weekday": visits.day[visit] % 7,
        "since_visit": visits.since[visit],
    }
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
    one_hot = torch.cat(
        [F.one_hot(placement // MAILERS, 10), F.one_hot(placement % MAILERS, MAILERS)], dim=1
    )
    columns |= {f"placement_{i}": one_hot[:, i] for i in range(one_hot.shape[1])}
    return {name: value.numpy().astype(np.float32) for name, value in columns.items()}


def baselines(names: list[str]) -> dict[str, Baseline]:
    """Unfitted baselines by name; `names` are the available columns."""

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


def fit_predict(
    baseline: Baseline, train: dict[str, Floats], label: Floats, others: list[dict[str, Floats]]
) -> list[Floats]:
    """Fit on case-control rows as they were sampled; logits (R,) of each other set, up to a shift (see `platt`).

    Rare non-responses are not weighted up: that would only add noise (the sampling shifts the logit
    by a constant).
    """

    def pick(table: dict[str, Floats]) -> Floats:
        return np.stack([table[name] for name in baseline.columns], axis=1)

    baseline.model.fit(pick(train), label)
    return [
        np.asarray(baseline.model.decision_function(pick(other)), dtype=np.float32)
        for other in others
    ]


def platt(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[float, float]:
    """Scale and shift of logits (R,) that fit weighted labels best (Platt 1999): Newton's method, in float64.

    Raises ValueError where labels of weight are all the same, or where it does not converge.
    """
    columns = torch.stack([logit.double(), torch.ones_like(logit, dtype=torch.float64)], dim=1)
    label, weight = label.double(), weight.double() / weight.double().sum()
    if not 0 < float((weight * label).sum()) < 1:
        raise ValueError("label must hold both responses and non-responses that have a weight.")

    def loss(at: Tensor) -> float:
        return float(
            (
                weight * F.binary_cross_entropy_with_logits(columns @ at, label, reduction="none")
            ).sum()
        )

    found = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(100):
        chance = torch.sigmoid(columns @ found)
        gradient = columns.T @ (weight * (chance - label))
        curvature = (columns * (weight * chance * (1 - chance)).unsqueeze(1)).T @ columns
        step = torch.linalg.solve(curvature, gradient)
        while loss(found - step) > loss(found) and float(step.abs().max()) > 1e-9:
            step = step / 2
        found = found - step
        if float(step.abs().max()) <= 1e-9:
            return float(found[0]), float(found[1])
    raise ValueError(
        "the scale and shift of the logits do not converge: do they tell the labels apart without error?"
    )


# ---- gaps ------------------------------------------------------------------------------------------------------------

FACT_BINS = (
    *range(9),
    10,
    14,
    21,
    35,
)  # first days of the bins that the gap likelihood is reported on; 35+ is last


def fact_bin_of_hazard() -> Tensor:
    """(bins,) which reported bin each hazard bin lies in."""
    edges = torch.tensor(FACT_BINS)
    return torch.bucketize(torch.tensor(GAP_EDGES), edges, right=True) - 1


def gap_chances(logits: Tensor) -> Tensor:
    """Chance of each reported bin (V, 13) from hazard logits (V, bins); those who lapse are in the last."""
    stay = torch.cumsum(F.logsigmoid(-logits), dim=1).exp()
    before = torch.cat([torch.ones_like(stay[:, :1]), stay[:, :-1]], dim=1)
    chance = torch.zeros(len(logits), len(FACT_BINS)).index_add(
        1, fact_bin_of_hazard(), before - stay
    )
    chance[:, -1] += stay[:, -1]
    return chance


def gap_log_loss(chance: Tensor, gap: Tensor, follow_up: Tensor) -> Tensor:
    """Negative log likelihood (V,) of gaps on the reported bins; censored visits are those beyond the follow-up."""
    edges = torch.tensor(FACT_BINS)
    seen = gap >= 0
    place = torch.bucketize(gap.clamp(min=0), edges, right=True) - 1
    hit = chance.gather(1, place.unsqueeze(1)).squeeze(1)
    ended = torch.bucketize(follow_up + 1, edges, right=True) - 1  # bins watched to their end
    later = torch.arange(len(FACT_BINS)) >= ended.unsqueeze(1)
    return -torch.where(seen, hit, (chance * later).sum(1)).clamp(min=1e-9).log()


def marginal_gap(examples: Examples, train: Tensor) -> Tensor:
    """(13,) share of each bin, by the hazards of all train visits (Kaplan & Meier 1958)."""
    return _hazard_chances(*_gap_events(examples, train))


def household_gap(
    examples: Examples, train: Tensor, wanted: Tensor, strength: float = 20.0
) -> Tensor:
    """(V, 13) each household's own hazards, drawn to everybody's with the weight of `strength` visits."""
    hits, at_risk = _gap_events(examples, train, per_shopper=True)
    all_hits, all_risk = hits.sum(0), at_risk.sum(0)
    prior = all_hits / all_risk.clamp(min=1)
    scale = strength * all_risk / all_risk[0]
    hazards = (hits + prior * scale) / (at_risk + scale).clamp(min=1e-9)
    return _chances_of_hazards(hazards)[examples.visits.shopper[wanted]]


def gbdt_gap(examples: Examples, train: Tensor, wanted: Tensor) -> Tensor:
    """(V, 13) hazards by gradient boosting on (visit, bin) pairs: last three gaps, rhythm, basket, weekday, bin."""
    model = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.1, max_leaf_nodes=31, min_samples_leaf=200, random_state=0
    )
    table = _gap_features(examples)
    bins, hit, risk = _gap_pairs(examples, train)
    visit = torch.repeat_interleave(train, risk)
    model.fit(np.column_stack([table[visit.numpy()], bins.numpy()]), hit.numpy())
    count = len(FACT_BINS) - 1
    every = np.column_stack(
        [np.repeat(table[wanted.numpy()], count, 0), np.tile(np.arange(count), len(wanted))]
    )
    hazards = torch.from_numpy(model.predict_proba(every)[:, 1]).float().view(len(wanted), count)
    return _chances_of_hazards(torch.cat([hazards, torch.ones(len(wanted), 1)], dim=1))


def _gap_pairs(examples: Examples, visits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each visit with each bin it was watched through: bin (P,), returned (P,), pairs a visit (V,)."""
    edges = torch.tensor(FACT_BINS)
    gap, follow_up = examples.visits.gap[visits], examples.visits.follow_up[visits]
    seen = gap >= 0
    place = torch.bucketize(gap.clamp(min=0), edges, right=True) - 1
    ended = torch.bucketize(follow_up + 1, edges, right=True) - 1
    risk = torch.where(seen, place + 1, ended).clamp(max=len(FACT_BINS) - 1)
    start = torch.repeat_interleave(risk.cumsum(0) - risk, risk)
    bins = torch.arange(int(risk.sum())) - start
    hit = torch.repeat_interleave(torch.where(seen, place, -1), risk) == bins
    return bins, hit, risk


def _gap_events(
    examples: Examples, visits: Tensor, per_shopper: bool = False
) -> tuple[Tensor, Tensor]:
    bins, hit, risk = _gap_pairs(examples, visits)
    shopper = (
        torch.repeat_interleave(examples.visits.shopper[visits], risk)
        if per_shopper
        else torch.zeros_like(bins)
    )
    number, count = (int(examples.visits.shopper.max()) + 1 if per_shopper else 1), len(FACT_BINS)
    place = shopper * count + bins
    hits = torch.bincount(place, hit.double(), number * count).view(number, count)
    at_risk = torch.bincount(place, minlength=number * count).double().view(number, count)
    return (hits, at_risk) if per_shopper else (hits[0], at_risk[0])


def _hazard_chances(hits: Tensor, at_risk: Tensor) -> Tensor:
    return _chances_of_hazards((hits / at_risk.clamp(min=1)).unsqueeze(0))[0]


def _chances_of_hazards(hazards: Tensor) -> Tensor:
    hazards = hazards.clone()
    hazards[:, -1] = 1.0
    stay = torch.cumprod(1 - hazards, dim=1)
    before = torch.cat([torch.ones_like(stay[:, :1]), stay[:, :-1]], dim=1)
    return (before * hazards).float()


def _gap_features(examples: Examples) -> Floats:
    """(V, 13) what is known after a visit."""
    v = examples.visits

    def lagged(n: int) -> Tensor:
        return torch.where(v.rank > n, torch.roll(v.since, n), torch.nan)

    size = v.starts.diff().float()
    columns = [
        lagged(0),
        lagged(1),
        lagged(2),
        v.rank.float(),
        size,
        (v.day % 7).float(),
        v.week.float() % 4,
    ]
    running = torch.stack([lagged(n) for n in range(8)]).nanmean(0)
    table = torch.cat([torch.stack(columns, dim=1), running.unsqueeze(1), examples.rhythm], dim=1)
    array: Floats = table.numpy().astype(np.float32)
    return array
