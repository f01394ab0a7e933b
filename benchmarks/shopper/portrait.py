"""What a portrait is worth for predicting purchases: `python -m benchmarks.shopper.portrait`.

The shopper of the package knows nothing but purchases. Beside its logits, a head is fitted on the
valid weeks and judged on the test weeks, on households of whom age, income, size and kids are
known: a logistic regression with the shopper's logit as offset, and the products of the portrait
with what the catalogue says of an item as inputs. It is laid beside the same head without the
portrait, and beside one with the portraits of other households, which must bring nothing.

All of it is done twice: with the histories of the log, and with masked ones, where each visit is
scored as the first ever of its household. The log starts on 1 January in the middle of most
households' lives, so that masked histories stand for newcomers; those households that appear after
week 8 are scored as well, but only a few of them have a portrait, so that nothing can be said of
its worth for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.lab.command import run_command
from benchmarks.lab.heldout import Rows, bootstrap, estimate
from benchmarks.lab.logs import DEFAULT_LOG, SHIPPED_SHOPPER, rows_of, sorted_rows
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from policies.features import principal
from recsim_env.catalog import Catalog
from recsim_env.estimates import Estimate
from recsim_env.logs import complete_journey
from recsim_env.logs.schema import (
    read_baskets,
    read_impressions,
    read_popularity,
    read_promotions,
    read_shoppers,
)
from recsim_env.settings import AMOUNT, Within
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.features import visit_context
from recsim_env.shoppers.household.fit import score
from recsim_env.shoppers.household.memory import LEVELS, NEVER, RHYTHM, SINCE, STATS
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.portraits import read_portraits
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.weights import load_model

SPLITS = ("valid", "test")
HISTORY, MASKED, LATE = "whole history", "masked history", "appeared after week 8"
PLAIN, TOLD, SHUFFLED = "no portrait", "portrait", "portraits of others"
FIRST_VISITS = 10
LATE_WEEK = 8
NEWTON_STEPS = 6
SHOWN = {"auc": "AUC", "auc_minus_plain": "less no portrait"}
"""Figure -> its column in the table."""
AT_ONCE = 65_536
"""Rows whose masked logits are computed together."""


@dataclass(frozen=True)
class Config(Threads, Results):
    """Measure what a portrait is worth for the shopper's prediction."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"ridge": AMOUNT}

    shopper: Path = SHIPPED_SHOPPER
    """Folder of the fine-tuned shopper, with its portraits."""
    log: Path = DEFAULT_LOG
    """Folder of the log, by `benchmarks.data.build_log`; it is read only."""
    components: int = 16
    """Number of principal components of an item's text in the head."""
    ridge: float = 100.0
    """Weight of the ridge on the head's numbers, whose inputs have a standard deviation of 1."""
    samples: int = 100
    """Number of bootstrap samples of households."""


@dataclass(frozen=True)
class Scored:
    """Rows of the log with the logits of the shopper in one setting.

    Shapes: V valid rows, T test rows; they are indices into the rows of the examples.
    """

    rows: tuple[Tensor, Tensor]
    logits: tuple[Tensor, Tensor]


# ---- the shopper's own logits --------------------------------------------------------------------


def examples_of(config: Config, households: Tensor) -> Examples:
    """Replay the histories of some households, with the rows of full exposure of both splits."""
    facts, catalog = complete_journey.read_facts(config.log), Catalog.load(config.log)
    n = len(catalog)
    promotions = StorePromotions.of(
        read_promotions(config.log / "promotions.parquet", n, facts.n_placements),
        read_popularity(config.log / "popularity.parquet", n),
        n,
    )
    number = pl.DataFrame(
        {"shopper": households.numpy(), "dense": np.arange(len(households))},
    )
    baskets = (
        read_baskets(config.log / "baskets.parquet", n)
        .join(number, on="shopper", how="inner", maintain_order="left")
        .with_columns(shopper="dense")
        .drop("dense")
    )
    wanted = baskets.filter(pl.col("split").is_in(SPLITS)).select("visit")
    shown = read_impressions(config.log / "case_control.parquet", n).join(
        wanted, on="visit", how="semi", maintain_order="left"
    )
    return Examples.of(
        catalog,
        baskets,
        {"case_control": shown},
        promotions,
        mailers=facts.placements[1],
        generator=torch.Generator().manual_seed(0),
    )


def with_history(model: SlateShopper, examples: Examples) -> Scored:
    """Score both splits with the histories of the log."""
    scores = [score(model, examples, split, kinds=("case_control",)) for split in SPLITS]
    return Scored(
        (scores[0].row, scores[1].row), (scores[0].logit.float(), scores[1].logit.float())
    )


@torch.no_grad()
def as_newcomers(model: SlateShopper, examples: Examples) -> Scored:
    """Score both splits as if each visit were the first ever of its household."""
    rows = [rows_of(examples, split, ("case_control",)) for split in SPLITS]
    vectors = model.items()
    parts = model.slate_head.items(vectors, model.items.known)
    never = torch.zeros(LEVELS, STATS)
    never[:, SINCE] = NEVER

    def logits(at: Tensor) -> Tensor:
        visit, item = examples.row_visit[at], examples.row_item[at]
        days, places = examples.visits.day[visit].unique(return_inverse=True)
        day = days.float()
        context = visit_context(torch.zeros(len(day), RHYTHM), day, torch.zeros_like(day))
        state = torch.cat([model.newcomers(len(day)), context], dim=1)
        week = examples.visits.week[visit].clamp(max=len(examples.promotions.item_context) - 1)
        found: Tensor = model.slate_head(
            model.slate_head.shoppers(state)[places],
            parts[item],
            never.expand(len(at), -1, -1),
            examples.promotions.item_context[week, item],
            examples.row_placement[at],
        )
        return model.calibrated(found)

    of_split = [torch.cat([logits(part) for part in found.split(AT_ONCE)]) for found in rows]
    return Scored((rows[0], rows[1]), (of_split[0], of_split[1]))


# ---- the head ------------------------------------------------------------------------------------


def item_inputs(catalog: Catalog, components: int) -> Tensor:
    """What the catalogue says of items: (N, J) float64, a constant, then numbers of deviation 1.

    They are the principal components of the text, the log price and whether it is of the store's
    own brand.
    """
    assert catalog.price is not None
    own = torch.tensor(["private brand" in text for text in catalog.text], dtype=torch.float64)
    numbers = torch.stack([catalog.price.double().clamp(min=0.01).log(), own], dim=1)
    numbers = (numbers - numbers.mean(dim=0)) / numbers.std(dim=0)
    constant = torch.ones(len(catalog), 1, dtype=torch.float64)
    return torch.cat([constant, principal(catalog.embedding, components).double(), numbers], dim=1)


def portrait_inputs(portraits: Tensor) -> Tensor:
    """A constant, the numbers of portraits (S, P), and whether there are kids: (S, 6) float64."""
    values = portraits[:, 1:].double()
    numbers = torch.cat([values, (values[:, -1:] > 0).double()], dim=1)
    numbers = (numbers - numbers.mean(dim=0)) / numbers.std(dim=0).clamp(min=1e-9)
    return torch.cat([torch.ones(len(numbers), 1, dtype=torch.float64), numbers], dim=1)


def products(shopper: Tensor, item: Tensor) -> Tensor:
    """Products (R, K * J) of inputs of shoppers (R, K) and of items (R, J)."""
    return (shopper.unsqueeze(2) * item.unsqueeze(1)).flatten(1)


def fitted(inputs: Tensor, label: Tensor, offset: Tensor, ridge: float) -> Tensor:
    """The weights (F,) of a ridge logistic regression with an offset, by Newton's method.

    Shapes: inputs (R, F) float64; label, offset (R,) float64.
    """
    weight = torch.zeros(inputs.shape[1], dtype=torch.float64)
    identity = ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        chance = torch.sigmoid(offset + inputs @ weight)
        slope = inputs.T @ (label - chance) - ridge * weight
        curvature = (inputs * (chance * (1 - chance)).unsqueeze(1)).T @ inputs + identity
        weight = weight + torch.linalg.solve(curvature, slope)
    return weight


def heads(
    config: Config, examples: Examples, catalog: Catalog, portraits: Tensor, scored: Scored
) -> dict[str, Tensor]:
    """The test logits (T,) of each head.

    Args:
        config: The settings.
        examples: The rows.
        catalog: The items.
        portraits: (S, P) of the households of the examples, all of them known.
        scored: The rows with the shopper's logits.
    """
    items = item_inputs(catalog, config.components)
    people = portrait_inputs(portraits)
    others = people[torch.randperm(len(people), generator=torch.Generator().manual_seed(0))]
    found = {}
    for name, inputs in ((PLAIN, people[:, :1]), (TOLD, people), (SHUFFLED, others)):
        told = [
            products(
                inputs[examples.visits.shopper[examples.row_visit[rows]]],
                items[examples.row_item[rows]],
            )
            for rows in scored.rows
        ]
        valid = scored.rows[0]
        offset = scored.logits[0].double() + examples.row_offset[valid].double()
        weight = fitted(told[0], examples.row_label[valid].double(), offset, config.ridge)
        found[name] = scored.logits[1] + (told[1] @ weight).float()
    return found


# ---- scores --------------------------------------------------------------------------------------


def figures(setting: str, models: dict[str, Rows], samples: int) -> list[dict[str, object]]:
    """AUC and log loss of each model, and of what they differ from no portrait: a row each."""
    households = next(iter(models.values())).households
    responses = float(next(iter(models.values())).label.sum())
    found = bootstrap(models, ("auc", "log_loss"), samples=samples)
    rows: list[dict[str, object]] = []

    def add(model: str, metric: str, value: float, values: np.ndarray) -> None:
        told = estimate(value, values, households)
        about = {"setting": setting, "model": model, "figure": metric}
        size = {"households": households, "responses": responses}
        rows.append({**about, "value": value, "low": told.low, "high": told.high, **size})

    for model, metrics in found.items():
        for metric, (value, values) in metrics.items():
            add(model, metric, value, values)
            if PLAIN in found and model in (TOLD, SHUFFLED):
                base, bases = found[PLAIN][metric]
                add(model, f"{metric}_minus_plain", value - base, values - bases)
    return rows


def report(rows: pl.DataFrame) -> Report:
    """Make the table and the figures."""
    summary: dict[str, Estimate] = {}
    lines: dict[tuple[str, str], dict[str, object]] = {}
    for row in rows.iter_rows(named=True):
        found = Estimate(row["value"], row["low"], row["high"], row["households"])
        key = (row["setting"], row["model"])
        line = lines.setdefault(
            key,
            {
                "histories": key[0],
                "head": key[1],
                "households": row["households"],
                "purchases": int(row["responses"]),
                **dict.fromkeys(SHOWN.values(), ""),
            },
        )
        if row["figure"] in SHOWN:
            line[SHOWN[row["figure"]]] = found
        summary[f"{key[0]}/{key[1]}/{row['figure']}"] = found
    return Report(markdown(list(lines.values())), summary)


def main(config: Config) -> None:
    """Score, fit the heads, judge them and write the results.

    Raises:
        FileNotFoundError: If the log or the shopper lacks a file.
        ValueError: If the folder of the shopper holds no portraits.
    """
    use_threads(config.threads)
    run = Run("portrait", config, results=config.results)
    model = load_model(SlateShopper, config.shopper)
    model.train(False)
    catalog = Catalog.load(config.log)
    shoppers = read_shoppers(config.log / "shoppers.parquet")
    portraits = read_portraits(config.shopper, len(shoppers))

    # Households with a portrait, with their history and without.
    who = (portraits[:, 0] > 0).nonzero().squeeze(1)
    examples = examples_of(config, who)
    rows: list[dict[str, object]] = []
    for setting, scored in (
        (HISTORY, with_history(model, examples)),
        (MASKED, as_newcomers(model, examples)),
    ):
        logits = {"the shopper": scored.logits[1]}
        logits |= heads(config, examples, catalog, portraits[who], scored)
        tables = {
            name: sorted_rows(examples, scored.rows[1], values) for name, values in logits.items()
        }
        rows += figures(setting, tables, config.samples)

    # Households that appear late: their first visits in weeks that the shopper was not fitted to.
    rows += late_rows(config, model)
    table = pl.DataFrame(rows)
    run.publish(table, report(table))


def late_rows(config: Config, model: SlateShopper) -> list[dict[str, object]]:
    """Score the first visits, in both splits, of households that appear after week 8."""
    catalog = Catalog.load(config.log)
    baskets = read_baskets(config.log / "baskets.parquet", len(catalog))
    first = baskets.group_by("shopper").agg(pl.col("week").min())
    late = first.filter(pl.col("week") > LATE_WEEK)["shopper"].sort()
    examples = examples_of(config, torch.from_numpy(late.to_numpy().copy()))
    scored = {HISTORY: with_history(model, examples), MASKED: as_newcomers(model, examples)}
    tables = {}
    for name, one in scored.items():
        rows, logits = torch.cat(one.rows), torch.cat(one.logits)
        early = examples.visits.rank[examples.row_visit[rows]] < FIRST_VISITS
        tables[name] = sorted_rows(examples, rows[early], logits[early])
    return figures(LATE, tables, config.samples)


if __name__ == "__main__":
    run_command(main, Config)
