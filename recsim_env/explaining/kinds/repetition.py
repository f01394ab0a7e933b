"""Repetition: that an item was shown in the last visits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, at_own_items, cleared, register_kind
from recsim_env.explaining.markets import CLOSED, WITH_MARKET, market_of
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.session.population import SessionPopulation


@register_kind("repetition")
class Repetition(Kind):
    """Fatigue of an item that was shown before; a key is the item."""

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether items wear out."""
        return isinstance(shopper, (*CLOSED, SessionPopulation))

    def find(self, case: Case) -> Found:
        """Find the items of the slate that were shown lately."""
        question = case.question
        met = _shown_before(case).gather(1, question.slates) > 0
        return Found.pairs(question.slates, question.shown & met)

    def remove(self, world: World, keys: Tensor) -> None:
        """Let the item be as if it had never been shown."""
        shopper, state = world.case.shopper, world.state
        if isinstance(shopper, SessionPopulation):
            hit = (keys >= 0).nonzero().flatten()
            state.memory.item[hit, :, keys[hit]] = 0
            return
        held = market_of(shopper, state) if isinstance(shopper, WITH_MARKET) else state
        held.fatigue = cleared(held.fatigue, keys)

    def speaks(self, case: Case, found: Found) -> Tensor:
        """Tell that an item counts at its own position."""
        return at_own_items(case, found)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say that it was shown."""
        return "shown lately"

    def item(self, case: Case, row: int, key: int) -> int:
        """Return the item itself."""
        return key


def _shown_before(case: Case) -> Tensor:
    """Return how much each item was shown lately, (B, N) float32."""
    if isinstance(case.shopper, SessionPopulation):
        amounts: Tensor = case.state.memory.item.sum(dim=1)
        return amounts
    if isinstance(case.shopper, WITH_MARKET):
        return market_of(case.shopper, case.state).fatigue
    fatigue: Tensor = case.state.fatigue
    return fatigue
