"""Fit the CTR ranker to a log of household shoppers: `python -m benchmarks.data.train_ranker`.

The log is replayed visit by visit through the shop's memory, so that the features of each row come
from the same function as at a decision. The ranker learns from the train weeks of the households
that are not held out, is calibrated on their valid weeks, and scored on the test weeks. The weights
go to `policies/rankers/weights/`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from rich.console import Console
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.lab import heldout
from benchmarks.lab.command import run_command
from benchmarks.lab.log_checks import check_slates, check_visits
from benchmarks.lab.logs import Log, ReadsLog, ready
from benchmarks.lab.options import Results
from benchmarks.lab.run import Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import THREADS, use_threads
from policies.rankers.ctr import WEIGHTS, CTRModel, save_model
from policies.rankers.ctr_fit import (
    FitConfig,
    PairExamples,
    calibrate,
    fit,
    predict,
    shown_examples,
)
from policies.rankers.pair_features import RankerCatalog, pair_codes_for, pair_features_for
from recsim_env.estimates import Estimate
from recsim_env.logs.facts import LogFacts
from recsim_env.logs.schema import SPLITS, read_impressions
from recsim_env.shoppers.household.memory import Keys, Memory, loyalty_card
from recsim_env.shoppers.household.replay import Visits
from recsim_env.shoppers.household.states import REMEMBERED
from recsim_env.types import Observation

KEYS = {
    "context",
    "bought_items",
    "bought_counts",
    "bought_days",
    "category_counts",
    "category_days",
    "placement",
    "popularity",
}
"""Keys of an observation that the log holds; what was shown before, `recent_slates`, it lacks."""


@dataclass(frozen=True)
class Config(ReadsLog, Results):
    """Fit the CTR ranker to a log of household shoppers."""

    FOLDERS: ClassVar[Collection[str]] = ("results",)  # `output` is a file

    output: Path = WEIGHTS
    """File that the ranker is written into. The default replaces the ranker that comes with the
    policies."""
    logs: tuple[str, ...] = ("policy", "uniform")
    """Names of the impression tables to learn from. The case-control table has no slates, so it is
    not among them."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Settings of the training."""
    threads: int = THREADS
    """Number of processor threads for the training. One repeats a training bit for bit."""
    save_results: bool = True
    """Write the scores to the folder of results as well."""


# ---- the log as observations ---------------------------------------------------------------------


@dataclass(frozen=True)
class Slates:
    """Logged slates, sorted by visit.

    Shapes: S slates, K positions.
        visit: (S,) int64 index into `Visits`
        items, placement: (S, K) int64
        bought: (S, K) bool
        split: (S,) int64 index into SPLITS
        log: (S,) int64 index into the names of the logs
    """

    visit: Tensor
    items: Tensor
    placement: Tensor
    bought: Tensor
    split: Tensor
    log: Tensor

    @classmethod
    def of(cls, logs: list[pl.DataFrame], baskets: pl.DataFrame) -> Slates:
        """Join impression tables with the visits of the baskets."""
        index = pl.DataFrame({"visit": baskets["visit"], "at": np.arange(len(baskets))})
        table = pl.concat([log.with_columns(log=pl.lit(at)) for at, log in enumerate(logs)])
        table = table.join(index, on="visit", how="inner").sort("at", "log")
        return cls(
            _tensor(table["at"]),
            _lists(table, "slate"),
            _lists(table, "placement"),
            _lists(table, "purchase").bool(),
            torch.tensor([SPLITS.index(name) for name in table["split"]]),
            _tensor(table["log"]),
        )


def _tensor(column: pl.Series) -> Tensor:
    return torch.from_numpy(column.cast(pl.Int64).to_numpy().copy())


def _lists(table: pl.DataFrame, name: str) -> Tensor:
    rows = len(table)
    return _tensor(table[name].explode()).view(rows, -1)


def popularity_table(popularity: pl.DataFrame, n_items: int) -> Tensor:
    """Tabulate purchases per visit by week and item: (weeks, N) float32."""
    table = torch.zeros(int(_tensor(popularity["week"]).max()) + 1, n_items)
    values = torch.from_numpy(popularity["popularity"].to_numpy().copy())
    table[_tensor(popularity["week"]), _tensor(popularity["item"])] = values
    return table


def slates_of(log: Log, folder: Path, name: str) -> pl.DataFrame:
    """Find an impression table of a log, or read one that not every log has.

    Raises:
        ValueError: If it does not fit the baskets, or holds what no ranker can learn from.
    """
    path = folder / f"{name}.parquet"
    found = log.impressions.get(name)
    if found is None:
        found = read_impressions(path, len(log.catalog))
        check_visits(path, found, log.baskets)
    check_slates(path, found)
    return found


def replay_slates(
    visits: Visits,
    slates: Slates,
    keys: Keys,
    popularity: Tensor,
    facts: LogFacts,
) -> Iterator[tuple[Tensor, Observation]]:
    """Replay the log, and give every slate with what was known before its visit.

    All shoppers advance together, one visit at a time.

    Yields:
        The rows (R,) of `slates`, and the observation whose candidates are those of the slates.
    """
    # The slates and the visits of each round: the first visit of all shoppers, the second, ..
    memory = Memory.empty(keys, int(visits.shopper.max()) + 1, REMEMBERED)
    rank = visits.rank[slates.visit]
    slate_order, visit_order = rank.argsort(stable=True), visits.rank.argsort(stable=True)
    most = int(visits.rank.max()) + 1
    slate_parts = slate_order.split(torch.bincount(rank, minlength=most).tolist())
    visit_parts = visit_order.split(torch.bincount(visits.rank, minlength=most).tolist())

    for rows, now in zip(slate_parts, visit_parts, strict=True):
        if len(rows):
            visit = slates.visit[rows]
            who, day, week = visits.shopper[visit], visits.day[visit].float(), visits.week[visit]
            observation = loyalty_card(
                memory,
                who,
                memory.tally_of(who, day),
                day,
                visits.since[visit],
                week,
                facts.weeks_a_year,
            )
            observation["candidates"] = slates.items[rows]
            observation["placement"] = slates.placement[rows]
            observation["popularity"] = popularity[week.clamp(max=len(popularity) - 1)].gather(
                1, slates.items[rows]
            )
            yield rows, observation
        memory.record(visits.shopper[now], visits.padded(now), visits.day[now].float())


def examples_of(
    visits: Visits,
    slates: Slates,
    catalog: RankerCatalog,
    keys: Keys,
    popularity: Tensor,
    facts: LogFacts,
    features: tuple[str, ...],
    codes: tuple[str, ...],
) -> tuple[PairExamples, Tensor]:
    """Make the rows of a training, and find the slate that each of them belongs to (Q,)."""
    parts, owners = [], []
    steps = replay_slates(visits, slates, keys, popularity, facts)
    for rows, observation in tqdm(
        steps, total=int(visits.rank.max()) + 1, desc="replaying the log", unit="visit"
    ):
        parts.append(
            shown_examples(
                observation, slates.items[rows], slates.bought[rows], catalog, features, codes
            )
        )
        owners.append(rows.repeat_interleave(slates.items.shape[1]))
    return PairExamples.join(parts), torch.cat(owners)


# ---- scores --------------------------------------------------------------------------------------

SCORES = {
    "auc": "auc",
    "normalised_entropy": "ne",
    "predicted_over_observed": "ratio",
    "calibration_error": "ece",
}
"""Name of a score -> its metric in `benchmarks.lab.heldout`."""


def score(
    model: CTRModel, examples: PairExamples, shopper: Tensor, slate: Tensor
) -> dict[str, float]:
    """Compute AUC, normalised entropy, predicted over observed and calibration error of rows."""
    chance = torch.sigmoid(predict(model, examples)).double().numpy()
    rows = heldout.Rows(
        examples.labels.double().numpy(),
        np.ones(len(examples)),
        chance,
        shopper.numpy(),
        slate.numpy(),
    )
    return {name: heldout.METRICS[metric](rows, rows.weight) for name, metric in SCORES.items()}


def main(config: Config) -> None:
    """Replay the log, fit and calibrate the ranker, score it, and save it.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If an output lies in the log, or the log in an output, or the ranker's is a
            folder.
    """
    if config.output.is_dir():
        raise ValueError(
            f"output is {str(config.output)!r}, but that is a folder, and it must be a file."
        )

    # The log as rows, each with its household, split and table.
    use_threads(config.threads)
    run = Run("train_ranker", config, results=config.results)
    saved = {"the folder of results": run.folder} if config.save_results else {}
    ready(config.log, Console(), {"output": config.output} | saved)
    whole = Log.load(config.log)
    facts, catalog = whole.facts, whole.catalog
    logs = [slates_of(whole, config.log, name) for name in config.logs]
    popularity = popularity_table(whole.popularity, len(catalog))
    holdout = torch.from_numpy(whole.shoppers["holdout"].to_numpy())
    visits, slates = Visits.of(whole.baskets), Slates.of(logs, whole.baskets)
    del whole
    keys = Keys.of(catalog.kind, catalog.category)
    items = RankerCatalog.of(catalog, facts.placements)
    features, codes = pair_features_for(KEYS), pair_codes_for(KEYS)
    examples, owner = examples_of(visits, slates, items, keys, popularity, facts, features, codes)
    shopper, split, log = (
        visits.shopper[slates.visit[owner]],
        slates.split[owner],
        slates.log[owner],
    )

    # The ranker.
    learned_from = ~holdout[shopper]
    train = examples.take((split == SPLITS.index("train")) & learned_from)
    model = fit(train, items, features, codes, config.fit, title="fitting the ranker")
    model = calibrate(model, examples.take((split == SPLITS.index("valid")) & learned_from))
    save_model(model, config.output)

    # Its scores on the test weeks.
    rows: list[dict[str, Any]] = []
    for at, name in enumerate(config.logs):
        for seen, among in (("training", learned_from), ("held out", ~learned_from)):
            mask = (split == SPLITS.index("test")) & (log == at) & among
            scores = score(model, examples.take(mask), shopper[mask], owner[mask])
            rows.append({"log": name, "households": seen, "rows": int(mask.sum()), **scores})
    table = markdown(rows, digits=3)
    print(table)
    if config.save_results:
        figures = {
            f"{row['log']}/{row['households'].replace(' ', '_')}/{name}": Estimate(
                row[name], n=row["rows"]
            )
            for row in rows
            for name in SCORES
        }
        run.save(pl.DataFrame(rows), summary=figures, table=table)


if __name__ == "__main__":
    run_command(main, Config)
