"""The slate head: the chance of a response to an item that is shown, or was bought before."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.features import (
    CONTEXT,
    COUNTER_FEATURES,
    ITEM_CONTEXT,
    SINCE_BUCKETS,
    counter_features,
    since_bucket,
)
from recsim_env.shoppers.household.memory import LEVELS, SINCE


class SlateHead(nn.Module):
    """Scores pairs of a shopper and an item, each on its own.

    There is one logit a pair and no softmax over the slate: a visit often has several purchases.
    `shoppers` and `items` compute once what many pairs share.
    """

    def __init__(self, config: SlateShopperConfig) -> None:
        super().__init__()
        d, h = config.hidden_size, config.head_size
        self.config = config
        self.displays, self.mailers = config.log_facts.placements
        codes = self.displays + self.mailers + LEVELS * (SINCE_BUCKETS + 1)
        self.query = nn.Linear(d + CONTEXT, d)
        self.of_shopper = nn.Linear(d + CONTEXT, h)
        self.of_item = nn.Linear(d, h, bias=False)
        self.of_stats = nn.Linear(LEVELS * COUNTER_FEATURES + 1, h, bias=False)
        self.of_item_context = nn.Linear(ITEM_CONTEXT, h, bias=False)
        self.of_codes = nn.Embedding(codes, h)  # all codes in one table; their rows are summed
        self.middle = nn.Linear(h, h // 2)
        self.last = nn.Linear(h // 2, 1)
        self.item_bias = nn.Embedding(config.n_items, 1)

    def shoppers(self, state: Tensor) -> Tensor:
        """Compute what all items of a shopper share: query and hidden part.

        Shapes: state (..., D + CONTEXT) -> (..., D + head_size).
        """
        query = self.query(state) / math.sqrt(self.config.hidden_size)
        return torch.cat([query, self.of_shopper(state)], dim=-1)

    def items(self, vectors: Tensor, id_shown: Tensor) -> Tensor:
        """Compute what all shoppers share of an item: vector, hidden part and bias.

        Shapes: vectors (N, D); id_shown (N,), 0 for items without a bias of their own ->
        (N, D + head_size + 1).
        """
        bias = self.item_bias.weight * id_shown.unsqueeze(1)
        return torch.cat([vectors, self.of_item(vectors), bias], dim=1)

    def forward(
        self,
        shopper: Tensor,
        item: Tensor,
        stats: Tensor,
        item_context: Tensor,
        placement: Tensor,
    ) -> Tensor:
        """Compute the logits (...,) of a response.

        Args:
            shopper: (..., D + head_size) from `shoppers`
            item: (..., D + head_size + 1) from `items`
            stats: (..., LEVELS, STATS) counters of the item before the visit
            item_context: (..., ITEM_CONTEXT) of the item in this week
            placement: (...,) int64 codes, display * mailer codes + mailer
        """
        d, h = self.config.hidden_size, self.config.head_size
        query, of_shopper = shopper.split([d, h], dim=-1)
        vector, of_item, bias = item.split([d, h, 1], dim=-1)
        given, weights = [item_context], [self.of_item_context.weight]
        if self.config.use_counters:
            given.append(self._features(stats))
            weights.append(self.of_stats.weight)
        hidden = F.linear(torch.cat(given, dim=-1), torch.cat(weights, dim=1))
        codes = self._codes(stats, placement)
        hidden = hidden.to(of_shopper.dtype).add_(of_shopper).add_(of_item).add_(codes)
        own = (self.last(F.gelu(self.middle(F.gelu(hidden)))) + bias).squeeze(-1)
        logits: Tensor = own + (query * vector).sum(-1)
        return logits

    def _features(self, stats: Tensor) -> Tensor:
        """Compute counter features and a one: (..., LEVELS * COUNTER_FEATURES + 1).

        The one said that an item is known when this head served those that nobody knows too.
        """
        features = counter_features(stats).flatten(-2)
        return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)

    def _codes(self, stats: Tensor, placement: Tensor) -> Tensor:
        """Sum the embeddings of display, mailer, and the days since the last purchase.

        The days have a code on each level: item, kind and category.
        """
        display, mailer = placement // self.mailers, placement % self.mailers
        codes = torch.stack([display, self.displays + mailer], dim=-1)
        if self.config.use_counters:
            bucket = since_bucket(stats[..., SINCE])
            level = torch.arange(LEVELS, device=bucket.device) * (SINCE_BUCKETS + 1)
            first = self.displays + self.mailers
            codes = torch.cat([codes, first + level + bucket], dim=-1)
        total: Tensor = F.embedding_bag(codes.flatten(0, -2), self.of_codes.weight, mode="sum")
        return total.view(*codes.shape[:-1], total.shape[-1])
