"""What each part of the shopper is worth: python -m benchmarks.ablation

The same training without pretraining, without text, without counters, and with the text encoder frozen, adapted (LoRA)
or trained in full; every row with the same passes over the data. Rows are kept as they come: run again, it goes on.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import tyro
from rich.console import Console
from torch import Tensor

from benchmarks.fidelity import table_of
from benchmarks.finetune import Log
from benchmarks.heldout import bootstrap
from benchmarks.report import Run, markdown
from benchmarks.statistics import Estimate
from benchmarks.threads import FITTING_THREADS, use_threads
from recsim_env.files import write_text
from recsim_env.logs.complete_journey import encoder_folder
from recsim_env.shoppers.examples import Examples
from recsim_env.shoppers.finetune import FinetuneConfig, calibrate, fit, new_shopper, score
from recsim_env.shoppers.text import TextTunedShopper
from recsim_env.shoppers.transformer import ROW_KINDS, SlateShopper

VARIANTS: dict[str, dict[str, object]] = {
    "default (text frozen)": {},
    "no pretraining": {"pretrain_epochs": 0.0},
    "no text": {"use_text": False},
    "no counters": {"use_counters": False},
    "text LoRA": {"text": "lora"},
    "text fully trained": {"text": "full"},
}
METRICS = {
    "full_exposure": ("auc", "ne"),
    "policy_slate": ("auc", "ne", "ndcg10"),
    "cold": ("auc", "log_loss"),
}


@dataclass(frozen=True)
class Config:
    """Train every variant and score it on the held-out weeks."""

    shopper: FinetuneConfig = field(default_factory=lambda: FinetuneConfig(pretrain_epochs=1.0, epochs=1.0))
    """Training of every variant; fewer passes than the shipped shopper has."""
    log: Path = Path(".cache/complete_journey")
    """Folder of `benchmarks.build_log`."""
    output: Path = Path("runs/ablation")
    """Folder of the trainings and of the rows so far."""
    samples: int = 100
    """Bootstrap samples of households behind every interval."""
    threads: int = FITTING_THREADS
    """CPU threads."""


def main(config: Config) -> None:
    """Train and score what is not done yet, then write `benchmarks/results/ablation`."""
    use_threads(config.threads)
    run, console = Run("ablation", config), Console()
    missing = [name for name in VARIANTS if not path_of(config, name).exists()]
    if missing:
        log = Log.load(config.log)
        with console.status("replaying the log, with and without cold items"):
            hidden, full = log.examples(cold_hidden=True), log.examples(cold_hidden=False)
        for name in missing:
            began = time.perf_counter()
            model = train(config, name, log, hidden)
            calibrate(model, full)
            scores = held_out(model, hidden, full, log.catalog.cold, config.samples)
            scores["minutes"] = [(time.perf_counter() - began) / 60]
            write_text(path_of(config, name), json.dumps(scores))
            console.print(name, {key: round(values[0], 4) for key, values in scores.items()})
    found = {name: json.loads(path_of(config, name).read_text()) for name in VARIANTS}
    report(run, found)


def path_of(config: Config, name: str) -> Path:
    """File of a variant's scores."""
    return config.output / f"{name.replace(' ', '_').replace('(', '').replace(')', '')}.json"


def train(config: Config, name: str, log: Log, hidden: Examples) -> SlateShopper:
    """One variant, trained from its own start."""
    changes = dict(VARIANTS[name])
    text = changes.pop("text", None)
    settings = replace(config.shopper, **changes)  # type: ignore[arg-type]
    folder = path_of(config, name).with_suffix("")
    cold = log.catalog.cold
    model = new_shopper(log.catalog, settings, known=None if cold is None else ~cold)
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
    model: SlateShopper, hidden: Examples, full: Examples, cold: Tensor | None, samples: int
) -> dict[str, list[float]]:
    """Scores by name: the value, then its bootstrap samples (the same households in every variant)."""
    assert cold is not None
    scores = score(model, full, "test", kinds=("case_control", "policy"))
    warm, kind = ~cold[full.row_item[scores.row]], full.row_kind[scores.row]
    pure = score(model, hidden, "test", kinds=("case_control",), cold=cold)
    is_cold = cold[hidden.row_item[pure.row]]
    full_exposure, policy = (warm & (kind == ROW_KINDS.index(name)) for name in ("case_control", "policy"))
    tables = {
        "full_exposure": table_of(full, scores.row[full_exposure], scores.logit[full_exposure]),
        "policy_slate": table_of(full, scores.row[policy], scores.logit[policy]),
        "cold": table_of(hidden, pure.row[is_cold], pure.logit[is_cold]),
    }
    found = {}
    for part, metrics in METRICS.items():
        for metric, (value, values) in bootstrap({"": tables[part]}, metrics, samples=samples)[""].items():
            found[f"{part}_{metric}"] = [value, *values.tolist()]
    return found


def report(run: Run, found: dict[str, dict[str, list[float]]]) -> None:
    """Table with the paired difference of every variant from the first, by households."""
    base = found[next(iter(VARIANTS))]
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    rows = []
    for name, scores in found.items():
        line: dict[str, object] = {"variant": name}
        for figure, (value, *samples) in scores.items():
            difference = np.array(samples) - np.array(base[figure][1:]) if samples else np.zeros(1)
            low, high = np.quantile(difference, [0.025, 0.975])
            gain = Estimate(value - base[figure][0], float(low), float(high), len(samples))
            line[figure] = f"{value:.1f}" if figure == "minutes" else f"{value:.4f}" if scores is base else gain
            summary[f"{path_of(Config(), name).stem}/{figure}"] = Estimate(value, float("nan"), float("nan"), 1)
            rows.append(
                {"variant": name, "figure": figure, "value": value, "difference": gain.value, "low": low, "high": high}
            )
        lines.append(line)
    run.save(pl.DataFrame(rows), summary=summary, table=markdown(lines, list(lines[0])))
    Console().print(markdown(lines, list(lines[0])))


if __name__ == "__main__":
    main(tyro.cli(Config))
