"""Shoppers of whole visits at work.

A step is a page. On a page of scenario x a shopper with interest u looks at position j = 0 .. K-1
with chance e^j, and clicks there on item i of category c with chance

    p = e^j sigmoid(base + interest u_x . v_i + quality_i - satiation g s_c - fatigue f_i
                    - price_click b r_i + [x is cart] (complement t_c - substitute o_c))

where u_x is u, and unit((1 - search_focus) u + search_focus m) during a search for the category
whose items lie around m. b is the shopper's sensitivity to prices, r_i the log of the item's price
over the usual one of its category (the geometric mean), t_c is 1 where c goes together with a
category in the cart (`pairs`) and o_c where c is in the cart itself. What is clicked is put into
the cart, if it is not there, with chance

    sigmoid(put + put_together (t_c - o_c) - price_put b r_i)

Then the visit ends with chance sigmoid(end + end_unsatisfied [no click on this page]), and with the
last of `pages` in any case. A visit that ends with n > 0 items in the cart ends with the checkout
with chance sigmoid(checkout + checkout_item (n - 1)), where all of them are bought; otherwise the
cart is abandoned, and empty at the next visit. Where the visit goes on, the next page is a search,
the cart if something is in it, or home.

Satiation, fatigue, drift and leaving are those of `recsim_env.shoppers.market`: what is left of
satiation and fatigue falls and interests drift from visit to visit, and at the end of a visit the
shopper may leave for good, out of boredom with all of its pages, or because nothing was clicked on
any of them. The next visit is one day later. Funnels of click and purchase with several pages in
one visit: Zhao et al. 2023, "KuaiSim", which has neither searches nor carts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.noise import normal
from recsim_env.shoppers.base import Description
from recsim_env.shoppers.market import ClosedMarket, MarketShopper, MarketState
from recsim_env.shoppers.visits.config import VISITS, VisitsConfig
from recsim_env.shoppers.visits.pages import CART, SCENARIOS, Pages, Visit, put_into
from recsim_env.shoppers.visits.pairs import complements, met
from recsim_env.shoppers.worlds import category_centres, of_kind
from recsim_env.tensors import looked_up
from recsim_env.types import Observation, Response


@dataclass
class VisitsState:
    """The hidden state of B shoppers."""

    market: MarketState
    """Interest, satiation and traits, and what the shop remembers."""
    visit: Visit
    """Page, scenario and cart."""
    sensitivity: Tensor
    """(B,) float32, how much prices move the shopper, 1 for the median one."""


class VisitsShopper(ClosedMarket[VisitsState]):
    """The population of a market of whole visits.

    Every item is a candidate on every page. The observation holds what that of a `MarketShopper`
    holds, and

        scenario: (1,) int64, 0 home, 1 search, 2 cart (`pages.SCENARIOS`)
        page:     (1,) int64, 0 for the first page of a visit
        cart:     (L,) int64, the items in the cart in the order in which they came, -1 padded
        query:    (D,) float32, the vector of what is searched for, of unit length; 0 outside of
            searches

    `Response.purchases` is told at the page of the checkout, for what that page put into the cart;
    what earlier pages put into it is `Response.carried`, and both together are `Response.basket`.

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, from 1 to the number of items.
        config: The market's parameters.
        world: The seed of the catalogue, of the items' quality and of the complements, from 0 to
            2**32 - 1.
        never_leave: Whether nobody leaves for good; see `Shopper.staying`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    tells_leaving = True
    tells_purchases = True
    trusted = True

    def __init__(
        self,
        device: torch.device,
        slate_size: int = 10,
        *,
        config: VisitsConfig = VISITS,
        world: int = 0,
        never_leave: bool = False,
    ) -> None:
        self.config = of_kind("config", config, VisitsConfig)
        self.market = MarketShopper(device, slate_size, config=config.market, world=world)
        width = config.market.width
        pages = Pages(config, category_centres(self.market.catalog))
        super().__init__(
            self.market.catalog,
            self.market.slate_size,
            device=self.market.device,
            start_draws=self.market.start_draws + 1 + pages.draws,
            visit_draws=2 * self.market.slate_size + 3 + width + pages.draws,
            never_leave=never_leave,
        )
        self._pages = pages
        together = complements(self.market.world, config.market.categories)
        self.together = together.float().to(self.device)
        """(G, G) float32, 1 for categories that go together."""
        self.dearness = _dearness(self.catalog)
        """(N,) float32, log of the price over the usual one of the category."""

    # ---- the methods of a shopper ----

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the spaces of `observe` for one shopper."""
        config, box = self.config, gymnasium.spaces.Box
        return {
            **self.market.spaces(),
            "scenario": box(0, len(SCENARIOS) - 1, (1,), np.int64),
            "page": box(0, config.pages - 1, (1,), np.int64),
            "cart": box(-1, len(self.catalog) - 1, (config.cart_size,), np.int64),
            "query": box(-1, 1, (config.market.width,), np.float32),
        }

    def start(self, draws: Tensor) -> VisitsState:
        """Make newcomers on the first page of their first visit."""
        sizes = [self.market.start_draws, 1, self._pages.draws]
        of_market, of_prices, of_page = draws.split(sizes, dim=1)
        market = self.market.start(of_market)
        visit = Visit.arriving(len(draws), self.config, self.device)
        self._pages.turn(visit, market.interest, of_page)
        spread = self.config.sensitivity_spread
        return VisitsState(market, visit, torch.exp(spread * normal(of_prices).squeeze(1)))

    def on_offer(self, state: VisitsState, items: Tensor) -> Tensor:
        """Tell that every item may be shown."""
        return items >= 0

    def observe(self, state: VisitsState) -> Observation:
        """Return what the shop knows of the shopper, and of the page that is asked for."""
        visit = state.visit
        return {
            **self.market.observe(state.market),
            "scenario": visit.scenario.unsqueeze(1).clone(),
            "page": visit.page.unsqueeze(1).clone(),
            "cart": visit.cart.clone(),
            "query": visit.query.clone(),
        }

    def respond(self, state: VisitsState, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Click, fill the cart, and turn the page, check out or go, as the module says."""
        config, market, visit, size = self.config, state.market, state.visit, self.slate_size
        sizes = [size, size, 1, 1, 1, config.market.width, self._pages.draws]
        click, put, end, pay, leave, drift, turn = draws.split(sizes, dim=1)

        # the page: clicks, and what goes into the cart
        looks = self.examined(state) * shown
        probability = looks * torch.sigmoid(self.log_odds(state, slates))
        clicks = click < probability
        wanted = clicks & (put < torch.sigmoid(self.put_log_odds(state, slates)))
        before = visit.cart
        cart, new = put_into(before, slates, wanted)
        sated, looked = self.market.boredom(market, slates, looks)
        visit.sated, visit.looks = visit.sated + sated, visit.looks + looked
        visit.clicked = visit.clicked | clicks.any(dim=1)

        # whether the visit ends, with the checkout or without, and whether it was the last one
        ends = end.squeeze(1) < self.ending(clicks)
        ends = ends | (visit.page + 1 >= config.pages)
        pays = ends & (pay.squeeze(1) < self.paying(cart))
        leaving = self.market.leaving(market, visit.sated, visit.looks, visit.clicked) * ends
        left = (leave.squeeze(1) < leaving) & (not self.never_leave)

        # what the page changes, and what the end of a visit does
        self.market.tire(market, slates, looks, clicks, begins=visit.page == 0)
        catalog, over = self.catalog, ends.unsqueeze(1)
        market.interest = self.market.drifted(market, drift).where(over, market.interest)
        market.profile.record(slates, shown, clicks, catalog.category, catalog.embedding)
        days = ends.to(torch.float32)
        market.day = market.day + days
        visit.cart, visit.page = cart.where(~over, -1), (visit.page + 1).where(~ends, 0)
        visit.sated, visit.looks = visit.sated.where(~ends, 0.0), visit.looks.where(~ends, 0.0)
        visit.clicked = visit.clicked & ~ends
        self._pages.turn(visit, market.interest, turn)
        paid = pays.unsqueeze(1)
        carried = before.where(paid, -1)
        return Response(
            clicks,
            probability,
            left,
            days=days,
            elsewhere=(carried >= 0).sum(dim=1).to(torch.float32),
            basket=cart.where(paid, -1),
            leaving=leaving,
            purchases=new & paid,
            carried=carried,
        )

    def describe(self, state: VisitsState, row: int) -> Description:
        """Tell the page, the cart and the clicks so far; hidden: traits and satiation."""
        visit, told = state.visit, self.market.describe(state.market, row)
        date = f"{told['date']}, page {int(visit.page[row]) + 1}"
        told |= {"date": date, "scenario": SCENARIOS[int(visit.scenario[row])]}
        sought = int(visit.sought[row])
        if sought >= 0:
            told["query"] = self.catalog.category_name(sought)
        texts = [self.catalog.text[item] for item in visit.cart[row].tolist() if item >= 0]
        told["cart"] = ", ".join(text.split("; ")[0] for text in texts) or "empty"
        hidden = told["hidden"]
        assert isinstance(hidden, list)
        sensitivity = f"sensitivity to prices {float(state.sensitivity[row]):.2f}"
        told["hidden"] = [f"{hidden[0]}, {sensitivity}", *hidden[1:]]
        return told

    # ---- the truth, for oracles ----

    def log_odds(self, state: VisitsState, items: Tensor, *, pairs: bool = True) -> Tensor:
        """Return the log-odds of a click on items (B, P) that are looked at: (B, P) float32.

        Args:
            state: The hidden state.
            items: (B, P) int64.
            pairs: Whether complements and substitutes count; without them it is what one believes
                who knows all but those.
        """
        config, market = self.config, state.market
        interest = self._pages.interest(state.visit, market.interest)
        fixed = self.market.log_odds(market, items, interest) - self._priced(
            state, items, config.price_click
        )
        if not pairs:
            return fixed
        together, inside = met(state.visit.cart, self.together, self.catalog.category)
        on_cart_page = (state.visit.scenario == CART).to(torch.float32).unsqueeze(1)
        beside = on_cart_page * (config.complement * together - config.substitute * inside)
        return fixed + beside.gather(1, looked_up(self.catalog.category, items))

    def put_log_odds(self, state: VisitsState, items: Tensor) -> Tensor:
        """Return the log-odds that clicked items (B, P) are put into the cart: (B, P) float32."""
        config = self.config
        together, inside = met(state.visit.cart, self.together, self.catalog.category)
        beside = config.put_together * (together - inside)
        of_items = beside.gather(1, looked_up(self.catalog.category, items))
        return config.put + of_items - self._priced(state, items, config.price_put)

    def ending(self, clicks: Tensor) -> Tensor:
        """Return the chance (B,) that the visit ends after a page, from its clicks (B, K)."""
        unsatisfied = (~clicks.any(dim=1)).to(torch.float32)
        return torch.sigmoid(self.config.end + self.config.end_unsatisfied * unsatisfied)

    def paying(self, cart: Tensor) -> Tensor:
        """Return the chance (B,) that a visit that ends with carts (B, L) ends at the checkout."""
        count = (cart >= 0).sum(dim=1).to(torch.float32)
        chance = torch.sigmoid(self.config.checkout + self.config.checkout_item * (count - 1))
        return chance * (count > 0)

    def examined(self, state: VisitsState) -> Tensor:
        """Return the chance to look at each position: (B, K) float32, 1 at the top."""
        return self.market.examined(state.market)

    def market_state(self, state: VisitsState) -> MarketState:
        """Return interest, satiation and traits."""
        return state.market

    def _priced(self, state: VisitsState, items: Tensor, weight: float) -> Tensor:
        """Return the log-odds (B, P) that prices take away."""
        return weight * state.sensitivity.unsqueeze(1) * looked_up(self.dearness, items)


def make_visits(
    device: torch.device,
    slate_size: int = 10,
    *,
    config: VisitsConfig = VISITS,
    world: int = 0,
    alike: bool = False,
    pages: int | None = None,
) -> VisitsShopper:
    """Make the shoppers of a market of whole visits.

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, from 1 to the number of items.
        config: The market's parameters.
        world: The seed of its catalogue and of what goes together.
        alike: Whether every shopper is as the median one; by default they differ in their traits.
        pages: Most pages of a visit; None means those of `config`.

    Raises:
        ValueError: If an argument is out of its range, `alike` no flag, or a slate is larger than
            the catalogue.
    """
    config = of_kind("config", config, VisitsConfig)
    if pages is not None:
        config = dataclasses.replace(config, pages=pages)
    config = config.alike() if checks.flag("alike", alike) else config
    return VisitsShopper(device, slate_size, config=config, world=world)


def _dearness(catalog: Catalog) -> Tensor:
    """Return the log of each price less its mean over the category: (N,) float32."""
    logs = catalog.price.log()
    zeros = torch.zeros(len(catalog.categories), dtype=torch.float32, device=catalog.device)
    count = zeros.index_add(0, catalog.category, torch.ones_like(logs))
    usual = zeros.index_add(0, catalog.category, logs) / count.clamp(min=1)
    return logs - looked_up(usual, catalog.category)
