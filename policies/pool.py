"""The pool: the few candidates that re-rankers and composers look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.inputs import (
    UNRANKED,
    Doubts,
    PolicyInputs,
    Ranker,
    TwoStageRanker,
    leading_of,
    logits_of,
)
from policies.observations import ObservationCheck, candidates_of, max_candidates
from policies.ordering import (
    NOTHING,
    best_of,
    first_largest,
    keys_of,
    places_of,
    scores_of,
    smallest,
)
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.settings import MOST
from recsim_env.tensors import looked_up, shared
from recsim_env.types import Observation

SHOPPERS_AT_ONCE = 256
"""Number of shoppers ranked at once on a CPU: the numbers of their candidates stay in its cache."""


@dataclass(frozen=True)
class Pool:
    """The P candidates with the best logits, best first.

    Shapes:
        items:   (B, P) int64, -1 where there are fewer
        logits:  (B, P) float32, -inf there
        columns: (B, P) int64, column of each among the candidates
    """

    items: Tensor
    logits: Tensor
    columns: Tensor

    @classmethod
    def best(cls, logits: Tensor, candidates: Tensor, size: int) -> Pool:
        """Take the best `size` candidates (B, C) by logits (B, C) float32 without NaN.

        Among equals the earlier column comes first.
        """
        logits, columns = best_of(logits, min(size, logits.shape[1]))
        return cls(
            candidates.gather(1, columns).masked_fill(logits == -math.inf, -1), logits, columns
        )

    @classmethod
    def ranked(
        cls, ranker: Ranker, observation: Observation, candidates: Tensor, size: int, doubts: Doubts
    ) -> Pool:
        """Rank candidates (B, C) and take the best `size`, in two stages if the ranker has them."""
        if isinstance(ranker, TwoStageRanker):
            logits, columns = leading_of(ranker, observation, candidates, size, doubts)
            if columns is not None:
                pool = cls.best(logits, candidates.gather(1, columns), size)
                return cls(pool.items, pool.logits, columns.gather(1, pool.columns))
        else:
            logits = logits_of(ranker, observation, candidates, doubts)
        return cls.best(logits, candidates, size)

    def check(self, candidates: Tensor, *, whole: bool = True) -> None:
        """Check the pool of candidates (B, C) on a CPU; on a GPU it would force a synchronisation.

        Args:
            candidates: what the pool was taken from, -1 padded
            whole: whether padding is checked too

        Raises:
            ValueError: If the ranker gave a number to padding, or to no candidate of a shopper.
        """
        if self.logits.device.type != "cpu":
            return
        if float(self.logits[:, 0].min()) <= UNRANKED:
            _raise_unranked((self.logits[:, 0] <= UNRANKED) & (candidates >= 0).any(dim=1))
        if whole:
            _check_padding(self.logits[(self.items < 0) & (self.logits > -math.inf)])

    def rows(self, part: slice | Tensor) -> Pool:
        """The pools of some of the shoppers."""
        return Pool(self.items[part], self.logits[part], self.columns[part])

    @property
    def ids(self) -> Tensor:
        """Indices for look-ups: `items` with 0 in place of -1, (B, P)."""
        return self.items.clamp(min=0)


def _check_padding(found: Tensor) -> None:
    for number in found[:1].tolist():
        what = "NaN or inf" if number == UNRANKED else "a number"
        raise ValueError(
            f"ranker.logits(observation) holds {what} at padding, but it must hold -inf there."
        )


def _raise_unranked(bare: Tensor) -> None:
    for row in bare.nonzero()[:1, 0].tolist():
        raise ValueError(
            f"ranker.logits(observation) holds no finite number in row {row}: it gave none to any "
            "candidate, but it must rank the candidates there."
        )


class Pooling:
    """Chooses the candidates that re-rankers and composers look at, P = `size` of them.

    They are the best `PolicyInputs.pool`, or with `per_category` the K best and the best of each
    category. The K best are always among them: nothing that the greedy ranker shows is left out.

    Args:
        inputs: what the policy is built from
        best: number of best candidates in place of `inputs.pool`

    Raises:
        TypeError: If `inputs` is no `PolicyInputs`.
        ValueError: If `best` is no whole number of 1 or more.
    """

    def __init__(self, inputs: PolicyInputs, best: int | None = None) -> None:
        checks.instance("inputs", inputs, PolicyInputs)
        best = None if best is None else checks.whole("best", best, 1, MOST)
        most = max_candidates(inputs.observation_space, len(inputs.catalog))
        self._best = min(max(inputs.pool if best is None else best, inputs.slate_size), most)
        self._slate_size = inputs.slate_size
        self._per_category = inputs.per_category
        self._category = inputs.catalog.category
        self._groups = torch.arange(len(inputs.catalog.categories), device=inputs.catalog.device)
        self._items = len(inputs.catalog)
        self._check = ObservationCheck(inputs.observation_space, inputs.catalog)
        self._doubts = Doubts()
        self.size = self._best
        if inputs.per_category:
            self._by_category = _items_by_category(inputs.catalog)
            groups, largest = self._by_category.shape
            width = min(inputs.per_category, largest)
            self._starts = torch.arange(groups, device=inputs.catalog.device) * largest
            self.size = min(groups * width + inputs.slate_size, most)

    def __call__(self, logits: Tensor, candidates: Tensor) -> Pool:
        """Take the pool of candidates (B, C) by logits (B, C) without NaN, best first."""
        if not self._per_category:
            return Pool.best(logits, candidates, self._best)

        # The candidates' logits, laid out by category
        standing = self._standing(candidates)
        scores = _columns_of(torch.nn.functional.pad(logits, (1, 0), value=-math.inf), standing)
        groups, largest = self._by_category.shape

        # The best of each category, and then the K best of what is left
        found = []
        for _ in range(min(self._per_category, largest)):
            best = first_largest(scores.view(-1, largest)).view(-1, groups) + self._starts
            found.append(_taken(scores, best))
        found += [
            _taken(scores, first_largest(scores).unsqueeze(1))
            for _ in range(min(self._slate_size, groups * largest))
        ]
        keys = torch.cat(found, dim=1)

        # Keep the per-category best and those of the rest that are among the K best of all
        others = keys[:, -self._slate_size :]
        least = smallest(keys.clone(), others.shape[1])[:, -1:]
        others.masked_fill_(others > least, NOTHING)
        keys = smallest(keys, min(self.size, keys.shape[1]))
        columns = (_columns_of(standing, places_of(keys)) - 1).clamp_(min=0)
        values = scores_of(keys)
        items = candidates.gather(1, columns).where(values > -math.inf, -1)
        return Pool(items, values, columns)

    def among(self, logits: Tensor, items: Tensor) -> Pool:
        """Take the pool of a whole catalogue of which all but these few items rank too low.

        The time depends on the number of items given, not on the size of the catalogue.
        `Pool.columns` are the items, as where the candidates are the catalogue in its order.

        Shapes:
            logits: (B, C)
            items:  (B, C) int64, distinct in a row, -1 where there is none
        """
        logits = logits.masked_fill(items < 0, -math.inf)
        width = logits.shape[1]
        if self._per_category:
            other = self._category[items.clamp(min=0)].unsqueeze(1) != self._groups.view(
                1, -1, 1
            )  # (B, G, C)
            best = (
                logits.unsqueeze(1)
                .masked_fill(other, -math.inf)
                .topk(min(self._per_category, width), dim=2)
            )
            places = best.indices.where(best.values > -math.inf, width).flatten(
                1
            )  # no item there: past the last one
            chosen = torch.zeros(len(items), width + 1, dtype=torch.bool, device=items.device)
            chosen = chosen.scatter_(1, places, True)[:, :width]
            chosen = chosen.scatter(
                1, logits.topk(min(self._slate_size, width), dim=1).indices, True
            )
            logits = logits.masked_fill(~chosen, -math.inf)
        values, at = logits.topk(min(self.size, width), dim=1)
        items = items.gather(1, at).where(values > -math.inf, -1)
        return Pool(items, values, items.clamp(min=0))

    def of(self, ranker: Ranker, observation: Observation) -> Pool:
        """Rank and take the pool, on a CPU `SHOPPERS_AT_ONCE` shoppers at a time.

        Raises:
            TypeError: If the observation or the logits are of another type.
            ValueError: If they have another shape, or hold a number that cannot be.
        """
        first = self._check(observation)
        candidates = candidates_of(observation, self._items)
        most = SHOPPERS_AT_ONCE if candidates.device.type == "cpu" else max(len(candidates), 1)
        parts = []
        for start in range(0, len(candidates), most):
            part = {name: value[start : start + most] for name, value in observation.items()}
            own = candidates[start : start + most]
            if self._per_category:
                parts.append(self(logits_of(ranker, part, own, self._doubts), own))
            else:
                parts.append(Pool.ranked(ranker, part, own, self._best, self._doubts))
            parts[-1].check(own, whole=first)
        if len(parts) == 1:
            return parts[0]
        return Pool(
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("items", "logits", "columns")
            )
        )

    def _standing(self, candidates: Tensor) -> Tensor:
        """Place of each item of each category among the candidates, counted from 1; 0 = nowhere.

        Shapes: returns (B, G * largest) int64, or (1, ..) where all shoppers have one list.
        """
        rows = candidates[:1] if shared(candidates) else candidates
        column = torch.zeros(len(rows), self._items + 1, dtype=torch.int64, device=rows.device)
        column.scatter_(
            1, rows + 1, torch.arange(1, rows.shape[1] + 1, device=rows.device).expand_as(rows)
        )
        column[:, 0] = 0  # padding went there
        return column.index_select(1, self._by_category.flatten() + 1)


def _taken(scores: Tensor, places: Tensor) -> Tensor:
    """Keys of the scores (B, S) at places (B, some), which become -inf there."""
    values = scores.gather(1, places)
    scores.scatter_(1, places, -math.inf)
    return keys_of(values, places)


def _columns_of(table: Tensor, columns: Tensor) -> Tensor:
    """`table.gather(1, columns)`, where one of the two may have one row for all shoppers."""
    if len(table) == len(columns):
        return table.gather(1, columns)
    return looked_up(table[0], columns) if len(table) == 1 else table.index_select(1, columns[0])


def _items_by_category(catalog: Catalog) -> Tensor:
    """Items of each category: (G, largest) int64, -1 padded."""
    order = catalog.category.argsort(stable=True)
    counts = torch.bincount(catalog.category)
    return torch.nn.utils.rnn.pad_sequence(
        order.split(counts.tolist()), batch_first=True, padding_value=-1
    )
