"""Training examples of a completion: baskets, what was known before, and items not bought."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env.shoppers.carts.histories import EARLIER, before
from recsim_env.shoppers.household.features import CONTEXT, visit_context
from recsim_env.shoppers.household.memory import LEVELS, STATS, Keys, Memory
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.household.replay import Visits
from recsim_env.shoppers.household.states import REMEMBERED

LARGEST_BASKET = 32
"""Items of a basket that are used; of larger ones a random part is."""
OWN, OTHERS = 48, 48
"""Items that were not bought, drawn for each visit: of those bought before, and of all others."""
SCORED = LARGEST_BASKET + OWN + OTHERS


def scored_visits(visits: Visits, within: Tensor, items: int = 1) -> Tensor:
    """Tell which visits can be scored: (V,) bool.

    Args:
        visits: the log
        within: (V,) bool the visits of the weeks that are wanted
        items: least number of items in the basket
    """
    return within & (visits.rank >= EARLIER) & (visits.starts.diff() >= items)


@dataclass(frozen=True)
class CartExamples:
    """Baskets with everything that a completion reads before a cart is drawn from them.

    Shapes: V visits, P = `SCORED` items of each, those of the basket first; M remembered items.
        context: (V, CONTEXT) of the visits
        held: (V, M) int32 items bought before, padded with -1
        counts: (V, M) float16 how often
        items: (V, P) int32, padded with -1
        stats: (V, P, LEVELS, STATS) float16 before the visit
        offset: (V, P) float32 log of how many items each one that was not bought stands for
        week: (V,) int64
        store_week: (V,) int64 row of the promotions
    """

    context: Tensor
    held: Tensor
    counts: Tensor
    items: Tensor
    stats: Tensor
    offset: Tensor
    week: Tensor
    store_week: Tensor

    def __len__(self) -> int:
        return len(self.context)

    @classmethod
    def of(
        cls,
        visits: Visits,
        keys: Keys,
        promotions: StorePromotions,
        chosen: Tensor,
        generator: torch.Generator,
    ) -> CartExamples:
        """Build the examples of chosen visits (V,) bool; the generator draws items not bought."""
        total = int(chosen.sum())
        made = cls(
            torch.zeros(total, CONTEXT),
            torch.full((total, REMEMBERED), -1, dtype=torch.int32),
            torch.zeros(total, REMEMBERED, dtype=torch.float16),
            torch.full((total, SCORED), -1, dtype=torch.int32),
            torch.zeros(total, SCORED, LEVELS, STATS, dtype=torch.float16),
            torch.zeros(total, SCORED),
            torch.zeros(total, dtype=torch.int64),
            torch.zeros(total, dtype=torch.int64),
        )
        at = 0
        for now, memory in before(visits, keys, chosen, REMEMBERED):
            rows = slice(at, at + len(now))
            made._fill(rows, visits, now, memory, promotions, generator)
            at += len(now)
        return made

    def _fill(
        self,
        rows: slice,
        visits: Visits,
        now: Tensor,
        memory: Memory,
        promotions: StorePromotions,
        generator: torch.Generator,
    ) -> None:
        """Write visits `now` (R,) into rows."""
        who, day = visits.shopper[now], visits.day[now].float()
        self.context[rows] = visit_context(memory.tally_of(who, day), day, visits.since[now])
        held = memory.items[who]
        self.held[rows] = held.to(torch.int32)
        self.counts[rows] = memory.purchases()[who].half()
        self.week[rows] = visits.week[now]
        self.store_week[rows] = promotions.row(visits.store[now], visits.week[now])

        # the basket, and items that are not in it: some bought before, some not
        whole = visits.padded(now)
        n, room = memory.keys.n_items, torch.rand(whole.shape, generator=generator)
        order = room.masked_fill(whole < 0, 2.0).argsort(dim=1)[:, :LARGEST_BASKET]
        basket = whole.gather(1, order)
        marks = torch.zeros(len(now), n + 1, dtype=torch.int8)  # 1 bought before, 2 in the basket
        marks.scatter_(1, held.where(held >= 0, n), 1).scatter_(1, whole.where(whole >= 0, n), 2)
        marks = marks[:, :n]
        items, offsets = [basket], [torch.zeros(basket.shape)]
        for mark, size in ((1, OWN), (0, OTHERS)):
            free = marks == mark
            number = free.sum(dim=1, keepdim=True).clamp(min=1)
            drawn = torch.rand(free.shape, generator=generator).masked_fill(~free, -1.0)
            found = drawn.topk(min(size, n), dim=1)
            others = found.indices.where(found.values >= 0, -1)
            items.append(F.pad(others, (0, size - others.shape[1]), value=-1))
            offsets.append((number / number.clamp(max=size)).log().expand(-1, size))
        # an item of the basket was bought before or not, as one that was not bought
        was_held = torch.zeros(len(now), n + 1, dtype=torch.bool)
        was_held.scatter_(1, held.where(held >= 0, n), True)
        of_own = was_held.gather(1, basket.clamp(min=0))
        offsets[0] = torch.where(of_own, offsets[1][:, :1], offsets[2][:, :1])
        # as wide as the largest basket could be
        missing = LARGEST_BASKET - basket.shape[1]
        items[0], offsets[0] = (
            F.pad(basket, (0, missing), value=-1),
            F.pad(offsets[0], (0, missing)),
        )
        chosen, offset = torch.cat(items, dim=1), torch.cat(offsets, dim=1)
        self.items[rows], self.offset[rows] = chosen.to(torch.int32), offset
        stats = memory.stats(who.unsqueeze(1), chosen, day.unsqueeze(1))
        self.stats[rows] = stats.half()


def masked(baskets: Tensor, draws: Tensor) -> Tensor:
    """Hide a random part of baskets, at least one item of each.

    The number of items that stay is uniform from none to all but one.

    Args:
        baskets: (B, L) int64, padded with -1 at the end
        draws: (B, L + 1) float32, uniform in [0, 1)

    Returns:
        (B, L) bool, True for items that stay in the cart.
    """
    held = baskets >= 0
    size = held.sum(dim=1, keepdim=True)
    stay = (draws[:, :1] * size).long().clamp(max=size - 1)  # 0 .. size - 1
    place = draws[:, 1:].masked_fill(~held, 2.0).argsort(dim=1).argsort(dim=1)
    return (place < stay) & held
