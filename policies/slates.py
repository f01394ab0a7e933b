"""Slates from scores: the best candidates at once, or a greedy choice position by position."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from policies.inputs import UNRANKED
from policies.ordering import first_largest
from policies.pool import Pool

FARTHEST = 1e30
"""Largest score; its negative is the score of items that are taken after all others."""


class SlateScores(Protocol):
    """Scores of the items of a pool, which change as the slate fills."""

    def scores(self) -> Tensor:
        """Score of each item of the pool as the next one: (B, P)."""

    def add(self, chosen: Tensor) -> None:
        """Put the items at places (B,) of the pool into the slates."""


def pick(pool: Pool, size: int, slate_scores: SlateScores) -> Tensor:
    """Fill slates (B, size) greedily: each position takes the item of the pool with the best score.

    Items are distinct as long as the pool has some, whatever the scores: NaN and -inf come after
    all others, and among equals the better logit comes first. The last item is not added to
    `slate_scores`, because nothing is chosen after it.
    """
    absent = pool.items < 0
    there = absent.shape[1] - absent.sum(dim=1, keepdim=True)
    taken = torch.zeros_like(pool.logits).masked_fill_(absent, -math.inf)
    chosen: list[Tensor] = []
    for position in range(min(size, pool.items.shape[1])):
        if position:
            slate_scores.add(chosen[-1])
        scores = slate_scores.scores().nan_to_num(nan=-FARTHEST, posinf=FARTHEST, neginf=-FARTHEST)
        best = first_largest(scores.add_(taken))
        taken.scatter_(1, best.unsqueeze(1), -math.inf)
        chosen.append(best)
    places = torch.stack(chosen, dim=1)
    gone = torch.arange(places.shape[1], device=places.device) >= there
    return filled(pool.items.gather(1, places).masked_fill(gone, -1), size)


def top_slates(scores: Tensor, candidates: Tensor, size: int) -> Tensor:
    """The best candidates, best first; those whose score is not finite come after all others.

    Shapes:
        scores:     (B, C)
        candidates: (B, C) int64, -1 padded
        returns:    (B, size) int64
    """
    scores = scores.nan_to_num(nan=UNRANKED, posinf=UNRANKED, neginf=UNRANKED).masked_fill_(
        candidates < 0, -math.inf
    )
    best = scores.topk(min(size, scores.shape[1]), dim=1).indices
    return filled(candidates.gather(1, best), size)


def filled(slates: Tensor, size: int) -> Tensor:
    """Repeat the first item of each slate where none is left; item 0 fills an empty slate.

    Shapes:
        slates:  (B, at most size) int64, -1 where no candidate was left
        returns: (B, size) int64
    """
    slates = torch.nn.functional.pad(slates, (0, size - slates.shape[1]), value=-1)
    return slates.where(slates >= 0, slates[:, :1].clamp(min=0))
