"""Slates while they are filled: what is in them, and the log-odds of what could come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from policies.cosines import Cosines
from policies.pool import Pool
from policies.slates import SlateScores
from recsim_env.catalog import Catalog
from recsim_env.tensors import looked_up


class SlateSoFar:
    """The slates of B shoppers, and how the items of the pool relate to them.

    Shapes: B shoppers, P items of the pool.
        ids:      (B, P) int64, the items of the pool, 0 in place of padding
        category: (B, P) int64, of each item of the pool
        count:    (B, P) float32, items of the same category in the slate
        closest:  (B, P) float32, largest cosine to an item of the slate, 0 or more
        similar:  (B, P) float32, sum of the cosines to the items of the slate, a negative one as 0

    Args:
        pool: the candidates
        catalog: all items
        cosines: their cosine similarities
        size: number of slate positions K
    """

    def __init__(self, pool: Pool, catalog: Catalog, cosines: Cosines, size: int) -> None:
        self.pool, self.catalog, self.size = pool, catalog, size
        self.ids = pool.ids
        self.category = looked_up(catalog.category, self.ids)
        self.chosen: list[Tensor] = []
        """The items (B,) at each position that is filled."""
        self.count = torch.zeros_like(pool.logits)
        self.closest = torch.zeros_like(pool.logits)
        self.similar = torch.zeros_like(pool.logits)
        self._cosines = cosines
        # floats, exact up to 2^24 categories: on a CPU comparing them takes a third of the time
        self._number = self.category.to(pool.logits.dtype)
        self._same = torch.zeros_like(pool.logits)

    @property
    def length(self) -> int:
        """Number of positions that are filled."""
        return len(self.chosen)

    def add(self, places: Tensor) -> None:
        """Put the items at places (B,) of the pool into the slates."""
        at = places.unsqueeze(1)
        self.count += torch.eq(
            self._number, self._number.gather(1, at), out=self._same
        )  # 1.0 where the categories are equal
        item = self.ids.gather(1, at).squeeze(1)
        cosine = self._cosines.between(item, self.ids)
        torch.maximum(self.closest, cosine, out=self.closest)
        self.similar += cosine.clamp_(0, 1)
        self.chosen.append(item)


class SlateCue(Protocol):
    """A cue that changes as the slate fills."""

    def log_odds(self) -> Tensor:
        """What it adds to the log-odds of each item of the pool as the next one: (B, P)."""

    def add(self, places: Tensor) -> None:
        """Take in the items at places (B,) of the pool, before the slate does."""


class LogOddsScores(SlateScores):
    """Log-odds as the slate fills: fixed ones, the category's count, the similarity to the slate.

    Args:
        slate: the slate so far
        fixed: (B, P) log-odds that do not depend on it
        of_count: (B, 1) log-odds for each item of the same category in the slate
        of_similarity: (B, 1) log-odds per unit of the largest cosine to it
        cues: further cues that change as it fills
    """

    def __init__(
        self,
        slate: SlateSoFar,
        fixed: Tensor,
        of_count: Tensor,
        of_similarity: Tensor,
        cues: Sequence[SlateCue] = (),
    ) -> None:
        self.slate, self._fixed, self._cues = slate, fixed, cues
        self._of_count, self._of_similarity = of_count, of_similarity

    def scores(self) -> Tensor:
        """Log-odds of a click on each item of the pool as the next one: (B, P)."""
        counted = torch.addcmul(self._fixed, self._of_count, self.slate.count)
        log_odds = counted.addcmul_(self._of_similarity, self.slate.closest)
        for cue in self._cues:
            log_odds += cue.log_odds()
        return log_odds

    def add(self, chosen: Tensor) -> None:
        """Put the items at places (B,) of the pool into the slates."""
        for cue in self._cues:
            cue.add(chosen)
        self.slate.add(chosen)
