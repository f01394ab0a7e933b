"""A market whose calendar moves: other interests, items and shoppers than there were before.

`recsim_env.shoppers.drift` says how. The calendar day of a shopper is the day on which it came
first plus the days since; a block of days that is served begins at `first_day`. Where nothing
moves, everything is as in `MarketShopper`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.shoppers.base import Description, counted
from recsim_env.shoppers.drift import (
    Drift,
    NewItems,
    calendar_of,
    checked_new_items,
    drift_of,
    fewest_there,
    lives,
)
from recsim_env.shoppers.market import MARKET, MarketConfig, MarketShopper, MarketState
from recsim_env.shoppers.worlds import of_kind
from recsim_env.tensors import looked_up
from recsim_env.types import MAX_DAYS


@dataclass
class DriftingState(MarketState):
    """The hidden state of B shoppers of a market whose calendar moves."""

    arrived: Tensor
    """(B,) int64, the day of the shop on which each came first."""


class DriftingMarket(MarketShopper):
    """The population of a market that moves by the calendar of the shop.

    An item that left, or did not enter yet, is no candidate. The observation is that of a
    `MarketShopper`. With `new_items` the items that enter after the first day are its new ones.

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, from 1 to the number of items.
        config: The market's parameters.
        world: The seed of the catalogue, of the items' quality and of the calendar.
        never_leave: Whether nobody leaves; see `Shopper.staying`.
        drift: How the market moves.
        new_items: The share of the items that enter, in place of that of `drift`, or such a share
            by the day on which they do; None means those of `drift`.
        first_day: The day of the shop on which shoppers come first.

    Raises:
        ValueError: If an argument is out of its range, or if fewer than K items are there on a day.
    """

    trusted = True

    def __init__(
        self,
        device: torch.device,
        slate_size: int = 10,
        *,
        config: MarketConfig = MARKET,
        world: int = 0,
        never_leave: bool = False,
        drift: Drift | None = None,
        new_items: NewItems | None = None,
        first_day: int = 0,
    ) -> None:
        self.drift = drift_of("drift", drift)
        self.first_day = checks.whole("first_day", first_day, 0, int(MAX_DAYS))
        if new_items is not None:
            new_items = checked_new_items("new_items", new_items)
            self.drift = _entering(self.drift, new_items)
        super().__init__(device, slate_size, config=config, world=world, never_leave=never_leave)
        entered = self._check_supply(new_items)
        if new_items is not None:  # the simulator tells which these are
            self.new_items = (entered > self.first_day).to(self.device)
        self.calendar = calendar_of(
            self.drift,
            self.world,
            items=config.items,
            width=config.width,
            categories=config.categories,
            new_items=new_items,
        ).to(self.device)
        self.start_draws += 1
        if self.calendar.available is not None:
            self.max_candidates = self.calendar.available.items.shape[1]

    def _check_supply(self, new_items: NewItems | None) -> Tensor:
        """Return the days (N,) on which items enter.

        Raises:
            ValueError: If fewer items are there on a day than a slate has positions.
        """
        entered, left = lives(self.drift, self.world, self.config.items, new_items)
        fewest = fewest_there(entered, left, self.first_day)
        if fewest >= self.slate_size:
            return entered
        name, value = ("new_items", new_items) if new_items is not None else ("drift", self.drift)
        raise ValueError(
            f"{name} is {checks.told(value)}, but that leaves {counted(fewest, 'item')} on a day, "
            f"and it must leave {self.slate_size} or more for a slate."
        )

    # ---- the methods of a shopper ----------------------------------------------------------------

    def start(self, draws: Tensor) -> DriftingState:
        """Make newcomers on the days on which they come first, with favourites of these days."""
        draws, when = draws[:, :-1], draws[:, -1]
        days = self.drift.arrival_days
        arrived = self.first_day + (when * days).long().clamp(max=days - 1)
        if self.calendar.favourites is not None:
            draws = self._with_favourites(draws, arrived, self.calendar.favourites)
        return DriftingState(**vars(super().start(draws)), arrived=arrived)

    def _with_favourites(self, draws: Tensor, arrived: Tensor, chances: Tensor) -> Tensor:
        """Replace the uniform numbers (B, ..) that choose favourite categories.

        Categories that are likelier on a day take a larger part of [0, 1) there, and a number in
        the part of category g becomes the middle of the g-th of equal parts.
        """
        count, groups = self.config.favourites, self.config.categories
        upto = looked_up(chances, self._rows(arrived))
        chosen = torch.searchsorted(upto, draws[:, :count].contiguous(), right=True)
        middle = (chosen.clamp(max=groups - 1) + 0.5) / groups
        return torch.cat([middle.to(draws.dtype), draws[:, count:]], dim=1)

    def candidates(self, state: MarketState) -> Tensor:
        """Return the items that are there on the day of each shopper: (B, C) int64."""
        if self.calendar.available is None:
            return super().candidates(state)
        return self.calendar.available.candidates(self.calendar_day(state).float())

    def on_offer(self, state: MarketState, items: Tensor) -> Tensor:
        """Tell which items are there on the day of each shopper."""
        if self.calendar.available is None:
            return super().on_offer(state, items)
        return self.calendar.available.offers(self.calendar_day(state).float(), items)

    def when_and_where(self, state: MarketState) -> dict[str, Tensor]:
        """Return the day of the shop, and its week."""
        day = self.calendar_day(state)
        return {"day": day, "week": day // 7 + 1}

    def describe(self, state: MarketState, row: int) -> Description:
        """Tell what a market tells, and the day of the shop."""
        told = super().describe(state, row)
        day = int(self.calendar_day(state)[row])
        return told | {"date": f"{told['date']}, day {day} of the shop"}

    # ---- the truth, for oracles ------------------------------------------------------------------

    def log_odds(self, state: MarketState, items: Tensor, interest: Tensor | None = None) -> Tensor:
        """Return the log-odds of a click on items (B, P) that are looked at: (B, P) float32.

        Args:
            state: The hidden state.
            items: (B, P) int64.
            interest: (B, D) what moves the shopper now; None means `state.interest`.
        """
        calendar, day = self.calendar, self._rows(self.calendar_day(state))
        moved = state.interest if interest is None else interest
        if calendar.fashion is not None:
            fashion = looked_up(calendar.fashion, day)
            moved = torch.nn.functional.normalize(moved + fashion, dim=1)
        found = super().log_odds(state, items, moved)
        if calendar.popularity is not None:
            found = found + _of_day(calendar.popularity, day, items)
        if calendar.season is not None:
            category = looked_up(self.catalog.category, items)
            found = found + _of_day(calendar.season, day, category)
        return found

    def calendar_day(self, state: MarketState) -> Tensor:
        """Return the day of the shop of each shopper: (B,) int64."""
        assert isinstance(state, DriftingState)
        return state.arrived + state.day.long()

    def _rows(self, day: Tensor) -> Tensor:
        """Return the rows (B,) of the calendar's tables; the last day lasts for ever."""
        return day.clamp(max=self.drift.days - 1)


def _of_day(table: Tensor, day: Tensor, columns: Tensor) -> Tensor:
    """Return `table[day, columns]` of a table (T, S), days (B,) and columns (B, P): (B, P)."""
    return table.view(-1).take(day.unsqueeze(1) * table.shape[1] + columns)


def _entering(drift: Drift, new_items: NewItems) -> Drift:
    """Return a drift with another share of items that enter.

    Raises:
        ValueError: If that many cannot enter beside those that leave.
    """
    share = sum(new_items.values()) if isinstance(new_items, Mapping) else new_items
    if share + drift.leaving > 1:
        raise ValueError(
            f"new_items is {checks.told(new_items)}, but it must be from 0 to "
            f"{1 - drift.leaving:g} where a share of {drift.leaving} leaves."
        )
    return replace(drift, entering=float(share))


def make_market(
    device: torch.device,
    slate_size: int = 10,
    *,
    config: MarketConfig = MARKET,
    world: int = 0,
    alike: bool = False,
    drift: Drift | str | None = None,
    new_items: NewItems | None = None,
    first_day: int = 0,
) -> MarketShopper:
    """Make the shoppers of a market.

    Args:
        device: `cpu` or `cuda`.
        slate_size: K, from 1 to the number of items.
        config: The market's parameters.
        world: The seed of its catalogue, and of how it moves.
        alike: Whether every shopper is as the median one; by default they differ in satiation,
            variety-seeking, patience and depth.
        drift: How the market moves by the calendar of the shop, or the name of a drift in
            `recsim_env.shoppers.drift.DRIFTS`; None means that nothing moves.
        new_items: The share of the items that enter only later, from 0 to 1, spread over
            `Drift.item_days`; or such a share by the day on which they enter, as in {7: 0.1}. None
            means the share of `drift`.
        first_day: The day of the shop on which an episode begins, where `drift.arrival_days` is 1;
            otherwise it begins on one of so many days from there on.

    Raises:
        ValueError: If `config` is no MarketConfig, `world` no whole number from 0 to 2**32 - 1,
            `alike` no flag, `drift` no drift, a share not from 0 to 1, `first_day` no whole number
            of 0 or more, or if a slate is larger than the catalogue of some day.
    """
    config = of_kind("config", config, MarketConfig)
    config = config.alike() if checks.flag("alike", alike) else config
    first_day = checks.whole("first_day", first_day, 0, int(MAX_DAYS))
    options: dict[str, Any] = {"config": config, "world": world}
    if drift is None and new_items is None and first_day == 0:
        return MarketShopper(device, slate_size, **options)
    return DriftingMarket(
        device,
        slate_size,
        **options,
        drift=drift_of("drift", drift),
        new_items=new_items,
        first_day=first_day,
    )
