"""Households on whole visits: page after page, with a cart.

A step is a page. At the start of a visit the household has a list: what it would buy whatever it is
shown, repeat purchases and new items of the household model (`household.population`). On every page
it answers a slate of promoted items. An item that it has not met in this visit is put into the cart
with chance

    p = looks * sigmoid(logit + [page is cart] (c(cart) - c(nothing)))

where logit is that of the household model, and c the logit of the completion (`carts.model`) with
the cart and without one. `looks` is 1, but `stray` during a search for items of another category.
An item has one threshold a visit, so that showing it again is no second chance: of an item that was
met before with chance q, or would be bought unpromoted with chance q and is not on the list, it is
(p - q) / (1 - q) above 0, and 0 otherwise. What is on the list is put into the cart when it is
looked at, and what is in the cart is not put there again.

Pages after the first are searches, cart pages or home pages. A search is for an item on the list
that is not in the cart, by the words of its type ("known-item search"): it is put into the cart by
the search, if the slate does not show it. After a page, the household checks out with the chance
that its basket, cart and list, is complete (`carts.checkout`), and after the last of `pages` in any
case. Cart and list are then bought, and the days until the next visit, the next store, and whether
there is a next visit are those of the household model. The log has no cart that was left behind, so
none is here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from recsim_env import checks
from recsim_env.shoppers import cold
from recsim_env.shoppers.base import Description
from recsim_env.shoppers.carts.config import CartVisitsConfig
from recsim_env.shoppers.carts.shop import CartShop, load_cart_shop
from recsim_env.shoppers.household.memory import packed
from recsim_env.shoppers.household.options import ShopperOptions
from recsim_env.shoppers.household.peaks import START_DAYS
from recsim_env.shoppers.household.population import LearnedShopper, told_portraits
from recsim_env.shoppers.household.shop import Shop, load_shop
from recsim_env.shoppers.household.states import REMEMBERED, LearnedState
from recsim_env.shoppers.visits.pages import CART, HOME, SCENARIOS, SEARCH, put_into
from recsim_env.shoppers.worlds import of_kind
from recsim_env.tensors import among, looked_up
from recsim_env.trees import pick, put
from recsim_env.types import Observation, Response

LISTED = 64
"""Most items on the list of a visit."""
DATA = Path(__file__).parents[2] / "data"
HOUSEHOLDS, COMPLETION = DATA / "complete_journey", DATA / "complete_journey_carts"
"""Folders of the shipped households and of the shipped completion."""
CERTAIN = 1.0 - 1e-6
"""Largest chance that an item was met with, so that what is left of it can be told."""


@dataclass
class CartState(LearnedState):
    """The hidden state of B households in a visit.

    Shapes: B households, L places of a cart, J items on a list, K positions, G pages.
        scenario: (B,) int64 place in `SCENARIOS`
        page: (B,) int64, 0 for the first page of a visit
        cart: (B, L) int64 in the order in which they came, padded with -1
        wanted: (B, J) int64 the list, padded with -1
        sought: (B,) int64 the item that is searched for, -1 outside of searches
        found: (B, G) int64 items that searches put into the cart, -1 elsewhere
        met: (B, G * K) int64 items that were shown in this visit, -1 elsewhere
        chance: (B, G * K) float32 the chance with which each was met
    """

    scenario: Tensor
    page: Tensor
    cart: Tensor
    wanted: Tensor
    sought: Tensor
    found: Tensor
    met: Tensor
    chance: Tensor


class CartShopper(LearnedShopper):
    """Fitted households whose visits have pages; see the module.

    The observation holds what that of a `LearnedShopper` holds, and

        scenario: (1,) int64, 0 home, 1 search, 2 cart (`pages.SCENARIOS`)
        page:     (1,) int64, 0 for the first page of a visit
        cart:     (L,) int64, the items in the cart in the order in which they came, -1 padded
        query:    (E,) float32, the vector of the words that are searched for, of unit length; 0
            outside of searches

    Purchases are told at the page of the checkout: `Response.purchases` for what that page put into
    the cart, `Response.carried` for what earlier slates had put there, and `Response.basket` for
    everything, with what was searched for or on the list.

    Args:
        shop: models and tables of the households
        carts: the completion
        slate_size: number of positions K
        options: how the households behave
        config: how a visit goes
        portraits: those of all shoppers of the log; None means that the shop is told nothing
        never_leave: whether nobody leaves; see `Shopper.staying`

    Raises:
        ValueError: If `slate_size` is no number of positions, or `options` has an examination.
    """

    tells_purchases = True
    replayable = False
    trusted = True

    def __init__(
        self,
        shop: Shop,
        carts: CartShop,
        slate_size: int,
        options: ShopperOptions,
        config: CartVisitsConfig,
        *,
        portraits: Tensor | None = None,
        never_leave: bool = False,
    ) -> None:
        super().__init__(shop, slate_size, options, portraits=portraits, never_leave=never_leave)
        self.config = of_kind("config", config, CartVisitsConfig)
        self._carts = carts
        self._usually_bought = self._most_new = None  # a visit of many pages may buy any number
        new = self._draws[2]
        self._arrival_draws = (REMEMBERED, new)
        # uniform numbers of a page: slate, end, next page, search, return, next list
        self._page_draws = (slate_size, 1, 1, 1, self._draws[3], REMEMBERED + new)
        self.start_draws += sum(self._arrival_draws)
        self.visit_draws = sum(self._page_draws)

    # ---- the methods of a shopper ----

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the space of each key of `observe`, for one shopper."""
        config, n = self.config, len(self.catalog)
        width = self._carts.queries.shape[1]
        return {
            **super().spaces(),
            "scenario": spaces.Box(0, len(SCENARIOS) - 1, (1,), np.int64),
            "page": spaces.Box(0, config.pages - 1, (1,), np.int64),
            "cart": spaces.Box(-1, n - 1, (config.cart_size,), np.int64),
            "query": spaces.Box(-1, 1, (width,), np.float32),
        }

    @torch.no_grad()
    def start(self, draws: Tensor) -> CartState:
        """Draw households uniformly from the population, on the first page of a visit."""
        who, arrival = draws.split([1, sum(self._arrival_draws)], dim=1)
        return self._begun(super().start(who), arrival)

    @torch.no_grad()
    def start_new(self, draws: Tensor) -> CartState:
        """Draw households likewise, and mask what they did before; their lists hold new items."""
        who, arrival = draws.split([1, sum(self._arrival_draws)], dim=1)
        return self._begun(super().start_new(who), arrival)

    def _begun(self, household: LearnedState, arrival: Tensor) -> CartState:
        own: dict[str, Any] = {
            one.name: getattr(household, one.name) for one in fields(LearnedState)
        }
        state = CartState(**(own | self._empty(len(arrival))))
        self._arrive(state, arrival)
        return state

    def observe(self, state: LearnedState) -> Observation:
        """Return what the shop knows of the household, and of the page that is asked for."""
        assert isinstance(state, CartState)
        words = looked_up(self._carts.query_of, state.sought.clamp(min=0))
        query = looked_up(self._carts.queries, words) * (state.sought >= 0).unsqueeze(1)
        return {
            **super().observe(state),
            "scenario": state.scenario.unsqueeze(1).clone(),
            "page": state.page.unsqueeze(1).clone(),
            "cart": state.cart.clone(),
            "query": query,
        }

    @torch.no_grad()
    def respond(
        self, state: LearnedState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        """Answer the slate, fill the cart, and turn the page or check out; `state` changes."""
        assert isinstance(state, CartState)
        click, end, which, what, back, arrival = draws.split(self._page_draws, dim=1)

        # the page: what is put into the cart, from the slate and by the search
        slates = slates.where(shown, -1)
        full, probability = self.chances(state, slates)
        clicks = click < probability
        before = state.cart
        cart, new = put_into(before, slates, clicks)
        searched = (state.sought >= 0).unsqueeze(1)
        state.cart, by_search = put_into(cart, state.sought.unsqueeze(1), searched)
        at = state.page.unsqueeze(1)
        state.found.scatter_(1, at, state.sought.unsqueeze(1).where(by_search, -1))
        places = at * self.slate_size + torch.arange(self.slate_size, device=self.device)
        state.met.scatter_(1, places, slates)
        state.chance.scatter_(1, places, full)

        # the end of the visit
        basket = torch.cat([state.cart, self._missing(state)], dim=1)
        ends = end.squeeze(1) < self.ending(state, basket)
        over = ends.unsqueeze(1)
        carried = before.where(over & ~among(before, state.found, len(self.catalog)), -1)
        bought = (basket >= 0).sum(dim=1) - (new & over).sum(dim=1)
        days, leaving = torch.zeros_like(state.day), torch.zeros_like(state.day)
        left = torch.zeros_like(ends)
        rows = ends.nonzero().flatten()
        if len(rows):
            done = pick(state, rows)
            told = self._leave_and_return(
                done, done.context(), basket[rows], clicks[rows], probability[rows], back[rows]
            )
            self._arrive(done, arrival[rows])
            put(state, rows, done)
            assert told.leaving is not None
            days[rows], leaving[rows], left[rows] = told.days, told.leaving, told.left

        # or the next page
        state.page = torch.where(ends, 0, state.page + 1)
        self._turn(state, ends, which.squeeze(1), what.squeeze(1))
        return Response(
            clicks,
            probability,
            left,
            days,
            (bought * ends).to(torch.float32),
            basket.where(over, -1),
            leaving,
            purchases=new & over,
            carried=carried,
        )

    def describe(self, state: LearnedState, row: int) -> Description:
        """Tell the page, the cart and the last purchases; the household's number is hidden."""
        assert isinstance(state, CartState)
        told = super().describe(state, row)
        told["date"] = f"{told['date']}, page {int(state.page[row]) + 1}"
        told["scenario"] = SCENARIOS[int(state.scenario[row])]
        if int(state.sought[row]) >= 0:
            told["query"] = self._carts.words[int(state.sought[row])]
        items = [item for item in state.cart[row].tolist() if item >= 0]
        told["cart"] = ", ".join(self._carts.words[item] for item in items) or "empty"
        return told

    # ---- the page ----

    def chances(self, state: CartState, slates: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the chances of slates (B, K), -1 where nothing is shown.

        Returns:
            The chance of an item that was not met before, and the chance now: (B, K) float32 each,
            0 where nothing is shown.
        """
        inside, real = state.inside(state.context()), slates >= 0
        promoted, plain = self._bernoulli(state, inside, slates, slates)
        logit = torch.logit(promoted.clamp(1e-9, CERTAIN)) + self.cart_shift(state, slates)
        category = self.catalog.category
        sought = looked_up(category, state.sought.clamp(min=0)).unsqueeze(1)
        other = looked_up(category, slates.clamp(min=0)) != sought
        stray = (state.sought >= 0).unsqueeze(1) & other
        looks = torch.where(stray, self.config.stray, 1.0) * real
        full = torch.sigmoid(logit) * looks

        # one threshold a visit
        same = (slates.unsqueeze(2) == state.met.unsqueeze(1)) & real.unsqueeze(2)
        met = (state.chance.unsqueeze(1) * same).amax(dim=2)
        everyone = torch.arange(len(slates), device=self.device)
        known = state.memory.slots_of(everyone, slates) != REMEMBERED
        met = torch.maximum(met, plain * known).clamp(max=CERTAIN)
        now = ((full - met) / (1 - met)).clamp(min=0.0)
        listed = among(slates, state.wanted, len(self.catalog)) & real
        now = looks.where(listed, now)
        now = now.masked_fill(among(slates, state.cart, len(self.catalog)), 0.0)
        return full, now * real

    def cart_shift(self, state: CartState, slates: Tensor) -> Tensor:
        """Compute what the cart adds to the logits of slates (B, K) on cart pages; 0 elsewhere."""
        carts, items = self._carts, slates.clamp(min=0)
        shift = torch.zeros(slates.shape, dtype=torch.float32, device=self.device)
        rows = (state.scenario == CART).nonzero().flatten()
        if not len(rows):
            return shift
        cart, shown, day = state.cart[rows], items[rows], state.day[rows]
        context = state.context()[rows]
        held, counts = state.memory.items[rows], state.memory.purchases()[rows]
        week = state.week[rows].unsqueeze(1)
        parts = (
            shown,
            state.memory.stats(rows.unsqueeze(1), shown, day.unsqueeze(1)),
            self.shop.promotions.item_context[week, shown],
            torch.ones_like(shown, dtype=torch.bool),
        )
        logits = []
        for inside in (cart, torch.full_like(cart, -1)):
            visit = carts.model.visit(carts.vectors, context, held, counts, inside)
            of_cart = carts.lift.of_carts(inside, shown)
            logits.append(carts.model(carts.vectors, visit, *parts, of_cart))
        shift[rows] = logits[0] - logits[1]
        return shift

    def ending(self, state: CartState, basket: Tensor) -> Tensor:
        """Compute the chance (B,) of the checkout after this page; basket (B, R) int64."""
        carts, context = self._carts, state.context()
        held, counts = state.memory.items, state.memory.purchases()
        inside = packed(basket)
        visit = carts.model.visit(carts.vectors, context, held, counts, inside)
        chance = torch.sigmoid(carts.model.complete(visit, context, inside))
        return chance.where(state.page + 1 < self.config.pages, 1.0)

    # ---- the visit ----

    def _empty(self, batch: int) -> dict[str, Tensor]:
        """Make the part of a state that belongs to a visit, before its list is drawn."""
        config, size = self.config, self.slate_size

        def nothing(*shape: int) -> Tensor:
            return torch.full((batch, *shape), -1, dtype=torch.int64, device=self.device)

        return {
            "scenario": nothing() + 1,
            "page": nothing() + 1,
            "cart": nothing(config.cart_size),
            "wanted": nothing(LISTED),
            "sought": nothing(),
            "found": nothing(config.pages),
            "met": nothing(config.pages * size),
            "chance": torch.zeros(
                batch, config.pages * size, dtype=torch.float32, device=self.device
            ),
        }

    def _arrive(self, state: CartState, draws: Tensor) -> None:
        """Begin a visit on the home page, with a list of its own; draws are `_arrival_draws`."""
        for name, value in self._empty(len(draws)).items():
            setattr(state, name, value)
        again, new = draws.split(self._arrival_draws, dim=1)
        inside = state.inside(state.context())
        nothing = torch.full(
            (len(draws), self.slate_size), -1, dtype=torch.int64, device=self.device
        )
        considered = self._considered(state, nothing, again)
        _, repeat = self._bernoulli(state, inside, nothing, considered)
        bought = considered.where(again < repeat, -1)
        wanted = packed(torch.cat([bought, self._new_items(state, inside, nothing, new)], dim=1))
        width = min(wanted.shape[1], LISTED)
        state.wanted[:, :width] = wanted[:, :width]

    def _missing(self, state: CartState) -> Tensor:
        """Find what is on the list and not in the cart: (B, J) int64, -1 elsewhere."""
        inside = among(state.wanted, state.cart, len(self.catalog))
        return state.wanted.where(~inside, -1)

    def _turn(self, state: CartState, arrived: Tensor, which: Tensor, what: Tensor) -> None:
        """Choose home, search or cart for the page that comes, in place.

        Args:
            state: the visits; those that `arrived` (B,) bool have begun and are at home
            arrived: see there
            which: (B,) float32, uniform, for the scenario
            what: (B,) float32, uniform, for the item that is searched for
        """
        missing = packed(self._missing(state))
        number = (missing >= 0).sum(dim=1)
        searches = (which < self.config.search) & (number > 0) & ~arrived
        looks = which < self.config.search + self.config.cart_page
        looks = looks & ~(which < self.config.search) & (state.cart[:, 0] >= 0) & ~arrived
        state.scenario = HOME + SEARCH * searches.long() + CART * looks.long()
        place = (what * number).long().clamp(max=missing.shape[1] - 1)
        chosen = missing.gather(1, place.unsqueeze(1)).squeeze(1)
        state.sought = chosen.where(searches, -1)


def load_carts(
    device: torch.device,
    slate_size: int = 10,
    *,
    households: str | Path = HOUSEHOLDS,
    completion: str | Path = COMPLETION,
    config: CartVisitsConfig | None = None,
    population: str = "train",
    start_days: tuple[int, int] = START_DAYS,
    new_items: float = 0.0,
    portrait: bool = False,
) -> CartShopper:
    """Open the households of a folder with a fitted completion, for whole visits.

    Args:
        device: where the shoppers live
        slate_size: number of positions K
        households: folder of `benchmarks.data.finetune`
        completion: folder of `benchmarks.shopper.carts`
        config: how a visit goes; None means the defaults
        population: see `ShopperOptions`
        start_days: see there
        new_items: share of items, from 0 to 1, that nobody knows yet; see `LearnedShopper`. The
            completion of carts keeps what it knows of them
        portrait: whether the shop is told who the household is; see there

    Raises:
        FileNotFoundError: If a file is missing.
        TypeError: If a folder is no path.
        ValueError: If an option is bad, or what a folder holds is broken or does not fit.
    """
    options = ShopperOptions(population=population, start_days=start_days)
    folder = checks.path("households", households).resolve()
    of_items = cold.share("new_items", new_items)
    shop = load_shop(folder, device, options.population, options.start_days, new_items=of_items)
    carts = load_cart_shop(checks.path("completion", completion).resolve(), folder, device)
    settled = CartVisitsConfig() if config is None else config
    portraits = told_portraits(folder, portrait)
    return CartShopper(shop, carts, slate_size, options, settled, portraits=portraits)
