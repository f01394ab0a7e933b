"""Lift: which items are bought together more often than by chance.

With n_ij visits of V that bought both items, and n_i that bought the one,

    log lift(i, j) = log((n_ij + PRIOR) / (n_i n_j / V + PRIOR))

is above 0 where they are bought together more often than independent purchases would be (Brin et
al. 1997, "Dynamic itemset counting and implication rules for market basket data", section 2, where
it is called interest), shrunk to 0 where little is known. Big baskets, and households that buy
much, raise the lift of every pair: it is no effect of one item on the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.shoppers.household.replay import Visits
from recsim_env.tensors import looked_up

PRIOR = 2.0
"""Visits with both items, and expected ones, that are added to both counts."""
CART_FEATURES = 4
"""Numbers of `PairLift.of_carts` for each item."""
AT_ONCE = 2048
"""Visits whose pairs are counted together."""


def pair_counts(visits: Visits, chosen: Tensor, n_items: int) -> Tensor:
    """Count the visits that bought both of two items: (N, N) float32.

    The diagonal holds the visits that bought each item.

    Args:
        visits: the log
        chosen: (R,) int64 the visits that count
        n_items: N
    """
    counts = torch.zeros(n_items * n_items, dtype=torch.float32)
    by_size = chosen[visits.starts.diff()[chosen].argsort()]  # little of a part is padding
    for part in by_size.split(AT_ONCE):
        basket = visits.padded(part)
        pair = basket.unsqueeze(2) * n_items + basket.unsqueeze(1)
        both = (basket >= 0).unsqueeze(2) & (basket >= 0).unsqueeze(1)
        pair = pair[both]
        counts.index_add_(0, pair, torch.ones_like(pair, dtype=torch.float32))
    return counts.view(n_items, n_items)


def log_lift(counts: Tensor, visits: int, *, left_out: int = 0, prior: float = PRIOR) -> Tensor:
    """Compute the log lift of each pair from `pair_counts`: (N, N) float32, 0 for an item itself.

    Args:
        counts: (N, N) from `pair_counts`
        visits: number of visits V that were counted
        left_out: visits with both items that are taken away again: 1 for pairs of a basket that was
            counted itself, so that it does not tell its own pairs
        prior: visits that are added to both counts; with 0, pairs without a visit have no finite
            lift
    """
    single = counts.diagonal()
    expected = single.unsqueeze(1) * single / max(visits, 1)
    lift = (((counts - left_out).clamp(min=0) + prior) / (expected + prior)).log()
    return lift.fill_diagonal_(0.0)


@dataclass(frozen=True)
class PairLift:
    """What carts say about items, on one device and never changed.

    Shapes: N items.
        table: (N, N) float32 log lift
        kind, category: (N,) int64
    """

    table: Tensor
    kind: Tensor
    category: Tensor

    def of_carts(self, cart: Tensor, items: Tensor, table: Tensor | None = None) -> Tensor:
        """Compute what carts say about items, 0 for empty carts: (B, P, CART_FEATURES) float32.

        They are the mean and the largest log lift with the items of the cart, and how many of these
        are of the item's kind and of its category, as log(1 + x).

        Args:
            cart: (B, L) int64, padded with -1
            items: (B, P) int64
            table: (N, N) float32 in place of the stored one
        """
        held, at = cart >= 0, cart.clamp(min=0)
        table = self.table if table is None else table
        pairs = at.unsqueeze(2) * len(table) + items.unsqueeze(1)  # (B, L, P)
        lift = looked_up(table.view(-1), pairs)
        inside = held.unsqueeze(2)
        size = held.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (lift * inside).sum(dim=1) / size
        most = lift.masked_fill(~inside, -9.0).amax(dim=1) if cart.shape[1] else mean
        most = most.where(held.any(dim=1, keepdim=True), 0.0)
        same = [
            ((looked_up(of, at).unsqueeze(2) == looked_up(of, items).unsqueeze(1)) & inside)
            .sum(dim=1)
            .to(torch.float32)
            .log1p()
            for of in (self.kind, self.category)
        ]
        return torch.stack([mean, most, *same], dim=-1)
