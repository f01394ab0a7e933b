"""Start states: every shopper of a log as it stood before the first visit of an episode.

What a start state holds is known at that visit: the visits before it, and its day and store.
Nothing comes from later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsim_env.shoppers.encoder import Cache
from recsim_env.shoppers.household.features import visit_context
from recsim_env.shoppers.household.memory import RHYTHM, Keys, Memory
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.portraits import PORTRAIT
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.household.replay import Past, Visits, ints, padded
from recsim_env.shoppers.household.states import REMEMBERED, LearnedState
from recsim_env.trees import moved, pick, put

STORES = 8
"""Most stores of a shopper: its most visited ones."""
GROUP = 64
"""Shoppers that are replayed together."""
EARLIER_VISITS = 3
"""Visits that a shopper must have made before an episode starts."""
POPULATIONS = ("train", "evaluation", "all")


@dataclass(eq=False)
class Starts:
    """Shoppers as they stood before the first visit of an episode.

    What they did before is replayed in groups with similar numbers of visits, when the first
    shopper of a group is asked for, or for all at once by `state`. So one episode does not wait for
    the visits of thousands of shoppers. A group is always replayed as a whole: a shopper's state
    does not depend on who else is asked for.

    Shapes: S shoppers, L stores, at most `STORES`.
        shopper: (S,) int64 number in the log
        stores: (S, L) int64 padded with -1, those with promotions that the shopper visited up to
            the first visit of the episode, that of this visit among them
        store_shares: (S, L) float32 share of these visits
        group: (S,) int64 group of each shopper
    """

    shopper: Tensor
    stores: Tensor
    store_shares: Tensor
    group: Tensor
    _state: LearnedState
    _models: Sequence[SlateShopper]
    _past: Past
    _asleep: set[int]

    @property
    def state(self) -> LearnedState:
        """The state of all S shoppers; it replays those that were not asked for yet."""
        self._wake(set(self._asleep))
        return self._state

    def rows(self, who: Tensor) -> LearnedState:
        """Copy the state of shoppers who (B,) int64."""
        if self._asleep:
            self._wake(self._asleep.intersection(self.group[who].tolist()))
        return pick(self._state, who)

    def newcomers(self, who: Tensor, models: Sequence[SlateShopper]) -> LearnedState:
        """Make shoppers who (B,) int64 as if the first visit of the episode were their first ever.

        Args:
            who: which shoppers; day and store of the visit are theirs
            models: the models, on the device of the shoppers
        """
        known, batch = self._state, len(who)
        return LearnedState(
            who=known.who[who],
            memory=Memory.empty(known.memory.keys, batch, REMEMBERED),
            caches=[model.empty_cache(model.newcomers(batch), large=True) for model in models],
            day=known.day[who],
            since=torch.zeros_like(known.since[who]),
            store=known.store[who],
            week=known.week[who],
            row=known.row[who],
            rhythm=torch.zeros_like(known.rhythm[who]),
            portrait=torch.zeros_like(known.portrait[who]),
        )

    def past(self, who: Tensor) -> Past:
        """Return the visits of shoppers who (B,) int64 before their episodes, on the CPU."""
        return self._past.only(who.cpu())

    def to(self, device: torch.device) -> Starts:
        """Copy everything to a device; every shopper is replayed first."""
        if device == self.shopper.device:
            return self
        state = moved(self.state, device)
        stores, shares = self.stores.to(device), self.store_shares.to(device)
        return Starts(
            self.shopper.to(device),
            stores,
            shares,
            self.group.to(device),
            state,
            (),
            self._past,
            set(),
        )

    @torch.inference_mode(False)  # built outside inference mode, so autograd may use it
    @torch.no_grad()
    def _wake(self, groups: set[int]) -> None:
        for group in sorted(groups):
            rows = (self.group == group).nonzero().flatten()
            put(self._state, rows, self._replayed(rows))
            self._asleep.discard(group)

    def _replayed(self, rows: Tensor) -> LearnedState:
        """Replay shoppers rows (R,) up to the first visit of their episodes."""
        state, models = pick(self._state, rows), [(model, model.items()) for model in self._models]
        state.memory, state.caches = lived_through(self._past.only(rows), state.memory.keys, models)
        state.rhythm = state.memory.tally(state.day)
        return state


def lived_through(
    past: Past, keys: Keys, models: Sequence[tuple[SlateShopper, Tensor]]
) -> tuple[Memory, list[Cache]]:
    """Return the memory of S shoppers after their visits, and each model's encoding of them.

    Args:
        past: the visits, on the CPU
        keys: the counters of the items, on the CPU
        models: each with its item vectors (N, D), on the device of the caches
    """
    memory, rhythm = past.remembered(keys, REMEMBERED)
    context, caches = visit_context(rhythm, past.day, past.since), []
    for model, vectors in models:
        there = vectors.device
        bought = (past.items.to(there), past.size.to(there), context.to(there))
        token = model.tokens(vectors, *bought)
        caches.append(model.prefill(token, past.day.to(there), past.number.to(there)))
    return memory, caches


def start_states(
    models: Sequence[SlateShopper],
    keys: Keys,
    promotions: StorePromotions,
    baskets: pl.DataFrame,
    holdout: Tensor,
    enough: Tensor,
    population: str,
    start_days: tuple[int, int],
    new: Tensor | None = None,
) -> Starts:
    """Find every shopper at the start of an episode.

    An episode starts at the shopper's first visit to a store with promotions after a day of its
    own, spread evenly over `start_days`, with at least `EARLIER_VISITS` before it. Shoppers without
    such a visit do not take part.

    Args:
        models: the models, which all see the same visits
        keys: the counters of the items
        promotions: what the stores promote
        baskets: every visit of the log
        holdout: (shoppers,) bool those kept for evaluation
        enough: (W + 1,) bool store-weeks with enough promotions to be visited
        population: one of `POPULATIONS`
        start_days: first and last day of the range
        new: (N,) bool items that no basket before an episode holds; None means none

    Raises:
        ValueError: If nobody has such a visit.
    """
    # The visits at which an episode may start.
    visits = Visits.of(baskets, new)
    open_store = enough[promotions.row(visits.store, visits.week)]
    low, high = start_days
    wanted = low + (visits.shopper * 61) % (
        high - low + 1
    )  # 61 steps through the range without a pattern
    allowed = (
        open_store
        & (visits.rank >= EARLIER_VISITS)
        & (visits.day >= wanted)
        & (visits.day <= high + models[0].config.lapse_days)
    )
    if population != "all":
        allowed &= holdout[visits.shopper] == (population == "evaluation")
    chosen = allowed.nonzero().flatten()
    if len(chosen) == 0:
        raise ValueError(
            f"start_days is {start_days}, but no shopper of population {population!r} starts then."
        )

    # The first of them of each shopper, and what was before it.
    shoppers, first = np.unique(visits.shopper[chosen].numpy(), return_index=True)
    start = chosen[torch.from_numpy(first)]
    stores, shares = _stores(visits, open_store, start)
    past = Past.before(visits, start)
    group = torch.empty_like(start)
    group[past.number.argsort(descending=True, stable=True)] = torch.arange(len(start)) // GROUP
    everyone = torch.from_numpy(shoppers)
    state = _asleep(models, keys, promotions, visits, start)
    return Starts(everyone, stores, shares, group, state, models, past, set(group.tolist()))


def _stores(visits: Visits, open_store: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Find the stores (S, L) of shoppers up to their visits `start` (S,), and their shares.

    The most visited store comes first. Visits to a store without promotions do not count.
    """
    until = torch.full((int(visits.shopper.max()) + 1,), -1)
    until[visits.shopper[start]] = visits.rank[start]
    known = open_store & (visits.rank <= until[visits.shopper])
    frame = pl.DataFrame(
        {"shopper": visits.shopper[known].numpy(), "store": visits.store[known].numpy()}
    )
    top = (
        frame.group_by("shopper", "store")
        .len()
        .sort("shopper", "len", "store", descending=[False, True, False])
    )
    lists = top.group_by("shopper", maintain_order=True).agg(pl.col("store", "len").head(STORES))
    ends = ints(lists.select(n=pl.col("store").list.len().cum_sum()), "n")
    starts, everyone = torch.cat([ends.new_zeros(1), ends]), torch.arange(len(start))
    listed = lists.explode("store", "len")
    store = padded(ints(listed, "store"), starts, everyone)
    number = padded(ints(listed, "len"), starts, everyone, fill=0).float()
    return store, number / number.sum(1, keepdim=True)


def _asleep(
    models: Sequence[SlateShopper],
    keys: Keys,
    promotions: StorePromotions,
    visits: Visits,
    start: Tensor,
) -> LearnedState:
    """Make the state of shoppers at visits `start` (S,), as if they had done nothing before."""
    day, store, week = visits.day[start].float(), visits.store[start], visits.week[start]
    return LearnedState(
        torch.arange(len(start)),
        Memory.empty(keys, len(start), REMEMBERED),
        [model.empty_cache(model.newcomers(len(start)), large=True) for model in models],
        day,
        visits.since[start],
        store,
        week,
        promotions.row(store, week),
        torch.zeros(len(start), RHYTHM, dtype=torch.float32),
        torch.zeros(len(start), len(PORTRAIT), dtype=torch.float32),
    )
