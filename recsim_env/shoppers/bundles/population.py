"""The shoppers of a market who are offered one bundle a visit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.noise import normal
from recsim_env.shoppers.base import (
    FEWEST,
    Description,
    Shopper,
    checked_discounts,
    counted,
    is_bundle,
)
from recsim_env.shoppers.bundles.choice import MOST_ITEMS, Chances, chances, drawn
from recsim_env.shoppers.bundles.complements import pairs_of
from recsim_env.shoppers.bundles.config import BUNDLES, BundleConfig
from recsim_env.shoppers.market import MarketShopper, MarketState
from recsim_env.shoppers.worlds import of_kind
from recsim_env.tensors import looked_up
from recsim_env.types import Observation, Response, best_device

DISCOUNTS = (0.0, 0.1, 0.2, 0.3)
"""Levels of discount by default: none, and what a grocer's promotions usually take off."""
OFFERED, TAKEN = 0, 1
"""Columns of the observation `offers`."""


@dataclass
class BundleState:
    """The hidden state of B shoppers.

    Shapes: L levels of discount.
    """

    market: MarketState
    """Interest, satiation, fatigue and traits."""
    sensitivity: Tensor
    """(B,) float32, what a unit of the logarithm of a price costs in log-odds."""
    offers: Tensor
    """(B, L, 2) float32, bundles offered at each level, and those taken whole."""


class BundleShopper(Shopper[BundleState]):
    """The population of a market where the slate is one bundle.

    They are the shoppers of `recsim_env.shoppers.market`, whose clicks follow from baskets instead
    of positions: see `recsim_env.shoppers.bundles.choice` for the model. With the log-odds l_i of
    the market, the price p_i, the mean m of log prices, the shopper's sensitivity s to prices and
    the discount d,

        u_i  = l_i - s (log p_i - m)
        c_ij = complement where the categories go together, -substitute where they are the same
        r    = -s n log(1 - d), for n items shown: each of them costs 1 - d of its price

    What is taken is bought at once, so that clicks and purchases are the same. Whoever takes
    nothing is unsatisfied, as whoever clicks nothing in the market. A bundle of fewer than two
    items cannot be taken whole, and then no discount holds.

    The observation holds the keys of a `MarketShopper`, and

        offers: (L, 2) float32, how many bundles, of two items or more, the shopper was offered at
            each level of discount, and how many of them were taken whole

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, from 2 to 8.
        config: The parameters.
        world: The seed of the catalogue, of the items' quality and of what goes together.
        discounts: The levels of discount, shares of the price that rise from 0.
        never_leave: Whether nobody leaves; see `Shopper.staying`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    tells_leaving = True
    tells_purchases = True
    trusted = True

    def __init__(
        self,
        device: torch.device,
        slate_size: int = 4,
        *,
        config: BundleConfig = BUNDLES,
        world: int = 0,
        discounts: Sequence[float] = DISCOUNTS,
        never_leave: bool = False,
    ) -> None:
        self.config = of_kind("config", config, BundleConfig)
        size = checks.whole("slate_size", slate_size, FEWEST, MOST_ITEMS)
        self.market = MarketShopper(best_device(device), size, config=config.market, world=world)
        self.discounts = checked_discounts("discounts", discounts)
        super().__init__(
            self.market.catalog,
            size,
            device=self.market.device,
            start_draws=self.market.start_draws + 1,
            visit_draws=2 + config.market.width,
            never_leave=never_leave,
        )
        categories = len(self.catalog.categories)
        self.pairs = pairs_of(config, categories, self.market.world).to(self.device)
        price = self.catalog.price.log()
        self._dear = price - price.mean()
        self._levels = torch.tensor(self.discounts, dtype=torch.float32, device=self.device)

    # ---- the methods of a shopper ----

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the spaces of `observe` for one shopper."""
        offers = gymnasium.spaces.Box(0, np.inf, (len(self.discounts), 2), np.float32)
        return {**self.market.spaces(), "offers": offers}

    def start(self, draws: Tensor) -> BundleState:
        """Make newcomers of the market, each with a sensitivity to prices of its own."""
        config, of_market = self.config, draws[:, : self.market.start_draws]
        moved = config.sensitivity_spread * normal(draws[:, -1])
        nothing = torch.zeros(len(draws), len(self.discounts), 2, device=self.device)
        return BundleState(
            self.market.start(of_market), config.sensitivity * moved.exp(), nothing.float()
        )

    def on_offer(self, state: BundleState, items: Tensor) -> Tensor:
        """Tell that every item may be shown."""
        return items >= 0

    def observe(self, state: BundleState) -> Observation:
        """Return what the shop knows of the shopper, and how its offers were taken."""
        return {**self.market.observe(state.market), "offers": state.offers.clone()}

    def respond(self, state: BundleState, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Answer bundles without a discount."""
        return self.respond_to_offer(state, slates, shown, draws, torch.zeros_like(draws[:, 0]))

    def respond_to_offer(
        self, state: BundleState, slates: Tensor, shown: Tensor, draws: Tensor, discount: Tensor
    ) -> Response:
        """Take the whole, a part or nothing, and come back tomorrow or never."""
        basket_draw, leave_draw, drift_draws = draws.split([1, 1, draws.shape[1] - 2], dim=1)
        found = self.chances(state, slates, shown, discount)
        taken, whole = drawn(found, basket_draw.squeeze(1), shown)
        looks = shown.float()  # a bundle is looked at as a whole
        leaving = self.market.move_on(state.market, slates, shown, looks, taken, drift_draws)
        left = (leave_draw.squeeze(1) < leaving) & (not self.never_leave)
        at_level = torch.eq(discount.unsqueeze(1), self._levels) & is_bundle(shown).unsqueeze(1)
        at_level = at_level.float()
        counts = torch.stack([at_level, at_level * whole.unsqueeze(1)], dim=2)
        state.offers = state.offers + counts
        day = state.market.day
        return Response(
            taken,
            found.item,
            left,
            days=torch.ones_like(day),
            elsewhere=torch.zeros_like(day),
            leaving=leaving,
            purchases=taken.clone(),
            purchase_probability=found.item.clone(),
            whole=whole,
            whole_probability=found.whole,
        )

    def describe(self, state: BundleState, row: int) -> Description:
        """Tell the bundles taken whole and the purchases by category; hidden: all traits."""
        told = self.market.describe(state.market, row)
        offered, whole = state.offers[row].sum(dim=0).long().tolist()
        lines = [line.replace(" click", " purchase", 1) for line in told["history"]]
        sensitivity = f"sensitivity to prices {float(state.sensitivity[row]):.2f}"
        return {
            **told,
            "taken whole before": f"{whole} of {counted(offered, 'bundle')}",
            "history": lines,
            "hidden": [sensitivity, *told["hidden"]],
        }

    def goes_together(self, items: list[int]) -> list[str]:
        """Tell which categories of a bundle go together, and which stand for each other."""
        groups = self.catalog.category[torch.tensor(items, dtype=torch.int64, device=self.device)]
        distinct = sorted(set(groups.tolist()))
        short = {group: self.catalog.category_name(group) for group in distinct}
        found = [
            f"{short[one]} goes with {short[other]}"
            for one, other in itertools.combinations(distinct, 2)
            if self.pairs[one, other] > 0
        ]
        alike = [
            f"{short[group]} more than once: one stands for another"
            for group in distinct
            if self.pairs[group, group] < 0 and int((groups == group).sum()) > 1
        ]
        return found + alike

    # ---- the truth, for oracles ----

    def utilities(self, state: BundleState, items: Tensor) -> Tensor:
        """Return the utility u of items (B, P) on their own, at their own price: (B, P) float32."""
        liked = self.market.log_odds(state.market, items)
        return liked - state.sensitivity.unsqueeze(1) * looked_up(self._dear, items)

    def chances(
        self, state: BundleState, slates: Tensor, shown: Tensor, discount: Tensor
    ) -> Chances:
        """Return the chance of every answer to bundles (B, K) at a discount (B,).

        `Chances.whole` is the rating of a combination given a history.
        """
        single = self.utilities(state, slates)
        return chances(single, self.pairs_in(slates), self.response(state, shown, discount), shown)

    def pairs_in(self, slates: Tensor) -> Tensor:
        """Return the utility of the pairs of items in slates (B, K): (B, K, K) float32."""
        category = looked_up(self.catalog.category, slates)
        return self.pairs[category.unsqueeze(2), category.unsqueeze(1)]

    def response(self, state: BundleState, shown: Tensor, discount: Tensor) -> Tensor:
        """Return what a discount (B,) adds to the utility of the whole: (B,) float32."""
        return price_response(state.sensitivity, shown, discount)


def price_response(sensitivity: Tensor, shown: Tensor, discount: Tensor) -> Tensor:
    """Return what lower prices of all items add to the utility of the whole: (B,) float32.

    Args:
        sensitivity: (B,) float32.
        shown: (B, K) bool, the items.
        discount: (B,) float32, the share that is off every price.
    """
    return -sensitivity * shown.sum(dim=1) * torch.log1p(-discount)


def make_bundles(
    device: torch.device,
    slate_size: int = 4,
    *,
    config: BundleConfig = BUNDLES,
    world: int = 0,
    alike: bool = False,
    discounts: Sequence[float] = DISCOUNTS,
) -> BundleShopper:
    """Make the shoppers of a market who are offered bundles.

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, the items of a bundle, from 2 to 8.
        config: The market's parameters.
        world: The seed of its catalogue and of what goes together.
        alike: Whether every shopper is as the median one; by default they differ in their traits.
        discounts: The levels of discount that an action can name, shares of the price that rise
            from 0; (0.0,) means that there are no discounts.

    Raises:
        ValueError: If an argument is out of its range.
    """
    config = of_kind("config", config, BundleConfig)
    config = config.alike() if checks.flag("alike", alike) else config
    return BundleShopper(device, slate_size, config=config, world=world, discounts=discounts)
