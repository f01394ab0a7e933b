"""Baselines of the days to the next visit, and the likelihood on which all models are compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from recsim_env.shoppers.household.examples import Examples

Floats = NDArray[np.float32]

REPORTED_BINS = (*range(9), 10, 14, 21, 35)
"""First days of the bins on which the likelihood of a gap is reported; the last one has no end."""


def _bins(days: Tensor) -> Tensor:
    """The number of the reported bin of each number of days."""
    return torch.bucketize(days, torch.tensor(REPORTED_BINS), right=True) - 1


def gap_chances(logits: Tensor, edges: Sequence[int]) -> Tensor:
    """Turn hazard logits (V, bins) into chances of reported bins (V, 13), lapses in the last.

    Args:
        logits: The hazards of the shopper.
        edges: The first days of its bins, each of which lies in one of the reported bins.
    """
    place = _bins(torch.tensor(edges))
    stay = torch.cumsum(F.logsigmoid(-logits), dim=1).exp()
    before = torch.cat([torch.ones_like(stay[:, :1]), stay[:, :-1]], dim=1)
    chance = torch.zeros(len(logits), len(REPORTED_BINS)).index_add(1, place, before - stay)
    chance[:, -1] += stay[:, -1]
    return chance


def gap_log_loss(chance: Tensor, gap: Tensor, follow_up: Tensor) -> Tensor:
    """Compute the negative log-likelihood (V,) of gaps on the reported bins.

    A gap of -1 is censored: its likelihood is that of all bins after the follow-up.
    """
    seen = gap >= 0
    hit = chance.gather(1, _bins(gap.clamp(min=0)).unsqueeze(1)).squeeze(1)
    ended = _bins(follow_up + 1)  # bins watched to their end
    later = torch.arange(len(REPORTED_BINS)) >= ended.unsqueeze(1)
    return -torch.where(seen, hit, (chance * later).sum(1)).clamp(min=1e-9).log()


def marginal_gap(examples: Examples, train: Tensor) -> Tensor:
    """Estimate the share of each bin (13,) from all train visits (Kaplan & Meier 1958)."""
    return _hazard_chances(*_gap_events(examples, train))


def household_gap(
    examples: Examples, train: Tensor, wanted: Tensor, strength: float = 20.0
) -> Tensor:
    """Estimate the shares of bins (V, 13) from the household's own train visits.

    Its hazards are drawn to those of all households with the weight of `strength` visits.
    """
    hits, at_risk = _gap_events(examples, train, per_shopper=True)
    all_hits, all_risk = hits.sum(0), at_risk.sum(0)
    prior = all_hits / all_risk.clamp(min=1)
    scale = strength * all_risk / all_risk[0]
    hazards = (hits + prior * scale) / (at_risk + scale).clamp(min=1e-9)
    return _chances_of_hazards(hazards)[examples.visits.shopper[wanted]]


def gbdt_gap(examples: Examples, train: Tensor, wanted: Tensor) -> Tensor:
    """Estimate the shares of bins (V, 13) by gradient boosting of the hazards.

    Its rows are pairs of a visit and a bin, its columns those of `_gap_features` and the bin.
    """
    # Fitted on the bins that each train visit was watched through.
    model = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.1, max_leaf_nodes=31, min_samples_leaf=200, random_state=0
    )
    table = _gap_features(examples)
    bins, hit, risk = _gap_pairs(examples, train)
    visit = torch.repeat_interleave(train, risk)
    model.fit(np.column_stack([table[visit.numpy()], bins.numpy()]), hit.numpy())

    # The hazards of every bin but the last, in which everybody is at the end.
    count = len(REPORTED_BINS) - 1
    every = np.column_stack(
        [np.repeat(table[wanted.numpy()], count, 0), np.tile(np.arange(count), len(wanted))]
    )
    hazards = torch.from_numpy(model.predict_proba(every)[:, 1]).float().view(len(wanted), count)
    return _chances_of_hazards(torch.cat([hazards, torch.ones(len(wanted), 1)], dim=1))


def _gap_pairs(examples: Examples, visits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pair each visit with each bin that it was watched through.

    Returns:
        The bin (P,) and whether the shopper came back in it (P,), for each pair, and the number of
        pairs of each visit (V,).
    """
    gap, follow_up = examples.visits.gap[visits], examples.visits.follow_up[visits]
    seen, place, ended = gap >= 0, _bins(gap.clamp(min=0)), _bins(follow_up + 1)
    risk = torch.where(seen, place + 1, ended).clamp(max=len(REPORTED_BINS) - 1)
    start = torch.repeat_interleave(risk.cumsum(0) - risk, risk)
    bins = torch.arange(int(risk.sum())) - start
    hit = torch.repeat_interleave(torch.where(seen, place, -1), risk) == bins
    return bins, hit, risk


def _gap_events(
    examples: Examples, visits: Tensor, per_shopper: bool = False
) -> tuple[Tensor, Tensor]:
    bins, hit, risk = _gap_pairs(examples, visits)
    everybody, count = examples.visits.shopper, len(REPORTED_BINS)
    if per_shopper:
        shopper = torch.repeat_interleave(everybody[visits], risk)
        number = int(everybody.max()) + 1
    else:
        shopper, number = torch.zeros_like(bins), 1
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
    """Make columns of what is known after a visit: gaps, rank, basket, calendar, rhythm."""
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
