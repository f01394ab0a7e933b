"""The position: that what stands lower is seen less."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.explaining.markets import market_of
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.household.population import LearnedShopper
from recsim_env.shoppers.market import ClosedMarket
from recsim_env.shoppers.regulars.population import RegularsShopper
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import SessionPopulation


@register_kind("position")
class Position(Kind):
    """The position, as if every one were looked at for certain; there is one key, 0."""

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether positions are overlooked."""
        if isinstance(shopper, LearnedShopper):
            return shopper.options.examination is not None
        return isinstance(shopper, (ClosedMarket, RegularsShopper, SessionPopulation))

    def find(self, case: Case) -> Found:
        """Find every shopper there is."""
        return Found.ones(torch.ones_like(case.question.shown[:, 0]))

    def remove(self, world: World, keys: Tensor) -> None:
        """Let every position be looked at."""
        shopper, state, hit = world.case.shopper, world.state, keys >= 0
        if isinstance(shopper, (LearnedShopper, SessionPopulation)):
            world.change(hit, _looking)
            return
        held = market_of(shopper, state) if isinstance(shopper, ClosedMarket) else state.traits
        held.examination = held.examination.where(~hit, 1.0)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Name the position to a person."""
        return "at position {position}"


def _looking(shopper: Shopper[Any]) -> Shopper[Any]:
    """Return fitted shoppers who look at every position."""
    other = copy.copy(shopper)
    if isinstance(other, LearnedShopper):
        other._examination = torch.ones_like(other._examination)
    elif isinstance(other, SessionPopulation):
        other.members = [_looking_member(member) for member in other.members]
    return other


def _looking_member(member: SessionShopper) -> SessionShopper:
    other, looks = copy.copy(member), member.log_looks
    certain = lambda state, temperament: torch.zeros_like(looks(state, temperament))  # noqa: E731
    object.__setattr__(other, "log_looks", certain)
    return other
