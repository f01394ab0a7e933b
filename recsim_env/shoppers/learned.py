"""The fine-tuned shopper at work: visits, baskets and returns sampled from `SlateShopper`, one visit a step.

A visit: the items of the slate are answered by the slate head; items bought before are bought again "elsewhere", by
the same head; new items come from the explore head; the basket moves memory and encoder; the gap head says when the
shopper is back, and one of the shopper's own stores is visited then. Several fitted models can answer together.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.logs.schema import read_baskets, read_popularity, read_promotions, read_shoppers
from recsim_env.shoppers.base import Description, Response, ago
from recsim_env.shoppers.ensemble import agreed, check_ensemble, check_pessimism, mean
from recsim_env.shoppers.examples import Market, ints
from recsim_env.shoppers.exploring import DARTS, Envelope
from recsim_env.shoppers.memory import COUNT, SINCE, Keys, Memory, loyalty_card, packed
from recsim_env.shoppers.replay import Visits, padded
from recsim_env.shoppers.running import PRECISIONS, check_precision, compile_parts, mixed
from recsim_env.shoppers.transformer import (
    DISPLAYS,
    GAP_EDGES,
    LAPSE_DAYS,
    MAILERS,
    RECENCIES,
    SHARES,
    Block,
    Cache,
    GapHead,
    SlateHead,
    SlateShopper,
    repeat_bucket,
    visit_context,
)
from recsim_env.shoppers.weights import load_model, member_folders
from recsim_env.tensors import constant, looked_up, places, repeated
from recsim_env.types import MAX_DAYS, Observation

MODEL_FILES = ("config.json", "model.safetensors")
SHOP_FILES = (
    *MODEL_FILES,
    "catalog.parquet",
    "embedding.safetensors",
    "shoppers.parquet",
    "baskets.parquet",
    "promotions.parquet",
    "popularity.parquet",
)
REMEMBERED = 192  # items bought before that a shopper can buy again outside the slate
EXPLORED = 16  # most new items of a visit
STORES = 8  # most stores of a shopper
CACHED = 4096  # items scored together on a CPU: what they touch stays in its cache
MIN_CANDIDATES = 30  # a store-week with fewer promoted items is not visited
EARLIER_VISITS = 3  # visits before an episode starts
POPULATIONS = ("train", "evaluation", "all")


@dataclass(frozen=True)
class ShopperOptions:
    """How the fine-tuned shoppers behave in a simulation."""

    population: str = "train"
    """Whose start states are used: train, evaluation (households that no agent may be trained on) or all."""
    store_promotions: bool = False
    """True: candidates left out of the slate keep their placement in the store, as in the log. False: the slate is
    the promotion, and what it leaves out sells like an unpromoted item."""
    start_days: tuple[int, int] = (56, 182)
    """An episode starts at a shopper's first visit after a day in this range, spread over it."""
    examination: tuple[float, ...] | None = None
    """Chance that a position is looked at, top first: an assumption (the log has no positions). None = all are."""
    ensemble: int = 1
    """How many of the folder's fitted models answer together."""
    pessimism: float = 0.0
    """Standard deviations between them, 0 or more, that clicks lose and leaving gains; see `LearnedShopper`."""
    precision: str = "fp32"
    """Of encoder and slate head: fp32 or bf16, for a GPU."""


@dataclass
class LearnedState:
    """Hidden state of B shoppers at a visit: who (B,) int64 start state, day and since (B,) float32, store (B,).

    Of this day: week (B,) int64, row (B,) int64 of the store's week in the shop's tables, rhythm (B, RHYTHM) of the
    memory. `caches` hold what each member of the ensemble makes of the visits so far; all see the counters of `memory`.
    """

    who: Tensor
    memory: Memory
    caches: list[Cache]
    day: Tensor
    since: Tensor
    store: Tensor
    week: Tensor
    row: Tensor
    rhythm: Tensor

    @property
    def cache(self) -> Cache:
        """The first member's."""
        return self.caches[0]

    def context(self) -> Tensor:
        """Of this visit: (B, CONTEXT)."""
        return visit_context(self.rhythm, self.day, self.since)

    def inside(self, context: Tensor) -> list[Tensor]:
        """What each member's heads see of the shoppers, with the context of this visit: (B, D + CONTEXT) each."""
        return [torch.cat([cache.state, context], dim=1) for cache in self.caches]


@dataclass(frozen=True)
class Starts:
    """Shoppers as they stood before the first visit of an episode.

    Shapes: S shoppers. `state` holds S rows; shopper (S,) int64 number in the log; stores (S, STORES) int64 padded with
    -1; store_shares (S, STORES) float32.
    """

    state: LearnedState
    shopper: Tensor
    stores: Tensor
    store_shares: Tensor


@dataclass(frozen=True)
class Member:
    """A fitted model and what it makes of the catalogue, on one device and never changed.

    vectors (N, D) and item_parts (N, ...) item vectors of the model and what its slate head makes of them.
    """

    model: SlateShopper
    vectors: Tensor
    item_parts: Tensor

    @classmethod
    def of(cls, model: SlateShopper) -> Member:
        """With the model on its device."""
        vectors = model.items()
        return cls(model, vectors, model.slate_head.items(vectors, model.items.known))


@dataclass(frozen=True)
class Shop:
    """What a folder of a fine-tuned shopper holds, on one device and never changed.

    members the models that answer together; envelope above their rates of new items; week_of_day (days,) int64. A row a
    store-week, (W + 1, C) each: candidates int16 padded with -1, their placement uint8 and popularity float32
    (purchases a visit in that week), 0 where padded.
    """

    catalog: Catalog
    keys: Keys
    members: tuple[Member, ...]
    envelope: Envelope
    market: Market
    candidates: Tensor
    placement: Tensor
    popularity: Tensor
    week_of_day: Tensor
    starts: Starts

    @property
    def model(self) -> SlateShopper:
        """The first member's."""
        return self.members[0].model

    @property
    def vectors(self) -> Tensor:
        """The first member's."""
        return self.members[0].vectors


@functools.cache
def load_shop(
    folder: Path,
    device: torch.device,
    population: str,
    start_days: tuple[int, int],
    ensemble: int = 1,
    compiled: bool = False,
) -> Shop:
    """Read a folder written by `benchmarks.finetune` and bring its shoppers to their start states.

    Its first model lies in the folder itself, the others in `model1/`, `model2/`, ..; `ensemble` is how many are read.
    With `compiled` they are fused by `torch.compile` once they are asked something.

    Errors: FileNotFoundError where a file is missing; ValueError on an unknown population, on days at which nobody can
    start, where the folder holds fewer models, or where a model and the catalogue differ in size or a model was fitted
    by another version.
    """
    if population not in POPULATIONS:
        raise ValueError(f"population is {population!r}, but it must be one of {', '.join(POPULATIONS)}.")
    folders = [folder, *member_folders(folder, 1)]
    if len(folders) < ensemble:
        raise ValueError(f"ensemble is {ensemble}, but {str(folder)!r} holds {len(folders)} models.")
    members = folders[:ensemble]
    needed = [folder / name for name in SHOP_FILES] + [member / name for member in members for name in MODEL_FILES]
    for path in needed:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but a shopper's folder must hold it.")
    catalog = Catalog.load(folder)
    models = [load_model(SlateShopper, member).requires_grad_(False) for member in members]
    for member, model in zip(members, models, strict=True):
        if model.config.n_items != len(catalog):
            raise ValueError(f"{member} holds a model of {model.config.n_items} items, but catalog has {len(catalog)}.")
        if np.shape(model.config.repeat_ceilings) != (2, SHARES * RECENCIES):
            raise ValueError(
                f"{member} holds repeat_ceilings of shape {np.shape(model.config.repeat_ceilings)}, but they must be "
                f"{(2, SHARES * RECENCIES)}: fit the shopper again with this version."
            )
    n = len(catalog)
    popularity = read_popularity(folder / "popularity.parquet", n)
    market = Market.of(read_promotions(folder / "promotions.parquet", n), popularity, n)
    shoppers = read_shoppers(folder / "shoppers.parquet")
    baskets = read_baskets(folder / "baskets.parquet", n, len(shoppers))
    keys = Keys.of(catalog.kind, catalog.category)
    with torch.no_grad():
        holdout = torch.from_numpy(shoppers["holdout"].to_numpy().copy())
        starts = start_states(models, keys, market, baskets, holdout, population, start_days)
        shop = _on(device, catalog, keys, models, market, baskets, starts)
    for model in models if compiled else ():
        compile_parts(model, (Block, SlateHead, GapHead))
    return shop


def _on(
    device: torch.device,
    catalog: Catalog,
    keys: Keys,
    models: Sequence[SlateShopper],
    market: Market,
    baskets: pl.DataFrame,
    starts: Starts,
) -> Shop:
    candidates = candidate_table(market.placement)
    placement, popularity = of_candidates(candidates, market)
    market = Market(*(tensor.to(device) for tensor in vars(market).values()))
    days = baskets.group_by("day").agg(pl.col("week").mode().first()).sort("day")
    week_of_day = torch.zeros(int(days["day"].max() or 0) + 1, dtype=torch.int64)  # type: ignore[arg-type]
    week_of_day[ints(days, "day")] = ints(days, "week")
    members = tuple(Member.of(model.to(device)) for model in models)  # type: ignore[arg-type]
    state: LearnedState = take(starts.state, slice(None), device)
    return Shop(
        catalog=catalog.to(device),
        keys=keys.to(device),
        members=members,
        envelope=envelope_of(members, market, state),
        market=market,
        candidates=candidates.to(device),
        placement=placement.to(device),
        popularity=popularity.to(device),
        week_of_day=week_of_day.cummax(0).values.to(device),
        starts=Starts(
            state,
            starts.shopper.to(device),
            starts.stores.to(device),
            starts.store_shares.to(device),
        ),
    )


def envelope_of(members: Sequence[Member], market: Market, state: LearnedState) -> Envelope:
    """Above the members' rates of new items for the shoppers of a state, all on one device."""
    base = [member.model.explore_base() + member.model.season(market.item_context) for member in members]
    inside = state.inside(state.context())
    queries = [member.model.explore_queries(own) for member, own in zip(members, inside, strict=True)]
    return Envelope.over(base, [member.vectors for member in members], queries)


def candidate_table(placement: Tensor) -> Tensor:
    """Promoted items of each store-week: (W, N) codes -> (W, C) int16 ascending ids, padded with -1."""
    promoted = placement > 0
    width = max(int(promoted.sum(1).max()), 1)
    order = promoted.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return order.where(promoted.gather(1, order), -1).to(torch.int16)


def of_candidates(candidates: Tensor, market: Market) -> tuple[Tensor, Tensor]:
    """Placement (uint8) and popularity (float32) of candidates (W + 1, C), of the same shape; 0 where padded."""
    real, at = candidates >= 0, candidates.long().clamp(min=0)
    weeks = torch.arange(market.store_week.shape[1]).expand_as(market.store_week)
    week = torch.zeros(len(candidates), dtype=torch.int64).scatter_(0, market.store_week.flatten(), weeks.flatten())
    popularity = torch.expm1(market.item_context[..., 0] * 2.0) / 1000.0
    return market.placement.gather(1, at) * real, popularity[week.unsqueeze(1), at] * real


def start_states(
    models: Sequence[SlateShopper],
    keys: Keys,
    market: Market,
    baskets: pl.DataFrame,
    holdout: Tensor,
    population: str,
    start_days: tuple[int, int],
) -> Starts:
    """Replay every shopper up to the start of an episode.

    An episode starts at the first visit to a store with promotions after a day of the shopper's own, spread evenly
    over `start_days`, with at least `EARLIER_VISITS` before it; shoppers without such a visit do not take part.
    `models` see the same visits; `holdout` (shoppers,) bool marks those kept for evaluation.

    Errors: ValueError where the days are not in order, or nobody has such a visit.
    """
    visits = Visits.of(baskets)
    enough = (market.placement > 0).sum(1) >= MIN_CANDIDATES
    open_store = enough[market.row(visits.store, visits.week)]
    low, high = start_days
    if not 0 <= low <= high:
        raise ValueError(f"start_days is {start_days}, but it must be a first and a last day, 0 or more and in order.")
    wanted = low + (visits.shopper * 61) % (high - low + 1)  # 61 steps through the range without a pattern
    allowed = open_store & (visits.rank >= EARLIER_VISITS) & (visits.day >= wanted) & (visits.day <= high + LAPSE_DAYS)
    if population != "all":
        allowed &= holdout[visits.shopper] == (population == "evaluation")
    chosen = allowed.nonzero().flatten()
    if len(chosen) == 0:
        raise ValueError(f"start_days is {start_days}, but no shopper of population {population!r} starts then.")
    shoppers, first = np.unique(visits.shopper[chosen].numpy(), return_index=True)
    start = chosen[torch.from_numpy(first)]
    stores, shares = _stores(visits, open_store, torch.from_numpy(shoppers))
    return Starts(_replayed(models, keys, market, visits, start), torch.from_numpy(shoppers), stores, shares)


def _stores(visits: Visits, open_store: Tensor, shoppers: Tensor) -> tuple[Tensor, Tensor]:
    """The stores of each shopper that have promotions, the most visited first, and their shares of the visits."""
    frame = pl.DataFrame(
        {"shopper": visits.shopper.numpy(), "store": visits.store.numpy(), "open": open_store.numpy()}
    ).filter("open")
    top = frame.group_by("shopper", "store").len().sort("shopper", "len", "store", descending=[False, True, False])
    lists = top.group_by("shopper", maintain_order=True).agg(pl.col("store", "len").head(STORES))
    table = pl.DataFrame({"shopper": shoppers.numpy()}).join(lists, on="shopper", how="left", maintain_order="left")
    starts = torch.cat(
        [torch.zeros(1, dtype=torch.int64), ints(table.with_columns(n=pl.col("store").list.len()), "n").cumsum(0)]
    )
    everyone = torch.arange(len(shoppers))
    store = padded(ints(table.explode("store", "len"), "store"), starts, everyone)
    number = padded(ints(table.explode("store", "len"), "len"), starts, everyone, fill=0).float()
    return store, number / number.sum(1, keepdim=True)


def _replayed(
    models: Sequence[SlateShopper], keys: Keys, market: Market, visits: Visits, start: Tensor
) -> LearnedState:
    """State of shoppers just before their visits `start` (S,)."""
    everyone = torch.arange(len(start))
    memory = Memory.empty(keys, len(start), REMEMBERED)
    caches = [model.empty_cache(len(start)) for model in models]
    vectors = [model.items() for model in models]
    for rank in range(int(visits.rank[start].max())):
        rows = everyone[visits.rank[start] > rank]
        visit = start[rows] - visits.rank[start[rows]] + rank
        day = visits.day[visit].float()
        context = visit_context(memory.tally_of(rows, day), day, visits.since[visit])
        basket = visits.padded(visit)
        for model, items, cache in zip(models, vectors, caches, strict=True):
            part = take(cache, rows, items.device)
            model.advance(part, model.token(items, basket, context), day)
            put(cache, rows, part)
        memory.record(rows, basket, day)
    day, store, week = visits.day[start].float(), visits.store[start], visits.week[start]
    row, rhythm = market.row(store, week), memory.tally(day)
    return LearnedState(everyone, memory, caches, day, visits.since[start], store, week, row, rhythm)


def take(state: Any, rows: Any, device: torch.device) -> Any:
    """Rows of a state (a dataclass of tensors with the shoppers in front, or second in a cache's layers) or of a list
    of them."""
    if isinstance(state, list):
        return [take(part, rows, device) for part in state]
    if isinstance(state, Cache):
        return Cache(
            state.keys[:, rows].to(device),
            state.values[:, rows].to(device),
            state.day[rows].to(device),
            state.count[rows].to(device),
            state.state[rows].to(device),
        )
    if isinstance(state, Memory):
        parts = {name: value[rows].to(device) for name, value in vars(state).items() if isinstance(value, Tensor)}
        return Memory(state.keys.to(device), **parts)
    parts = {
        name: take(value, rows, device) if isinstance(value, Memory | list) else value[rows].to(device)
        for name, value in vars(state).items()
    }
    return type(state)(**parts)


def put(state: Any, rows: Tensor, fresh: Any) -> None:
    """Write the rows of `fresh` into `rows` (R,) of a state, in place."""
    for name, value in vars(state).items():
        new = getattr(fresh, name)
        if isinstance(value, list):
            for part, new_part in zip(value, new, strict=True):
                put(part, rows, new_part)
        elif isinstance(value, Memory):
            put(value, rows, new)
        elif isinstance(state, Cache) and name in ("keys", "values"):
            value[:, rows] = new
        elif isinstance(value, Tensor):
            value[rows] = new


class LearnedShopper:
    """A population of fine-tuned shoppers (see `recsim_env.shoppers.base.Shopper` for the protocol).

    Observation (one shopper; C candidates, M remembered items, G categories):
        context:         (9,) float32 sine and cosine of the weekday, week of the year / 53, log days since the last
                         visit, log visits, log recent visits, log recent basket size, log visits a week,
                         log number of items bought before
        bought_items:    (M,) int64 items bought before, -1 padded; bought_counts (M,) float32 how often;
        bought_days:     (M,) float32 days since the last time
        category_counts: (G,) float32 purchases of each category; category_days (G,) float32 days since, 1000 = never
        placement:       (C,) uint8 display * 11 + mailer code of each candidate; 0 where padded
        popularity:      (C,) float32 purchases a visit of each candidate in the last four weeks, all shoppers

    Whatever a shopper does has the mean probability of the shop's members (new items: their mean rate). With
    `options.pessimism` b a response to the slate has their mean less b of their standard deviations, at least 0, and
    leaving the mean plus b of them, at most 1, while the days until the next visit share what is left as before: a
    penalty for what the members do not agree on, after Yu et al. 2020, "MOPO: Model-based offline policy optimization",
    equations 5 and 6, put on the chances themselves so that every reward term feels it. A single member agrees with
    itself.

    Errors: ValueError where `examination` has not a number a position, `pessimism` is negative, or `precision` unknown.
    """

    start_draws = 1

    def __init__(self, shop: Shop, slate_size: int, options: ShopperOptions) -> None:
        if options.examination is not None and len(options.examination) != slate_size:
            raise ValueError(
                f"examination has {len(options.examination)} numbers, but it must have one for each of the "
                f"{slate_size} positions."
            )
        check_pessimism(options.pessimism)
        check_precision(options.precision)
        self.shop = shop
        self.catalog = shop.catalog
        self.device = shop.vectors.device
        self.slate_size = slate_size
        self.options = options
        self.max_candidates = shop.candidates.shape[1]
        self._keys = shop.keys
        self._enough = (shop.candidates >= 0).sum(1) >= MIN_CANDIDATES
        weights = options.examination or (1.0,) * slate_size
        self._examination = torch.tensor(weights, device=self.device)
        # what leaves the slate alone is not punished: repeat purchases have the mean
        self._deviations = torch.zeros(slate_size + REMEMBERED, device=self.device)
        self._deviations[:slate_size] = -float(options.pessimism)
        ceilings = [member.model.config.repeat_ceilings[options.store_promotions] for member in shop.members]
        self._ceilings = torch.tensor(ceilings, device=self.device).amax(dim=0)
        # how much promotions may raise the rates of new items
        most = max(member.model.promotion().item() for member in shop.members) if options.store_promotions else 0.0
        self._promoting = math.exp(max(most, 0.0))
        darts = math.ceil(DARTS * self._promoting)
        self._draws = (slate_size, REMEMBERED, 1 + darts, 3)  # of a visit: slate, bought again, new items, return
        self.visit_draws = sum(self._draws)
        self.never_leave = False

    # ---- the protocol ----------------------------------------------------------------------------------------------

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Spaces of `observe`, one shopper."""
        n, c, m = len(self.catalog), self.max_candidates, REMEMBERED
        g = self._keys.categories.stop - self._keys.categories.start

        def box(low: float, high: float, size: int) -> spaces.Box:
            return spaces.Box(low, high, (size,), np.float32)

        return {
            "context": box(-1.0, 20.0, 9),
            "bought_items": spaces.Box(-1, n - 1, (m,), np.int64),
            "bought_counts": box(0.0, 1e6, m),
            "bought_days": box(0.0, MAX_DAYS, m),
            "category_counts": box(0.0, 1e6, g),
            "category_days": box(0.0, MAX_DAYS, g),
            "placement": spaces.Box(0, DISPLAYS * MAILERS - 1, (c,), np.uint8),
            "popularity": box(0.0, 1e3, c),
        }

    def start(self, draws: Tensor) -> LearnedState:
        """Shoppers drawn uniformly from the population, as they stood at the start of their episode."""
        starts = self.shop.starts
        who = (draws[:, 0] * len(starts.shopper)).long().clamp(max=len(starts.shopper) - 1)
        state: LearnedState = take(starts.state, who, self.device)
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
            **loyalty_card(state.memory, slice(None), state.rhythm, state.day, state.since, state.week),
            "placement": self.shop.placement.index_select(0, state.row),
            "popularity": self.shop.popularity.index_select(0, state.row),
        }

    @torch.no_grad()
    def respond(self, state: LearnedState, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Answer the slate, fill the basket, and come back later or never; moves `state` in place."""
        slate_draw, repeat_draw, explore_draw, gap_draw = draws.split(self._draws, dim=1)
        context = state.context()
        inside = state.inside(context)
        slates = slates.where(shown, -1)
        considered = self._considered(state, slates, repeat_draw)
        probability, repeat = self._bernoulli(state, inside, slates, considered)
        clicks = slate_draw < probability
        again = repeat_draw < repeat
        new = self._explore(state, inside, slates, explore_draw)
        basket = torch.cat([slates.where(clicks, -1), state.memory.items.where(again, -1), new], dim=1)
        return self._leave_and_return(state, context, basket, clicks, probability, gap_draw)

    def replace(self, state: LearnedState, rows: Tensor, fresh: LearnedState) -> None:
        """Put new shoppers into some rows."""
        put(state, rows, fresh)

    def when_and_where(self, state: LearnedState) -> dict[str, Tensor]:
        """Day of the log, week, store and household of this visit."""
        shopper = self.shop.starts.shopper[state.who]
        return {"shopper": shopper, "day": state.day.long(), "week": state.week.clone(), "store": state.store.clone()}

    def select(self, state: LearnedState, rows: Tensor) -> LearnedState:
        """A state of some rows only."""
        part: LearnedState = take(state, rows, self.device)
        return part

    def describe(self, state: LearnedState, row: int) -> Description:
        """Date, store and the last purchases; hidden: the number of the household."""
        day = int(state.day[row])
        memory = state.memory
        items = memory.items[row][memory.items[row] >= 0]
        stats = memory.stats(torch.full_like(items, row), items, state.day[row].expand(len(items)))[:, 0]
        order = stats[:, SINCE].argsort(stable=True)[:8].tolist()
        lines = [
            f"{ago(int(stats[i, SINCE]))} · {int(stats[i, COUNT])}x · {self.catalog.text[int(items[i])]}" for i in order
        ]
        date = datetime.date(2017, 1, 1) + datetime.timedelta(days=day)
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
        return looked_up(self.shop.market.placement.view(-1, 1), row * len(self.catalog) + items).squeeze(-1)

    def _considered(self, state: LearnedState, slates: Tensor, draws: Tensor) -> Tensor:
        """Remembered items (B, M) that may be bought elsewhere, -1 in place of the others.

        An item is bought where its draw is below its chance, which hardly ever lies above the ceiling of items bought
        as often and as lately (and is cut off there, `finetune.CUT`): so what has a draw above the ceiling needs no
        chance worked out (thinning, as in `exploring.py`). That is nine items in ten.
        """
        memory = state.memory
        since = state.day.unsqueeze(1) - memory.last_days()
        bucket = repeat_bucket(memory.purchases(), memory.tallies[:, :1], since)
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
        parts = [part.split(CACHED) if self.device.type == "cpu" else (part,) for part in pairs]
        shoppers = [
            member.model.slate_head.shoppers(own) for member, own in zip(self.shop.members, inside, strict=True)
        ]
        found = [
            self._chances(state, shoppers, rows, columns, items[rows, columns])
            for rows, columns in zip(*parts, strict=True)
        ]
        chance = torch.zeros(items.shape, device=self.device).index_put_(pairs, torch.cat(found))
        chance = chance * (items >= 0)
        return chance[:, : self.slate_size] * self._examination, chance[:, self.slate_size :]

    def _chances(
        self, state: LearnedState, shoppers: list[Tensor], rows: Tensor, columns: Tensor, items: Tensor
    ) -> Tensor:
        """Chance of buying (P,): items (P,) in columns (P,) of shoppers rows (P,), whose parts each member has in
        `shoppers`."""
        market, at, n = self.shop.market, items.clamp(min=0), len(self.catalog)
        placement = self._placement(state.row[rows], at).long()
        if not self.options.store_promotions:
            placement = placement.where(columns < self.slate_size, 0)
        stats = state.memory.stats(rows, items, state.day[rows])
        item_context = looked_up(market.item_context.flatten(0, 1), state.week[rows] * n + at)
        chances = []
        for member, own in zip(self.shop.members, shoppers, strict=True):
            head, of_item = member.model.slate_head, looked_up(member.item_parts, at)
            with mixed(self.device, self.options.precision):
                logits = head(looked_up(own, rows), of_item, stats, item_context, placement)
            chances.append(torch.sigmoid(member.model.calibrated(logits.float())))
        return agreed(chances, self._deviations[columns])

    def _explore(self, state: LearnedState, inside: list[Tensor], slates: Tensor, draws: Tensor) -> Tensor:
        """New items bought outside the slate: (B, E) int64, -1 padded; at most `EXPLORED`.

        A Poisson process over the items with intensity -log(1 - p): each is bought with chance p, independently.
        """
        envelope, models = self.shop.envelope, [member.model for member in self.shop.members]
        queries = [model.explore_queries(own) for model, own in zip(models, inside, strict=True)]
        darts = envelope.throw(envelope.scale(queries) * self._promoting, state.week, draws)
        rows, items = darts.rows, darts.items
        rates = envelope.log_rates(queries, state.week, darts)
        if self.options.store_promotions:
            promoted = self._placement(state.row[rows], items) > 0
            rates = [rate + promoted * model.promotion() for rate, model in zip(rates, models, strict=True)]
        slot = state.memory.slots_of(rows, items.unsqueeze(1)).squeeze(1)
        new = (slot == REMEMBERED) & (slates[rows] != items.unsqueeze(1)).all(1)
        hit = new & (darts.heights < mean([rate.exp() for rate in rates]))
        tried = torch.full((len(draws), draws.shape[1] - 1), -1, device=self.device)
        tried = packed(tried.index_put_((rows, darts.columns), items.where(hit, -1)))[:, :EXPLORED]
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
                model.advance(cache, model.token(member.vectors, bought, context), state.day)
            logits.append(model.gap_head(torch.cat([cache.state, context], dim=1)) + model.config.gap_calibration)
        state.memory.record(torch.arange(len(basket), device=self.device), bought, state.day)
        back, leaving = back_by(logits, self.options.pessimism)
        come = draws[:, 0] * (1 - leaving) if self.never_leave else draws[:, 0]
        days, left = sample_gap(back, come, draws[:, 1])
        left = left & (not self.never_leave)  # also where leaving is certain
        state.since = days
        state.day = state.day + days
        state.week = self._week(state.day)
        state.store = self._next_store(state, draws[:, 2])
        state.row = self.shop.market.row(state.store, state.week)
        state.rhythm = state.memory.tally(state.day)
        elsewhere = (bought >= 0).sum(1) - clicks.sum(1)
        return Response(clicks, probability, left, days, elsewhere.float(), basket, leaving)

    def _next_store(self, state: LearnedState, draw: Tensor) -> Tensor:
        """One of the shopper's own stores that has enough promotions that week; another one on the same day."""
        starts = self.shop.starts
        stores, shares = starts.stores[state.who], starts.store_shares[state.who]
        row = self.shop.market.row(stores, state.week.unsqueeze(1))
        usable = shares * self._enough[row]
        elsewhere = usable * (stores != state.store.unsqueeze(1))
        same_day = (state.since == 0).unsqueeze(1) & (elsewhere.sum(1, keepdim=True) > 0)
        usable = torch.where(same_day, elsewhere, usable)
        cumulative = usable.cumsum(1)
        total = cumulative[:, -1:]
        pick = torch.searchsorted(cumulative, draw.unsqueeze(1) * total, right=True).clamp(max=stores.shape[1] - 1)
        chosen = stores.gather(1, pick).squeeze(1)
        return chosen.where(total.squeeze(1) > 0, state.store)


def back_by(logits: Sequence[Tensor], pessimism: float) -> tuple[Tensor, Tensor]:
    """Chance to be back by the end of each bin of days (B, bins), and never to come back (B,), of several members.

    Every bin has the members' mean chance. Staying away has `pessimism` of their standard deviations more, at most 1,
    and the bins share what is left in the same proportions.

    Shapes: logits (B, bins) of the hazards, one a member.
    """
    stay = [torch.nn.functional.logsigmoid(-one) for one in logits]
    back = 1.0 - mean([one.cumsum(1).exp() for one in stay])
    lapse = [one.sum(1).exp() for one in stay]
    leaving = agreed(lapse, pessimism)
    if len(logits) == 1:
        return back, leaving
    share = (1.0 - leaving) / (1.0 - mean(lapse)).clamp(min=1e-9)
    return back * share.unsqueeze(1), leaving


def sample_gap(back: Tensor, draw: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Days until the next visit (B,) float32 and who lapsed (B,) bool, by inversion.

    Shapes: back (B, bins) from `back_by`; draw and within (B,) uniform. A bin's days are equally likely.
    """
    left_bin = (draw.unsqueeze(1) >= back).sum(1)
    edges = constant((*GAP_EDGES, LAPSE_DAYS + 1), back)
    left = left_bin >= len(GAP_EDGES)
    place = left_bin.clamp(max=len(GAP_EDGES) - 1)
    days = edges[place] + torch.floor(within * (edges[place + 1] - edges[place]))
    return days.where(~left, float(LAPSE_DAYS)), left


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
    """Shoppers from a folder of `benchmarks.finetune`; the options are the fields of `ShopperOptions`.

    `compiled` has the networks fused by `torch.compile`: the first steps take a minute longer, and on a CPU the others
    are hardly faster.

    Errors: ValueError on a bad option, or where the folder holds fewer than `ensemble` models; FileNotFoundError where
    a file is missing.
    """
    check_ensemble(ensemble)
    check_pessimism(pessimism)
    options = ShopperOptions(population, store_promotions, start_days, examination, ensemble, pessimism, precision)
    shop = load_shop(Path(folder).resolve(), device, population, start_days, ensemble, compiled)
    return LearnedShopper(shop, slate_size, options)
