"""TODO."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from policies.inputs import UNRANKED
from policies.pool import Pool

FARTHEST = 1e30
"""Score of what is better than all others; below 0 of what is worse, but not taken yet."""


class SlateScores(Protocol):
    """What a re-ranker makes of the logits as the slate fills."""

    def scores(self) -> Tensor:
        """(B, P) score of each pool item as the next one."""

    def add(self, chosen: Tensor) -> None:
        """Put pool positions (B,) into the slates."""


def pick(pool: Pool, size: int, adjust: SlateScores) -> Tensor:
    """Fill a slate greedily: at each position the pool item with the best score. Returns (B, size) item ids.

    Distinct items as long as the pool has some, whatever the scores: NaN and -inf come after all
    others, and among equals comes the better logit.
    """
    taken = pool.items < 0
    there = taken.shape[1] - taken.sum(dim=1, keepdim=True)
    chosen = []
    for _ in range(min(size, pool.items.shape[1])):
        scores = (
            adjust.scores()
            .nan_to_num(nan=-FARTHEST, posinf=FARTHEST, neginf=-FARTHEST)
            .masked_fill_(taken, -math.inf)
        )
        best = scores.max(dim=1).indices  # the first of the largest; on a CPU faster than argmax
        taken.scatter_(1, best.unsqueeze(1), True)
        adjust.add(best)
        chosen.append(best)
    places = torch.stack(chosen, dim=1)
    gone = torch.arange(places.shape[1], device=places.device) >= there
    return filled(pool.items.gather(1, places).masked_fill(gone, -1), size)


def top_slates(scores: Tensor, candidates: Tensor, size: int) -> Tensor:
    """The best candidates, best first; one whose score is no finite number comes after all others.

    Shapes: scores (B, C), candidates (B, C) int64 -1 padded; returns slates (B, size) int64.
    """
    scores = scores.nan_to_num(nan=UNRANKED, posinf=UNRANKED, neginf=UNRANKED).masked_fill_(
        candidates < 0, -math.inf
    )
    best = scores.topk(min(size, scores.shape[1]), dim=1).indices
    return filled(candidates.gather(1, best), size)


def filled(slates: Tensor, size: int) -> Tensor:
    """Slates (B, size) without holes: the first item again wherever there is none (item 0 in an empty slate).

    Shapes: slates (B, at most size) int64, -1 where there was no candidate left.
    """
    slates = torch.nn.functional.pad(slates, (0, size - slates.shape[1]), value=-1)
    return slates.where(slates >= 0, slates[:, :1].clamp(min=0))
