"""The slates of the log: what each store exposes, and the slates that are sampled from it.

A slate is a construction, as the source holds none: the items exposed are the catalogue's items on
display or in the mailer of that store in that week, and the response is a purchase in that visit
(not "because shown": exposure is a store's, not a person's).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsim_env.catalog import Catalog
from recsim_env.logs import schema
from recsim_env.logs.complete_journey.logging_policy import policy_score, take_columns
from recsim_env.logs.complete_journey.recipe import Recipe
from recsim_env.logs.complete_journey.tables import trailing

LOGS = ("uniform", "policy", "case_control")
"""Names of the impression tables."""
SCENARIO = "store_promotions"
"""Name of this kind of slates in the tables."""


@dataclass(frozen=True)
class Exposures:
    """The items that each store shows in each week, as one long list cut by `start`.

    Shapes: S store-weeks, L promoted items of all of them.
        groups: S rows: store, week, group (0..S-1), and the number of items exposed, cold ones
            included
        start: (S + 1,) int64
        item, placement: (L,), without the cold items in training weeks
    """

    groups: pl.DataFrame
    start: NDArray[np.int64]
    item: NDArray[np.int32]
    placement: NDArray[np.int16]

    @classmethod
    def of(cls, promotions: pl.DataFrame, cold: NDArray[np.bool_], recipe: Recipe) -> Exposures:
        """Group sorted promotions by store and week; cold items leave the training weeks."""
        hidden = pl.Series(cold[promotions["item"].to_numpy()]) & (
            promotions["week"] <= recipe.train_until
        )
        keys = ["store", "week"]
        shown = promotions.with_columns(shown=~hidden)
        groups = shown.group_by(keys, maintain_order=True).agg(
            exposed=pl.len(), left=pl.col("shown").sum()
        )
        start = np.concatenate([[0], groups["left"].to_numpy().astype(np.int64).cumsum()])
        kept = shown.filter("shown")
        groups = groups.with_row_index("group")
        return cls(groups, start, kept["item"].to_numpy(), kept["placement"].to_numpy())

    def padded(
        self, groups: NDArray[np.int64], fill: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
        """Items and placements of V store-weeks as (V, W) matrices, padded with `fill` and 0."""
        size = self.start[groups + 1] - self.start[groups]
        column = np.arange(size.max())
        real = column < size[:, None]
        place = np.where(real, self.start[groups][:, None] + column, 0)
        return np.where(real, self.item[place], fill), np.where(real, self.placement[place], 0)


@dataclass(frozen=True)
class Sample:
    """Slates that were sampled for the visits of one shopper.

    Shapes: V visits, k positions.
        item, bought, placement: (V, k); item -1 = none
        propensity: (V,) log-probability of the ordered slate
        weight: (V, k) inverse sampling probability of a row
    """

    item: NDArray[np.int32]
    bought: NDArray[np.bool_]
    placement: NDArray[np.int16]
    propensity: NDArray[np.float64] | None = None
    weight: NDArray[np.float32] | None = None


def qualifying(visits: pl.DataFrame, exposures: Exposures, recipe: Recipe) -> pl.DataFrame:
    """Select the visits that get slates, with their store-week and number of exposed items."""
    return visits.join(exposures.groups, on=["store", "week"], maintain_order="left").filter(
        pl.col("earlier") >= recipe.min_earlier,
        pl.col("exposed") >= recipe.min_exposed,
        pl.col("left") >= recipe.slate_size,
    )


def make_logs(
    visits: pl.DataFrame,
    purchases: pl.DataFrame,
    promotions: pl.DataFrame,
    popularity: pl.DataFrame,
    catalog: Catalog,
    recipe: Recipe,
    seed: int,
) -> dict[str, pl.DataFrame]:
    """Sample the three logs, household by household; each household has a generator of its own."""
    # What is exposed, which visits get slates, and how popular items were then.
    assert catalog.cold is not None
    n = len(catalog)
    exposures = Exposures.of(promotions, catalog.cold.numpy(), recipe)
    chosen = qualifying(visits, exposures, recipe)
    category = np.append(catalog.category.numpy(), len(catalog.categories))
    popular = _trailing_purchases(popularity, visits, n)
    samples: dict[str, list[Sample]] = {name: [] for name in LOGS}

    for shopper, first, last, rows in _households(visits, chosen):
        # What the household was exposed to and bought, and how the policy scores it.
        bought = _bought(purchases, first, last, n)
        items, placements = exposures.padded(rows["group"].to_numpy().astype(np.int64), n)
        at = rows["visit"].to_numpy() - first
        weekly = popular[rows["week"].to_numpy()[:, None], items]
        score = policy_score(bought, at, items, category, weekly, recipe)
        shown = (items, take_columns(bought[at], items), placements)

        # The order of the draws is part of the log: uniform, policy, case-control.
        rng = np.random.default_rng([seed, 2, shopper])
        flat = np.where(items == n, -np.inf, 0.0)
        samples["uniform"].append(plackett_luce(flat, *shown, recipe.slate_size, rng))
        samples["policy"].append(
            plackett_luce(np.where(items == n, -np.inf, score), *shown, recipe.slate_size, rng)
        )
        samples["case_control"].append(case_control(*shown, n, recipe.negatives, rng))
    return {name: impressions(chosen, parts) for name, parts in samples.items()}


def _trailing_purchases(
    popularity: pl.DataFrame, visits: pl.DataFrame, n_items: int
) -> NDArray[np.float64]:
    """Count the visits that bought each item in the four weeks before each week: (weeks, N + 1).

    The last column is padding.
    """
    weeks = int(visits["week"].max()) + 1  # type: ignore[arg-type]
    total = trailing(
        np.bincount(visits["week"].to_numpy(), minlength=weeks).astype(np.float64)[:, None]
    )
    share = np.zeros((weeks, n_items + 1))
    share[popularity["week"].to_numpy(), popularity["item"].to_numpy()] = popularity[
        "popularity"
    ].to_numpy()
    return np.rint(share * total)


def _households(
    visits: pl.DataFrame, chosen: pl.DataFrame
) -> Iterator[tuple[int, int, int, pl.DataFrame]]:
    """Iterate over shoppers with slates: number, first visit, one past the last, rows chosen."""
    bounds = visits.group_by("shopper").agg(
        first=pl.col("visit").min(), last=pl.col("visit").max() + 1
    )
    spans = {shopper: (first, last) for shopper, first, last in bounds.iter_rows()}
    for rows in chosen.partition_by("shopper", maintain_order=True):
        shopper = int(rows["shopper"][0])
        yield shopper, *spans[shopper], rows


def _bought(purchases: pl.DataFrame, first: int, last: int, n_items: int) -> NDArray[np.bool_]:
    """Mark what the visits first..last-1 bought: (V, N + 1); the last column is padding."""
    visit = purchases["visit"]
    part = purchases[int(visit.search_sorted(first)) : int(visit.search_sorted(last))]
    bought = np.zeros((last - first, n_items + 1), dtype=bool)
    bought[part["visit"].to_numpy() - first, part["item"].to_numpy()] = True
    return bought


def plackett_luce(
    score: NDArray[np.float64],
    item: NDArray[np.int32],
    bought: NDArray[np.bool_],
    placement: NDArray[np.int16],
    size: int,
    rng: np.random.Generator,
) -> Sample:
    """Draw ordered slates: each position in proportion to exp(score) of what is left.

    Gumbel top-k (Kool, van Hoof & Welling 2019, eq. 3-4).

    Shapes: V visits, W exposed items; all arrays are (V, W), and a score of -inf is padding.
    """
    noisy = score - np.log(
        rng.standard_exponential(score.shape)
    )  # -log(Exp(1)) is a standard Gumbel
    top = np.argpartition(-noisy, size - 1, axis=1)[:, :size]
    order = np.argsort(-take_columns(noisy, top), axis=1)
    top = take_columns(top, order)
    return Sample(
        take_columns(item, top),
        take_columns(bought, top),
        take_columns(placement, top),
        propensity=slate_log_probability(score, top),
    )


def slate_log_probability(
    score: NDArray[np.float64], slate: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compute the log-probability (V,) that Plackett-Luce draws these slates in this order.

    It is the sum over positions i of score_i - log(sum of exp(score) of all that is not yet drawn),
    in log space throughout.

    Shapes: V visits, W exposed items.
        score: (V, W)
        slate: (V, k) columns of `score`
    """
    # The log of the sum of all that is never drawn.
    drawn = take_columns(score, slate)
    rest = score.copy()
    np.put_along_axis(rest, slate, -np.inf, axis=1)
    highest = rest.max(axis=1, keepdims=True)
    shift = np.where(np.isfinite(highest), highest, 0.0)  # nothing left: exp(-inf) = 0
    with np.errstate(divide="ignore"):
        log_rest = shift + np.log(np.exp(rest - shift).sum(axis=1, keepdims=True))

    # From the last position backwards, each drawn item joins what was left.
    from_last = np.concatenate([log_rest, drawn[:, ::-1]], axis=1)
    log_left = np.logaddexp.accumulate(from_last, axis=1)[:, :0:-1]
    return np.asarray((drawn - log_left).sum(axis=1))


def case_control(
    item: NDArray[np.int32],
    bought: NDArray[np.bool_],
    placement: NDArray[np.int16],
    fill: int,
    negatives: int,
    rng: np.random.Generator,
) -> Sample:
    """Sample every bought item (weight 1) and `negatives` others (weight others / sampled).

    Items come back ascending, so that their order tells nothing.

    Shapes: V visits, W exposed items; all arrays are (V, W), and item == `fill` is padding.
    """
    # Bought items have the smallest keys, padding the largest, others are in random order.
    other = ~bought & (item != fill)
    key = np.where(other, rng.random(item.shape), np.where(bought, -1.0, np.inf))
    n_bought, n_other = bought.sum(axis=1), other.sum(axis=1)
    sampled = np.minimum(n_other, negatives)
    width = int((n_bought + sampled).max())

    # The first of each row by key, then ascending by item.
    top = np.argsort(key, axis=1)[:, :width]
    kept = np.arange(width) < (n_bought + sampled)[:, None]
    items = np.where(kept, take_columns(item, top), fill)
    order = np.argsort(items, axis=1)
    top, items = take_columns(top, order), take_columns(items, order)
    hit = take_columns(bought, top)
    weight = np.where(hit, 1.0, (n_other / np.maximum(sampled, 1))[:, None]).astype(np.float32)
    return Sample(
        np.where(items == fill, -1, items), hit, take_columns(placement, top), weight=weight
    )


def impressions(chosen: pl.DataFrame, samples: list[Sample]) -> pl.DataFrame:
    """Put the slates of all shoppers beside their visits, as an impression table."""
    kept = [sample.item >= 0 for sample in samples]
    lengths = np.concatenate([mask.sum(axis=1) for mask in kept])

    def lists(name: str) -> pl.Expr:
        parts = [getattr(sample, name) for sample in samples]
        if parts[0] is None:
            return pl.lit(None)
        values = np.concatenate([part[mask] for part, mask in zip(parts, kept, strict=True)])
        rows = pl.DataFrame({"row": np.repeat(np.arange(len(lengths)), lengths), "value": values})
        return pl.lit(rows.group_by("row", maintain_order=True).agg("value")["value"])

    drawn = [sample.propensity for sample in samples if sample.propensity is not None]
    columns = {
        "scenario": pl.lit(SCENARIO),
        "policy": pl.lit(None),
        "page": pl.lit(0),
        "slate": lists("item"),
        "click": pl.lit(None),
        "purchase": lists("bought"),
        "placement": lists("placement"),
        "propensity": pl.lit(pl.Series(np.concatenate(drawn))) if drawn else pl.lit(None),
        "weight": lists("weight"),
        **dict.fromkeys(("query", "cart", "discount"), pl.lit(None)),
    }
    typed = {name: value.cast(schema.IMPRESSIONS.schema[name]) for name, value in columns.items()}
    return (
        chosen.with_columns(**typed).select(*schema.IMPRESSIONS.schema).sort(schema.IMPRESSIONS.key)
    )
