"""A log, replayed visit by visit through the same memory that a simulation uses: what was known before each visit."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from recsim_env.shoppers.memory import LEVELS, RHYTHM, STATS, Keys, Memory


@dataclass(frozen=True)
class Visits:
    """Visits of a log, sorted by shopper and time.

    Shapes: V visits, Z bought items.
        shopper, rank, day, week, store, gap, follow_up: (V,) int64; rank counts a shopper's visits from 0;
            gap = days to the next visit, -1 if none was seen within follow_up days
        since: (V,) float32 days since the visit before (0 at the first)
        starts: (V + 1,) int64; the items of visit v are `items[starts[v]:starts[v + 1]]`
        items: (Z,) int64
    """

    shopper: Tensor
    rank: Tensor
    day: Tensor
    week: Tensor
    store: Tensor
    gap: Tensor
    follow_up: Tensor
    since: Tensor
    starts: Tensor
    items: Tensor

    def __len__(self) -> int:
        return len(self.shopper)

    @classmethod
    def of(cls, baskets: pl.DataFrame, hidden: Tensor | None = None) -> Visits:
        """From a basket table; `hidden` (N,) bool removes items from every basket (cold items)."""
        names = ("shopper", "day", "week", "store", "gap", "follow_up")
        filled = baskets.select(pl.col(name).cast(pl.Int64).fill_null(-1) for name in names)
        shopper, day, week, store, gap, follow_up = (torch.from_numpy(c.to_numpy().copy()) for c in filled)
        first = torch.cat([torch.ones(1, dtype=torch.bool), shopper[1:] != shopper[:-1]])
        start = torch.where(first, torch.arange(len(shopper)), 0).cummax(0).values
        since = torch.where(first, 0, day - torch.cat([day[:1], day[:-1]])).float()
        lengths = torch.from_numpy(baskets["items"].list.len().cast(pl.Int64).to_numpy().copy())
        items = torch.from_numpy(baskets["items"].explode().drop_nulls().cast(pl.Int64).to_numpy().copy())
        if hidden is not None:
            visit = torch.repeat_interleave(torch.arange(len(shopper)), lengths)
            kept = ~hidden[items]
            items, lengths = items[kept], torch.bincount(visit[kept], minlength=len(shopper))
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        return cls(
            shopper,
            torch.arange(len(shopper)) - start,
            day,
            week,
            store,
            gap,
            follow_up,
            since,
            starts,
            items,
        )

    def padded(self, visits: Tensor) -> Tensor:
        """Items of some visits (R,), padded with -1: (R, L) int64."""
        return padded(self.items, self.starts, visits)


def padded(values: Tensor, starts: Tensor, index: Tensor, fill: int = -1) -> Tensor:
    """Ragged rows `values[starts[i]:starts[i + 1]]` of index (R,) as one matrix (R, L), filled up with `fill`."""
    begin, end = starts[index], starts[index + 1]
    width = max(int((end - begin).max()), 1) if len(index) else 1
    at = begin.unsqueeze(1) + torch.arange(width)
    inside = at < end.unsqueeze(1)
    return values[at.clamp(max=len(values) - 1)].where(inside, fill)


@dataclass(frozen=True)
class Rows:
    """Items to be scored, R of them, sorted by visit: `visit` (R,) int64 index into `Visits`, `item` (R,) int64."""

    visit: Tensor
    item: Tensor


def replay(visits: Visits, keys: Keys, rows: Rows, remembered: int = 8) -> tuple[Tensor, Tensor]:
    """Counters of every row and rhythm of every visit, each as known before the visit.

    Returns (R, LEVELS, STATS) float16 and (V, RHYTHM) float32. All shoppers advance together, one visit at a time.
    """
    shoppers = int(visits.shopper.max()) + 1
    memory = Memory.empty(keys, shoppers, remembered)
    stats = torch.zeros(len(rows.item), LEVELS, STATS, dtype=torch.float16)
    rhythm = torch.zeros(len(visits), RHYTHM)
    rank_of_row = visits.rank[rows.visit]
    row_order = rank_of_row.argsort(stable=True)
    row_ends = torch.bincount(rank_of_row, minlength=int(visits.rank.max()) + 1).cumsum(0).tolist()
    visit_order = visits.rank.argsort(stable=True)
    visit_ends = torch.bincount(visits.rank).cumsum(0).tolist()
    row_from = visit_from = 0
    for row_to, visit_to in zip(row_ends, visit_ends, strict=True):
        now, scored = visit_order[visit_from:visit_to], row_order[row_from:row_to]
        who, day = visits.shopper[now], visits.day[now].float()
        rhythm[now] = memory.tally_of(who, day)
        of_row = rows.visit[scored]
        stats[scored] = memory.stats(visits.shopper[of_row], rows.item[scored], visits.day[of_row].float()).half()
        memory.record(who, visits.padded(now), day)
        row_from, visit_from = row_to, visit_to
    return stats, rhythm


def first_visits(visits: Visits, n_items: int) -> Tensor:
    """Rank of the visit in which each shopper first bought each item: (shoppers, N) int16, 32767 if never."""
    rank = torch.repeat_interleave(visits.rank, visits.starts.diff())
    shopper = torch.repeat_interleave(visits.shopper, visits.starts.diff())
    first = torch.full((int(visits.shopper.max()) + 1, n_items), 32767, dtype=torch.int64)
    first.view(-1).scatter_reduce_(0, shopper * n_items + visits.items, rank, "amin")
    return first.to(torch.int16)
