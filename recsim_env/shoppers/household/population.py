"""The fine-tuned shopper at work: visits, baskets and returns sampled from `SlateShopper`, one visit a step.

A visit: the items of the slate are answered by the slate head; items bought before are bought again
"elsewhere", by the same head; new items come from the explore head; the basket moves memory and
encoder; the gap head says when the shopper is back, and one of the shopper's own stores is visited
then. Several fitted models can answer together.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from recsim_env import checks
from recsim_env.shoppers.base import Description, Shopper, ago
from recsim_env.shoppers.household.features import repeat_bucket
from recsim_env.shoppers.household.gaps import back_by, sample_gap
from recsim_env.shoppers.household.memory import COUNT, SINCE, Context, Tally, loyalty_card, packed
from recsim_env.shoppers.household.new_items import PROPOSALS
from recsim_env.shoppers.household.shop import MIN_CANDIDATES, Shop, load_shop
from recsim_env.shoppers.household.starts import POPULATIONS
from recsim_env.shoppers.household.states import REMEMBERED, LearnedState
from recsim_env.shoppers.members import (
    PRECISIONS,
    agreed,
    check_ensemble,
    check_pessimism,
    check_precision,
    mean,
    mixed,
)
from recsim_env.tensors import looked_up, places, repeated
from recsim_env.types import MAX_DAYS, Observation, Response

MOST_NEW_ITEMS = 16  # most new items of a visit
SCORED_TOGETHER = 4096  # items scored together on a CPU: what they touch stays in its cache


@dataclass(frozen=True)
class ShopperOptions:
    """How the fine-tuned shoppers behave in a simulation."""

    population: str = "train"
    """Whose start states are used: train, evaluation (households that no agent may be trained on)
    or all."""
    store_promotions: bool = False
    """True: candidates left out of the slate keep their placement in the store, as in the log.
    False: the slate is the promotion, and what it leaves out sells like an unpromoted item."""
    start_days: tuple[int, int] = (56, 182)
    """An episode starts at a shopper's first visit after a day in this range, spread over it."""
    examination: tuple[float, ...] | None = None
    """Chance that a position is looked at, top first: an assumption (the log has no positions).
    None = all are."""
    ensemble: int = 1
    """How many of the folder's fitted models answer together."""
    pessimism: float = 0.0
    """Standard deviations between them, 0 or more, that clicks lose and leaving gains; see
    `LearnedShopper`."""
    precision: str = "fp32"
    """Of encoder and slate head: fp32 or bf16, for a GPU."""

    def __post_init__(self) -> None:
        checks.choice("population", self.population, POPULATIONS)
        low, high = checks.several("start_days", self.start_days, 2)
        low = checks.whole("start_days[0]", low, 0, int(MAX_DAYS))
        high = checks.whole("start_days[1]", high, low, int(MAX_DAYS))
        values = {
            "store_promotions": checks.flag("store_promotions", self.store_promotions),
            "start_days": (low, high),
            "examination": None if self.examination is None else _examination(self.examination),
            "ensemble": check_ensemble(self.ensemble),
            "pessimism": check_pessimism(self.pessimism),
            "precision": check_precision(self.precision),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _examination(chances: object) -> tuple[float, ...]:
    several = enumerate(checks.several("examination", chances))
    return tuple(checks.number(f"examination[{place}]", chance, 0, 1) for place, chance in several)


class LearnedShopper(Shopper[LearnedState]):
    """A population of fine-tuned shoppers.

    Observation (one shopper; C candidates, M remembered items, G categories):
        context:         (9,) float32 sine and cosine of the weekday, week of the year / 53, log days since the last
                         visit, log visits, log recent visits, log recent basket size, log visits a week,
                         log number of items bought before
        bought_items:    (M,) int64 items bought before, -1 padded; bought_counts (M,) float32 how often;
        bought_days:     (M,) float32 days since the last time
        category_counts: (G,) float32 purchases of each category; category_days (G,) float32 days
            since, 1000 = never
        placement:       (C,) uint8 display * 11 + mailer code of each candidate; 0 where padded
        popularity:      (C,) float32 purchases a visit of each candidate in the last four weeks, all shoppers

    Whatever a shopper does has the mean probability of the shop's members (new items: their mean
    rate). With `options.pessimism` b a response to the slate has their mean less b of their
    standard deviations, at least 0, and leaving the mean plus b of them, at most 1, while the days
    until the next visit share what is left as before: a penalty for what the members do not agree
    on, after Yu et al. 2020, "MOPO: Model-based offline policy optimization", equations 5 and 6,
    put on the chances themselves so that every reward term feels it. A single member agrees with
    itself.

    Raises:
        ValueError: If `examination` has not a number a position, or `slate_size` is none.
    """

    tells_leaving = True

    def __init__(
        self, shop: Shop, slate_size: int, options: ShopperOptions, *, never_leave: bool = False
    ) -> None:
        checks.whole("slate_size", slate_size, 1, len(shop.catalog))
        if options.examination is not None and len(options.examination) != slate_size:
            raise ValueError(
                f"examination has {len(options.examination)} numbers, but it must have one for each of the "
                f"{slate_size} positions."
            )
        # how much promotions may raise the rates of new items
        most = (
            max(member.model.promotion().item() for member in shop.members)
            if options.store_promotions
            else 0.0
        )
        self._promoting = math.exp(max(most, 0.0))
        proposals = math.ceil(PROPOSALS * self._promoting)
        self._draws = (
            slate_size,
            REMEMBERED,
            1 + proposals,
            3,
        )  # of a visit: slate, bought again, new items, return
        super().__init__(
            shop.catalog,
            slate_size,
            device=shop.vectors.device,
            start_draws=1,
            visit_draws=sum(self._draws),
            max_candidates=shop.candidates.shape[1],
            never_leave=never_leave,
        )
        self.shop = shop
        self.options = options
        self.facts = shop.facts
        self._bins = shop.model.config.gap_bins
        self._keys = shop.keys
        self._enough = (shop.candidates >= 0).sum(1) >= MIN_CANDIDATES
        weights = options.examination or (1.0,) * slate_size
        self._examination = torch.tensor(weights, dtype=torch.float32, device=self.device)
        # what leaves the slate alone is not punished: repeat purchases have the mean
        self._deviations = torch.zeros(
            slate_size + REMEMBERED, dtype=torch.float32, device=self.device
        )
        self._deviations[:slate_size] = -options.pessimism
        ceilings = [
            member.model.config.repeat_ceilings[options.store_promotions] for member in shop.members
        ]
        self._ceilings = torch.tensor(ceilings, dtype=torch.float32, device=self.device).amax(dim=0)

    # ---- the methods of a shopper ----------------------------------------------------------------------------------------------

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Spaces of `observe`, one shopper."""
        n, c, m = len(self.catalog), self.max_candidates, REMEMBERED
        g = self._keys.categories.stop - self._keys.categories.start

        def box(low: float, high: float, size: int) -> spaces.Box:
            return spaces.Box(low, high, (size,), np.float32)

        return {
            "context": box(-1.0, 20.0, len(Context)),
            "bought_items": spaces.Box(-1, n - 1, (m,), np.int64),
            "bought_counts": box(0.0, 1e6, m),
            "bought_days": box(0.0, MAX_DAYS, m),
            "category_counts": box(0.0, 1e6, g),
            "category_days": box(0.0, MAX_DAYS, g),
            "placement": spaces.Box(0, math.prod(self.facts.placements) - 1, (c,), np.uint8),
            "popularity": box(0.0, 1e3, c),
        }

    def start(self, draws: Tensor) -> LearnedState:
        """Shoppers drawn uniformly from the population, as they stood at the start of their episode."""
        starts = self.shop.starts
        who = (draws[:, 0] * len(starts.shopper)).long().clamp(max=len(starts.shopper) - 1)
        state = starts.rows(who)
        state.caches = [cache.to(PRECISIONS[self.options.precision]) for cache in state.caches]
        return state

    def candidates(self, state: LearnedState) -> Tensor:
        """Catalogue items promoted in this store in this week."""
        return self.shop.candidates.index_select(0, state.row).long()

    def on_offer(self, state: LearnedState, items: Tensor) -> Tensor:
        """Which items (B, K) are promoted in this store in this week: (B, K) bool."""
        return self._placement(state.row.unsqueeze(1), items.clamp(min=0)) > 0

    def observe(self, state: LearnedState) -> Observation:
        """What a shop with loyalty cards knows; see the class."""
        return {
            **loyalty_card(
                state.memory,
                slice(None),
                state.rhythm,
                state.day,
                state.since,
                state.week,
                self.facts.weeks_a_year,
            ),
            "placement": self.shop.placement.index_select(0, state.row),
            "popularity": self.shop.popularity.index_select(0, state.row),
        }

    @torch.no_grad()
    def respond(
        self, state: LearnedState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        """Answer the slate, fill the basket, and come back later or never; moves `state` in place."""
        slate_draw, repeat_draw, new_draw, gap_draw = draws.split(self._draws, dim=1)
        context = state.context()
        inside = state.inside(context)
        slates = slates.where(shown, -1)
        considered = self._considered(state, slates, repeat_draw)
        probability, repeat = self._bernoulli(state, inside, slates, considered)
        clicks = slate_draw < probability
        again = repeat_draw < repeat
        new = self._new_items(state, inside, slates, new_draw)
        basket = torch.cat(
            [slates.where(clicks, -1), state.memory.items.where(again, -1), new], dim=1
        )
        return self._leave_and_return(state, context, basket, clicks, probability, gap_draw)

    def when_and_where(self, state: LearnedState) -> dict[str, Tensor]:
        """Return day of the log, week and store of this visit."""
        return {
            "day": state.day.long(),
            "week": state.week.clone(),
            "store": state.store.clone(),
        }

    def describe(self, state: LearnedState, row: int) -> Description:
        """Date, store and the last purchases; hidden: the number of the household."""
        day = int(state.day[row])
        memory = state.memory
        items = memory.items[row][memory.items[row] >= 0]
        stats = memory.stats(torch.full_like(items, row), items, state.day[row].expand(len(items)))[
            :, 0
        ]
        order = stats[:, SINCE].argsort(stable=True)[:8].tolist()
        lines = [
            f"{ago(int(stats[i, SINCE]))} · {int(stats[i, COUNT])}x · {self.catalog.text[int(items[i])]}"
            for i in order
        ]
        date = self.facts.day_zero + datetime.timedelta(days=day)
        return {
            "date": date.strftime("%a %d %b %Y"),
            "store": f"store {int(state.store[row])}, week {int(state.week[row])}",
            "last visit": ago(int(state.since[row])),
            "history": lines,
            "hidden": f"household {int(self.shop.starts.shopper[state.who[row]])}",
        }

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _week(self, day: Tensor) -> Tensor:
        weeks = self.shop.week_of_day
        return weeks[day.long().clamp(max=len(weeks) - 1)]

    def _placement(self, row: Tensor, items: Tensor) -> Tensor:
        """Codes (..., ) uint8 of items (...) int64 in the store's weeks `row` (...)."""
        return looked_up(
            self.shop.promotions.placement.view(-1, 1), row * len(self.catalog) + items
        ).squeeze(-1)

    def _considered(self, state: LearnedState, slates: Tensor, draws: Tensor) -> Tensor:
        """Remembered items (B, M) that may be bought elsewhere, -1 in place of the others.

        An item is bought where its draw is below its chance, which hardly ever lies above the
        ceiling of items bought as often and as lately (and is cut off there, `finetune.CUT`): so
        what has a draw above the ceiling needs no chance worked out (thinning, as in
        `exploring.py`). That is nine items in ten.
        """
        memory = state.memory
        since = state.day.unsqueeze(1) - memory.last_days()
        visits = memory.tallies[:, Tally.VISITS].unsqueeze(1)
        bucket = repeat_bucket(memory.purchases(), visits, since)
        possible = draws < looked_up(self._ceilings, bucket)
        everyone = torch.arange(len(slates), device=self.device)
        elsewhere = F.pad(possible, (0, 1)).scatter_(1, memory.slots_of(everyone, slates), False)
        return memory.items.where(elsewhere[:, :-1], -1)

    def _bernoulli(
        self, state: LearnedState, inside: list[Tensor], slates: Tensor, considered: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Chance of a response to each slate item (B, K), and of buying each considered item elsewhere (B, M).

        0 where slates (B, K) and considered (B, M) are padded, with -1.
        """
        items = torch.cat([slates, considered], dim=1)
        pairs = places(items >= 0)
        parts = [
            part.split(SCORED_TOGETHER) if self.device.type == "cpu" else (part,) for part in pairs
        ]
        shoppers = [
            member.model.slate_head.shoppers(own)
            for member, own in zip(self.shop.members, inside, strict=True)
        ]
        found = [
            self._chances(state, shoppers, rows, columns, items[rows, columns])
            for rows, columns in zip(*parts, strict=True)
        ]
        chance = torch.zeros(items.shape, dtype=torch.float32, device=self.device).index_put_(
            pairs, torch.cat(found)
        )
        chance = chance * (items >= 0)
        return chance[:, : self.slate_size] * self._examination, chance[:, self.slate_size :]

    def _chances(
        self,
        state: LearnedState,
        shoppers: list[Tensor],
        rows: Tensor,
        columns: Tensor,
        items: Tensor,
    ) -> Tensor:
        """Chance of buying (P,): items (P,) in columns (P,) of shoppers rows (P,), whose parts each
        member has in `shoppers`.
        """
        promotions, at, n = self.shop.promotions, items.clamp(min=0), len(self.catalog)
        placement = self._placement(state.row[rows], at).long()
        if not self.options.store_promotions:
            placement = placement.where(columns < self.slate_size, 0)
        stats = state.memory.stats(rows, items, state.day[rows])
        item_context = looked_up(promotions.item_context.flatten(0, 1), state.week[rows] * n + at)
        chances = []
        for member, own in zip(self.shop.members, shoppers, strict=True):
            head, of_item = member.model.slate_head, looked_up(member.item_parts, at)
            with mixed(self.device, self.options.precision):
                logits = head(looked_up(own, rows), of_item, stats, item_context, placement)
            chances.append(torch.sigmoid(member.model.calibrated(logits.float())))
        return agreed(chances, self._deviations[columns])

    def _new_items(
        self, state: LearnedState, inside: list[Tensor], slates: Tensor, draws: Tensor
    ) -> Tensor:
        """New items bought outside the slate: (B, E) int64, -1 padded; at most `MOST_NEW_ITEMS`.

        A Poisson process over the items with intensity -log(1 - p): each is bought with chance p,
        independently.
        """
        envelope, models = self.shop.envelope, [member.model for member in self.shop.members]
        queries = [model.new_item_queries(own) for model, own in zip(models, inside, strict=True)]
        proposals = envelope.propose(envelope.scale(queries) * self._promoting, state.week, draws)
        rows, items = proposals.rows, proposals.items
        rates = envelope.log_rates(queries, state.week, proposals)
        if self.options.store_promotions:
            promoted = self._placement(state.row[rows], items) > 0
            rates = [
                rate + promoted * model.promotion()
                for rate, model in zip(rates, models, strict=True)
            ]
        slot = state.memory.slots_of(rows, items.unsqueeze(1)).squeeze(1)
        new = (slot == REMEMBERED) & (slates[rows] != items.unsqueeze(1)).all(1)
        hit = new & (proposals.heights < mean([rate.exp() for rate in rates]))
        tried = torch.full(
            (len(draws), draws.shape[1] - 1), -1, dtype=torch.int64, device=self.device
        )
        tried = packed(tried.index_put_((rows, proposals.columns), items.where(hit, -1)))[
            :, :MOST_NEW_ITEMS
        ]
        return tried.where(~repeated(tried), -1)

    def _leave_and_return(
        self,
        state: LearnedState,
        context: Tensor,
        basket: Tensor,
        clicks: Tensor,
        probability: Tensor,
        draws: Tensor,
    ) -> Response:
        bought, logits = packed(basket), []
        for member, cache in zip(self.shop.members, state.caches, strict=True):
            model = member.model
            with mixed(self.device, self.options.precision):
                token = model.token(member.vectors, bought, context)
                model.append_visit(cache, token, state.day)
            logits.append(
                model.gap_head(torch.cat([cache.state, context], dim=1))
                + model.config.gap_calibration
            )
        state.memory.record(torch.arange(len(basket), device=self.device), bought, state.day)
        back, leaving = back_by(logits, self.options.pessimism)
        come = draws[:, 0] * (1 - leaving) if self.never_leave else draws[:, 0]
        days, left = sample_gap(self._bins, back, come, draws[:, 1])
        left = left & (not self.never_leave)  # also where leaving is certain
        state.since = days
        state.day = state.day + days
        state.week = self._week(state.day)
        state.store = self._next_store(state, draws[:, 2])
        state.row = self.shop.promotions.row(state.store, state.week)
        state.rhythm = state.memory.tally(state.day)
        elsewhere = (bought >= 0).sum(1) - clicks.sum(1)
        return Response(clicks, probability, left, days, elsewhere.float(), basket, leaving)

    def _next_store(self, state: LearnedState, draw: Tensor) -> Tensor:
        """One of the shopper's own stores that has enough promotions that week; another one on the same day."""
        starts = self.shop.starts
        stores, shares = starts.stores[state.who], starts.store_shares[state.who]
        row = self.shop.promotions.row(stores, state.week.unsqueeze(1))
        usable = shares * self._enough[row]
        elsewhere = usable * (stores != state.store.unsqueeze(1))
        same_day = (state.since == 0).unsqueeze(1) & (elsewhere.sum(1, keepdim=True) > 0)
        usable = torch.where(same_day, elsewhere, usable)
        cumulative = usable.cumsum(1)
        total = cumulative[:, -1:]
        pick = torch.searchsorted(cumulative, draw.unsqueeze(1) * total, right=True).clamp(
            max=stores.shape[1] - 1
        )
        chosen = stores.gather(1, pick).squeeze(1)
        return chosen.where(total.squeeze(1) > 0, state.store)


def load_shopper(
    folder: str | Path,
    device: torch.device,
    slate_size: int = 10,
    *,
    population: str = "train",
    store_promotions: bool = False,
    start_days: tuple[int, int] = (56, 182),
    examination: tuple[float, ...] | None = None,
    ensemble: int = 1,
    pessimism: float = 0.0,
    precision: str = "fp32",
    compiled: bool = False,
) -> LearnedShopper:
    """Shoppers from a folder of `benchmarks.data.finetune`; the options are the fields of `ShopperOptions`.

    `compiled` has the networks fused by `torch.compile`: the first steps take a minute longer, and
    on a CPU the others are hardly faster.

    Errors: ValueError on a bad option, where the folder holds fewer than `ensemble` models, or
    where what it holds is broken; FileNotFoundError where a file is missing; TypeError where
    `folder` is no path.
    """
    options = ShopperOptions(
        population, store_promotions, start_days, examination, ensemble, pessimism, precision
    )
    path, fused = checks.path("folder", folder).resolve(), checks.flag("compiled", compiled)
    shop = load_shop(path, device, options.population, options.start_days, options.ensemble, fused)
    return LearnedShopper(shop, slate_size, options)
