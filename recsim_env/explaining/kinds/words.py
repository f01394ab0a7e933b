"""The words of the items: what their texts tell the model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recsim_env.explaining.case import Case, World
from recsim_env.explaining.kind import Found, Kind, register_kind
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.household.population import LearnedShopper
from recsim_env.shoppers.household.shop import Member


@register_kind("text")
class Words(Kind):
    """The texts of the shown items, as if they were empty; there is one key, 0.

    A household answers each item by itself, so the effect at a position is that of its own text.
    What was bought before keeps its words.
    """

    def has(self, shopper: Shopper[Any]) -> bool:
        """Tell whether the model reads texts."""
        return isinstance(shopper, LearnedShopper) and shopper.shop.model.config.use_text

    def find(self, case: Case) -> Found:
        """Find every shopper there is."""
        return Found.ones(torch.ones_like(case.question.shown[:, 0]))

    def remove(self, world: World, keys: Tensor) -> None:
        """Score the items without their texts."""
        world.change(keys >= 0, _wordless)

    def tell(self, case: Case, row: int, key: int) -> str:
        """Say that it is the text."""
        return "the words of its text"


def _wordless(shopper: Shopper[Any]) -> Shopper[Any]:
    """Return households who score items without their texts."""
    assert isinstance(shopper, LearnedShopper)
    other = copy.copy(shopper)
    members = tuple(_wordless_member(member) for member in shopper.shop.members)
    other.shop = replace(shopper.shop, members=members)
    return other


def _wordless_member(member: Member) -> Member:
    model = member.model
    vectors = model.items(text=torch.zeros_like(model.items.text))
    words = None if member.words is None else torch.zeros_like(member.words)
    parts = model.slate_head.items(vectors, model.items.known)
    return replace(member, item_parts=parts, words=words)
