"""Simulated shoppers under the logging policy, and what they did beside what the log says.

Shoppers start half a year before the log ends, from their histories up to then. Whoever models them
well behaves as the log does after half a year of own visits, under the policy that wrote the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.lab.heldout import ITEM_BINS
from benchmarks.lab.logs import Log
from recsim_env.catalog import Catalog
from recsim_env.logs.complete_journey.logging_policy import LoggingPolicy
from recsim_env.logs.facts import LogFacts
from recsim_env.logs.record import record
from recsim_env.shoppers.household.memory import COUNT, SINCE, Keys
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.household.replay import ScoredItems, Visits, replay
from recsim_env.simulator import SlateSimulator

WEEKS = 26
"""Length of the closed loop, which ends with the log."""
GAP_BINS = (0, 1, 3, 5, 8, 15, 29)
"""First days of the bins of the days to the next visit."""
CURVE_PAST = 3
"""Fewest earlier purchases of what a recency curve is measured on: those of less are noise."""
VISIT_STRIDE = 1_000_000
"""Distance of visit numbers of shoppers who stand for the same household."""


SEASONAL = "category mix"
"""What changes with the season, which one year of a log does not tell."""


@dataclass(frozen=True)
class Periods:
    """Weeks in which behaviour is measured; the last week of a log is cut, so it is left out."""

    held_out: tuple[int, int]
    """From the valid split on, which no shopper was trained on."""
    all: tuple[int, int]
    """All weeks of the half year that is simulated."""

    @classmethod
    def of(cls, facts: LogFacts) -> Periods:
        """Find the periods of a log."""
        end = facts.weeks("test")[1]
        return cls((facts.weeks("valid")[0], end - 1), (end - WEEKS, end - 1))


def start_day(log: Log) -> int:
    """Find the first day of the closed loop.

    Raises:
        ValueError: If the log is shorter than the closed loop.
    """
    if log.n_days <= 7 * WEEKS:
        raise ValueError(
            f"the log has {log.n_days} days, but a closed loop of {WEEKS} weeks needs more."
        )
    return log.n_days - 7 * WEEKS


@dataclass(frozen=True)
class Behaviour:
    """What shoppers did in a period, as numbers and distributions that can be compared."""

    values: dict[str, float]
    """Rates and means by name."""
    shares: dict[str, NDArray[np.float64]]
    """Counts (bins,) of distributions by name; recency curves as (2, bins), see `_recency`."""
    weekly: pl.DataFrame
    """One row a week of the whole table: items a visit, visits, and CTR."""


def behaviour(
    catalog: Catalog,
    history: pl.DataFrame,
    baskets: pl.DataFrame,
    slates: pl.DataFrame,
    weeks: tuple[int, int],
) -> Behaviour:
    """Measure baskets and slates of the weeks from..to.

    Args:
        catalog: The catalogue.
        history: The shoppers' baskets before.
        baskets: Their baskets in and around the period.
        slates: The slates that they were shown.
        weeks: The first and the last week of the period.
    """
    # Every item that was shown or bought, beside the counters that it had before its visit.
    everything = pl.concat([history, baskets]).sort("shopper", "day", "time", maintain_order=True)
    visits = Visits.of(everything)
    index = pl.DataFrame({"visit": everything["visit"], "at": np.arange(len(everything))})
    shown = slates.join(index, on="visit").sort("at").with_row_index("number")
    shown = shown.explode("slate", "purchase")
    rows = ScoredItems(
        torch.from_numpy(shown["at"].to_numpy().copy()),
        torch.from_numpy(shown["slate"].cast(pl.Int64).to_numpy().copy()),
    )
    bought_rows = ScoredItems(
        torch.repeat_interleave(torch.arange(len(visits)), visits.starts.diff()), visits.items
    )
    keys = Keys.of(catalog.kind, catalog.category)
    both = ScoredItems(
        torch.cat([rows.visit, bought_rows.visit]), torch.cat([rows.item, bought_rows.item])
    )
    stats, *_ = replay(visits, keys, both)

    # Those of the period.
    inside = (visits.week >= weeks[0]) & (visits.week <= weeks[1])
    slate_in, bought_in = inside[rows.visit], inside[bought_rows.visit]
    label = torch.from_numpy(shown["purchase"].cast(pl.Float64).to_numpy().copy())[slate_in]
    slate_stats, bought_stats = (
        stats[: len(rows.item)][slate_in].float(),
        stats[len(rows.item) :][bought_in].float(),
    )
    number = torch.from_numpy(shown["number"].to_numpy().astype(np.int64))[slate_in]
    responses = torch.bincount(number, label)[number.unique()]

    # Days to the next visit, where it was seen.
    returns = torch.cat([visits.rank[1:] > 0, torch.zeros(1, dtype=torch.bool)])
    following = torch.cat([visits.since[1:], torch.zeros(1)])
    gaps = following[inside & returns].numpy()

    values = {
        "CTR of the slates": float(label.mean()),
        "slates with a purchase": float((responses > 0).double().mean()),
        "items bought per visit": float(bought_in.sum() / inside.sum()),
        "visits per shopper-week": float(inside.sum())
        / everything["shopper"].n_unique()
        / (weeks[1] - weeks[0] + 1),
        "days to the next visit, mean": float(gaps.mean()),
        "repeat share of purchases": float((bought_stats[:, 0, COUNT] > 0).double().mean()),
    }
    category = torch.bincount(
        catalog.category[bought_rows.item[bought_in]], minlength=int(catalog.category.max()) + 1
    )
    shares = {
        "days to the next visit": np.bincount(
            np.searchsorted(GAP_BINS, gaps, side="right") - 1, minlength=len(GAP_BINS)
        ),
        SEASONAL: category.numpy(),
    }
    for level, name in ((0, "item recency curve"), (2, "category recency curve")):
        shares[name] = _recency(slate_stats[:, level], label)
    distributions = {name: share.astype(np.float64) for name, share in shares.items()}
    return Behaviour(values, distributions, _weekly(everything, slates))


def _recency(stats: Tensor, label: Tensor) -> NDArray[np.float64]:
    """Find the response rate by days since the last purchase, and its responses: (2, bins)."""
    often = stats[:, COUNT] >= CURVE_PAST
    place = np.searchsorted(np.array(ITEM_BINS), stats[often, SINCE].numpy(), side="right") - 1
    shown = np.bincount(place, minlength=len(ITEM_BINS))
    bought = np.bincount(place, label[often].numpy(), len(ITEM_BINS))
    return np.stack([bought / np.maximum(shown, 1), bought])


def _weekly(baskets: pl.DataFrame, slates: pl.DataFrame) -> pl.DataFrame:
    of_slates = slates.group_by("week").agg(ctr=pl.col("purchase").list.mean().mean())
    of_baskets = baskets.group_by("week").agg(
        items=pl.col("items").list.len().mean(), visits=pl.len()
    )
    return of_baskets.join(of_slates, on="week", how="left").sort("week")


def errors(simulated: Behaviour, logged: Behaviour) -> list[dict[str, float | str]]:
    """Compare simulated behaviour with that of the log, one row a value and distribution.

    The error of a value is relative. That of a distribution is the sum of absolute differences of
    its shares; that of a recency curve the mean |simulated / logged - 1| of its bins, weighted by
    the responses of the log.
    """
    table: list[dict[str, float | str]] = []
    for name, value in logged.values.items():
        found = simulated.values[name]
        table.append(
            {"what": name, "log": value, "simulated": found, "error": abs(found / value - 1)}
        )
    for name, share in logged.shares.items():
        found_share = simulated.shares[name]
        if "curve" in name:
            seen = share[1] > 0
            error = (
                share[1][seen] * np.abs(found_share[0][seen] / share[0][seen] - 1)
            ).sum() / share[1][seen].sum()
        else:
            error = np.abs(found_share / found_share.sum() - share / share.sum()).sum()
        table.append(
            {"what": name, "log": float("nan"), "simulated": float("nan"), "error": float(error)}
        )
    return table


def worst_errors(table: Sequence[Mapping[str, float | str]]) -> dict[str, float]:
    """Find the largest of the errors of a table, of all and of those that no season moves."""
    found = {str(line["what"]): float(line["error"]) for line in table}
    lasting = [error for what, error in found.items() if what != SEASONAL]
    return {"worst_error": max(found.values()), "worst_error_without_season": max(lasting)}


@dataclass(frozen=True)
class Roll:
    """Simulated visits and the log of the same households, shopper for shopper."""

    slates: pl.DataFrame
    baskets: pl.DataFrame
    logged_slates: pl.DataFrame
    logged_baskets: pl.DataFrame
    history: pl.DataFrame


def roll(
    folder: Path,
    log: Log,
    *,
    store_promotions: bool,
    precision: str = "fp32",
    seed: int = 0,
    batch: int = 500,
) -> Roll:
    """Let shoppers live to the end of the log under the logging policy, beside the log itself.

    Shoppers are drawn with replacement, as an environment does, as many as there are.

    Args:
        folder: The folder of the shoppers.
        log: The log that they were fitted to.
        store_promotions: Whether items that the store promotes keep their placement outside of the
            slate, as in the log.
        precision: The number format of matrix products.
        seed: The number of this roll, which has episodes of its own.
        batch: Shoppers that are simulated together.

    Raises:
        ValueError: If the log is shorter than the closed loop.
    """
    start = start_day(log)
    shopper = load_shopper(
        folder,
        torch.device("cpu"),
        population="all",
        store_promotions=store_promotions,
        start_days=(start, start + 6),
        precision=precision,
    )
    simulator = SlateSimulator(shopper, horizon_days=log.n_days - start)
    visits_of_four_weeks = 4 * len(log.baskets) / log.facts.n_weeks
    policy = LoggingPolicy(
        shopper.catalog, visits_of_four_weeks, shopper.max_candidates, shopper.slate_size
    )

    # Simulated visits, and which household each simulated shopper stands for.
    number = len(shopper.shop.starts.shopper)
    found, households = [], []
    bar = tqdm(total=number, desc="closed loop", leave=False)
    for first in range(0, number, batch):
        seeds = torch.arange(first, min(first + batch, number)) + 1_000_000 * (seed + 1)
        simulator.reset(seeds)
        households.append(shopper.shop.starts.shopper[simulator.hidden.who])
        found.append(record(simulator, policy, seeds))
        bar.update(len(seeds))
    bar.close()
    slates, baskets = (_stacked([pair[at] for pair in found], batch) for at in (0, 1))

    # The log of the same households, cut at each shopper's first simulated day.
    who = pl.DataFrame({"household": torch.cat(households).numpy()}).with_row_index("row")
    began = baskets.group_by("shopper").agg(first=pl.col("day").min())
    logged_slates, logged_baskets = (
        _relabelled(table, who).join(began, on="shopper", how="left")
        for table in (log.impressions["policy"], log.baskets)
    )
    later = pl.col("day") >= pl.col("first")
    return Roll(
        slates,
        baskets,
        logged_slates.filter(later).drop("first"),
        logged_baskets.filter(later).drop("first"),
        history=logged_baskets.filter(~later).drop("first"),
    )


def _relabelled(table: pl.DataFrame, who: pl.DataFrame) -> pl.DataFrame:
    """Select the log's rows of each drawn household, under the number of the draw."""
    joined = table.join(who, left_on="shopper", right_on="household", how="inner")
    shopper = pl.col("row").cast(pl.Int64)
    return joined.with_columns(
        shopper=shopper, visit=pl.col("visit") + VISIT_STRIDE * (shopper + 1)
    ).drop("row")


def _stacked(tables: list[pl.DataFrame], batch: int) -> pl.DataFrame:
    """Put batches of shoppers under one numbering; visits get numbers below zero, as no log has."""
    shopper, visit = pl.col("shopper"), -1 - pl.col("visit")
    return pl.concat(
        [
            table.with_columns(shopper=shopper + i * batch, visit=visit - i * VISIT_STRIDE)
            for i, table in enumerate(tables)
        ]
    )
