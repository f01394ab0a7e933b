"""Is the shopper believable? python -m benchmarks.shopper.fidelity

Held-out weeks 49-53: ranking, calibration, cold items, return times and recency curves, beside
baselines fitted in the same run on the same rows; then a closed loop of 26 weeks against the log.
Every model is calibrated on weeks 45-48 for each judgement on its own (full exposure, policy
slates, new ids); the shopper is judged as it is shipped as well, with its one calibration for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from benchmarks.data.build_log import DEFAULT, ready
from benchmarks.data.finetune import Log
from benchmarks.lab.heldout import (
    COUNT_BINS,
    ITEM_BINS,
    METRICS,
    Floats,
    Rows,
    bootstrap,
    curve,
    curve_error,
    estimate,
)
from benchmarks.lab.run import RESULTS, Run
from benchmarks.lab.statistics import Estimate
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import FITTING_THREADS, use_threads
from benchmarks.shopper import baselines as simple
from benchmarks.shopper import closed_loop
from recsim_env.shoppers.household.examples import SPLITS, Examples
from recsim_env.shoppers.household.fit import score
from recsim_env.shoppers.household.memory import COUNT, SINCE
from recsim_env.shoppers.household.model import ROW_KINDS, SlateShopper
from recsim_env.shoppers.precision import mixed
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
"""What a good shopper reaches on these weeks, from the measurements made before the first line was
written."""
LOWER_IS_BETTER = (
    "full_exposure_ne",
    "policy_slate_ne",
    "gap_nll",
    "item_recency_error",
    "category_recency_error",
)
MODEL, RECALIBRATED, TREES = "transformer", "recalibrated", "gbdt"
"""The shopper as it is shipped; the shopper calibrated for each judgement, as the baselines are;
the best of those."""
JUDGED = {
    "full_exposure": ("case_control", False),
    "policy_slate": ("policy", False),
    "new_id": ("case_control", True),
}
"""Judgement -> kind of its rows, and whether they are those of cold items."""


@dataclass(frozen=True)
class Config:
    """Measure a fine-tuned shopper on the held-out weeks."""

    shopper: Path = Path("recsim_env/data/complete_journey")
    """Folder of the fine-tuned shopper, by `benchmarks.data.finetune`; it is read only."""
    log: Path = DEFAULT
    """Folder of the log, by `benchmarks.data.build_log` or your own tables. It is read only; the
    default one is built first where it does not exist."""
    samples: int = 100
    """Bootstrap samples of households that the width of every interval is found from."""
    train_rows: int = 2_000_000
    """Most train rows that a baseline is fitted on (drawn from all case-control rows of weeks
    1-44)."""
    closed_loop: bool = True
    """Let the shoppers live for 26 weeks under the logging policy as well, which takes a minute or
    two."""
    precision: str = "fp32"
    """Number format of the shopper's matrix products: fp32, or bf16, which is less exact and faster
    on a GPU."""
    threads: int = FITTING_THREADS
    """Threads of the processor that the shopper and the baselines use."""
    results: Path = RESULTS
    """Folder in which the results are written, each benchmark in a folder of its own name."""


def figure_name(name: str, model: str) -> str:
    """Name of a figure in the summary: plain for the shopper, with the model in front for the others."""
    return name if model == MODEL else f"{model}_{name}"


@dataclass
class Figures:
    """Figures by name, raw rows and curves, as they come in."""

    summary: dict[str, Estimate]
    rows: list[dict[str, object]]
    curves: dict[str, tuple[Floats, dict[str, Floats]]]

    def add(
        self, name: str, model: str, value: float, samples: Floats | None = None, n: int = 1
    ) -> None:
        """One figure of one model, with the interval of its bootstrap samples over n households.

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


@dataclass(frozen=True)
class Predictions:
    """What every model predicts.

    Shapes: V rows of weeks 45-48, T rows of weeks 49-53, as indices into the examples' rows. valid:
        (V,); test: (T,) logits: model -> ((V,), (T,)), those of the shopper as it is shipped, those
        of the baselines not calibrated
    """

    valid: Tensor
    test: Tensor
    logits: dict[str, tuple[Tensor, Tensor]]

    def judged(
        self, examples: Examples, cold: Tensor, judgement: str
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Model -> test rows of a judgement (J,) and their logits (J,).

        Each model is calibrated on the rows of the same judgement in weeks 45-48, `MODEL` alone is
        as it is shipped.
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
    """Fit the baselines, score everything, roll the closed loop, write `benchmarks/results/fidelity`.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items.
    """
    use_threads(config.threads)
    run, console = Run("fidelity", config, results=config.results), Console()
    log = Log.load(ready(config.log, console))
    cold = log.catalog.cold
    if cold is None:
        raise ValueError(
            f"{config.log} marks no items as cold, but what is judged here includes new items."
        )
    model = load_model(SlateShopper, config.shopper)
    figures = Figures({}, [], {})
    with console.status("replaying the log"):
        examples = log.examples(cold_hidden=False)
    found = predictions(model, examples, config, console)
    judged = {name: found.judged(examples, cold, name) for name in JUDGED}
    exposures(figures, examples, judged, config)
    by_week(figures, examples, judged, config)
    curves(figures, examples, judged["full_exposure"])
    with console.status("replaying the log without cold items"):
        hidden = log.examples(cold_hidden=True)
    pure_cold(figures, model, hidden, cold, config)
    del hidden
    gaps(figures, model, examples, config)
    table = f"{heldout_table(figures)}\n{week_table(figures)}"
    if config.closed_loop:
        table += "\n" + loop(figures, log, config)
    rows = pl.DataFrame(figures.rows, infer_schema_length=None)
    run.save(rows, summary=figures.summary, table=table, figure=picture(figures))
    console.print(table)


def predictions(
    model: SlateShopper, examples: Examples, config: Config, console: Console
) -> Predictions:
    """Score weeks 45-48 and 49-53 with the shopper and with each baseline, fitted first."""
    kinds = ("case_control", "policy")
    with mixed(model.device, config.precision):
        valid, test = (score(model, examples, split, kinds=kinds) for split in ("valid", "test"))
    found = {MODEL: (valid.logit, test.logit)}
    train_rows = rows_of(examples, "train", ("case_control",))
    chosen = torch.randperm(len(train_rows), generator=torch.Generator().manual_seed(0))[
        : config.train_rows
    ]
    train_rows = train_rows[chosen.sort().values]
    train, *others = (simple.features(examples, rows) for rows in (train_rows, valid.row, test.row))
    label = examples.row_label[train_rows].numpy()
    for name, baseline in simple.baselines(list(train)).items():
        with console.status(f"fitting {baseline.label}"):
            on_valid, on_test = simple.fit_predict(baseline, train, label, others)
        found[name] = (torch.from_numpy(on_valid), torch.from_numpy(on_test))
    return Predictions(valid.row, test.row, found)


def rows_of(examples: Examples, split: str, kinds: tuple[str, ...]) -> Tensor:
    """Rows of a split, of some kinds."""
    wanted = torch.tensor([kind in kinds for kind in ROW_KINDS])
    return (
        ((examples.split[examples.row_visit] == SPLITS.index(split)) & wanted[examples.row_kind])
        .nonzero()
        .flatten()
    )


def table_of(examples: Examples, rows: Tensor, logit: Tensor) -> Rows:
    """The rows as arrays, sorted by chance (later sorts are then quick)."""
    order = logit.argsort()
    rows, chance = rows[order], torch.sigmoid(logit[order].double())
    visit = examples.row_visit[rows]
    return Rows(
        label=examples.row_label[rows].double().numpy(),
        weight=examples.row_weight[rows].double().numpy(),
        chance=chance.numpy(),
        shopper=examples.visits.shopper[visit].numpy(),
        slate=visit.numpy(),
    )


Judged = dict[str, tuple[Tensor, Tensor]]
"""Model -> rows (J,) and their logits (J,)."""


def exposures(
    figures: Figures, examples: Examples, judged: dict[str, Judged], config: Config
) -> None:
    """Full exposure, policy slates and new ids: every metric of every model."""
    for name, models in judged.items():
        tables = {model: table_of(examples, rows, logit) for model, (rows, logit) in models.items()}
        wanted = tuple(metric for metric in METRICS if metric != "ndcg10" or name == "policy_slate")
        found = bootstrap(tables, wanted, samples=config.samples)
        households = len(np.unique(tables[MODEL].shopper))
        for model, values in found.items():
            for metric, (value, samples) in values.items():
                figures.add(f"{name}_{metric}", model, value, samples, households)
        for metric in ("auc", "log_loss", "ndcg10"):
            if metric in wanted:
                ours, theirs = found[RECALIBRATED][metric], found[TREES][metric]
                difference = f"{name}_{metric}_minus_{TREES}"
                figures.add(difference, MODEL, ours[0] - theirs[0], ours[1] - theirs[1], households)


WEEKLY = ("full_exposure", "policy_slate")
"""Judgements that are told week by week."""


def by_week(
    figures: Figures, examples: Examples, judged: dict[str, Judged], config: Config
) -> None:
    """Predicted over observed in each week of its own, which the ratio of all weeks averages."""
    for name in WEEKLY:
        for model in (MODEL, TREES):
            rows, logit = judged[name][model]
            week = examples.visits.week[examples.row_visit[rows]]
            for number in week.unique().tolist():
                own = week == number
                table = table_of(examples, rows[own], logit[own])
                value, samples = bootstrap({"": table}, ("ratio",), samples=config.samples)[""][
                    "ratio"
                ]
                figures.add(
                    f"{name}_ratio_week_{number}",
                    model,
                    value,
                    samples,
                    len(np.unique(table.shopper)),
                )


def curves(figures: Figures, examples: Examples, models: Judged) -> None:
    """Predicted over observed along days since the last purchase (at least three before), and by past count."""
    for name, level in (("item", 0), ("category", 2)):
        predicted: dict[str, Floats] = {}
        for model in (MODEL, "gbdt", "logistic"):
            rows, logit = models[model]
            stats = examples.row_stats[rows, level].float()
            often = stats[:, COUNT] >= closed_loop.CURVE_PAST
            order = logit[often].argsort()
            value = stats[often][order][:, SINCE].double().numpy()
            observed, chance, positive = curve(
                table_of(examples, rows[often], logit[often]), value, ITEM_BINS
            )
            predicted[model] = chance
            figures.add(f"{name}_recency_error", model, curve_error(observed, chance, positive))
        figures.curves[f"days since the {name} was bought"] = (observed, predicted)
    for model in (MODEL, "gbdt"):
        rows, logit = models[model]
        count = examples.row_stats[rows, 0, COUNT].double()
        order = logit.argsort()
        observed, chance, _ = curve(
            table_of(examples, rows, logit), count[order].numpy(), COUNT_BINS
        )
        ratios = np.divide(chance, observed, out=np.full_like(chance, np.nan), where=observed > 0)
        for bound, ratio in zip(COUNT_BINS, ratios.tolist(), strict=True):
            figures.add(f"count_{bound}_ratio", model, ratio)


def pure_cold(
    figures: Figures, model: SlateShopper, hidden: Examples, cold: Tensor, config: Config
) -> None:
    """Items never seen in training, and left out of every history in the test weeks as well."""
    scores = score(model, hidden, "test", kinds=("case_control",), cold=cold)
    keep = cold[hidden.row_item[scores.row]]
    table = table_of(hidden, scores.row[keep], scores.logit[keep])
    for metric, (value, samples) in bootstrap(
        {MODEL: table}, ("auc", "log_loss", "ratio"), samples=config.samples
    )[MODEL].items():
        figures.add(f"cold_{metric}", MODEL, value, samples, len(np.unique(table.shopper)))


def gaps(figures: Figures, model: SlateShopper, examples: Examples, config: Config) -> None:
    """Log likelihood of the next visit on the reported bins, by a bootstrap over households."""
    scores = score(model, examples, "test", kinds=("policy",))
    train, test = (
        (examples.split == SPLITS.index(name)).nonzero().flatten() for name in ("train", "test")
    )
    gap, follow_up = examples.visits.gap[test], examples.visits.follow_up[test]
    chances = {
        MODEL: simple.gap_chances(scores.gap_logits),
        "marginal": simple.marginal_gap(examples, train).expand(len(test), -1),
        "household_histogram": simple.household_gap(examples, train, test),
        "gbdt": simple.gbdt_gap(examples, train, test),
    }
    who, index = np.unique(examples.visits.shopper[test].numpy(), return_inverse=True)
    draws = np.random.default_rng(0).multinomial(
        len(who), np.full(len(who), 1 / len(who)), config.samples
    )
    for name, chance in chances.items():
        loss = simple.gap_log_loss(chance, gap, follow_up).double().numpy()
        total, number = np.bincount(index, loss), np.bincount(index)
        samples = (draws @ total) / (draws @ number)
        figures.add("gap_nll", name, float(loss.mean()), samples, len(who))


def loop(figures: Figures, log: Log, config: Config) -> str:
    """Closed loop beside the log: as logged (store promotions stay), and as the environment runs by default."""
    lines: list[dict[str, object]] = []
    for name, promotions in (("as logged", True), ("slate only", False)):
        slates = log.impressions["policy"]
        rolled = closed_loop.roll(
            config.shopper,
            log.baskets,
            slates,
            store_promotions=promotions,
            precision=config.precision,
        )
        for weeks, held_out in (((45, 52), True), ((27, 52), False)):
            ours = closed_loop.behaviour(
                log.catalog, rolled.history, rolled.baskets, rolled.slates, weeks
            )
            theirs = closed_loop.behaviour(
                log.catalog, rolled.history, rolled.logged_baskets, rolled.logged_slates, weeks
            )
            table = closed_loop.errors(ours, theirs)
            figures.rows += [
                {
                    "model": f"closed loop, {name}",
                    "figure": f"weeks {weeks[0]}-{weeks[1]}: {line['what']}",
                    "value": line["error"],
                    "log": line["log"],
                    "simulated": line["simulated"],
                }
                for line in table
            ]
            if held_out:
                worst = max(float(line["error"]) for line in table)
                prefix = "" if promotions else "slate_only_"
                figures.summary[f"{prefix}closed_loop_worst_error"] = Estimate(
                    worst, float("nan"), float("nan"), 1
                )
                lines += [{"mode": name, **line} for line in table]
        figures.curves[f"weekly: {name}"] = _weekly(ours.weekly, theirs.weekly)
    part = "### Closed loop: weeks 45-52, after 18 weeks on their own under the logging policy\n\n"
    return part + markdown(lines, ["mode", "what", "log", "simulated", "error"], digits=3)


def _weekly(simulated: pl.DataFrame, logged: pl.DataFrame) -> tuple[Floats, dict[str, Floats]]:
    both = (
        logged.join(simulated, on="week", suffix="_simulated")
        .sort("week")
        .filter(pl.col("week") >= 27)
    )
    return both["ctr"].fill_null(float("nan")).to_numpy(), {MODEL: both["ctr_simulated"].to_numpy()}


COLUMNS = {
    "popularity": "popularity",
    "frequency": "frequency",
    "logistic": "logistic",
    TREES: TREES,
    RECALIBRATED: "transformer",
    MODEL: "transformer, as shipped",
}


def heldout_table(figures: Figures) -> str:
    """Markdown: one line a figure, one column a model, and what was to be reached."""
    others = ("full_exposure_ratio", "policy_slate_ratio")  # predicted over observed
    lines: list[dict[str, object]] = []
    for name in (*GOOD, *others):
        bar = f"{'<=' if name in LOWER_IS_BETTER else '>='} {GOOD[name]}" if name in GOOD else ""
        found = {model: figures.summary.get(figure_name(name, model), "") for model in COLUMNS}
        lines.append({"figure": name, **found, "good": bar})
    return markdown(lines, {"figure": "figure", **COLUMNS, "good": "good"}, digits=1)


def week_table(figures: Figures) -> str:
    """Markdown: predicted over observed week by week."""
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
    """Recency curves and the weekly CTR of the closed loop."""
    figure = Figure(figsize=(12, 3.2 * -(-len(figures.curves) // 2)), layout="constrained")
    for index, (name, (observed, predicted)) in enumerate(figures.curves.items()):
        axes = figure.add_subplot(-(-len(figures.curves) // 2), 2, index + 1)
        ticks = np.arange(len(observed))
        axes.plot(ticks, observed, "k-o", label="log", markersize=4)
        for model, values in predicted.items():
            axes.plot(ticks, values, "--", label=model)
        weekly = name.startswith("weekly")
        axes.set_title(
            f"CTR of policy slates, {name.removeprefix('weekly: ')}"
            if weekly
            else f"purchase rate by {name}"
        )
        labels = [str(27 + i) for i in ticks] if weekly else [str(first) for first in ITEM_BINS]
        axes.set_xticks(ticks, labels, fontsize=7)
        axes.set_xlabel("week" if weekly else "days, first of the bin")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main(tyro.cli(Config))
