"""A log whose cold items nobody knows: the rows that heads are fitted to and judged on.

The heads are those of `benchmarks.lab.cold_rows`. They learn from rows of the train weeks, are
stopped and calibrated on the cold items of the valid weeks, and judged on those of the test weeks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.lab.cold_rows import ColdRows, TextHead, plain_columns, text_columns
from benchmarks.lab.encoder_report import METRICS
from benchmarks.lab.heldout import with_samples
from benchmarks.lab.logs import Log, cold_splits, sorted_rows
from benchmarks.shopper.baselines import platt
from recsim_env.shoppers.household.examples import Examples


@dataclass(frozen=True)
class ShopRows:
    """The rows of a shop: those of the train weeks, and of cold items in valid and test weeks."""

    train: ColdRows
    valid: ColdRows
    test: ColdRows
    """What heads read of them."""
    valid_at: Tensor
    test_at: Tensor
    """The indices of those to calibrate and to judge on in the examples."""


@dataclass(frozen=True)
class ColdLog:
    """The rows of a log, in whose histories cold items are hidden."""

    hidden: Examples
    splits: tuple[Tensor, ...]
    """The indices of the rows of the train, valid and test weeks."""
    plain: tuple[Tensor, ...]
    """What heads read of them but for texts."""

    @classmethod
    def of(cls, log: Log) -> ColdLog:
        """Find the rows of a log."""
        hidden = log.examples(cold_hidden=True)
        splits = cold_splits(log, hidden)
        plain = (plain_columns(hidden, rows, log.facts.placements) for rows in splits)
        return cls(hidden, splits, tuple(plain))

    @property
    def items(self) -> int:
        """The number of items of the catalogue."""
        return len(self.hidden.first[0])

    def shop(self, vectors: Tensor, sold: Tensor | None = None) -> ShopRows:
        """Make the rows of a shop, with texts, which knows no purchases of what it does not sell.

        Args:
            vectors: (N, E) of the items' texts.
            sold: (N,) bool, the items that it sells; None = all.
        """
        kept, plain = self.splits, self.plain
        if sold is not None:
            own = [sold[self.hidden.row_item[rows]] for rows in self.splits]
            kept = tuple(rows[here] for rows, here in zip(self.splits, own, strict=True))
            plain = tuple(columns[here] for columns, here in zip(self.plain, own, strict=True))
        # what texts tell of the past is summed up once for the rows of all weeks
        texts = text_columns(self.hidden, torch.cat(kept), vectors, sold).split(
            [len(rows) for rows in kept]
        )
        train, valid, test = (
            ColdRows.of(self.hidden, rows, *columns)
            for rows, *columns in zip(kept, plain, texts, strict=True)
        )
        return ShopRows(train, valid, test, valid_at=kept[1], test_at=kept[2])

    def scores(self, head: TextHead, shop: ShopRows, samples: int) -> dict[str, list[float]]:
        """Calibrate a head on the valid weeks, and score it on the test weeks.

        Returns:
            The score and its bootstrap samples, by metric, and the number of households.
        """
        with torch.no_grad():
            on_valid, on_test = head(shop.valid.read), head(shop.test.read)
        weight = self.hidden.row_weight[shop.valid_at]
        scale, shift = platt(on_valid, shop.valid.label, weight)
        table = sorted_rows(self.hidden, shop.test_at, on_test * scale + shift)
        found = with_samples(table, METRICS, samples=samples)
        return found | {"households": [float(table.households)]}


def first_rows(train: ColdRows, number: int, seed: int) -> ColdRows:
    """The first so many rows in an order that is drawn, or all where there are fewer."""
    drawn = torch.randperm(len(train.item), generator=torch.Generator().manual_seed(seed))
    return train.only(drawn[:number])
