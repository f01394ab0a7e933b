"""Let the fine-tuned shoppers live under the logging policy, and compare what they did with what the log says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.lab.heldout import ITEM_BINS
from recsim_env.catalog import Catalog
from recsim_env.logs.complete_journey import Recipe
from recsim_env.logs.record import record
from recsim_env.shoppers.household.memory import COUNT, SINCE, Keys
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.household.replay import Rows, Visits, replay
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

START_DAY = 183  # 26 weeks before the end of the log
GAP_BINS = (0, 1, 3, 5, 8, 15, 29)  # days to the next visit
CURVE_PAST = 3  # purchases that a recency curve asks for, as in the facts


class LoggingPolicy:
    """The Plackett-Luce policy that wrote the log: own item and category counts, and four-week popularity."""

    def __init__(
        self, catalog: Catalog, visits_of_four_weeks: float, candidates: int, slate_size: int = 10
    ) -> None:
        self.draws = candidates
        self.category = catalog.category
        self.visits = visits_of_four_weeks
        self.slate_size = slate_size
        self.recipe = Recipe()

    def scores(self, observation: Observation) -> Tensor:
        """(B, C), -inf where padded."""
        candidates = observation["candidates"]
        at = candidates.clamp(min=0)
        counts = torch.zeros(len(at), len(self.category) + 1)
        bought = observation["bought_items"]
        counts.scatter_(
            1, bought.where(bought >= 0, len(self.category)), observation["bought_counts"]
        )
        own = counts.gather(1, at)
        category = observation["category_counts"].gather(1, self.category[at])
        r = self.recipe
        score = r.item_weight * torch.log1p(own) + r.category_weight * torch.log1p(category)
        score = score + r.popularity_weight * torch.log1p(observation["popularity"] * self.visits)
        return score.where(candidates >= 0, -torch.inf)

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) by the Gumbel trick."""
        noise = -torch.log(-torch.log(draws.clamp(1e-7, 1 - 1e-7)))
        top = (self.scores(observation) + noise).topk(self.slate_size, dim=1).indices
        return observation["candidates"].gather(1, top)


@dataclass(frozen=True)
class Behaviour:
    """What shoppers did in a stretch of time; each a number or a distribution that can be laid beside another."""

    values: dict[str, float]
    shares: dict[str, NDArray[np.float64]]
    weekly: pl.DataFrame


def behaviour(
    catalog: Catalog,
    history: pl.DataFrame,
    baskets: pl.DataFrame,
    slates: pl.DataFrame,
    weeks: tuple[int, int],
) -> Behaviour:
    """Measure baskets and slates of the weeks from..to; `history` are the shoppers' baskets before."""
    everything = pl.concat([history, baskets]).sort("shopper", "day", "time", maintain_order=True)
    visits = Visits.of(everything)
    index = pl.DataFrame({"visit": everything["visit"], "at": np.arange(len(everything))})
    shown = slates.join(index, on="visit").sort("at").explode("slate", "purchase")
    rows = Rows(
        torch.from_numpy(shown["at"].to_numpy().copy()),
        torch.from_numpy(shown["slate"].cast(pl.Int64).to_numpy().copy()),
    )
    bought_rows = Rows(
        torch.repeat_interleave(torch.arange(len(visits)), visits.starts.diff()), visits.items
    )
    keys = Keys.of(catalog.kind, catalog.category)
    both = Rows(
        torch.cat([rows.visit, bought_rows.visit]), torch.cat([rows.item, bought_rows.item])
    )
    stats, _ = replay(visits, keys, both)
    inside = (visits.week >= weeks[0]) & (visits.week <= weeks[1])
    slate_in, bought_in = inside[rows.visit], inside[bought_rows.visit]
    label = torch.from_numpy(shown["purchase"].cast(pl.Float64).to_numpy().copy())[slate_in]
    slate_stats, bought_stats = (
        stats[: len(rows.item)][slate_in].float(),
        stats[len(rows.item) :][bought_in].float(),
    )
    returns = torch.cat([visits.rank[1:] > 0, torch.zeros(1, dtype=torch.bool)])
    following = torch.cat([visits.since[1:], torch.zeros(1)])
    gaps = following[inside & returns].numpy()
    per_slate = label.view(-1, 10).sum(1)
    values = {
        "CTR of the slates": float(label.mean()),
        "slates with a purchase": float((per_slate > 0).double().mean()),
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
        "category mix": category.numpy(),
    }
    for level, name in ((0, "item recency curve"), (2, "category recency curve")):
        shares[name] = _recency(slate_stats[:, level], label)
    weekly = _weekly(everything, slates)
    return Behaviour(
        values, {name: share.astype(np.float64) for name, share in shares.items()}, weekly
    )


def _recency(stats: Tensor, label: Tensor) -> NDArray[np.float64]:
    """Response rate of shown items by days since the last purchase, and the responses behind it: (2, bins)."""
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
    """Relative error of each value; of a distribution the sum of absolute differences of its
    shares; of a recency curve the mean |simulated / logged - 1| of its bins, weighted by the log's
    responses.
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
    baskets: pl.DataFrame,
    slates: pl.DataFrame,
    *,
    store_promotions: bool,
    precision: str = "fp32",
    seed: int = 0,
    batch: int = 500,
) -> Roll:
    """Shoppers from `START_DAY` to the end of the log under the logging policy, beside what they did in the log.

    Shoppers are drawn with replacement, as an environment does, as many as there are.
    """
    shopper = load_shopper(
        folder,
        torch.device("cpu"),
        population="all",
        store_promotions=store_promotions,
        start_days=(START_DAY, START_DAY + 6),
        precision=precision,
    )
    simulator = SlateSimulator(shopper, horizon_days=365 - START_DAY)
    policy = LoggingPolicy(shopper.catalog, 4 * len(baskets) / 53, shopper.max_candidates)
    number = len(shopper.shop.starts.shopper)
    found, households = [], []
    bar = tqdm(total=number, desc="closed loop", leave=False)
    for start in range(0, number, batch):
        seeds = torch.arange(start, min(start + batch, number)) + 1_000_000 * (seed + 1)
        simulator.reset(seeds)
        households.append(shopper.shop.starts.shopper[simulator.hidden.who])
        found.append(record(simulator, policy, seeds))
        bar.update(len(seeds))
    bar.close()
    who = pl.DataFrame({"household": torch.cat(households).numpy()}).with_row_index("row")
    simulated = _stacked([pair[1] for pair in found], batch)
    first = simulated.group_by("shopper").agg(first=pl.col("day").min())
    logged = _relabelled(baskets, who).join(first, on="shopper", how="left")
    return Roll(
        _stacked([pair[0] for pair in found], batch),
        simulated,
        _relabelled(slates, who)
        .join(first, on="shopper", how="left")
        .filter(pl.col("day") >= pl.col("first"))
        .drop("first"),
        logged.filter(pl.col("day") >= pl.col("first")).drop("first"),
        logged.filter(pl.col("day") < pl.col("first")).drop("first"),
    )


VISIT_STRIDE = 1_000_000  # apart for shoppers who stand for the same household


def _relabelled(table: pl.DataFrame, who: pl.DataFrame) -> pl.DataFrame:
    """The log's rows of each drawn household, under the number of the draw."""
    joined = table.join(who, left_on="shopper", right_on="household", how="inner")
    shopper = pl.col("row").cast(pl.Int64)
    return joined.with_columns(
        shopper=shopper, visit=pl.col("visit") + VISIT_STRIDE * (shopper + 1)
    ).drop("row")


def _stacked(tables: list[pl.DataFrame], batch: int) -> pl.DataFrame:
    """Batches of shoppers under one numbering."""
    shopper, visit = (
        pl.col("shopper"),
        -1 - pl.col("visit"),
    )  # below zero: no visit of the log has such a number
    return pl.concat(
        [
            table.with_columns(shopper=shopper + i * batch, visit=visit - i * VISIT_STRIDE)
            for i, table in enumerate(tables)
        ]
    )
