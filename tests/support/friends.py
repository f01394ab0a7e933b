"""Shoppers whose answer to an item depends on its neighbours, in a form that is known.

A shown item is clicked with the chance 0.1 + 0.2 n, where n is the number of other shown items of
its category.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.shoppers.base import Shopper
from recsim_env.types import Response
from tests.support.toys import toy_catalog

ALONE, FRIEND = 0.1, 0.2


@dataclass
class FriendsState:
    """B shoppers without a past."""

    day: Tensor  # (B,) float32


class Friends(Shopper[FriendsState]):
    """Shoppers who like items that come with others of their category."""

    def __init__(self, slate_size: int = 3) -> None:
        super().__init__(
            toy_catalog(12, 3, 4), slate_size, device=torch.device("cpu"), visit_draws=slate_size
        )

    def start(self, draws: Tensor) -> FriendsState:
        return FriendsState(torch.zeros(len(draws)))

    def respond(
        self, state: FriendsState, slates: Tensor, shown: Tensor, draws: Tensor
    ) -> Response:
        category = self.catalog.category[slates]
        alike = (category.unsqueeze(2) == category.unsqueeze(1)) & shown.unsqueeze(1)
        number = alike.sum(dim=2) - 1
        probability = (ALONE + FRIEND * number).where(shown, 0.0)
        state.day += 1
        one, never = torch.ones_like(state.day), torch.zeros_like(state.day).bool()
        return Response(draws < probability, probability, never, one, 0 * one)
