"""Is the shopper believable? python -m benchmarks.fidelity

Held-out weeks 49-53: ranking, calibration, cold items, return times and recency curves, beside baselines fitted in the
same run on the same rows and recalibrated on the same weeks 45-48; then a closed loop of 26 weeks against the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from benchmarks import baselines as simple
from benchmarks import closed_loop
from benchmarks.finetune import Log
from benchmarks.heldout import (
    COUNT_BINS,
    ITEM_BINS,
    Floats,
    Rows,
    bootstrap,
    curve,
    curve_error,
    interval,
)
from benchmarks.report import RESULTS, Run, markdown
from benchmarks.statistics import Estimate
from benchmarks.threads import FITTING_THREADS, use_threads
from recsim_env.shoppers.examples import SPLITS, Examples
from recsim_env.shoppers.finetune import score
from recsim_env.shoppers.memory import COUNT, SINCE
from recsim_env.shoppers.running import mixed
from recsim_env.shoppers.transformer import ROW_KINDS, SlateShopper
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
"""What a good shopper reaches on these weeks, from the measurements made before the first line was written."""
LOWER_IS_BETTER = ("full_exposure_ne", "policy_slate_ne", "gap_nll", "item_recency_error", "category_recency_error")
MODEL = "transformer"


@dataclass(frozen=True)
class Config:
    """Measure a fine-tuned shopper on the held-out weeks."""

    shopper: Path = Path("recsim_env/data/complete_journey")
    """Folder of the fine-tuned shopper."""
    log: Path = Path(".cache/complete_journey")
    """Folder of `benchmarks.build_log`."""
    samples: int = 100
    """Bootstrap samples of households behind every interval."""
    train_rows: int = 2_000_000
    """Most train rows that a baseline is fitted on (drawn from all case-control rows of weeks 1-44)."""
    closed_loop: bool = True
    """Roll the shoppers for 26 weeks as well."""
    precision: str = "fp32"
    """Of the shopper's matrix products: fp32 or bf16."""
    threads: int = FITTING_THREADS
    """CPU threads."""
    results: Path = RESULTS
    """Folder of the results."""


def figure_name(name: str, model: str) -> str:
    """Name of a figure in the summary: plain for the shopper, with the model in front for the others."""
    return name if model == MODEL else f"{model}_{name}"


@dataclass
class Report:
    """Figures by name, lines of the tables, raw rows and curves, as they come in."""

    summary: dict[str, Estimate]
    rows: list[dict[str, object]]
    curves: dict[str, tuple[Floats, dict[str, Floats]]]

    def add(self, name: str, model: str, value: float, samples: Floats | None = None, n: int = 1) -> None:
        """One figure of one model, with the interval of its bootstrap samples."""
        low, high = interval(samples) if samples is not None else (float("nan"), float("nan"))
        self.summary[figure_name(name, model)] = Estimate(value, low, high, n)
        self.rows.append({"model": model, "figure": name, "value": value, "low": low, "high": high})


def main(config: Config) -> None:
    """Fit the baselines, score everything, roll the closed loop, write `benchmarks/results/fidelity`."""
    use_threads(config.threads)
    run, console = Run("fidelity", config, results=config.results), Console()
    log = Log.load(config.log)
    model = load_model(SlateShopper, config.shopper)
    report = Report({}, [], {})
    with console.status("replaying the log"):
        examples = log.examples(cold_hidden=False)
    logits = predictions(model, examples, config, console)
    cold = log.catalog.cold
    assert cold is not None
    exposures(report, examples, logits, cold, config)
    with console.status("replaying the log without cold items"):
        hidden = log.examples(cold_hidden=True)
    pure_cold(report, model, hidden, cold, config)
    del hidden
    gaps(report, model, examples, config)
    table = heldout_table(report)
    if config.closed_loop:
        table += "\n\n" + loop(report, log, config)
    run.save(pl.DataFrame(report.rows), summary=report.summary, table=table, figure=picture(report))
    console.print(table)


def predictions(
    model: SlateShopper, examples: Examples, config: Config, console: Console
) -> dict[str, tuple[Tensor, Tensor]]:
    """Calibrated logits of each model on the test rows: model -> (row (R,), logit (R,))."""
    with mixed(model.device, config.precision):
        test = score(model, examples, "test")
    valid_rows = rows_of(examples, "valid")
    found = {MODEL: (test.row, test.logit)}
    train_rows = rows_of(examples, "train")
    train_rows = train_rows[examples.row_kind[train_rows] == ROW_KINDS.index("case_control")]
    chosen = torch.randperm(len(train_rows), generator=torch.Generator().manual_seed(0))[: config.train_rows]
    train_rows = train_rows[chosen.sort().values]
    train, valid, tested = (simple.features(examples, rows) for rows in (train_rows, valid_rows, test.row))
    label = examples.row_label[train_rows].numpy()
    for name, baseline in simple.baselines(list(train)).items():
        with console.status(f"fitting {baseline.label}"):
            on_valid, on_test = simple.fit_predict(baseline, train, label, [valid, tested])
        scale, shift = simple.platt(
            torch.from_numpy(on_valid), examples.row_label[valid_rows], equal_votes(examples, valid_rows)
        )
        found[name] = (test.row, torch.from_numpy(on_test) * scale + shift)
    return found


def rows_of(examples: Examples, split: str, kinds: tuple[str, ...] = ("case_control", "policy")) -> Tensor:
    """Rows of a split, of some kinds."""
    wanted = torch.tensor([kind in kinds for kind in ROW_KINDS])
    return ((examples.split[examples.row_visit] == SPLITS.index(split)) & wanted[examples.row_kind]).nonzero().flatten()


def equal_votes(examples: Examples, rows: Tensor) -> Tensor:
    """Weights (R,) with which each kind of row counts alike."""
    weight, kind = examples.row_weight[rows], examples.row_kind[rows]
    total = torch.zeros(len(ROW_KINDS)).index_add(0, kind, weight)
    return weight / total[kind]


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


def exposures(
    report: Report, examples: Examples, logits: dict[str, tuple[Tensor, Tensor]], cold: Tensor, config: Config
) -> None:
    """Full exposure, policy slates and new ids: every metric of every model, and the curves."""
    row = logits[MODEL][0]
    kind, is_cold = examples.row_kind[row], cold[examples.row_item[row]]
    sets = {
        "full_exposure": (kind == ROW_KINDS.index("case_control")) & ~is_cold,
        "policy_slate": (kind == ROW_KINDS.index("policy")) & ~is_cold,
        "new_id": (kind == ROW_KINDS.index("case_control")) & is_cold,
    }
    metrics = ("auc", "ne", "log_loss", "ece", "ratio")
    for name, keep in sets.items():
        tables = {model: table_of(examples, rows[keep], logit[keep]) for model, (rows, logit) in logits.items()}
        wanted = (*metrics, "ndcg10") if name == "policy_slate" else metrics
        found = bootstrap(tables, wanted, samples=config.samples)
        households = len(np.unique(tables[MODEL].shopper))
        for model, values in found.items():
            for metric, (value, samples) in values.items():
                report.add(f"{name}_{metric}", model, value, samples, households)
        for metric in ("auc", "log_loss", "ndcg10"):
            if metric in wanted:
                ours, theirs = found[MODEL][metric], found["gbdt"][metric]
                report.add(f"{name}_{metric}_minus_gbdt", MODEL, ours[0] - theirs[0], ours[1] - theirs[1], households)
    curves(report, examples, logits, sets["full_exposure"])


def curves(report: Report, examples: Examples, logits: dict[str, tuple[Tensor, Tensor]], keep: Tensor) -> None:
    """Predicted over observed along days since the last purchase (at least three before), and by past count."""
    for name, level in (("item", 0), ("category", 2)):
        predicted: dict[str, Floats] = {}
        for model in (MODEL, "gbdt", "logistic"):
            rows, logit = (column[keep] for column in logits[model])
            stats = examples.row_stats[rows, level].float()
            often = stats[:, COUNT] >= closed_loop.CURVE_PAST
            order = logit[often].argsort()
            value = stats[often][order][:, SINCE].double().numpy()
            observed, chance, positive = curve(table_of(examples, rows[often], logit[often]), value, ITEM_BINS)
            predicted[model] = chance
            report.add(f"{name}_recency_error", model, curve_error(observed, chance, positive))
        report.curves[f"days since the {name} was bought"] = (observed, predicted)
    for model in (MODEL, "gbdt"):
        rows, logit = (column[keep] for column in logits[model])
        count = examples.row_stats[rows, 0, COUNT].double()
        order = logit.argsort()
        observed, chance, _ = curve(table_of(examples, rows, logit), count[order].numpy(), COUNT_BINS)
        for bound, ratio in zip(COUNT_BINS, chance / observed, strict=True):
            report.add(f"count_{bound}_ratio", model, float(ratio))


def pure_cold(report: Report, model: SlateShopper, hidden: Examples, cold: Tensor, config: Config) -> None:
    """Items never seen in training, and left out of every history in the test weeks as well."""
    scores = score(model, hidden, "test", kinds=("case_control",), cold=cold)
    keep = cold[hidden.row_item[scores.row]]
    table = table_of(hidden, scores.row[keep], scores.logit[keep])
    for metric, (value, samples) in bootstrap({MODEL: table}, ("auc", "log_loss", "ratio"), samples=config.samples)[
        MODEL
    ].items():
        report.add(f"cold_{metric}", MODEL, value, samples, len(np.unique(table.shopper)))


def gaps(report: Report, model: SlateShopper, examples: Examples, config: Config) -> None:
    """Log likelihood of the next visit on the reported bins, by a bootstrap over households."""
    scores = score(model, examples, "test", kinds=("policy",))
    train, test = ((examples.split == SPLITS.index(name)).nonzero().flatten() for name in ("train", "test"))
    gap, follow_up = examples.visits.gap[test], examples.visits.follow_up[test]
    chances = {
        MODEL: simple.gap_chances(scores.gap_logits),
        "marginal": simple.marginal_gap(examples, train).expand(len(test), -1),
        "household_histogram": simple.household_gap(examples, train, test),
        "gbdt": simple.gbdt_gap(examples, train, test),
    }
    who, index = np.unique(examples.visits.shopper[test].numpy(), return_inverse=True)
    draws = np.random.default_rng(0).multinomial(len(who), np.full(len(who), 1 / len(who)), config.samples)
    for name, chance in chances.items():
        loss = simple.gap_log_loss(chance, gap, follow_up).double().numpy()
        total, number = np.bincount(index, loss), np.bincount(index)
        samples = (draws @ total) / (draws @ number)
        report.add("gap_nll", name, float(loss.mean()), samples, len(who))


def loop(report: Report, log: Log, config: Config) -> str:
    """Closed loop beside the log: as logged (store promotions stay), and as the environment runs by default."""
    lines: list[dict[str, object]] = []
    for name, promotions in (("as logged", True), ("slate only", False)):
        slates = log.impressions["policy"]
        rolled = closed_loop.roll(
            config.shopper, log.baskets, slates, store_promotions=promotions, precision=config.precision
        )
        for weeks, held_out in (((45, 52), True), ((27, 52), False)):
            ours = closed_loop.behaviour(log.catalog, rolled.history, rolled.baskets, rolled.slates, weeks)
            theirs = closed_loop.behaviour(
                log.catalog, rolled.history, rolled.logged_baskets, rolled.logged_slates, weeks
            )
            table = closed_loop.errors(ours, theirs)
            report.rows += [
                {
                    "model": f"closed loop, {name}",
                    "figure": f"weeks {weeks[0]}-{weeks[1]}: {line['what']}",
                    "value": line["error"],
                    "low": line["log"],
                    "high": line["simulated"],
                }
                for line in table
            ]
            if held_out:
                worst = max(float(line["error"]) for line in table)
                prefix = "" if promotions else "slate_only_"
                report.summary[f"{prefix}closed_loop_worst_error"] = Estimate(worst, float("nan"), float("nan"), 1)
                lines += [{"mode": name, **line} for line in table]
        report.curves[f"weekly: {name}"] = _weekly(ours.weekly, theirs.weekly)
    part = "### Closed loop: weeks 45-52, after 18 weeks on their own under the logging policy\n\n"
    return part + markdown(lines, ["mode", "what", "log", "simulated", "error"], digits=3)


def _weekly(simulated: pl.DataFrame, logged: pl.DataFrame) -> tuple[Floats, dict[str, Floats]]:
    both = logged.join(simulated, on="week", suffix="_simulated").sort("week").filter(pl.col("week") >= 27)
    return both["ctr"].fill_null(float("nan")).to_numpy(), {MODEL: both["ctr_simulated"].to_numpy()}


def heldout_table(report: Report) -> str:
    """Markdown: one line a figure, one column a model, and what was to be reached."""
    models = ["popularity", "frequency", "logistic", "gbdt", MODEL]
    others = ("full_exposure_ratio", "policy_slate_ratio")  # predicted over observed
    lines: list[dict[str, object]] = []
    for name in (*GOOD, *others):
        bar = f"{'<=' if name in LOWER_IS_BETTER else '>='} {GOOD[name]}" if name in GOOD else ""
        found = {model: report.summary.get(figure_name(name, model), "") for model in models}
        lines.append({"figure": name, **found, "good": bar})
    return markdown(lines, ["figure", *models, "good"], digits=1)


def picture(report: Report) -> Figure:
    """Recency curves and the weekly CTR of the closed loop."""
    figure = Figure(figsize=(12, 3.2 * -(-len(report.curves) // 2)), layout="constrained")
    for index, (name, (observed, predicted)) in enumerate(report.curves.items()):
        axes = figure.add_subplot(-(-len(report.curves) // 2), 2, index + 1)
        ticks = np.arange(len(observed))
        axes.plot(ticks, observed, "k-o", label="log", markersize=4)
        for model, values in predicted.items():
            axes.plot(ticks, values, "--", label=model)
        weekly = name.startswith("weekly")
        axes.set_title(
            f"CTR of policy slates, {name.removeprefix('weekly: ')}" if weekly else f"purchase rate by {name}"
        )
        labels = [str(27 + i) for i in ticks] if weekly else [str(first) for first in ITEM_BINS]
        axes.set_xticks(ticks, labels, fontsize=7)
        axes.set_xlabel("week" if weekly else "days, first of the bin")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main(tyro.cli(Config))
