"""A cheap first look at all candidates of a CTR model, which tells the few that are worth ranking.

The network is asked once for each category and not for each item, as for an item of usual
popularity and taste that the shopper never bought. What the tables of the model say of item,
category and placement is added as it is, and popularity by one slope. Items that the shopper bought
before come before all others: their own history, which the glance does not see, decides about them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from policies.features import lookup_of_bought, squashed
from policies.observations import candidates_of
from policies.ordering import best_of
from policies.rankers.pair_features import (
    RankerCatalog,
    counted_history,
    log_of,
)
from recsim_env.logs.placements import display_of, mailer_of
from recsim_env.tensors import looked_up, places
from recsim_env.types import Observation

if TYPE_CHECKING:
    from policies.rankers.ctr import CTRModel

WIDTHS = {"own": 7, "category": 7, "popularity": 1, "context": None, "taste": 2}
"""The features of pairs that a glance understands, and how many numbers they make; None means the
rest."""
CODES = ("item", "category", "display", "mailer")
"""The codes of pairs that it understands."""
BOUGHT = 100.0
"""Log-odds that put what was bought before in front."""


class Glance:
    """The first look of a `CTRModel` with the features `WIDTHS` and the codes `CODES`.

    Args:
        model: a fitted model whose weights no longer change
        items: what its features know of the catalogue
    """

    def __init__(self, model: CTRModel, items: RankerCatalog) -> None:
        config = model.config
        rest = config.width - sum(WIDTHS[name] or 0 for name in config.blocks)
        ends, end = {}, 0
        for name in config.blocks:
            width = rest if (known := WIDTHS[name]) is None else known
            ends[name], end = slice(end, end + width), end + width
        self._category, self._context = ends["category"], ends.get("context")
        self._items, self._mean, self._deviation = items, model.mean, model.deviation

        # The first layer for an item of usual popularity and taste that was never bought
        first = model.network[0]
        assert isinstance(first, nn.Linear)
        self._weight, self._behind = first.weight.detach(), model.network[1:]
        usual = torch.zeros_like(model.mean)
        if "own" in ends:
            usual[ends["own"]] = (-model.mean / model.deviation)[ends["own"]]
        self._base = torch.addmv(first.bias.detach(), self._weight, usual)

        # How the logit changes with the logarithm of the popularity
        self._popularity = ends.get("popularity")
        self._slope = 0.0
        if self._popularity is not None:
            step = self._weight[:, self._popularity.start]
            with torch.no_grad():
                above, below = self._behind(torch.stack([self._base + step, self._base - step]))
            self._slope = float((above - below) / (2 * model.deviation[self._popularity]))

        # What the tables say of every item and of every placement
        tables = {
            name: table.detach() for name, table in zip(config.codes, model.tables, strict=True)
        }
        self._of_item = torch.zeros(len(items.category), device=model.mean.device)
        if "item" in tables:
            self._of_item = self._of_item + tables["item"]
        if "category" in tables:
            self._of_item = self._of_item + tables["category"][items.category]
        self._of_placement: Tensor | None = None
        if items.placements is not None and {"display", "mailer"} & tables.keys():
            codes = torch.arange(math.prod(items.placements), device=model.mean.device)
            mailers = items.placements[1]
            self._of_placement = torch.zeros(len(codes), device=codes.device)
            for name, code in (("display", display_of), ("mailer", mailer_of)):
                if name in tables:
                    self._of_placement = self._of_placement + tables[name][code(codes, mailers)]
        self._own = "own" in ends

    @staticmethod
    def understands(model: CTRModel) -> bool:
        """Whether a model sees the categories, and nothing that a glance does not understand."""
        blocks, codes = model.config.blocks, model.config.codes
        known = set(blocks) <= WIDTHS.keys() and set(codes) <= set(CODES)
        return known and "category" in blocks and model.config.scale > 0

    def columns(self, observation: Observation, size: int) -> Tensor:
        """The `size` candidates with the best scores: their columns (B, size) int64."""
        candidates = candidates_of(observation, len(self._items.category))
        ids = candidates.clamp(min=0)
        scores = self._by_category(observation).gather(1, looked_up(self._items.category, ids))
        scores += looked_up(self._of_item, ids)
        if self._of_placement is not None:
            scores += looked_up(self._of_placement, observation["placement"].int())
        if self._popularity is not None:
            scores += log_of(observation["popularity"]).mul_(self._slope)
        if self._own:
            bought = observation["bought_items"]
            there = torch.full(bought.shape, BOUGHT, device=bought.device, dtype=scores.dtype)
            scores += lookup_of_bought(ids, bought, there, len(self._of_item))
        return best_of(scores.masked_fill_(candidates < 0, -math.inf), size)[1]

    def _by_category(self, observation: Observation) -> Tensor:
        """What the network says of a usual item of each category: (B, G)."""
        counts, days = observation["category_counts"], observation["category_days"]
        base = self._base.expand(len(counts), -1)
        if self._context is not None:
            base = base + self._layer(squashed(observation["context"]), self._context)

        # all categories that a shopper never bought are alike
        nothing = torch.zeros_like(counts[:1, :1])
        never = self._behind(
            base + self._layer(counted_history(nothing, nothing), self._category)[0]
        )
        levels = never.repeat(1, counts.shape[1]).view(-1)
        rows, columns, _ = places(counts > 0)
        at = rows * counts.shape[1] + columns
        history = counted_history(
            looked_up(counts.reshape(-1), at), looked_up(days.reshape(-1), at)
        )
        hidden = self._layer(history, self._category).add_(looked_up(base, rows))
        levels.index_copy_(0, at, self._behind(hidden).squeeze(1))
        found: Tensor = levels.view(counts.shape)
        return found

    def _layer(self, numbers: Tensor, part: slice) -> Tensor:
        """What some of the numbers add to the first layer."""
        numbers = (numbers - self._mean[part]) / self._deviation[part]
        return numbers @ self._weight[:, part].T
