"""Promotions: where a store places an item, and what is off a bundle."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, at_own_items, register_kind
from recsim_env.logs.complete_journey.sources import DISPLAYS, FACTS, MAILERS
from recsim_env.logs.facts import LogFacts
from recsim_env.logs.placements import display_of, mailer_of
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.household.population import LearnedShopper


@register_kind("promotion")
class Promotion(Kind):
    """A placement on display or in the mailer, where a key is the item; or a discount, key 0."""

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether there are placements or discounts."""
        return isinstance(shopper, LearnedShopper) or len(shopper.discounts) > 1

    def find(self, case: Case) -> Found:
        """Find the items of the slate that are promoted, and bundles at a discount."""
        question = case.question
        if question.discount is not None:
            return Found.ones(question.discount > 0)
        return Found.pairs(question.slates, question.shown & (placements(case) > 0))

    def remove(self, world: World, keys: Tensor) -> None:
        """Let the item stand on its shelf and in no mailer, or the bundle cost what it costs."""
        shopper, question = world.case.shopper, world.question
        if question.discount is not None:
            discount = question.discount.where(keys < 0, 0.0)
            world.question = replace(question, discount=discount)
            return
        assert isinstance(shopper, LearnedShopper)
        # every row gets a store of its own behind the others, where the item is not promoted
        if world.placed is None:
            placement = shopper.shop.promotions.placement
            world.placed = placement[world.state.row].clone()
            world.state.row = len(placement) + torch.arange(len(world), device=keys.device)
        hit = (keys >= 0).nonzero().flatten()
        world.placed[hit, keys[hit]] = 0
        world.last("promotion", _place)

    def speaks(self, case: Case, found: Found) -> Tensor:
        """Tell that a placement counts at the item's own position, and a discount everywhere."""
        if case.question.discount is not None:
            return super().speaks(case, found)
        return at_own_items(case, found)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say where the item is placed, or what is off."""
        question, shopper = case.question, case.shopper
        if question.discount is not None:
            return f"{float(question.discount[row]):.0%} off the whole"
        assert isinstance(shopper, LearnedShopper)
        code = shopper.shop.promotions.placement[case.state.row[row], key].long()
        return placement_in_words(code, shopper.facts)

    def item(self, case: Case, row: int, key: int) -> int:
        """Return the item of a placement."""
        return key if case.question.discount is None else -1


def _place(world: World) -> None:
    """Let every row of a world answer in its own store."""
    placed = world.placed
    assert placed is not None

    def there(asked: Shopper[Any]) -> Shopper[Any]:
        """Copy the shoppers with the stores of this world behind their own."""
        assert isinstance(asked, LearnedShopper)
        stores, others = len(asked.shop.promotions.placement), asked._placement

        def placement(row: Tensor, items: Tensor) -> Tensor:
            own = placed[(row - stores).clamp(min=0), items]
            return own.where(row >= stores, others(row.clamp(max=stores - 1), items))

        other = copy.copy(asked)
        other._placement = placement  # type: ignore[method-assign]
        return other

    world.change(torch.ones_like(world.rows).bool(), there)


def placements(case: Case) -> Tensor:
    """Return the placement of each item of the slates, (B, K) int64."""
    assert isinstance(case.shopper, LearnedShopper)
    row = case.state.row.unsqueeze(1)
    codes: Tensor = case.shopper.shop.promotions.placement[row, case.question.slates]
    return codes.long()


def placement_in_words(code: Tensor, facts: LogFacts) -> str:
    """Say where a store places an item; by numbers where the log has no words for them."""
    mailers = facts.placements[1]
    display, mailer = int(display_of(code, mailers)), int(mailer_of(code, mailers))
    known = facts.placements == FACTS.placements and facts.day_zero == FACTS.day_zero
    displays = list(DISPLAYS.values()) if known else list(map(str, range(facts.placements[0])))
    pages = list(MAILERS.values()) if known else list(map(str, range(mailers)))
    told = [f"on display ({displays[display]})"] if display else []
    told += [f"in the mailer ({pages[mailer]})"] if mailer else []
    return " and ".join(told)
