"""The cold head: the chance of a response to an item that nobody knows yet.

It reads nothing that the item itself left behind: the shopper's counters of its kind and category
without it, the circumstances of the visit, the placement, the `prospects` of the item, and the
directions in which the texts of the catalogue differ most. So every row of a log can teach it, with
the item as if it were new. What tells training items apart beyond that, the head would learn by
heart; a random effect of each item takes it up in training, and is 0 for new ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsim_env.logs.placements import display_of, mailer_of
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.features import (
    CONTEXT,
    COUNTER_FEATURES,
    counter_features,
    no_scale,
    scale_of,
    scaled,
    without_item,
)
from recsim_env.shoppers.household.memory import COUNT, LEVELS, Rhythm
from recsim_env.shoppers.household.prospects import PROSPECT

OTHERS = LEVELS - 1
"""Levels of counters other than the item's own."""
TEXT = 16
"""Directions of the texts that the head reads; with all of them it would know every item."""
READ = OTHERS * (COUNTER_FEATURES + 1) + CONTEXT + PROSPECT + TEXT


class ColdHead(nn.Module):
    """Scores pairs of a shopper and an item that nobody knows.

    Shapes: N items.
        text: (N, TEXT) buffer, the texts along the directions in which they differ most
        scale: (2, READ) buffer, mean and standard deviation of what the head reads
    """

    text: Tensor
    scale: Tensor

    def __init__(self, config: SlateShopperConfig) -> None:
        super().__init__()
        h = config.head_size
        self.displays, self.mailers = config.log_facts.placements
        self.register_buffer("text", torch.zeros(config.n_items, TEXT))
        self.register_buffer("scale", no_scale(READ))
        self.inner = nn.Linear(READ, h)
        self.of_codes = nn.Embedding(self.displays + self.mailers, h)
        self.middle = nn.Linear(h, h // 2)
        self.last = nn.Linear(h // 2, 1)
        self.of_item = nn.Embedding(config.n_items, 1)

    def forward(
        self, context: Tensor, stats: Tensor, prospect: Tensor, placement: Tensor, text: Tensor
    ) -> Tensor:
        """Compute the logits (...,) of a response.

        Args:
            context: (..., CONTEXT) of the visit
            stats: (..., LEVELS, STATS) counters before the visit
            prospect: (..., PROSPECT) of the item in this week
            placement: (...,) int64 codes, display * mailer codes + mailer
            text: (..., TEXT) of the item, from `text`
        """
        read = scaled(cold_columns(context, stats, prospect, text), self.scale)
        mailer = self.displays + mailer_of(placement, self.mailers)
        codes = self.of_codes(display_of(placement, self.mailers)) + self.of_codes(mailer)
        hidden = F.gelu(self.middle(F.gelu(self.inner(read) + codes)))
        logits: Tensor = self.last(hidden).squeeze(-1)
        return logits

    def set_scale(self, context: Tensor, stats: Tensor, prospect: Tensor, text: Tensor) -> None:
        """Set the scale from many rows (R, ...); the arguments are those of `forward`."""
        self.scale.copy_(scale_of(cold_columns(context, stats, prospect, text)))


def cold_columns(context: Tensor, stats: Tensor, prospect: Tensor, text: Tensor) -> Tensor:
    """Compute the numbers (..., READ) that the head reads; the arguments are those of `forward`."""
    others = without_item(stats)
    visits = context[..., Rhythm.VISITS : Rhythm.VISITS + 1].exp()
    share = torch.log((others[..., 1:, COUNT] + 0.1) / (visits + 1.0))
    counters = counter_features(others)[..., 1:, :].flatten(-2)
    return torch.cat([counters, share, context, prospect, text], dim=-1)


def main_directions(embedding: Tensor, number: int = TEXT) -> Tensor:
    """Project embeddings (N, E) onto the directions in which they differ most: (N, number).

    Where there are fewer items or dimensions, the other numbers are 0.
    """
    centred = (embedding - embedding.mean(0)).double()
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    found = (centred @ directions[:number].T).float()
    return F.pad(found, (0, number - found.shape[1]))
