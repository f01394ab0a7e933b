"""Whether slates look drawn at random, and whether a policy knew more than its log.

Both look at the first slates of users, before the policy could have learned anything about them.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

POWER = 10.0
"""Exposures that can tell a policy from uniform chances, in units of the square root of the number
of items: chances that vary by 100 % are then seen at seven standard errors."""
SURE = 4.0
"""Standard errors from which on a difference is taken for real."""
ALIKE = 0.1
"""Variation of the items' chances, as a share of their mean, up to which a policy is uniform for
all that matters, however many exposures say that it is not exactly so."""
LEAST_EXPOSURES = 5
"""Random exposures from which on the click rate of an item counts."""
LIFT = 1.2
"""Ratio of clicks to those expected from random slates up to which a policy knew nothing more."""
LEAST_SLATES = 50
"""First slates of a policy, and pairs of items expected in them, that are needed to judge it."""


def first_slates(impressions: pl.DataFrame) -> pl.DataFrame:
    """Take the first slate of each shopper."""
    return impressions.unique("shopper", keep="first", maintain_order=True)


def exposures(slates: pl.DataFrame, items: int) -> NDArray[np.int64]:
    """Count how often each item was shown: (N,)."""
    shown = slates["slate"].explode().cast(pl.Int64).to_numpy()
    return np.bincount(shown, minlength=items)


def drawn_at_random(counts: NDArray[np.int64]) -> bool | None:
    """Whether items that were shown so often look drawn with equal chances.

    Pearson's chi-square statistic of a uniform policy has the mean N - 1 and the variance
    2 (N - 1), also where an item is expected less than once.

    Args:
        counts: (N,) exposures of each item.

    Returns:
        None where there are too few exposures to say.
    """
    items, shown = len(counts), int(counts.sum())
    if items < 2 or shown < POWER * math.sqrt(items):
        return None
    expected = shown / items
    statistic = float(((counts - expected) ** 2).sum() / expected)
    excess = statistic - (items - 1)
    return excess < SURE * math.sqrt(2 * (items - 1)) or excess / shown < ALIKE**2


def unrelated(slates: pl.DataFrame, category: NDArray[np.int64]) -> bool | None:
    """Whether items of one category meet as often as independent uniform draws make them meet.

    A policy that shows every user the favourite category shows all items equally often where all
    categories have as many friends; its slates tell it apart from chance all the same. Pairs within
    the first slate of a user and pairs of an item of the first and one of the second are looked at.

    Args:
        slates: Slates of one policy, each user's in order.
        category: (N,) the category of each item that may be shown, -1 for those that may not.

    Returns:
        None where there are too few slates to say.
    """
    sizes = np.bincount(category[category >= 0]).astype(float)
    items = sizes.sum()
    if items < 2:
        return None
    within = float((sizes * (sizes - 1)).sum() / (items * (items - 1)))
    between = float((sizes**2).sum() / items**2)

    # How often each category was shown in a user's first two slates.
    codes = pl.Series(category)
    shown = slates.with_columns(place=pl.int_range(pl.len()).over("shopper")).filter(
        pl.col("place") < 2
    )
    counts = (
        shown.select("shopper", "place", "slate")
        .explode("slate")
        .with_columns(category=codes.gather(shown["slate"].explode()))
        .group_by("shopper", "place", "category")
        .agg(count=pl.len().cast(pl.Float64))
    )

    # Pairs of one category within the first slate, and between the two.
    first, second = (counts.filter(pl.col("place") == place) for place in (0, 1))
    inside = first.group_by("shopper").agg(
        size=pl.col("count").sum(), same=(pl.col("count") * (pl.col("count") - 1)).sum() / 2
    )
    met = (
        second.join(first, on=["shopper", "category"], suffix=" of first")
        .group_by("shopper")
        .agg(same=(pl.col("count") * pl.col("count of first")).sum())
    )
    both = (
        second.group_by("shopper")
        .agg(size=pl.col("count").sum())
        .join(inside.select("shopper", first="size"), on="shopper")
        .join(met, on="shopper", how="left")
        .with_columns(pl.col("same").fill_null(0.0))
    )
    pairs = (
        (inside["same"], inside["size"] * (inside["size"] - 1) / 2 * within),
        (both["same"], both["size"] * both["first"] * between),
    )
    answers = [_as_expected(same, expected) for same, expected in pairs if len(same)]
    known = [answer for answer in answers if answer is not None]
    return all(known) if known else None


def _as_expected(found: pl.Series, expected: pl.Series) -> bool | None:
    """Whether the sum of counts is what was expected, judged by their variance over users."""
    total = float(expected.sum())
    if len(found) < LEAST_SLATES or total < LEAST_SLATES:
        return None
    apart = found - expected
    error = math.sqrt(float(apart.var() or 0.0) * len(found)) or 1.0  # type: ignore[arg-type]
    off = abs(float(apart.sum()))
    return off < SURE * error or off < ALIKE * total


def lift_of(policy: pl.DataFrame, random: pl.DataFrame) -> tuple[float, float] | None:
    """Compare the clicks on first slates of policies with those that random slates let one expect.

    Where a policy saw nothing of a user, an item is clicked as often in its first slates as in
    random ones, position by position. Where it is clicked more often, the policy knew who likes it.
    How often positions are clicked comes from first slates drawn at random, and how much more often
    than others an item is clicked comes from all random slates.

    Args:
        policy: The first slates of users who were served by the policies.
        random: All slates drawn at random, each user's in order.

    Returns:
        Clicks divided by what was expected, and by how many standard errors they differ; None where
        too few slates hold items that were shown at random often enough.
    """
    level = _position_rates(first_slates(random))
    by_item = (
        _rows(random)
        .join(_position_rates(random), on="position", how="left")
        .group_by("item")
        .agg(shown=pl.len(), clicks=pl.col("click").sum(), even=pl.col("rate").sum())
        .filter((pl.col("shown") >= LEAST_EXPOSURES) & (pl.col("even") > 0))
        .with_columns(ratio=pl.col("clicks") / pl.col("even"))
    )
    chosen = (
        _rows(policy)
        .join(level, on="position", how="inner")
        .join(by_item, on="item", how="inner", suffix=" at random")
        .with_columns(expected=pl.col("rate") * pl.col("ratio"))
    )
    slates = chosen.group_by("row").agg(
        clicks=pl.col("click").sum().cast(pl.Float64), expected=pl.col("expected").sum()
    )
    expected = float(slates["expected"].sum())
    if len(slates) < LEAST_SLATES or expected <= 0:
        return None

    # Variances: of the slates, of the items' ratios, and of the level at the first visit.
    apart = slates["clicks"] - slates["expected"]
    spread = float(apart.var() or 0.0) * len(slates)  # type: ignore[arg-type]
    weights = chosen.group_by("item").agg(pl.col("rate").sum())
    share = pl.col("rate") / pl.col("even")
    unsure = by_item.join(weights, on="item").select(
        (share**2 * pl.col("clicks").clip(lower_bound=1)).sum()
    )
    seen = float((level["rate"] * level["shown"]).sum())
    error = math.sqrt(spread + float(unsure.item()) + expected**2 / max(seen, 1.0))
    return float(slates["clicks"].sum()) / expected, float(apart.sum()) / (error or 1.0)


def _rows(slates: pl.DataFrame) -> pl.DataFrame:
    """One row a shown item: `row` of the slate, `item`, `position` and `click`."""
    return (
        slates.select(
            pl.int_range(pl.len()).alias("row"),
            pl.col("slate").alias("item"),
            pl.int_ranges(0, pl.col("slate").list.len()).alias("position"),
            "click",
        )
        .explode("item", "position", "click")
        .with_columns(pl.col("click").cast(pl.Int64))
    )


def _position_rates(slates: pl.DataFrame) -> pl.DataFrame:
    return _rows(slates).group_by("position").agg(rate=pl.col("click").mean(), shown=pl.len())
