"""Training examples of the household model: whole histories of a log, with their scored rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.shoppers.household.memory import Keys
from recsim_env.shoppers.household.model import ROW_KINDS
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.household.prospects import prospects
from recsim_env.shoppers.household.replay import (
    ScoredItems,
    Visits,
    first_visits,
    floats,
    ints,
    replay,
)

SPLITS = ("train", "valid", "test")
REPEAT_NEGATIVES = 24
"""Items bought before but not in this visit that are sampled for each visit."""


@dataclass(frozen=True)
class Examples:
    """Everything that training and held-out scoring read.

    Shapes: V visits, R rows sorted by visit, S shoppers, N items.
        split: (V,) int64 index into `SPLITS`
        rhythm: (V, RHYTHM) before the visit; habit: (V, HABIT) after it
        store_week: (V,) int64 row of `promotions.placement`
        prospects: (weeks, N, PROSPECT) see `prospects.prospects`
        first: (S, N) int16 rank of the first purchase, see `first_visits`
        row_starts: (V + 1,) int64 first row of each visit
        row_visit, row_item, row_kind, row_placement: (R,) int64
        row_label, row_offset, row_weight: (R,) float32
        row_stats: (R, LEVELS, STATS) float16 before the visit
        shopper_starts: (S + 1,) int64 first visit of each shopper
    """

    visits: Visits
    promotions: StorePromotions
    split: Tensor
    rhythm: Tensor
    habit: Tensor
    store_week: Tensor
    prospects: Tensor
    first: Tensor
    row_starts: Tensor
    row_visit: Tensor
    row_item: Tensor
    row_label: Tensor
    row_offset: Tensor
    row_weight: Tensor
    row_kind: Tensor
    row_placement: Tensor
    row_stats: Tensor
    shopper_starts: Tensor

    @property
    def n_shoppers(self) -> int:
        """Number of shoppers S."""
        return len(self.shopper_starts) - 1

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        baskets: pl.DataFrame,
        logs: Mapping[str, pl.DataFrame],
        promotions: StorePromotions,
        *,
        mailers: int,
        hidden: Tensor | None = None,
        generator: torch.Generator,
    ) -> Examples:
        """Build the examples from tables.

        Args:
            catalog: the items
            baskets: every visit of the log
            logs: impressions, by kind of row (`ROW_KINDS`, all but "repeat")
            promotions: what the stores promoted
            mailers: number of mailer codes in a placement
            hidden: (N,) bool items that are left out of every basket, and so of all counters
            generator: chooses among the items that were bought before
        """
        # The rows of all kinds, sorted by visit.
        visits = Visits.of(baskets, hidden)
        keys = Keys.of(catalog.kind, catalog.category)
        index = pl.DataFrame({"visit": baskets["visit"], "at": np.arange(len(baskets))})
        parts = [_logged_rows(log, index, ROW_KINDS.index(kind)) for kind, log in logs.items()]
        first = first_visits(visits, len(catalog))
        parts.append(_repeat_rows(visits, hidden, generator))
        rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = rows["visit"].argsort(stable=True)
        rows = {name: column[order] for name, column in rows.items()}

        # What was known before each visit.
        stats, rhythm, habit = replay(visits, keys, ScoredItems(rows["visit"], rows["item"]))
        store_week = promotions.row(visits.store, visits.week)
        split = torch.tensor([SPLITS.index(name) for name in baskets["split"].to_list()])
        counts = torch.bincount(rows["visit"], minlength=len(visits))
        new = torch.cat(
            [torch.zeros(1, dtype=torch.int64), (visits.rank == 0).nonzero().flatten()[1:]]
        )
        return cls(
            visits,
            promotions,
            split,
            rhythm,
            habit,
            store_week,
            prospects(catalog, promotions, mailers, hidden),
            first,
            torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
            rows["visit"],
            rows["item"],
            rows["label"],
            rows["offset"],
            rows["weight"],
            rows["kind"],
            promotions.placement[store_week[rows["visit"]], rows["item"]].long(),
            stats,
            torch.cat([new, torch.tensor([len(visits)])]),
        )


def _logged_rows(log: pl.DataFrame, index: pl.DataFrame, kind: int) -> dict[str, Tensor]:
    """Make the rows of an impression table, one for each shown item."""
    response = "purchase" if log["purchase"].null_count() < len(log) else "click"
    flat = log.join(index, on="visit", how="inner").select(
        "at", "slate", pl.col(response).alias("label"), "weight"
    )
    if flat["weight"].null_count() == len(flat):
        flat = flat.with_columns(
            pl.col("slate").list.eval(pl.lit(1.0, dtype=pl.Float32)).alias("weight")
        )
    flat = flat.explode("slate", "label", "weight").drop_nulls()
    label, weight = (
        floats(flat.with_columns(pl.col("label").cast(pl.Float32)), "label"),
        floats(flat, "weight"),
    )
    negative = torch.where(label > 0, 1.0, weight)
    # the log odds of the sample are those of the population, plus how much rarer non-responses are
    offset = _visit_maximum(ints(flat, "at"), negative).log()
    return {
        "visit": ints(flat, "at"),
        "item": ints(flat, "slate"),
        "label": label,
        "offset": offset,
        "weight": weight,
        "kind": torch.full_like(ints(flat, "at"), kind),
    }


def _visit_maximum(visit: Tensor, values: Tensor) -> Tensor:
    """Find the largest value of each visit, for each of its rows (R,)."""
    largest = torch.zeros(int(visit.max()) + 1).scatter_reduce_(
        0, visit, values, "amax", include_self=False
    )
    return largest[visit]


def _repeat_rows(
    visits: Visits, hidden: Tensor | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """Make rows of items bought before, at every visit.

    All that were bought again have one, and a sample of those that were not.
    """
    # One pass over the visits, with what each shopper bought so far.
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    items, starts = visits.items.numpy(), visits.starts.numpy()
    seen: set[int] = set()
    pool: list[int] = []
    out_visit, out_item, out_label, out_weight = [], [], [], []
    for visit, rank in enumerate(visits.rank.tolist()):
        if rank == 0:
            seen, pool = set(), []
        basket = items[starts[visit] : starts[visit + 1]].tolist()
        bought = [item for item in basket if item in seen]
        if len(pool) > len(bought):
            now = set(basket)
            drawn = (
                pool
                if len(pool) <= REPEAT_NEGATIVES
                else rng.choice(pool, REPEAT_NEGATIVES, replace=False).tolist()
            )
            left = [item for item in drawn if item not in now]
            weight = max((len(pool) - len(bought)) / max(len(left), 1), 1.0)
            out_visit += [visit] * (len(bought) + len(left))
            out_item += bought + left
            out_label += [1.0] * len(bought) + [0.0] * len(left)
            out_weight += [weight] * (len(bought) + len(left))
        fresh = [item for item in basket if item not in seen]
        seen.update(fresh)
        pool += fresh

    # The sampled rows stand for all that were not bought.
    label, weight_of = torch.tensor(out_label), torch.tensor(out_weight)
    return {
        "visit": torch.tensor(out_visit),
        "item": torch.tensor(out_item),
        "label": label,
        "offset": weight_of.log(),
        "weight": torch.where(label > 0, 1.0, weight_of),
        "kind": torch.full((len(out_item),), ROW_KINDS.index("repeat")),
    }


@dataclass(frozen=True)
class Collator:
    """Makes one batch of `SlateShopper.forward` from some shoppers.

    Args:
        examples: where the histories and rows come from
        splits: splits whose losses count; visits after the last of them are left out
        kinds: kinds of rows to score
        cold: (N,) bool items that count as items nobody knows in scoring (`row_known` is 0)
        new_items: whether the batch has what the loss of new items needs
    """

    examples: Examples
    splits: Sequence[str] = ("train",)
    kinds: Sequence[str] = ROW_KINDS
    cold: Tensor | None = None
    new_items: bool = True

    def __call__(self, shoppers: Sequence[int]) -> dict[str, Tensor]:
        """Make one batch; see `SlateShopper.forward` for its keys and shapes."""
        # The visits of each shopper up to the last split that counts.
        e, v = self.examples, self.examples.visits
        wanted = torch.tensor([name in self.splits for name in SPLITS])
        who = torch.tensor(list(shoppers))
        starts, ends = e.shopper_starts[who], e.shopper_starts[who + 1]
        last = max(i for i, name in enumerate(SPLITS) if name in self.splits)
        length = torch.stack(
            [(e.split[a:b] <= last).sum() for a, b in zip(starts, ends, strict=True)]
        )
        width = max(int(length.max()), 1)

        # Padded to the longest history.
        at = starts.unsqueeze(1) + torch.arange(width)  # (B, T)
        present = torch.arange(width) < length.unsqueeze(1)
        at = at.clamp(max=len(v) - 1)
        basket = v.padded(at.flatten()).view(*at.shape, -1)
        learn = present & wanted[e.split[at]]
        batch = {
            "basket": basket.masked_fill(~present.unsqueeze(2), -1),
            "day": v.day[at].float(),
            "since": v.since[at],
            "rhythm": e.rhythm[at],
            "habit": e.habit[at],
            "present": present,
            "learn": learn,
            "gap": v.gap[at].float(),
            "follow_up": v.follow_up[at].float(),
        }
        batch |= self._rows(starts, length, width, learn)
        if self.new_items:
            batch |= self._first_purchases(who, at, batch["basket"], present)
        return batch

    def _rows(self, starts: Tensor, length: Tensor, width: int, learn: Tensor) -> dict[str, Tensor]:
        """Find the scored rows of visits that count."""
        # The rows of these visits, and where their visits stand in the batch.
        e = self.examples
        spans = [
            (int(e.row_starts[a]), int(e.row_starts[a + n]))
            for a, n in zip(starts, length, strict=True)
        ]
        rows = torch.cat([torch.arange(a, b) for a, b in spans])
        shopper = torch.repeat_interleave(
            torch.arange(len(spans)), torch.tensor([b - a for a, b in spans])
        )
        row_at = shopper * width + (e.row_visit[rows] - starts[shopper])

        # Those that count.
        kinds = torch.tensor([name in self.kinds for name in ROW_KINDS])
        kept = kinds[e.row_kind[rows]] & learn.flatten()[row_at]
        rows, row_at = rows[kept], row_at[kept]
        item = e.row_item[rows]
        week = e.visits.week[e.row_visit[rows]].clamp(max=len(e.promotions.item_context) - 1)
        batch = {
            "row": rows,
            "row_at": row_at,
            "row_item": item,
            "row_label": e.row_label[rows],
            "row_offset": e.row_offset[rows],
            "row_kind": e.row_kind[rows],
            "row_placement": e.row_placement[rows],
            "row_stats": e.row_stats[rows].float(),
            "row_context": e.promotions.item_context[week, item],
            "row_prospect": e.prospects[week, item],
        }
        return batch if self.cold is None else batch | {"row_known": (~self.cold[item]).float()}

    def _first_purchases(
        self, who: Tensor, at: Tensor, basket: Tensor, present: Tensor
    ) -> dict[str, Tensor]:
        """Find the first purchases, and what all items were like at each visit."""
        e = self.examples
        first = e.first[who]
        rank = torch.arange(at.shape[1]).view(1, -1, 1)
        fresh = (basket >= 0) & (
            first.gather(1, basket.clamp(min=0).flatten(1)).view(basket.shape) == rank
        )
        place = fresh.nonzero()
        return {
            "first_visit": first,
            "week": e.visits.week[at].clamp(max=len(e.promotions.item_context) - 1),
            "item_context": e.promotions.item_context,
            "promoted": e.promotions.placement[e.store_week[at.flatten()]] > 0,
            "new_at": place[:, 0] * at.shape[1] + place[:, 1],
            "new_item": basket[fresh],
        }
