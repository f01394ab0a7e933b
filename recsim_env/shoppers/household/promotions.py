"""What the stores promote week by week, and how popular items were lately."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsim_env.shoppers.household.features import ITEM_CONTEXT, POPULARITY
from recsim_env.shoppers.household.replay import floats, ints

PER_MILLE, HALF = 1000.0, 2.0  # popularity is log(1 + 1000 purchases a visit) / 2 in a context


@dataclass(frozen=True)
class StorePromotions:
    """Placements of items in each store and week, and what is known of items in each week.

    Shapes: W store-weeks, N items.
        placement: (W + 1, N) uint8 code of each item; the last row is that of an unknown store,
            where nothing is promoted
        store_week: (stores, weeks) int64 row of `placement`
        item_context: (weeks, N, ITEM_CONTEXT) float32 log popularity and discount of the last four
            weeks
    """

    placement: Tensor
    store_week: Tensor
    item_context: Tensor

    @classmethod
    def of(
        cls, promotions: pl.DataFrame, popularity: pl.DataFrame, n_items: int
    ) -> StorePromotions:
        """Build from two tables of a log; weeks beyond the last use its row.

        Args:
            promotions: rows sorted by store and week
            popularity: a row for each week and item
            n_items: number of items in the catalogue
        """
        # Number the store-weeks as the table has them.
        store, week = promotions["store"].to_numpy(), promotions["week"].to_numpy()
        new = np.ones(len(store), dtype=bool)  # where a store-week begins
        new[1:] = (store[1:] != store[:-1]) | (week[1:] != week[:-1])
        row, pairs = np.cumsum(new) - 1, int(new.sum())
        weeks = max(int(table["week"].max() or 0) for table in (popularity, promotions)) + 1  # type: ignore[arg-type]
        stores = int(promotions["store"].max() or 0) + 1  # type: ignore[arg-type]
        store_week = torch.full((stores, weeks), pairs, dtype=torch.int64)
        store_week.numpy()[store[new], week[new]] = row[new]

        # One code for each store-week and item.
        placement = np.zeros((pairs + 1) * n_items, dtype=np.uint8)
        placement[row * n_items + promotions["item"].to_numpy()] = (
            promotions["placement"].to_numpy().astype(np.uint8)
        )

        # Popularity and discount of each week and item.
        context = torch.zeros(weeks * n_items, ITEM_CONTEXT, dtype=torch.float32)
        at = ints(popularity, "week") * n_items + ints(popularity, "item")
        popular = log_popularity(floats(popularity, "popularity"))
        context[at] = torch.stack([popular, floats(popularity, "discount")], dim=1)
        of_week = context.view(weeks, n_items, ITEM_CONTEXT)
        return cls(torch.from_numpy(placement).view(pairs + 1, n_items), store_week, of_week)

    def expecting(self, context: Tensor, new: Tensor) -> StorePromotions:
        """Replace what is known of new items (N,) bool by what is expected of them.

        Shapes: context (weeks, N, ITEM_CONTEXT).
        """
        return replace(self, item_context=context.where(new.unsqueeze(1), self.item_context))

    def to(self, device: torch.device) -> StorePromotions:
        """Copy to a device."""
        return StorePromotions(*(tensor.to(device) for tensor in vars(self).values()))

    def row(self, store: Tensor, week: Tensor) -> Tensor:
        """Find the row of `placement` for stores and weeks (...,); the last one if unknown."""
        stores, weeks = self.store_week.shape
        known = (store >= 0) & (store < stores)
        row = self.store_week[store.clamp(0, stores - 1), week.clamp(max=weeks - 1)]
        return row.where(known, len(self.placement) - 1)

    def purchases_a_visit(self) -> Tensor:
        """Return the popularity (weeks, N) of items as purchases a visit."""
        return torch.expm1(self.item_context[..., POPULARITY] * HALF) / PER_MILLE


def log_popularity(purchases: Tensor) -> Tensor:
    """Compute the popularity (...) of items in a context from purchases a visit (...)."""
    return torch.log1p(PER_MILLE * purchases) / HALF


def candidate_tables(promotions: StorePromotions) -> tuple[Tensor, Tensor, Tensor]:
    """List the promoted items of each store-week, with their placement and popularity.

    Returns:
        Three tensors (W + 1, C). Items ascend and are padded with -1; they are int16, or int32
        where the catalogue needs it. Placement (uint8) and popularity (float32, purchases a visit
        in that week) are 0 where padded.
    """
    # Where something is promoted: numpy lists it in a tenth of torch's time.
    placement = promotions.placement.numpy()
    promoted, n_items = placement > 0, placement.shape[1]
    number = np.count_nonzero(promoted, axis=1)
    place = np.flatnonzero(promoted)
    items = place % n_items
    filled = np.arange(max(int(number.max()), 1)) < number[:, None]

    def table(values: Any, padding: int = 0) -> Tensor:
        found = np.full(filled.shape, padding, dtype=values.dtype)
        found[filled] = values
        return torch.from_numpy(found)

    # The popularity of each of these items in the week of its row.
    week = np.zeros(len(promoted), dtype=np.int64)
    week[promotions.store_week.numpy()] = np.arange(promotions.store_week.shape[1])
    popularity = promotions.purchases_a_visit().numpy().reshape(-1)
    in_week = np.repeat(week * n_items, number)
    in_week += items
    small = n_items <= np.iinfo(np.int16).max
    return (
        table(items.astype(np.int16 if small else np.int32), -1),
        table(placement.reshape(-1)[place]),
        table(popularity[in_week]),
    )
