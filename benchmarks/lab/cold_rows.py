"""Rows of items that nobody knows, as the cold head reads them, with texts of any encoder.

The cold head reads nothing of the transformer's state (`recsim_env.shoppers.household.cold_head`),
so that it can be fitted alone, in seconds. To what it reads is added how much the item's text is
like the texts of what the shopper bought, which is where an encoder can tell of taste.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsim_env.logs.placements import display_of, mailer_of
from recsim_env.shoppers.household.cold_head import TEXT, cold_columns, main_directions
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.features import scale_of, scaled, visit_context
from recsim_env.shoppers.household.memory import COUNT
from recsim_env.shoppers.household.model import ITEM_PRIOR, ITEM_STEP
from recsim_env.shoppers.household.replay import Visits

LIKENESS = 64
"""Directions of the texts in which items are compared; the first `TEXT` are read themselves."""
HIDDEN = (64, 32)
"""Widths of the head's layers."""
RATE, DECAY, TOGETHER = 2e-3, 1e-2, 2048
"""Rate and weight decay of AdamW, and rows of a step."""
STEPS, FEW_STEPS, FEW = 3_000, 600, 100_000
"""Steps of a fit, and those where there are at most `FEW` rows."""
LOOKS = 12
"""How often a fit looks at the valid weeks; the best of them is kept."""


@dataclass(frozen=True)
class ColdRows:
    """Rows (R,) with what a head reads of them.

    Shapes: read (R, F) float32, label and offset (R,) float32, item (R,) int64.
    """

    read: Tensor
    label: Tensor
    offset: Tensor
    item: Tensor

    @classmethod
    def of(cls, examples: Examples, rows: Tensor, *columns: Tensor) -> ColdRows:
        """Put columns (R, F) that are read of rows (R,) beside their labels."""
        return cls(
            torch.cat(columns, dim=1),
            examples.row_label[rows],
            examples.row_offset[rows],
            examples.row_item[rows],
        )

    def only(self, rows: Tensor) -> ColdRows:
        """Take a part of the rows."""
        return ColdRows(*(column[rows] for column in vars(self).values()))


def plain_columns(examples: Examples, rows: Tensor, placements: tuple[int, int]) -> Tensor:
    """Compute all that a head reads of rows (R,) but texts: (R, F)."""
    visits, visit, item = examples.visits, examples.row_visit[rows], examples.row_item[rows]
    context = visit_context(examples.rhythm, visits.day.float(), visits.since)[visit]
    week = visits.week[visit].clamp(max=len(examples.prospects) - 1)
    stats, prospect = examples.row_stats[rows].float(), examples.prospects[week, item]
    displays, mailers = placements
    code = examples.row_placement[rows]
    return torch.cat(
        [
            cold_columns(context, stats, prospect, prospect[:, :0]),
            F.one_hot(display_of(code, mailers), displays).float(),
            F.one_hot(mailer_of(code, mailers), mailers).float(),
        ],
        dim=1,
    )


def text_columns(
    examples: Examples, rows: Tensor, vectors: Tensor, sold: Tensor | None = None
) -> Tensor:
    """Compute what texts tell of rows (R,): directions of the item, likeness to the past.

    Args:
        examples: the log
        rows: the rows, of items that are sold
        vectors: (N, E) of the items' texts
        sold: (N,) bool, the items whose purchases the shop has seen; None = all

    Returns:
        (R, TEXT + 1); the likeness is the cosine of the item, in its `LIKENESS` main directions,
        with the mean of all other items that the shopper bought before, and 0 where there are none.
    """
    visit, item = examples.row_visit[rows], examples.row_item[rows]
    centred = main_directions(vectors, LIKENESS)
    bought, number = past_sums(examples.visits, centred, sold)
    own = examples.row_stats[rows, 0, COUNT].float()
    left = bought[visit] - own.unsqueeze(1) * centred[item]
    likeness = F.cosine_similarity(left, centred[item]) * (number[visit] > own).float()
    return torch.cat([centred[item, :TEXT], likeness.unsqueeze(1)], dim=1)


def past_sums(visits: Visits, vectors: Tensor, sold: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum the vectors (N, E) of what was bought before each visit: (V, E), and count it: (V,).

    Items that are not sold (N,) do not count.
    """
    counted = torch.ones(len(vectors)) if sold is None else sold.float()
    each, size = (
        F.embedding_bag(visits.items, table, visits.starts[:-1], mode="sum").double()
        for table in (vectors * counted.unsqueeze(1), counted.unsqueeze(1))
    )
    size = size.squeeze(1).long()
    sums, count = each.cumsum(0) - each, size.cumsum(0) - size
    first = torch.arange(len(visits)) - visits.rank  # the shopper's first visit
    return (sums - sums[first]).float(), (count - count[first]).float()


class TextHead(nn.Module):
    """A head as the cold head's: two layers, and a random effect of each training item."""

    scale: Tensor

    def __init__(self, scale: Tensor, items: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        widths = (scale.shape[1], *HIDDEN)
        self.layers = nn.ModuleList(nn.Linear(one, other) for one, other in pairwise(widths))
        self.last = nn.Linear(HIDDEN[-1], 1)
        self.of_item = nn.Embedding(items, 1)
        nn.init.zeros_(self.of_item.weight)
        nn.init.constant_(self.last.bias, -3.0)

    def forward(self, read: Tensor) -> Tensor:
        """Compute the logits (R,) of rows (R, F) whose item nobody knows."""
        hidden = scaled(read, self.scale)
        for layer in self.layers:
            hidden = F.gelu(layer(hidden))
        logits: Tensor = self.last(hidden).squeeze(1)
        return logits

    def loss(self, rows: ColdRows) -> Tensor:
        """Compute the loss of training rows, in which items may differ beyond what is read."""
        own = self.of_item(rows.item).squeeze(1) * ITEM_STEP
        each = F.binary_cross_entropy_with_logits(
            self(rows.read) + own + rows.offset, rows.label, reduction="none"
        )
        total: Tensor = (each + ITEM_PRIOR * own.square()).mean()
        return total


def steps_for(rows: int) -> int:
    """Number of steps of a fit to so many rows; 0 means all of them."""
    return FEW_STEPS if 0 < rows <= FEW else STEPS


def fit_head(
    train: ColdRows,
    valid: ColdRows,
    items: int,
    steps: int,
    seed: int,
    start: TextHead | None = None,
) -> TextHead:
    """Fit a head, and keep the best of `LOOKS` by the loss on valid rows.

    Args:
        train: rows of items that are known
        valid: rows of items that are not
        items: number of items of the catalogue
        steps: steps of AdamW
        seed: seed of weights and batches
        start: a head to begin with, which is kept where nothing is better, and is not changed
    """
    generator = torch.Generator().manual_seed(seed)
    if start is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = TextHead(scale_of(train.read), items)
    else:
        head = copy.deepcopy(start)
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    every = max(steps // LOOKS, 1)
    best = float("inf") if start is None else _loss_on(valid, head)
    kept = copy.deepcopy(head.state_dict())
    for step in range(1, steps + 1):
        rows = torch.randint(len(train.item), (TOGETHER,), generator=generator)
        optimiser.zero_grad()
        head.loss(train.only(rows)).backward()
        optimiser.step()
        rate.step()
        if step % every == 0:
            found = _loss_on(valid, head)
            if found < best:
                best, kept = found, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    return head


@torch.no_grad()
def _loss_on(valid: ColdRows, head: TextHead) -> float:
    """The loss of rows whose items nobody knows."""
    logits = head(valid.read) + valid.offset
    return float(F.binary_cross_entropy_with_logits(logits, valid.label))
