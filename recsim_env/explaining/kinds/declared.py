"""What a newcomer declared of its interest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recsim_env import trees
from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.session.population import SessionPopulation
from recsim_env.shoppers.session.starts import newcomers


@register_kind("declared")
class Declared(Kind):
    """What a shopper declared before the first visit, as if it had been zeros.

    It moves fitted shoppers, who know themselves by it; it is a cause at the first slate, because
    later it is mixed with what the clicks told. In a closed-form market it moves nobody: there it
    only tells the shop of the interest.
    """

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether the model reads it."""
        return isinstance(shopper, SessionPopulation) and shopper.declared.shape[1] > 0

    def find(self, case: Case) -> Found:
        """Find the shoppers before their first slate."""
        return Found.ones(case.state.memory.visits == 0)

    def remove(self, world: World, keys: Tensor) -> None:
        """Begin anew with shoppers who declared nothing."""
        shopper, state = world.case.shopper, world.state
        assert isinstance(shopper, SessionPopulation)
        fresh = newcomers(
            shopper.catalog,
            shopper.members,
            torch.zeros_like(state.declared),
            state.first_day,
            state.normal,
            shopper.slate_size,
            shopper.precision,
        )
        fresh = replace(fresh, day=state.day, since=state.since)
        rows = (keys >= 0).nonzero().flatten()
        trees.put(state, rows, trees.pick(fresh, rows))

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say that it was declared."""
        return "what was declared at registration"
