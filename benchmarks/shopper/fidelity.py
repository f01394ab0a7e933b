"""Measure how close the shoppers are to the data: `python -m benchmarks.shopper.fidelity`.

On the test weeks of the log: ranking, calibration, cold items, return times and recency curves,
beside baselines that are fitted in the same run on the same rows. Then a closed loop of 26 weeks is
laid beside the log. Every model is calibrated on the valid weeks for each judgement on its own
(full exposure, policy slates, new items); the shopper is also judged as it is shipped, with its one
calibration for all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from benchmarks.lab.command import run_command
from benchmarks.lab.folders import check_apart
from benchmarks.lab.heldout import (
    COUNT_BINS,
    ITEM_BINS,
    METRICS,
    Floats,
    Rows,
    bootstrap,
    bootstrap_mean,
    estimate,
)
from benchmarks.lab.logs import (
    SHIPPED_SHOPPER,
    Log,
    ReadsLog,
    cold_splits,
    need_cold_items,
    ready,
    rows_of,
    sorted_rows,
    week_range,
)
from benchmarks.lab.options import Results
from benchmarks.lab.run import Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import FITTING_THREADS, use_threads
from benchmarks.shopper import baselines as simple
from benchmarks.shopper import closed_loop, gap_baselines
from recsim_env.estimates import Estimate
from recsim_env.logs.schema import SPLITS
from recsim_env.metrics import curve_error
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.fit import score
from recsim_env.shoppers.household.memory import COUNT, SINCE
from recsim_env.shoppers.household.model import ROW_KINDS, SlateShopper
from recsim_env.shoppers.members import PRECISIONS, mixed
from recsim_env.shoppers.weights import load_model

GOOD = {
    "full_exposure_auc": 0.877,
    "full_exposure_ne": 0.768,
    "policy_slate_auc": 0.905,
    "policy_slate_ndcg10": 0.836,
    "policy_slate_ne": 0.69,
    "cold_auc": 0.78,
    "new_id_auc": 0.83,
    "gap_nll": 1.85,
    "item_recency_error": 0.10,
    "category_recency_error": 0.10,
}
"""What a good shopper reaches on the test weeks of the Complete Journey, by measurements that came
before the shopper."""
LOWER_IS_BETTER = (
    "full_exposure_ne",
    "policy_slate_ne",
    "gap_nll",
    "item_recency_error",
    "category_recency_error",
)
CATEGORY = "category"
"""Name of the rival on cold items."""
TAUGHT_SHARE = 4
"""One in so many case-control rows teaches that rival: more hardly change it."""
MODEL, RECALIBRATED, TREES = "transformer", "recalibrated", "gbdt"
"""Names of the shopper as it is shipped, of the shopper calibrated for each judgement, as the
baselines are, and of the best of those."""
JUDGED = {
    "full_exposure": ("case_control", False),
    "policy_slate": ("policy", False),
    "new_id": ("case_control", True),
}
"""Kind of the rows of each judgement, and whether they are those of cold items."""


@dataclass(frozen=True)
class Config(ReadsLog, Results):
    """Measure a fine-tuned shopper on the test weeks of its log."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"precision": PRECISIONS}

    shopper: Path = SHIPPED_SHOPPER
    """Folder of the fine-tuned shopper, by `benchmarks.data.finetune`; it is read only. The default
    is the shopper that the package ships."""
    samples: int = 100
    """Number of bootstrap samples of households, from which the width of every interval is found.
    More of them hardly change a width."""
    train_rows: int = 2_000_000
    """Largest number of case-control rows of the train weeks that a baseline is fitted on. The
    default takes all of the Complete Journey, and bounds the memory for larger logs."""
    closed_loop: bool = True
    """Let the shoppers live for 26 weeks under the logging policy as well, which takes a minute or
    two."""
    precision: str = "fp32"
    """Number format of the shopper's matrix products: fp32, as it was trained, or bf16, which is
    less exact and faster on a GPU."""
    threads: int = FITTING_THREADS
    """Number of processor threads for the shopper and the baselines. The default is the fastest
    where this was measured."""


def figure_name(name: str, model: str) -> str:
    """Name a figure in the summary: plain for the shopper, after the model for the others."""
    return name if model == MODEL else f"{model}_{name}"


@dataclass
class Figures:
    """The figures, raw rows and curves, as they come in."""

    summary: dict[str, Estimate] = field(default_factory=dict)
    rows: list[dict[str, object]] = field(default_factory=list)
    curves: dict[str, tuple[Floats, dict[str, Floats]]] = field(default_factory=dict)
    """Recency curves by name: the observed rates, and those that each model predicts."""
    weekly: dict[str, pl.DataFrame] = field(default_factory=dict)
    """CTR by week of the log and of the closed loop, by the name of the mode."""

    def add(
        self, name: str, model: str, value: float, samples: Floats | None = None, n: int = 1
    ) -> None:
        """Add one figure of one model, with the interval of its samples over n households.

        A figure that is not defined is left out of the summary. One whose samples are mostly not
        defined has no interval; `samples` of its row says how many were.
        """
        found = Estimate(value, n=n)
        defined = None if samples is None else int(np.isfinite(samples).sum())
        if samples is not None and math.isfinite(value):
            try:
                found = estimate(value, samples, n)
            except ValueError as error:
                print(f"{name} of {model} has no interval: {error}")
        if math.isfinite(value):
            self.summary[figure_name(name, model)] = found
        line = {"value": value, "low": found.low, "high": found.high, "samples": defined}
        self.rows.append({"model": model, "figure": name, **line})

    def add_scores(
        self,
        name: str,
        tables: dict[str, Rows],
        metrics: tuple[str, ...],
        rivals: tuple[str, str],
        samples: int,
    ) -> None:
        """Add every metric of some models, and where the first of two rivals is above the other."""
        found = bootstrap(tables, metrics, samples=samples)
        households, (one, other) = tables[MODEL].households, rivals
        for model, values in found.items():
            for metric, (value, drawn) in values.items():
                self.add(f"{name}_{metric}", model, value, drawn, households)
        for metric in ("auc", "log_loss", "ndcg10"):
            if metric in metrics:
                ours, theirs = found[one][metric], found[other][metric]
                less = (ours[0] - theirs[0], ours[1] - theirs[1])
                self.add(f"{name}_{metric}_minus_{other}", MODEL, *less, households)


@dataclass(frozen=True)
class Predictions:
    """What every model predicts.

    Shapes: V rows of the valid weeks, T rows of the test weeks.
        valid: (V,) indices into the rows of the examples
        test: (T,) likewise
        logits: ((V,), (T,)) for each model; those of the baselines are not calibrated
    """

    valid: Tensor
    test: Tensor
    logits: dict[str, tuple[Tensor, Tensor]]

    def judged(
        self, examples: Examples, cold: Tensor, judgement: str
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Find the test rows of a judgement (J,) and their logits (J,), for each model.

        Each model is calibrated on the rows of the same judgement in the valid weeks; `MODEL` alone
        is as it is shipped.
        """
        kind, is_cold = JUDGED[judgement]
        valid, test = (
            (examples.row_kind[rows] == ROW_KINDS.index(kind))
            & (cold[examples.row_item[rows]] == is_cold)
            for rows in (self.valid, self.test)
        )
        label, weight = (
            column[self.valid[valid]] for column in (examples.row_label, examples.row_weight)
        )
        found = {MODEL: (self.test[test], self.logits[MODEL][1][test])}
        for model, (before, after) in self.logits.items():
            scale, shift = simple.platt(before[valid], label, weight)
            name = RECALIBRATED if model == MODEL else model
            found[name] = (self.test[test], after[test] * scale + shift)
        return found


def main(config: Config) -> None:
    """Fit the baselines, score everything, roll the closed loop, and write the results.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items, or the results lie where the log or the shopper lies.
    """
    use_threads(config.threads)
    run, console = Run("fidelity", config, results=config.results), Console()
    outputs = {"results": run.folder}
    check_apart({"shopper": config.shopper}, outputs)
    log = Log.load(ready(config.log, console, outputs))
    cold = need_cold_items(log, config.log)
    model = load_model(SlateShopper, config.shopper)

    # One exposure at a time, with histories as they are, then without the cold items.
    figures = Figures()
    with console.status("replaying the log"):
        examples = log.examples(cold_hidden=False)
    found = predictions(model, log, examples, config, console)
    judged = {name: found.judged(examples, cold, name) for name in JUDGED}
    exposures(figures, examples, judged, config)
    by_week(figures, examples, judged, config)
    curves(figures, examples, judged["full_exposure"])
    with console.status("replaying the log without cold items"):
        hidden = log.examples(cold_hidden=True)
    pure_cold(figures, model, log, hidden, config)
    del hidden
    gaps(figures, model, examples, config)

    # The tables and the picture.
    table = f"{heldout_table(figures)}\n{week_table(figures)}"
    if config.closed_loop:
        table += "\n" + loop(figures, log, config)
    rows = pl.DataFrame(figures.rows, infer_schema_length=None)
    run.save(rows, summary=figures.summary, table=table, figure=picture(figures))
    console.print(table)


def predictions(
    model: SlateShopper, log: Log, examples: Examples, config: Config, console: Console
) -> Predictions:
    """Score the valid and the test weeks with the shopper and with each baseline, fitted first."""
    kinds = ("case_control", "policy")
    with mixed(model.device, config.precision):
        valid, test = (score(model, examples, split, kinds=kinds) for split in ("valid", "test"))
    found = {MODEL: (valid.logit, test.logit)}
    train_rows = rows_of(examples, "train", ("case_control",))
    chosen = torch.randperm(len(train_rows), generator=torch.Generator().manual_seed(0))[
        : config.train_rows
    ]
    train_rows = train_rows[chosen.sort().values]
    train, *others = (
        simple.features(examples, rows, log.facts.placements)
        for rows in (train_rows, valid.row, test.row)
    )
    label = examples.row_label[train_rows].numpy()
    for name, baseline in simple.baselines(list(train)).items():
        with console.status(f"fitting {baseline.label}"):
            on_valid, on_test = simple.fit_predict(baseline, train, label, others)
        found[name] = (torch.from_numpy(on_valid), torch.from_numpy(on_test))
    return Predictions(valid.row, test.row, found)


Judged = dict[str, tuple[Tensor, Tensor]]
"""Rows (J,) of a judgement and their logits (J,), by model."""


def exposures(
    figures: Figures, examples: Examples, judged: dict[str, Judged], config: Config
) -> None:
    """Add every metric of every model, of full exposure, policy slates and new items."""
    for name, models in judged.items():
        tables = {
            model: sorted_rows(examples, rows, logit) for model, (rows, logit) in models.items()
        }
        wanted = tuple(metric for metric in METRICS if metric != "ndcg10" or name == "policy_slate")
        figures.add_scores(name, tables, wanted, (RECALIBRATED, TREES), config.samples)


WEEKLY = ("full_exposure", "policy_slate")
"""Judgements of which every week is reported."""


def by_week(
    figures: Figures, examples: Examples, judged: dict[str, Judged], config: Config
) -> None:
    """Add predicted over observed responses of each week, which the ratio of all weeks averages."""
    for name in WEEKLY:
        for model in (MODEL, TREES):
            rows, logit = judged[name][model]
            week = examples.visits.week[examples.row_visit[rows]]
            for number in week.unique().tolist():
                own = week == number
                table = sorted_rows(examples, rows[own], logit[own])
                found = bootstrap({"": table}, ("ratio",), samples=config.samples)[""]["ratio"]
                figures.add(f"{name}_ratio_week_{number}", model, *found, table.households)


def curves(figures: Figures, examples: Examples, models: Judged) -> None:
    """Add predicted over observed responses by days since the last purchase, and by past count."""
    for name, level in (("item", 0), ("category", 2)):
        predicted: dict[str, Floats] = {}
        for model in (MODEL, "gbdt", "logistic"):
            rows, logit = models[model]
            stats = examples.row_stats[rows, level].float()
            often = stats[:, COUNT] >= closed_loop.CURVE_PAST
            order = logit[often].argsort()
            value = stats[often][order][:, SINCE].double().numpy()
            observed, chance, positive = sorted_rows(examples, rows[often], logit[often]).curve(
                value, ITEM_BINS
            )
            predicted[model] = chance
            figures.add(f"{name}_recency_error", model, curve_error(observed, chance, positive))
        figures.curves[f"days since the {name} was bought"] = (observed, predicted)
    for model in (MODEL, "gbdt"):
        rows, logit = models[model]
        count = examples.row_stats[rows, 0, COUNT].double()
        order = logit.argsort()
        observed, chance, _ = sorted_rows(examples, rows, logit).curve(
            count[order].numpy(), COUNT_BINS
        )
        ratios = np.divide(chance, observed, out=np.full_like(chance, np.nan), where=observed > 0)
        for bound, ratio in zip(COUNT_BINS, ratios.tolist(), strict=True):
            figures.add(f"count_{bound}_ratio", model, ratio)


def pure_cold(
    figures: Figures, model: SlateShopper, log: Log, hidden: Examples, config: Config
) -> None:
    """Add scores of cold items where the histories of the test weeks lack them as well.

    The rival knows of an item what its category tells: gradient boosting on the counters of the
    category without the item, the popularity of its kind, the placement and the rhythm.
    """
    if not model.config.use_cold_head:
        print("cold items are left out: the shopper is of an earlier version without a cold head.")
        return
    scores = score(model, hidden, "test", kinds=("case_control",), cold=log.cold)
    keep = log.cold[hidden.row_item[scores.row]]
    logits = {MODEL: (scores.row[keep], scores.logit[keep])}
    train, valid, test = cold_splits(log, hidden)
    train = train[::TAUGHT_SHARE]
    taught, *others = (simple.category_columns(hidden, rows) for rows in (train, valid, test))
    on_valid, on_test = simple.fit_predict(
        simple.CATEGORY, taught, hidden.row_label[train].numpy(), others
    )
    scale, shift = simple.platt(
        torch.from_numpy(on_valid), hidden.row_label[valid], hidden.row_weight[valid]
    )
    logits[CATEGORY] = (test, torch.from_numpy(on_test) * scale + shift)

    ranked = {name: sorted_rows(hidden, rows, logit) for name, (rows, logit) in logits.items()}
    metrics = ("auc", "log_loss", "ratio")
    figures.add_scores("cold", ranked, metrics, (MODEL, CATEGORY), config.samples)


def gaps(figures: Figures, model: SlateShopper, examples: Examples, config: Config) -> None:
    """Add the log-likelihood of the next visit on the reported bins, of every model of gaps."""
    scores = score(model, examples, "test", kinds=("policy",))
    train, test = (
        (examples.split == SPLITS.index(name)).nonzero().flatten() for name in ("train", "test")
    )
    gap, follow_up = examples.visits.gap[test], examples.visits.follow_up[test]

    # Chances of the bins by each model.
    chances = {
        MODEL: gap_baselines.gap_chances(scores.gap_logits, model.config.gap_edges),
        "marginal": gap_baselines.marginal_gap(examples, train).expand(len(test), -1),
        "household_histogram": gap_baselines.household_gap(examples, train, test),
        "gbdt": gap_baselines.gbdt_gap(examples, train, test),
    }

    # Mean losses over visits, with an interval from a bootstrap over households.
    shopper = examples.visits.shopper[test].numpy()
    for name, chance in chances.items():
        loss = gap_baselines.gap_log_loss(chance, gap, follow_up).double().numpy()
        value, samples, households = bootstrap_mean(loss, shopper, config.samples)
        figures.add("gap_nll", name, value, samples, households)


def loop(figures: Figures, log: Log, config: Config) -> str:
    """Add the closed loop beside the log: as logged, and as the environment runs by default.

    As logged, the promotions of the store stay; by default the slate is all that is promoted.
    """
    periods = closed_loop.Periods.of(log.facts)
    lines: list[dict[str, object]] = []
    for name, promotions in (("as logged", True), ("slate only", False)):
        rolled = closed_loop.roll(
            config.shopper, log, store_promotions=promotions, precision=config.precision
        )
        for weeks in (periods.held_out, periods.all):
            # What was simulated beside the log, and how far they are apart.
            ours, theirs = (
                closed_loop.behaviour(log.catalog, rolled.history, baskets, slates, weeks)
                for baskets, slates in (
                    (rolled.baskets, rolled.slates),
                    (rolled.logged_baskets, rolled.logged_slates),
                )
            )
            table = closed_loop.errors(ours, theirs)
            figures.rows += [
                {
                    "model": f"closed loop, {name}",
                    "figure": f"weeks {week_range(weeks)}: {line['what']}",
                    "value": line["error"],
                    "log": line["log"],
                    "simulated": line["simulated"],
                }
                for line in table
            ]
            if weeks == periods.held_out:
                prefix = "" if promotions else "slate_only_"
                figures.summary |= {
                    f"{prefix}closed_loop_{figure}": Estimate(worst, math.nan, math.nan, 1)
                    for figure, worst in closed_loop.worst_errors(table).items()
                }
                lines += [{"mode": name, **line} for line in table]
        figures.weekly[name] = _weekly(ours.weekly, theirs.weekly, periods.all[0])
    alone = periods.held_out[0] - periods.all[0]
    title = (
        f"### Closed loop: weeks {week_range(periods.held_out)}, after {alone} weeks on their own "
        "under the logging policy\n\n"
    )
    return title + markdown(lines, ["mode", "what", "log", "simulated", "error"], digits=3)


def _weekly(simulated: pl.DataFrame, logged: pl.DataFrame, first: int) -> pl.DataFrame:
    """Join the CTR of both by week, from week `first` on."""
    both = logged.join(simulated, on="week", suffix="_simulated").sort("week")
    return both.filter(pl.col("week") >= first).select("week", "ctr", "ctr_simulated")


COLUMNS = {
    CATEGORY: "category alone",
    "popularity": "popularity",
    "frequency": "frequency",
    "logistic": "logistic",
    TREES: TREES,
    RECALIBRATED: "transformer",
    MODEL: "transformer, as shipped",
}


def heldout_table(figures: Figures) -> str:
    """Write one line a figure and one column a model, beside what a good shopper reaches."""
    others = ("full_exposure_ratio", "policy_slate_ratio")  # predicted over observed
    lines: list[dict[str, object]] = []
    for name in (*GOOD, *others):
        bar = f"{'<=' if name in LOWER_IS_BETTER else '>='} {GOOD[name]}" if name in GOOD else ""
        found = {model: figures.summary.get(figure_name(name, model), "") for model in COLUMNS}
        lines.append({"figure": name, **found, "good": bar})
    return markdown(lines, {"figure": "figure", **COLUMNS, "good": "good"}, digits=1)


def week_table(figures: Figures) -> str:
    """Write predicted over observed responses week by week."""
    weeks = sorted(
        {int(name.rpartition("_")[2]) for name in figures.summary if "_ratio_week_" in name}
    )
    headers = {
        f"{judgement}/{model}": f"{judgement.replace('_', ' ')}, {COLUMNS[model]}"
        for judgement in WEEKLY
        for model in (MODEL, TREES)
    }
    lines: list[dict[str, object]] = []
    for week in weeks:
        line: dict[str, object] = {"week": str(week)}
        for key in headers:
            judgement, _, model = key.partition("/")
            line[key] = figures.summary.get(figure_name(f"{judgement}_ratio_week_{week}", model))
        lines.append(line)
    title = "### Predicted over observed responses, week by week\n\n"
    return title + markdown(lines, {"week": "week", **headers}, digits=1)


def picture(figures: Figures) -> Figure:
    """Draw the recency curves, and the weekly CTR of the closed loop."""
    height = -(-(len(figures.curves) + len(figures.weekly)) // 2)
    figure = Figure(figsize=(12, 3.2 * height), layout="constrained")
    for index, (name, (observed, predicted)) in enumerate(figures.curves.items()):
        axes = figure.add_subplot(height, 2, index + 1)
        _draw(axes, [str(first) for first in ITEM_BINS], observed, predicted)
        axes.set_title(f"purchase rate by {name}")
        axes.set_xlabel("days, first of the bin")
    for index, (name, weekly) in enumerate(figures.weekly.items(), len(figures.curves)):
        axes = figure.add_subplot(height, 2, index + 1)
        observed = weekly["ctr"].fill_null(float("nan")).to_numpy()
        ticks = [str(week) for week in weekly["week"]]
        _draw(axes, ticks, observed, {MODEL: weekly["ctr_simulated"].to_numpy()})
        axes.set_title(f"CTR of policy slates, {name}")
        axes.set_xlabel("week")
    return figure


def _draw(axes: Axes, ticks: list[str], observed: Floats, predicted: dict[str, Floats]) -> None:
    """Draw the log's curve and those of models over labelled ticks."""
    axes.plot(np.arange(len(observed)), observed, "k-o", label="log", markersize=4)
    for model, values in predicted.items():
        axes.plot(np.arange(len(values)), values, "--", label=model)
    axes.set_xticks(np.arange(len(ticks)), ticks, fontsize=7)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


if __name__ == "__main__":
    run_command(main, Config)
