"""A log, replayed visit by visit through the memory that a simulation uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import polars as pl
import torch
from torch import Tensor

from recsim_env.shoppers.household.memory import (
    COUNT,
    HABIT,
    LEVELS,
    RECENT_DAYS,
    RHYTHM,
    STATS,
    TALLIES,
    Keys,
    Memory,
    gap_habit,
    tally_features,
)

NEVER_BOUGHT = 32767
"""Rank of the first purchase of an item that was never bought: the largest int16."""


@dataclass(frozen=True)
class Visits:
    """The visits of a log, sorted by shopper and time.

    Shapes: V visits, Z bought items.
        shopper, day, week, store: (V,) int64
        rank: (V,) int64 number of earlier visits of the shopper
        gap: (V,) int64 days to the next visit, -1 where none was seen within follow_up days
        follow_up: (V,) int64 days through which the log goes on
        since: (V,) float32 days since the visit before, 0 at the first
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
        """Read the visits from a basket table.

        Args:
            baskets: the table
            hidden: (N,) bool items to leave out of every basket
        """
        # One tensor a column.
        names = ("shopper", "day", "week", "store", "gap", "follow_up")
        filled = baskets.select(pl.col(name).fill_null(-1) for name in names)
        shopper, day, week, store, gap, follow_up = (ints(filled, name) for name in names)
        first = torch.cat([torch.ones(1, dtype=torch.bool), shopper[1:] != shopper[:-1]])
        start = torch.where(first, torch.arange(len(shopper)), 0).cummax(0).values
        since = torch.where(first, 0, day - torch.cat([day[:1], day[:-1]])).float()

        # The items, one visit after the other.
        lengths = torch.from_numpy(baskets["items"].list.len().cast(pl.Int64).to_numpy().copy())
        items = torch.from_numpy(
            baskets["items"].explode().drop_nulls().cast(pl.Int64).to_numpy().copy()
        )
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
        """List the items of visits (R,), padded with -1: (R, L) int64."""
        return padded(self.items, self.starts, visits)


def padded(values: Tensor, starts: Tensor, index: Tensor, fill: int = -1) -> Tensor:
    """Write ragged rows as one matrix.

    Args:
        values: (Z,) the rows, one after the other
        starts: (V + 1,) int64; row i is `values[starts[i]:starts[i + 1]]`
        index: (R,) int64 the rows to write
        fill: what stands after the end of a row

    Returns:
        (R, L), as wide as the longest row.
    """
    begin, end = starts[index], starts[index + 1]
    width = max(int((end - begin).max()), 1) if len(index) else 1
    at = begin.unsqueeze(1) + torch.arange(width)
    inside = at < end.unsqueeze(1)
    return values[at.clamp(max=len(values) - 1)].where(inside, fill)


@dataclass(frozen=True)
class Past:
    """The visits that some shoppers made before one visit of each, shopper after shopper.

    Shapes: S shoppers, P earlier visits, Z items bought in them.
        number: (S,) int64 earlier visits of each
        who: (P,) int64 whose visit it is, 0 .. S - 1
        day, since: (P,) float32, as in `Visits`
        items: (Z,) int64; those of visit p are `items[starts[p]:starts[p] + size[p]]`
        starts, size: (P,) int64
    """

    number: Tensor
    who: Tensor
    day: Tensor
    since: Tensor
    items: Tensor
    starts: Tensor
    size: Tensor

    @classmethod
    def before(cls, visits: Visits, start: Tensor) -> Past:
        """Find the visits before `start` (S,) int64, one visit of each shopper."""
        number = visits.rank[start]
        day, size = visits.day.float(), visits.starts.diff()
        return cls._chosen(
            number, start - number, day, visits.since, visits.items, visits.starts[:-1], size
        )

    def only(self, shoppers: Tensor) -> Past:
        """Keep the visits of some shoppers (R,) int64."""
        first = self.number.cumsum(0) - self.number
        rest = (self.day, self.since, self.items, self.starts, self.size)
        return self._chosen(self.number[shoppers], first[shoppers], *rest)

    @classmethod
    def _chosen(
        cls,
        number: Tensor,
        first: Tensor,
        day: Tensor,
        since: Tensor,
        items: Tensor,
        starts: Tensor,
        size: Tensor,
    ) -> Past:
        """Take `number` visits of each shopper from its `first` on; all else is of all visits."""
        who, place = _ragged(number)
        at = first[who] + place
        visit, place = _ragged(size[at])
        bought = items[starts[at][visit] + place]
        return cls(number, who, day[at], since[at], bought, size[at].cumsum(0) - size[at], size[at])

    def followed_by(self, later: Past) -> Past:
        """Join these visits with later ones of the same S shoppers."""
        who = torch.cat([self.who, later.who])
        at = who.argsort(stable=True)
        size = torch.cat([self.size, later.size])[at]
        starts = torch.cat([self.starts, later.starts + len(self.items)])[at]
        visit, place = _ragged(size)
        items = torch.cat([self.items, later.items])[starts[visit] + place]
        day, since = torch.cat([self.day, later.day])[at], torch.cat([self.since, later.since])[at]
        number = self.number + later.number
        return Past(number, who[at], day, since, items, size.cumsum(0) - size, size)

    def of_known(self, known: Tensor) -> Past:
        """Keep the visits of shoppers who are known, (S,) bool; the others made none."""
        first = self.number.cumsum(0) - self.number
        rest = (self.day, self.since, self.items, self.starts, self.size)
        return self._chosen(self.number * known, first, *rest)

    def without(self, dropped: Tensor) -> Past:
        """Take items out of the baskets, as if they had never been bought; the visits stay.

        Args:
            dropped: (S, N) bool, which items of which shopper
        """
        visit = torch.repeat_interleave(torch.arange(len(self.size)), self.size)
        kept = ~dropped[self.who[visit], self.items]
        size = torch.bincount(visit[kept], minlength=len(self.size))
        starts = size.cumsum(0) - size
        return replace(self, items=self.items[kept], starts=starts, size=size)

    def _rounds(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield who makes another visit, and which of the P it is, (R,) each; round by round."""
        first = self.number.cumsum(0) - self.number
        for rank in range(int(self.number.max()) if len(self.number) else 0):
            rows = (self.number > rank).nonzero().flatten()
            yield rows, first[rows] + rank

    def remembered(self, keys: Keys, room: int) -> tuple[Memory, Tensor]:
        """Fill a memory with these visits.

        The result is that of `Memory.record`, visit after visit, but for rounding of the decayed
        counts, which are sums here. Shoppers who bought more items than there is room for forget
        some, so their items are listed visit by visit.

        Args:
            keys: the counters of the items
            room: number of items that a memory remembers

        Returns:
            The memory of the S shoppers, and the rhythm (P, RHYTHM) before each visit.
        """
        memory = Memory.empty(keys, len(self.number), room)
        tallies = torch.zeros(len(self.day), TALLIES, dtype=torch.float32)
        for rows, now in self._rounds():
            tallies[now] = memory.tallies[rows]
            memory.tally_visit(rows, self.size[now].float(), self.day[now])
        crowded = self._count(memory).nonzero().flatten()
        if len(crowded):
            self._list(memory, crowded)
        return memory, tally_features(tallies, self.day)

    def _count(self, memory: Memory) -> Tensor:
        """Fill counters and items of a memory whose tallies are right already.

        Every purchase moves `LEVELS` counters. Sorted by counter, those of one counter stand
        together, the first purchase in front, and are summed up where the last one ends.

        Returns:
            (S,) bool, who needs more room.
        """
        visit = torch.repeat_interleave(torch.arange(len(self.size)), self.size)
        width, room = memory.table.shape[1], memory.items.shape[1]
        moved = (memory.keys.of_item[self.items] + (self.who[visit] * width).unsqueeze(1)).flatten()
        moved, order = moved.sort(stable=True)
        day = self.day[visit].repeat_interleave(LEVELS)[order]
        counter, number = moved.unique_consecutive(return_counts=True)
        end = number.cumsum(0)
        first, last = end - number, day[end - 1]
        weight = torch.exp((day - last.repeat_interleave(number)) / RECENT_DAYS)
        recent = torch.zeros(len(counter), dtype=torch.float32)
        recent.index_add_(0, torch.arange(len(counter)).repeat_interleave(number), weight)
        memory.table.view(-1, STATS)[counter] = torch.stack(
            [number.float(), recent, day[first], last], dim=1
        )

        of_item = (counter % width < memory.keys.n_items).nonzero().flatten()
        # items as they were first bought, shopper after shopper
        of_item = of_item[order[first[of_item]].argsort()]
        who, item = counter[of_item] // width, counter[of_item] % width
        held = torch.bincount(who, minlength=len(self.number))
        slot = torch.arange(len(who)) - (held.cumsum(0) - held)[who]
        fits = slot < room
        who, item, slot, of_item = who[fits], item[fits], slot[fits], of_item[fits]
        memory.items[who, slot] = item
        memory.counts[who, slot] = number[of_item].float()
        memory.days[who, slot] = last[of_item]
        memory.slots[who, item] = slot.to(memory.slots.dtype)
        return held > room

    def _list(self, memory: Memory, crowded: Tensor) -> None:
        """Fill items of a memory whose counters are right, for shoppers (R,), visit by visit."""
        past, fresh = (
            self.only(crowded),
            Memory.empty(memory.keys, len(crowded), memory.items.shape[1]),
        )
        ends = torch.cat([past.starts, past.starts.new_full((1,), len(past.items))])
        for rows, now in past._rounds():
            fresh.list_visit(rows, padded(past.items, ends, now), past.day[now])
        fresh.counts[:, :-1] = memory.table[crowded.unsqueeze(1), fresh.items, COUNT] * (
            fresh.items >= 0
        )
        for name in ("items", "counts", "days", "slots"):
            getattr(memory, name)[crowded] = getattr(fresh, name)


def ints(frame: pl.DataFrame, name: str) -> Tensor:
    """Read a column as an int64 tensor."""
    return torch.from_numpy(frame[name].cast(pl.Int64).to_numpy().copy())


def floats(frame: pl.DataFrame, name: str) -> Tensor:
    """Read a column as a float32 tensor."""
    return torch.from_numpy(frame[name].cast(pl.Float32).to_numpy().copy())


def _ragged(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Number the places of rows of some lengths (R,) that are written one after the other.

    Returns:
        Row, and place in it, (sum of the lengths,) int64 each.
    """
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return row, torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row]


@dataclass(frozen=True)
class ScoredItems:
    """Items to be scored, R of them, sorted by visit.

    Shapes:
        visit: (R,) int64 index into `Visits`
        item: (R,) int64
    """

    visit: Tensor
    item: Tensor


def replay(
    visits: Visits, keys: Keys, rows: ScoredItems, remembered: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the counters of every row and the rhythm of every visit, as known before the visit.

    The habits in coming back are those after the visit, which the days until the next depend on.
    All shoppers advance together, one visit at a time.

    Args:
        visits: the log
        keys: the counters of the items
        rows: the items whose counters are wanted
        remembered: number of items that a memory remembers; it does not change the counters

    Returns:
        (R, LEVELS, STATS) float16, (V, RHYTHM) float32 and (V, HABIT) float32.
    """
    shoppers = int(visits.shopper.max()) + 1
    memory = Memory.empty(keys, shoppers, remembered)
    stats = torch.zeros(len(rows.item), LEVELS, STATS, dtype=torch.float16)
    rhythm = torch.zeros(len(visits), RHYTHM, dtype=torch.float32)
    habit = torch.zeros(len(visits), HABIT, dtype=torch.float32)
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
        stats[scored] = memory.stats(
            visits.shopper[of_row], rows.item[scored], visits.day[of_row].float()
        ).half()
        memory.record(who, visits.padded(now), day)
        habit[now] = gap_habit(memory.tallies[who])
        row_from, visit_from = row_to, visit_to
    return stats, rhythm, habit


def first_visits(visits: Visits, n_items: int) -> Tensor:
    """Find the rank of the visit in which each shopper first bought each item.

    Returns:
        (shoppers, N) int16, `NEVER_BOUGHT` where it never did.
    """
    rank = torch.repeat_interleave(visits.rank, visits.starts.diff())
    shopper = torch.repeat_interleave(visits.shopper, visits.starts.diff())
    first = torch.full((int(visits.shopper.max()) + 1, n_items), NEVER_BOUGHT, dtype=torch.int64)
    first.view(-1).scatter_reduce_(0, shopper * n_items + visits.items, rank, "amin")
    return first.to(torch.int16)
