"""Households at work: visits, baskets and returns sampled from `SlateShopper`, one visit a step.

The items of the slate are answered by the slate head. Items bought before are bought again
"elsewhere", outside the slate, by the same head. New items are a Poisson process, see
`new_items.py`. The basket moves memory and encoder; the gap head says when the shopper is back, and
one of the shopper's own stores is visited then. Several fitted models can answer together.
"""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from recsim_env import checks
from recsim_env.logs.facts import LogFacts
from recsim_env.logs.schema import read_shoppers
from recsim_env.shoppers import cold
from recsim_env.shoppers.base import Description, Shopper, ago
from recsim_env.shoppers.gaps import back_by, sample_gap
from recsim_env.shoppers.household.features import repeat_bucket
from recsim_env.shoppers.household.memory import COUNT, SINCE, Context, Tally, loyalty_card, packed
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.new_items import PROPOSALS
from recsim_env.shoppers.household.options import ShopperOptions
from recsim_env.shoppers.household.portraits import DROPOUT, PORTRAIT, read_portraits
from recsim_env.shoppers.household.shop import MIN_CANDIDATES, Shop, load_shop
from recsim_env.shoppers.household.states import REMEMBERED, LearnedState
from recsim_env.shoppers.members import (
    PRECISIONS,
    agreed,
    check_pessimism,
    mean,
    mixed,
)
from recsim_env.tensors import looked_up, places, repeated
from recsim_env.types import MAX_DAYS, Observation, Response

MOST_NEW_ITEMS = 16
"""Most new items that a shopper buys in a visit."""
USUALLY_CONSIDERED = 32
"""Remembered items whose chance is computed at a visit, on average over many shoppers at most: what
a GPU has room for (`tensors.places`). The shipped shoppers have 13."""
USUALLY_BOUGHT = 20
"""Items of a basket, likewise. The shipped shoppers buy 5."""
SCORED_TOGETHER = 4096
"""Items that are scored together on a CPU, so that what they touch stays in its cache."""


class LearnedShopper(Shopper[LearnedState]):
    """A population of fine-tuned shoppers.

    Observation of one shopper, with C candidates, M remembered items and G categories:
        context: (9,) float32, see `household.memory.Context` for the columns
        bought_items: (M,) int64 items bought before, padded with -1
        bought_counts: (M,) float32 how often each was bought
        bought_days: (M,) float32 days since it was bought last
        category_counts: (G,) float32 purchases of each category
        category_days: (G,) float32 days since the last one, 1000 if none
        placement: (C,) uint8 display * (number of mailer codes) + mailer of each candidate, 0 where
            padded
        popularity: (C,) float32 purchases a visit of each candidate in the last four weeks, of all
            shoppers

        portrait: (5,) float32, only with `portrait`: whether anything is known of the household,
            then age, income, size and kids, each from 0, the lowest, to 1; see `portraits`. It
            changes nothing that happens. Of training households half of the known portraits are
            hidden by episode, so that an agent learns to do without

    A newcomer (`SlateSimulator`'s `newcomers`) is a household of the log whose past is masked: it
    comes to the store on the day on which its episode starts, and the models begin with the state
    of a household that never came before. The log starts on 1 January 2017 in the middle of most
    households' lives, so that its own first visits are none of newcomers. A new item (`new_items`)
    is answered by the cold heads of the models (`cold_head`) until the shopper buys it, and without
    a row of its own from then on. The shop is told no popularity of it.

    Whatever a shopper does has the mean probability of the shop's members (new items: their mean
    rate). With `options.pessimism` b, a response to the slate has their mean less b of their
    standard deviations, at least 0, and leaving the mean plus b of them, at most 1; the days until
    the next visit share what is left as before. See `members.agreed`. Pessimism applies to slate
    items only, and takes two members or more.

    Args:
        shop: the models and tables of a folder
        slate_size: number of positions K
        options: how the shoppers behave
        portraits: (S, `len(PORTRAIT)`) those of all shoppers of the log; None means that the shop
            is told nothing
        never_leave: whether nobody leaves; see `Shopper.staying`

    Raises:
        ValueError: If `examination` does not have one number for each position, `slate_size` is no
            number of positions, or `pessimism` is asked of a single member.
    """

    tells_leaving = True
    serves_newcomers = True
    trusted = True

    def __init__(
        self,
        shop: Shop,
        slate_size: int,
        options: ShopperOptions,
        *,
        portraits: Tensor | None = None,
        never_leave: bool = False,
    ) -> None:
        checks.whole("slate_size", slate_size, 1, len(shop.catalog))
        check_pessimism(options.pessimism, len(shop.members))
        if options.examination is not None and len(options.examination) != slate_size:
            raise ValueError(
                f"examination has {len(options.examination)} numbers, but it must have one "
                "for each of the "
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
        # uniform numbers of a visit: slate, bought again, new items, return
        self._draws = (slate_size, REMEMBERED, 1 + proposals, 3)
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
        self.new_items = shop.new
        self._portraits = None
        if portraits is not None:
            self._portraits = portraits.to(self.device)[shop.starts.shopper]
        self.options = options
        self._usually_bought: int | None = USUALLY_BOUGHT
        self._most_new: int | None = slate_size + MOST_NEW_ITEMS
        self.facts: LogFacts = shop.facts
        self._bins = shop.model.config.gap_bins
        self._keys = shop.keys
        self._enough = (shop.candidates >= 0).sum(1) >= MIN_CANDIDATES
        weights = options.examination or (1.0,) * slate_size
        self._examination = torch.tensor(weights, dtype=torch.float32, device=self.device)
        # pessimism applies to slate items only: repeat purchases have the mean
        self._deviations = torch.zeros(
            slate_size + REMEMBERED, dtype=torch.float32, device=self.device
        )
        self._deviations[:slate_size] = -options.pessimism
        ceilings = [
            member.model.config.repeat_ceilings[options.store_promotions] for member in shop.members
        ]
        self._ceilings = torch.tensor(ceilings, dtype=torch.float32, device=self.device).amax(dim=0)

    # ---- the methods of a shopper ----

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the space of each key of `observe`, for one shopper."""
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
            **({} if self._portraits is None else {"portrait": box(0.0, 1.0, len(PORTRAIT))}),
        }

    def start(self, draws: Tensor) -> LearnedState:
        """Draw shoppers uniformly from the population, at the start of their episodes."""
        return self._told(self.shop.starts.rows(self._chosen(draws)), draws)

    @torch.no_grad()
    def start_new(self, draws: Tensor) -> LearnedState:
        """Draw shoppers likewise, and mask what they did before."""
        models = [member.model for member in self.shop.members]
        return self._told(self.shop.starts.newcomers(self._chosen(draws), models), draws)

    def _chosen(self, draws: Tensor) -> Tensor:
        count = len(self.shop.starts.shopper)
        return (draws[:, 0] * count).long().clamp(max=count - 1)

    def _told(self, state: LearnedState, draws: Tensor) -> LearnedState:
        """Keep caches in the precision of the models, and tell portraits where they are told.

        What of the draw is left once it chose a household decides whether its portrait is hidden.
        """
        if self._portraits is not None:
            left = (draws[:, 0] * len(self.shop.starts.shopper)).frac()
            shown = (left >= DROPOUT) | (self.options.population != "train")
            state.portrait = self._portraits[state.who] * shown.unsqueeze(1)
        state.caches = [cache.to(PRECISIONS[self.options.precision]) for cache in state.caches]
        return state

    def candidates(self, state: LearnedState) -> Tensor:
        """List the items that are promoted in this store in this week."""
        return self.shop.candidates.index_select(0, state.row).long()

    def on_offer(self, state: LearnedState, items: Tensor) -> Tensor:
        """Tell which items (B, K) are promoted in this store in this week: (B, K) bool."""
        return self._placement(state.row.unsqueeze(1), items.clamp(min=0)) > 0

    def observe(self, state: LearnedState) -> Observation:
        """Describe what a shop with loyalty cards knows; see the class."""
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
            **({} if self._portraits is None else {"portrait": state.portrait.clone()}),
        }

    @torch.no_grad()
    def respond(
        self, state: LearnedState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        """Answer the slate, fill the basket, and come back later or never; `state` changes."""
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
        """Describe date, store and last purchases; the number of the household is hidden."""
        day = int(state.day[row])
        memory = state.memory
        items = memory.items[row][memory.items[row] >= 0]
        stats = memory.stats(torch.full_like(items, row), items, state.day[row].expand(len(items)))[
            :, 0
        ]
        order = stats[:, SINCE].argsort(stable=True)[:8].tolist()
        texts = [self.catalog.text[int(item)] for item in items[order]]
        lines = [
            f"{ago(int(stats[i, SINCE]))} · {int(stats[i, COUNT])}x · {text}"
            for i, text in zip(order, texts, strict=True)
        ]
        date = self.facts.day_zero + datetime.timedelta(days=day)
        return {
            "date": date.strftime("%a %d %b %Y"),
            "store": f"store {int(state.store[row])}, week {int(state.week[row])}",
            "last visit": ago(int(state.since[row])),
            "history": lines,
            "hidden": f"household {int(self.shop.starts.shopper[state.who[row]])}",
        }

    # ---- inside ----

    def _week(self, day: Tensor) -> Tensor:
        weeks = self.shop.week_of_day
        return weeks[day.long().clamp(max=len(weeks) - 1)]

    def _placement(self, row: Tensor, items: Tensor) -> Tensor:
        """Look up the codes (...,) uint8 of items (...,) in the rows (...,) of store-weeks."""
        return looked_up(
            self.shop.promotions.placement.view(-1, 1), row * len(self.catalog) + items
        ).squeeze(-1)

    def _considered(self, state: LearnedState, slates: Tensor, draws: Tensor) -> Tensor:
        """Find the remembered items (B, M) that may be bought elsewhere; the others become -1.

        An item is bought where its draw lies below its chance. The chance of items bought as often
        and as lately has a ceiling, above which it is cut off (`fit.CEILING_TAIL`). So no chance is
        computed where the draw lies above the ceiling, as for nine items in ten (thinning).
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
        """Compute the chances of responses to the slate, and of buying considered items elsewhere.

        Shapes: slates (B, K), considered (B, M) int64, -1 padded -> (B, K), (B, M), 0 where padded.
        """
        items = torch.cat([slates, considered], dim=1)
        pairs = places(items >= 0, self.slate_size + USUALLY_CONSIDERED)[:2]
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
        """Compute the chance (P,) that shoppers buy items.

        Args:
            state: all shoppers
            shoppers: (B, D + head_size) from the slate head, one tensor a member
            rows: (P,) int64 shopper
            columns: (P,) int64 position in the slate, or K + place in the memory
            items: (P,) int64, -1 where padded
        """
        promotions, at, n = self.shop.promotions, items.clamp(min=0), len(self.catalog)
        placement = self._placement(state.row[rows], at).long()
        if not self.options.store_promotions:
            placement = placement.where(columns < self.slate_size, 0)
        stats = state.memory.stats(rows, items, state.day[rows])
        item_context = looked_up(promotions.item_context.flatten(0, 1), state.week[rows] * n + at)
        met = None  # a new item is one that nobody knows until the shopper bought it
        if self.new_items is not None:
            met = (stats[..., 0, COUNT] > 0) | ~looked_up(self.new_items, at)
        chances = []
        for member, own in zip(self.shop.members, shoppers, strict=True):
            head, of_item = member.model.slate_head, looked_up(member.item_parts, at)
            with mixed(self.device, self.options.precision):
                logits = head(looked_up(own, rows), of_item, stats, item_context, placement)
            logits = member.model.calibrated(logits.float())
            if met is not None and member.words is not None:
                text = looked_up(member.words, at)
                unmet = self._unmet(member.model, state, rows, at, stats, placement, text)
                logits = logits.where(met, unmet)
            chances.append(torch.sigmoid(logits))
        return agreed(chances, self._deviations[columns])

    def _unmet(
        self,
        model: SlateShopper,
        state: LearnedState,
        rows: Tensor,
        items: Tensor,
        stats: Tensor,
        placement: Tensor,
        text: Tensor,
    ) -> Tensor:
        """Compute the calibrated logits (P,) of items that nobody knows; else as `_chances`."""
        assert self.shop.prospects is not None
        week = state.week[rows].clamp(max=len(self.shop.prospects) - 1)
        expected = looked_up(self.shop.prospects.flatten(0, 1), week * len(self.catalog) + items)
        context = looked_up(state.context(), rows)
        logits: Tensor = model.cold_head(context, stats, expected, placement, text)
        return model.calibrated(logits, torch.zeros_like(logits))

    def _new_items(
        self, state: LearnedState, inside: list[Tensor], slates: Tensor, draws: Tensor
    ) -> Tensor:
        """Sample the new items (B, E) bought outside the slate, padded with -1.

        There are at most `MOST_NEW_ITEMS`. A Poisson process with intensity -log(1 - p) buys each
        item with chance p, independently of the others.
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
        """Remember the basket, and sample when the shopper is back and in which store.

        Args:
            state: changed in place
            context: (B, CONTEXT) of this visit
            basket: (B, L) int64 items bought, -1 padded anywhere
            clicks: (B, K) bool responses to the slate
            probability: (B, K) their chances
            draws: (B, 3) uniform numbers: bin of days, day in it, store
        """
        bought = packed(basket)
        state.memory.record(
            torch.arange(len(basket), device=self.device),
            bought,
            state.day,
            usual=self._usually_bought,
            most_new=self._most_new,
        )
        habit, size, logits = state.memory.habit(), (bought >= 0).sum(1), []
        for member, cache in zip(self.shop.members, state.caches, strict=True):
            model = member.model
            with mixed(self.device, self.options.precision):
                token = model.token(member.vectors, bought, context)
                model.append_visit(cache, token, state.day)
            after = torch.cat([cache.state, context], dim=1)
            logits.append(model.gap_logits(after, size, habit) + model.config.gap_calibration)
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
        """Draw one of the shopper's own stores that has enough promotions that week.

        A second visit on the same day goes to another store where there is one.
        """
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
    new_items: float = 0.0,
    portrait: bool = False,
    small: bool = False,
) -> LearnedShopper:
    """Open the shoppers in a folder of `benchmarks.data.finetune`.

    Args:
        folder: the folder
        device: where the shoppers live
        slate_size: number of positions K
        population: see `ShopperOptions`, as for the options up to `precision`
        store_promotions: see there
        start_days: see there
        examination: see there
        ensemble: see there
        pessimism: see there
        precision: see there
        compiled: whether `torch.compile` fuses the networks; the first steps then take a minute
            longer, and on a CPU the others are hardly faster
        new_items: share of items, from 0 to 1, that nobody knows yet; see `LearnedShopper`
        portrait: whether the shop is told age, income, size and kids of the households of whom the
            folder tells them; see there
        small: whether the folder's smaller model (`benchmarks.data.shrink`) answers instead, which
            is faster and knows a little less

    Raises:
        FileNotFoundError: If a file is missing.
        TypeError: If `folder` is no path.
        ValueError: If an option is bad, the folder holds fewer than `ensemble` models or no small
            one, or what it holds is broken.
    """
    options = ShopperOptions(
        population, store_promotions, start_days, examination, ensemble, pessimism, precision
    )
    path, fused = checks.path("folder", folder).resolve(), checks.flag("compiled", compiled)
    shop = load_shop(
        path,
        device,
        options.population,
        options.start_days,
        options.ensemble,
        fused,
        cold.share("new_items", new_items),
        checks.flag("small", small),
    )
    return LearnedShopper(shop, slate_size, options, portraits=told_portraits(path, portrait))


def told_portraits(folder: Path, portrait: bool) -> Tensor | None:
    """Read the portraits of a folder where they are asked for, and return None elsewhere.

    Raises:
        ValueError: If it is no flag, or the folder holds none or broken ones.
    """
    if not checks.flag("portrait", portrait):
        return None
    return read_portraits(folder, len(read_shoppers(folder / "shoppers.parquet")))
