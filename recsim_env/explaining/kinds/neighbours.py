"""The neighbours on the slate: what an item does to the answers to the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.household.population import LearnedShopper
from recsim_env.shoppers.market import ClosedMarket
from recsim_env.shoppers.regulars.population import RegularsShopper
from recsim_env.shoppers.session.population import SessionPopulation

ONE_BY_ONE = (ClosedMarket, RegularsShopper, SessionPopulation, LearnedShopper)
"""Shoppers whose answer to an item depends on no other item of the slate."""


@register_kind("neighbours")
class Neighbour(Kind):
    """An item of the slate, as if its position were empty; a key is the position.

    It is the effect of showing the item on the responses to the others.
    """

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether the answer to an item may depend on others."""
        return not isinstance(shopper, ONE_BY_ONE)

    def find(self, case: Case) -> Found:
        """Find what is shown."""
        shown = case.question.shown
        places = torch.arange(shown.shape[1], device=shown.device).expand(shown.shape)
        return Found.pairs(places, shown)

    def remove(self, world: World, keys: Tensor) -> None:
        """Leave the position empty."""
        question = world.question
        places = torch.arange(question.shown.shape[1], device=keys.device)
        shown = question.shown & (places != keys.unsqueeze(1))
        world.question = replace(question, shown=shown)

    def speaks(self, case: Case, found: Found) -> Tensor:
        """Tell that an item is a cause at the other positions."""
        places = torch.arange(case.question.shown.shape[1], device=found.keys.device)
        return places != found.keys.unsqueeze(1)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say that it is on the slate too."""
        return "on the same slate"

    def item(self, case: Case, row: int, key: int) -> int:
        """Return the item at the position."""
        return int(case.question.slates[row, key])
