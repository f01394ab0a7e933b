"""Start states: every shopper of a log as it stood before the first visit of an episode.

What a start state holds is known at that visit: the visits before it, and its day and store. Nothing comes from later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsim_env.shoppers.examples import Market, ints
from recsim_env.shoppers.memory import Keys
from recsim_env.shoppers.replay import Past, Visits, padded
from recsim_env.shoppers.states import REMEMBERED, LearnedState
from recsim_env.shoppers.transformer import LAPSE_DAYS, SlateShopper, visit_context

STORES = 8  # most stores of a shopper
EARLIER_VISITS = 3  # visits before an episode starts
POPULATIONS = ("train", "evaluation", "all")


@dataclass(frozen=True)
class Starts:
    """Shoppers as they stood before the first visit of an episode.

    Shapes: S shoppers, L stores, at most `STORES`. `state` holds S rows; shopper (S,) int64 number in the log; stores
    (S, L) int64 padded with -1, those with promotions that the shopper visited up to then, that of the first visit
    among them; store_shares (S, L) float32 of these visits.
    """

    state: LearnedState
    shopper: Tensor
    stores: Tensor
    store_shares: Tensor


def start_states(
    models: Sequence[SlateShopper],
    keys: Keys,
    market: Market,
    baskets: pl.DataFrame,
    holdout: Tensor,
    enough: Tensor,
    population: str,
    start_days: tuple[int, int],
) -> Starts:
    """Replay every shopper up to the start of an episode.

    An episode starts at the first visit to a store with promotions after a day of the shopper's own, spread evenly
    over `start_days`, with at least `EARLIER_VISITS` before it; shoppers without such a visit do not take part.
    `models` see the same visits; `holdout` (shoppers,) bool marks those kept for evaluation, `enough` (W + 1,) bool the
    store-weeks with enough promotions to be visited.

    Errors: ValueError where nobody has such a visit.
    """
    visits = Visits.of(baskets)
    open_store = enough[market.row(visits.store, visits.week)]
    low, high = start_days
    wanted = low + (visits.shopper * 61) % (high - low + 1)  # 61 steps through the range without a pattern
    allowed = open_store & (visits.rank >= EARLIER_VISITS) & (visits.day >= wanted) & (visits.day <= high + LAPSE_DAYS)
    if population != "all":
        allowed &= holdout[visits.shopper] == (population == "evaluation")
    chosen = allowed.nonzero().flatten()
    if len(chosen) == 0:
        raise ValueError(f"start_days is {start_days}, but no shopper of population {population!r} starts then.")
    shoppers, first = np.unique(visits.shopper[chosen].numpy(), return_index=True)
    start = chosen[torch.from_numpy(first)]
    stores, shares = _stores(visits, open_store, start)
    return Starts(_replayed(models, keys, market, visits, start), torch.from_numpy(shoppers), stores, shares)


def _stores(visits: Visits, open_store: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Stores (S, L) of shoppers up to their visits `start` (S,), the most visited first, and their shares of these
    visits; visits to a store that had no promotions then do not count."""
    until = torch.full((int(visits.shopper.max()) + 1,), -1)
    until[visits.shopper[start]] = visits.rank[start]
    known = open_store & (visits.rank <= until[visits.shopper])
    frame = pl.DataFrame({"shopper": visits.shopper[known].numpy(), "store": visits.store[known].numpy()})
    top = frame.group_by("shopper", "store").len().sort("shopper", "len", "store", descending=[False, True, False])
    lists = top.group_by("shopper", maintain_order=True).agg(pl.col("store", "len").head(STORES))
    ends = ints(lists.select(n=pl.col("store").list.len().cum_sum()), "n")
    starts, everyone = torch.cat([ends.new_zeros(1), ends]), torch.arange(len(start))
    listed = lists.explode("store", "len")
    store = padded(ints(listed, "store"), starts, everyone)
    number = padded(ints(listed, "len"), starts, everyone, fill=0).float()
    return store, number / number.sum(1, keepdim=True)


def _replayed(
    models: Sequence[SlateShopper], keys: Keys, market: Market, visits: Visits, start: Tensor
) -> LearnedState:
    """State of shoppers just before their visits `start` (S,)."""
    past = Past.before(visits, start)
    memory, rhythm = past.remembered(keys, REMEMBERED)
    context = visit_context(rhythm, past.day, past.since)
    tokens = [model.tokens(model.items(), past.items, past.size, context) for model in models]
    caches = [model.prefill(token, past.day, past.number) for model, token in zip(models, tokens, strict=True)]
    day, store, week = visits.day[start].float(), visits.store[start], visits.week[start]
    row, rhythm = market.row(store, week), memory.tally(day)
    return LearnedState(torch.arange(len(start)), memory, caches, day, visits.since[start], store, week, row, rhythm)
