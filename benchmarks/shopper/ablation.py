"""Measure what each part of the shopper is worth: `python -m benchmarks.shopper.ablation`.

The same training is done without pretraining, without text, without counters, and with the text
encoder frozen, adapted (LoRA) or trained in full, each with the same passes over the data, and
scored on the test weeks. Scores are kept as they come: a command that was stopped goes on.

With `--question choices` the settings of a training are chosen: other passes and other dropout than
those of the shipped shopper are scored on the valid weeks, so that the test weeks are left to judge
what was chosen.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from rich.console import Console
from torch import Tensor

from benchmarks.lab.command import run_command
from benchmarks.lab.heldout import estimate, with_samples
from benchmarks.lab.logs import Log, ReadsLog, opened_log, sorted_rows
from benchmarks.lab.options import Results
from benchmarks.lab.run import Run
from benchmarks.lab.settings import (
    TABLES,
    check_settings,
    settings_of,
)
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import FITTING_THREADS, use_threads
from recsim_env.estimates import Estimate
from recsim_env.files import read_object, write_text
from recsim_env.logs.complete_journey import encoder_folder
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.fit import FinetuneConfig, calibrate, fit, new_shopper, score
from recsim_env.shoppers.household.model import ROW_KINDS, SlateShopper
from recsim_env.shoppers.household.text import TextTunedShopper

SHIPPED: dict[str, object] = {"pretrain_epochs": 2.0, "epochs": 5.0, "dropout": 0.15}
"""Passes over the data and dropout of the shipped shopper."""
VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "parts": {
        "default (text frozen)": {},
        "no pretraining": {"pretrain_epochs": 0.0},
        "no text": {"use_text": False},
        "no counters": {"use_counters": False},
        "text LoRA": {"text": "lora"},
        "text fully trained": {"text": "full"},
    },
    "choices": {
        "5 passes, dropout 0.15": SHIPPED,
        "3 passes": SHIPPED | {"epochs": 3.0},
        "8 passes": SHIPPED | {"epochs": 8.0},
        "dropout 0.05": SHIPPED | {"dropout": 0.05},
        "dropout 0.3": SHIPPED | {"dropout": 0.3},
    },
}
"""Changes of the settings in each variant, by question; the first variant is the one that the
others are compared with."""
SPLITS = {"parts": "test", "choices": "valid"}
"""Split on which the variants of a question are scored; the valid split calibrates them as well."""
NAMES = {"parts": "ablation", "choices": "choices"}
"""Folders of the results, by question."""
COMMON = ("question", "shopper", "log", "samples")
"""Settings that all scores in an output folder share."""
METRICS = {
    "full_exposure": ("auc", "ne"),
    "policy_slate": ("auc", "ne", "ndcg10"),
    "cold": ("auc", "log_loss"),
}


@dataclass(frozen=True)
class Config(ReadsLog, Results):
    """Train every variant of the shopper, and score it on weeks that none was trained on."""

    question: Literal["parts", "choices"] = "parts"
    """Question that is asked: what the `parts` of the shopper are worth, judged on the test weeks,
    or which passes and dropout are the best `choices`, by the valid weeks."""
    shopper: FinetuneConfig = field(
        default_factory=lambda: FinetuneConfig(pretrain_epochs=1.0, epochs=1.0)
    )
    """Settings of every training, but for what makes the variant. The default of one pass keeps
    `parts` short; `choices` bring passes and dropout of their own."""
    output: Path = Path("runs/ablation")
    """Folder of the trainings while they run, and of the scores of those that are done. A command
    that was stopped goes on from there."""
    samples: int = 100
    """Number of bootstrap samples of households, from which the width of every interval is found.
    More of them hardly change a width."""
    threads: int = FITTING_THREADS
    """Number of processor threads for the trainings. The default is the fastest where this was
    measured."""


def main(config: Config) -> None:
    """Train and score the variants that are not done yet, then write the results of all.

    Raises:
        FileNotFoundError: If the log lacks tables.
        ValueError: If it has no cold items, or the output folder holds scores of other settings or
            tables.
    """
    use_threads(config.threads)
    config = replace(config, output=config.output / config.question)
    run, console = Run(NAMES[config.question], config, results=config.results), Console()
    variants = VARIANTS[config.question]
    told = settings_of(config, only=COMMON)
    check_settings(config.output, told, free=(TABLES,))
    missing = [name for name in variants if not path_of(config, name).exists()]
    if missing:
        outputs = {"output": config.output, "results": run.folder}
        log = opened_log(config.log, outputs, told, console)
        with console.status("replaying the log, with and without cold items"):
            hidden, full = log.examples(cold_hidden=True), log.examples(cold_hidden=False)
        for name in missing:
            began = time.perf_counter()
            model = train(config, name, log, hidden)
            calibrate(model, full, hidden)
            scores = held_out(model, hidden, full, log.cold, config)
            scores["minutes"] = [(time.perf_counter() - began) / 60]
            write_text(path_of(config, name), json.dumps(scores))
            console.print(name, {key: round(values[0], 4) for key, values in scores.items()})
    report(run, {name: read_object(path_of(config, name)) for name in variants}, console)


def path_of(config: Config, name: str) -> Path:
    """Name the file of a variant's scores."""
    return config.output / f"{short(name)}.json"


def short(name: str) -> str:
    """Shorten the name of a variant for files and figures."""
    return name.replace(" ", "_").replace("(", "").replace(")", "")


def train(config: Config, name: str, log: Log, hidden: Examples) -> SlateShopper:
    """Train one variant from its own start; the folder of its training is removed."""
    changes = dict(VARIANTS[config.question][name])
    text = changes.pop("text", None)
    settings = replace(config.shopper, **changes)  # type: ignore[arg-type]
    folder = path_of(config, name).with_suffix("")
    cold = log.catalog.cold
    model = new_shopper(log.catalog, settings, log.facts, known=None if cold is None else ~cold)
    fit(model, hidden, settings, folder, stage="pretrain", resume=False)
    if text is None:
        fit(model, hidden, settings, folder, stage="finetune", resume=False)
    else:
        tuned = TextTunedShopper(model, log.catalog.text, encoder_folder(), str(text))
        fit(tuned, hidden, settings, folder, stage="finetune", resume=False)
        tuned.refresh()
    shutil.rmtree(folder, ignore_errors=True)
    return model


def held_out(
    model: SlateShopper, hidden: Examples, full: Examples, cold: Tensor, config: Config
) -> dict[str, list[float]]:
    """Score a variant on the weeks of its question.

    Returns:
        The value of each score, then its bootstrap samples, which are of the same households in
        every variant; and `households/..`, the number of households of each judgement.
    """
    # Rows of the three judgements; cold items are scored with histories that lack them.
    split = SPLITS[config.question]
    scores = score(model, full, split, kinds=("case_control", "policy"))
    warm, kind = ~cold[full.row_item[scores.row]], full.row_kind[scores.row]
    pure = score(model, hidden, split, kinds=("case_control",), cold=cold)
    is_cold = cold[hidden.row_item[pure.row]]
    full_exposure, policy = (
        warm & (kind == ROW_KINDS.index(name)) for name in ("case_control", "policy")
    )
    tables = {
        "full_exposure": sorted_rows(full, scores.row[full_exposure], scores.logit[full_exposure]),
        "policy_slate": sorted_rows(full, scores.row[policy], scores.logit[policy]),
        "cold": sorted_rows(hidden, pure.row[is_cold], pure.logit[is_cold]),
    }

    # Their scores and samples.
    found: dict[str, list[float]] = {}
    for part, metrics in METRICS.items():
        scores_of = with_samples(tables[part], metrics, samples=config.samples)
        found |= {f"{part}_{metric}": values for metric, values in scores_of.items()}
        found[f"households/{part}"] = [tables[part].households]
    return found


def report(run: Run, found: dict[str, dict[str, list[float]]], console: Console) -> None:
    """Write the table with the paired difference of every variant from the first one."""
    base = next(iter(found.values()))
    figures = [f"{part}_{metric}" for part, metrics in METRICS.items() for metric in metrics]
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    rows = []
    for name, scores in found.items():
        line: dict[str, object] = {"variant": name}
        for figure in figures:
            value = scores[figure][0]
            gain = difference(scores, base, figure)
            line[figure] = f"{value:.4f}" if scores is base else gain
            summary[f"{short(name)}/{figure}"] = Estimate(value, n=gain.n)
            told = {"difference": gain.value, "low": gain.low, "high": gain.high}
            rows.append({"variant": name, "figure": figure, "value": value, **told})
        line["minutes"] = scores["minutes"][0]
        lines.append(line)
    table = markdown(lines, list(lines[0]))
    run.save(pl.DataFrame(rows), summary=summary, table=table)
    console.print(table)


def difference(
    scores: dict[str, list[float]], base: dict[str, list[float]], figure: str
) -> Estimate:
    """Estimate by how much a figure is above that of another variant on the same households.

    The interval is for other households.
    """
    households = next(
        int(count)
        for part in METRICS
        if figure.startswith(part)
        for count in scores[f"households/{part}"]
    )
    one, other = np.array(scores[figure]), np.array(base[figure])
    return estimate(float(one[0] - other[0]), one[1:] - other[1:], households)


if __name__ == "__main__":
    run_command(main, Config)
