"""What a shopper bought so far: counters per item, kind and category, and the items bought before.

The counters are long-run state. A transformer over the last visits alone forgets how often a staple
was bought, and predicts little more than half of the purchases of heavy repeaters. The same code
replays a log (`replay.py`) and steps a simulation, so both see the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env.tensors import constant, large_zeros, looked_up, places
from recsim_env.types import Observation

NEVER = 1000.0  # days since a purchase that never was
RECENT_DAYS = 28.0  # time constant of the decayed counts
LEVELS = 3  # item, kind, category
STATS = 4  # columns of `Memory.stats` and of `Memory.table`
COUNT, RECENT, SINCE, INTERVAL = range(STATS)
"""Columns of `Memory.stats`: count, decayed count, days since the last purchase, usual interval."""
FIRST_DAY, LAST_DAY = 2, 3
"""Columns of `Memory.table` in place of the last two: days of the first and the last purchase."""
WEEKDAY_DAYS = 84.0  # time constant of the visits a weekday
GAP_SHARE = 0.25  # weight of the newest gap in the usual one
WEEK = 7  # days
GAP_EDGES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 14, 21, 35)
"""First days of the bins in which each shopper's own gaps between visits are counted."""
GAP_DECAY = 0.9  # of the counts of gaps, per visit: about the last ten count
FEW_GAPS = 3.0  # gaps that the shares of a shopper's own are spread over from the start


class Tally(IntEnum):
    """Columns of `Memory.tallies`.

    The decayed visits of the seven weekdays start at `WEEKDAYS`, the gaps in each bin of
    `GAP_EDGES` at `GAPS`, and the same with `GAP_DECAY` at `RECENT_GAPS`.
    """

    VISITS = 0
    RECENT_VISITS = 1
    RECENT_ITEMS = 2
    FIRST_DAY = 3
    LAST_DAY = 4
    USUAL_LOG_GAP = 5
    WEEKDAYS = 6
    GAPS = WEEKDAYS + WEEK
    RECENT_GAPS = GAPS + len(GAP_EDGES)


class Rhythm(IntEnum):
    """Columns of `tally_features`; all but `USUAL_LOG_GAP` and the weekdays are log(1 + x).

    The shares of visits on today's weekday and on the six that follow start at `WEEKDAYS`.
    """

    VISITS = 0
    RECENT_VISITS = 1
    BASKET_SIZE = 2
    VISITS_A_WEEK = 3
    USUAL_LOG_GAP = 4
    WEEKDAYS = 5


class Context(IntEnum):
    """Columns of the observation `context`; those from `SINCE` on are log(1 + x)."""

    WEEKDAY_SINE = 0
    WEEKDAY_COSINE = 1
    WEEK_OF_YEAR = 2
    SINCE = 3
    VISITS = 4
    RECENT_VISITS = 5
    BASKET_SIZE = 6
    VISITS_A_WEEK = 7
    BOUGHT_ITEMS = 8


TALLIES = Tally.RECENT_GAPS + len(GAP_EDGES)
RHYTHM = Rhythm.WEEKDAYS + WEEK
HABIT = 2 * (len(GAP_EDGES) + 1)
"""Numbers of `gap_habit`."""


@dataclass(frozen=True)
class Keys:
    """The counters that each item moves.

    Shapes: N items.
        of_item: (N + 1, LEVELS) int64 counter of each level; the last row is padding, and points to
            the dummy counter
        categories: which counters are the categories'; they are the last before the dummy counter
        total: number of counters, without the dummy counter
    """

    of_item: Tensor
    categories: slice
    total: int

    @classmethod
    def of(cls, kind: Tensor, category: Tensor) -> Keys:
        """Number the counters: those of items, of kinds (N,), and of categories (N,)."""
        n_items = len(kind)
        first = n_items + int(kind.max()) + 1
        total = first + int(category.max()) + 1
        own = torch.arange(n_items, device=kind.device)
        keys = torch.stack([own, n_items + kind, first + category], dim=1)
        return cls(torch.cat([keys, torch.full_like(keys[:1], total)]), slice(first, total), total)

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return len(self.of_item) - 1

    def to(self, device: torch.device) -> Keys:
        """Copy the table to a device."""
        return Keys(self.of_item.to(device), self.categories, self.total)


@dataclass
class Memory:
    """Counters of B shoppers; `record` changes them in place.

    Shapes: B shoppers, M remembered items, N items.
        table: (B, total + 1, STATS) float32: count, decayed count as of the last purchase, first
            day, last day
        items: (B, M) int64 items bought before, -1 where free; when all are taken, the one bought
            longest ago gives way
        counts, days: (B, M + 1) float32 how often `items` were bought and on which day last, 0 and
            -`NEVER` where free; as in the table, but side by side; the last slot is padding
        slots: (B, N + 1) int16 place of each item in `items`, M where it has none; the last item is
            padding
        tallies: (B, TALLIES) float32 columns of `Tally`: visits, decayed visits, decayed items,
            first and last day of a visit, mean log gap (exponentially weighted), decayed visits on
            each of the seven weekdays, that of day 0 first, and the gaps in each bin of
            `GAP_EDGES`, as counts and decayed
    """

    keys: Keys
    table: Tensor
    items: Tensor
    counts: Tensor
    days: Tensor
    slots: Tensor
    tallies: Tensor

    @classmethod
    def empty(cls, keys: Keys, shoppers: int, remembered: int) -> Memory:
        """Make the memory of B shoppers who bought nothing yet."""
        device = keys.of_item.device
        return cls(
            keys,
            large_zeros((shoppers, keys.total + 1, STATS), device),
            torch.full((shoppers, remembered), -1, dtype=torch.int64, device=device),
            torch.zeros(shoppers, remembered + 1, dtype=torch.float32, device=device),
            torch.full((shoppers, remembered + 1), -NEVER, dtype=torch.float32, device=device),
            torch.full((shoppers, keys.n_items + 1), remembered, dtype=torch.int16, device=device),
            torch.zeros(shoppers, TALLIES, dtype=torch.float32, device=device),
        )

    def __len__(self) -> int:
        """The number of shoppers B."""
        return len(self.items)

    def pick(self, rows: Tensor) -> Memory:
        """Make a copy of some rows (R,), in that order; the keys are shared."""
        return Memory(self.keys, *(value[rows] for value in self._counters()))

    def put(self, rows: Tensor, fresh: Memory) -> None:
        """Write the rows of `fresh` into rows (R,), in place; the keys stay."""
        for value, new in zip(self._counters(), fresh._counters(), strict=True):
            value[rows] = new

    def _counters(self) -> tuple[Tensor, ...]:
        """Everything that has a row a shopper, in the order of the fields."""
        return self.table, self.items, self.counts, self.days, self.slots, self.tallies

    def stats(self, rows: Tensor, items: Tensor, day: Tensor) -> Tensor:
        """Look up the counters of items as of a day, before that day's visit is recorded.

        Args:
            rows: (...,) int64 which shopper
            items: (...,) int64; -1 gives zeros and `NEVER`
            day: (...,) float32; all three broadcast

        Returns:
            (..., LEVELS, STATS) float32: purchases, purchases decayed with `RECENT_DAYS`, days
            since the last one (`NEVER` if none), mean days between purchases (0 before the second).
        """
        counter = looked_up(self.keys.of_item, items.where(items >= 0, self.keys.n_items))
        key = counter + (rows * (self.keys.total + 1)).unsqueeze(-1)
        count, recent, first, last = looked_up(self.table.view(-1, STATS), key).unbind(-1)
        since = day.unsqueeze(-1) - last
        bought = count > 0
        recent = recent * torch.exp(since / -RECENT_DAYS)  # 0 in the table where nothing was bought
        interval = torch.where(count > 1, (last - first) / (count - 1).clamp(min=1), 0.0)
        return torch.stack([count, recent, since.where(bought, NEVER), interval], dim=-1)

    def purchases(self) -> Tensor:
        """How often each of `items` was bought, 0 where free: (B, M) float32."""
        return self.counts[:, :-1]

    def last_days(self) -> Tensor:
        """Day on which each of `items` was bought last, -`NEVER` if free: (B, M) float32."""
        return self.days[:, :-1]

    def slots_of(self, rows: Tensor, items: Tensor) -> Tensor:
        """Find the places of items in `items`.

        Shapes: rows (R,) int64 shoppers; items (R, L) int64, -1 padded -> (R, L) int64, M where an
        item has no place.
        """
        width = self.keys.n_items + 1
        at = items.where(items >= 0, width - 1) + rows.unsqueeze(1) * width
        return looked_up(self.slots.view(-1), at).long()

    def record(
        self,
        rows: Tensor,
        items: Tensor,
        day: Tensor,
        *,
        usual: int | None = None,
        most_new: int | None = None,
    ) -> None:
        """Add one visit of each of R shoppers, in place.

        Args:
            rows: (R,) int64, distinct shoppers
            items: (R, L) int64 items bought, padded with -1
            day: (R,) float32
            usual: items of a visit on average at most; see `places`
            most_new: items of a visit without a place at most; None means any number
        """
        slots = self._remember(rows, items, most_new)
        row, column, held = places(items >= 0, usual)
        who, today, bought = rows[row], day[row], items[row, column]
        slot = slots[row, column]
        if held is not None:  # what only fills the list up is written where nothing is read
            bought = bought.where(held, self.keys.n_items)
            slot = slot.where(held, self.items.shape[1])
        counter = looked_up(self.keys.of_item, bought) + (who * self.table.shape[1]).unsqueeze(
            1
        )  # (P, LEVELS)
        at, table, now = (
            counter.flatten(),
            self.table.view(-1, STATS),
            today.repeat_interleave(LEVELS),
        )
        count, recent, first, last = looked_up(table, at).unbind(-1)
        recent = recent * torch.exp((now - last) / -RECENT_DAYS)
        # several items of a visit may share a counter: they write equal values here, and add up
        # below
        table[at] = torch.stack([count, recent, first.where(count > 0, now), now], dim=-1)
        one = torch.ones_like(now)
        table.view(-1).scatter_add_(0, at * STATS + COUNT, one).scatter_add_(
            0, at * STATS + RECENT, one
        )
        self.table[:, -1].index_fill_(0, rows, 0.0)
        place = who * self.counts.shape[1] + slot
        self.counts.view(-1)[place] = table[counter[:, 0], COUNT]
        self.days.view(-1)[place] = today
        self.tally_visit(rows, (items >= 0).sum(1).to(day.dtype), day)

    def tally_visit(self, rows: Tensor, size: Tensor, day: Tensor) -> None:
        """Add one visit of R shoppers to the tallies alone.

        Shapes: rows (R,) int64; size (R,) float32 number of items bought; day (R,) float32.
        """
        visits, recent, basket, first, last, usual = self.tallies[rows, : Tally.WEEKDAYS].unbind(-1)
        elapsed = day - last
        decay, gap = torch.exp(-elapsed / RECENT_DAYS), torch.log1p(elapsed.clamp(min=0.0))
        usual = torch.where(visits > 1, usual + GAP_SHARE * (gap - usual), gap).where(
            visits > 0, 0.0
        )
        first = first.where(visits > 0, day)
        today = F.one_hot((day % 7).long(), 7)
        weekdays = (
            self.tallies[rows, Tally.WEEKDAYS : Tally.GAPS]
            * torch.exp(-elapsed / WEEKDAY_DAYS).unsqueeze(1)
            + today
        )
        gaps = self.tallies[rows, Tally.GAPS : Tally.RECENT_GAPS]
        lately = self.tallies[rows, Tally.RECENT_GAPS :] * GAP_DECAY
        bin_of = torch.bucketize(elapsed, constant(GAP_EDGES, elapsed), right=True) - 1
        of_gap = F.one_hot(bin_of.clamp(min=0), len(GAP_EDGES)) * (visits > 0).unsqueeze(1)
        now = torch.stack(
            [visits + 1, recent * decay + 1, basket * decay + size, first, day, usual], dim=-1
        )
        self.tallies[rows] = torch.cat([now, weekdays, gaps + of_gap, lately + of_gap], dim=-1)

    def habit(self) -> Tensor:
        """Compute the habits of all shoppers in coming back, (B, HABIT)."""
        return gap_habit(self.tallies)

    def list_visit(self, rows: Tensor, items: Tensor, day: Tensor) -> None:
        """Add one visit of R shoppers to `items`, `slots` and `days` alone; else as `record`."""
        slots = self._remember(rows, items)
        row, column = (items >= 0).nonzero(as_tuple=True)
        self.days[rows[row], slots[row, column]] = day[row]

    def _remember(self, rows: Tensor, items: Tensor, most_new: int | None = None) -> Tensor:
        """Give each item that has no slot one: free slots first, then the one bought longest ago.

        Among equals the slot further to the front is taken, so that the choice does not depend on
        how many items others bought. At most `most_new` items have none; None means any number.
        Returns the slots (R, L) of items (R, L), as `slots_of`.
        """
        row, free = rows.unsqueeze(1), self.items.shape[1]
        known = self.slots_of(rows, items)
        new = packed(items.where(known == free, -1))[:, : min(most_new or free, free)]
        column = torch.arange(free + 1, dtype=torch.float32, device=items.device)
        stale = looked_up(self.days, rows).add_(column * (0.5 / free))  # days are whole numbers
        # an item bought again in this visit must not give way to a new one
        stale.scatter_(1, known, math.inf)
        victim = stale[:, :-1].topk(new.shape[1], dim=1, largest=False).indices
        gone, is_new, nothing = self.items[row, victim], new >= 0, self.keys.n_items
        self.items[row, victim] = new.where(is_new, gone)
        nowhere = torch.full_like(victim, free, dtype=torch.int16)
        self.slots[row, gone.where(is_new & (gone >= 0), nothing)] = nowhere
        self.slots[row, new.where(is_new, nothing)] = victim.where(is_new, free).to(torch.int16)
        return self.slots_of(rows, items)

    def tally(self, day: Tensor) -> Tensor:
        """Compute the rhythm (B, RHYTHM) of all shoppers as of day (B,)."""
        return tally_features(self.tallies, day)

    def tally_of(self, rows: Tensor, day: Tensor) -> Tensor:
        """Compute the rhythm (R, RHYTHM) of shoppers rows (R,) int64 as of day (R,)."""
        return tally_features(self.tallies[rows], day)


def loyalty_card(
    memory: Memory,
    rows: Tensor | slice,
    rhythm: Tensor,
    day: Tensor,
    since: Tensor,
    week: Tensor,
    weeks_a_year: int,
) -> Observation:
    """Describe what a shop with loyalty cards knows of R shoppers before a visit.

    The keys are those of `LearnedShopper`; the columns of `context` are those of `Context`.

    Args:
        memory: the counters
        rows: (R,) int64 shoppers, or a slice of R of them
        rhythm: (R, RHYTHM) as of this day
        day: (R,) float32
        since: (R,) float32 days since the last visit
        week: (R,) int64
        weeks_a_year: the number that weeks are divided by
    """
    items, table = memory.items[rows], memory.table[rows, memory.keys.categories]
    angle = day * (2 * torch.pi / 7)
    calendar = torch.stack(
        [angle.sin(), angle.cos(), week.to(day.dtype) / weeks_a_year, torch.log1p(since)], dim=1
    )
    size = torch.log1p((items >= 0).sum(1, keepdim=True).to(day.dtype))
    return {
        "context": torch.cat([calendar, rhythm[:, : Rhythm.USUAL_LOG_GAP], size], dim=1),
        "bought_items": items.clone(),
        "bought_counts": memory.purchases()[rows].clone(),
        "bought_days": (day.unsqueeze(1) - memory.last_days()[rows]).clamp(max=NEVER),
        "category_counts": table[..., COUNT].clone(),
        "category_days": (day.unsqueeze(1) - table[..., LAST_DAY]).where(
            table[..., COUNT] > 0, NEVER
        ),
    }


def packed(items: Tensor) -> Tensor:
    """Move the padding, -1, of items (R, L) to the end of each row.

    On a CPU the result is as narrow as the longest row (or 1). Elsewhere the width stays, for
    finding the longest row would force a synchronisation.
    """
    held = items >= 0
    width = items.shape[1]
    place = (held.cumsum(1) - 1).where(held, width)
    front = torch.full(
        (len(items), width + 1), -1, dtype=items.dtype, device=items.device
    ).scatter_(1, place, items)
    return front[:, : max(int(held.sum(1).max()), 1) if items.device.type == "cpu" else width]


def tally_features(tallies: Tensor, day: Tensor) -> Tensor:
    """Compute the rhythm from tallies as of a day, before that day's visit is recorded.

    The columns are those of `Rhythm`; all are 0 before the first visit.

    Shapes: tallies (..., TALLIES), day (...,) -> (..., RHYTHM).
    """
    visits, recent, basket, first, last, usual = tallies[..., : Tally.WEEKDAYS].unbind(-1)
    decay = torch.exp(-(day - last) / RECENT_DAYS)
    weeks = (day - first).clamp(min=7.0) / 7.0
    rate = (visits / weeks).clamp(max=14.0)
    per_visit = basket / recent.clamp(min=1e-6)
    logs = [torch.log1p(value) for value in (visits, recent * decay, per_visit, rate)]
    ahead = ((day % 7).long().unsqueeze(-1) + torch.arange(7, device=day.device)) % 7
    weekdays = tallies[..., Tally.WEEKDAYS : Tally.GAPS].gather(-1, ahead)
    share = weekdays / weekdays.sum(-1, keepdim=True).clamp(min=1e-6)
    rhythm = torch.cat([torch.stack([*logs, usual], dim=-1), share], dim=-1)
    return rhythm.where(visits.unsqueeze(-1) > 0, 0.0)


def gap_habit(tallies: Tensor) -> Tensor:
    """Compute what a shopper's own gaps between visits say of the next, ever and lately.

    Twice, the shares of the bins of `GAP_EDGES` and the log of one plus the number of gaps. Few
    gaps have small shares: all begin as if `FEW_GAPS` more had been seen.

    Shapes: tallies (..., TALLIES) after the visit -> (..., HABIT).
    """
    parts: list[Tensor] = []
    for gaps in tallies[..., Tally.GAPS :].split(len(GAP_EDGES), dim=-1):
        number = gaps.sum(-1, keepdim=True)
        parts += [gaps / (number + FEW_GAPS), torch.log1p(number)]
    return torch.cat(parts, dim=-1)
