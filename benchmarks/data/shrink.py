"""Make a smaller shopper out of a fitted household shopper: `python -m benchmarks.data.shrink`.

Layers, attention heads and hidden units go by their measured importance
(`recsim_env.shoppers.household.prune`); what is left learns the chances of the fitted shopper, also
on items that nobody was shown (`recsim_env.shoppers.household.distil`), and is calibrated on the
valid weeks. The folder that comes out is one like every other: `recsim_env.register` opens it.

A command that was stopped goes on where it stopped.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console

from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from benchmarks.lab.folders import check_apart, replace_folder
from benchmarks.lab.log_checks import check_scales, digest_of
from benchmarks.lab.logs import DEFAULT_LOG, SHIPPED_SHOPPER, Log, ready
from benchmarks.lab.provenance import versions
from benchmarks.lab.settings import TABLES, remember_settings, settings_of
from benchmarks.lab.shopper_folder import write_shopper
from benchmarks.lab.threads import FITTING_THREADS, use_threads
from recsim_env.files import locked, made
from recsim_env.settings import AMOUNT, RATE, Within
from recsim_env.shoppers.household.distil import Distilled, as_simulated, with_unlogged
from recsim_env.shoppers.household.examples import Collator, Examples
from recsim_env.shoppers.household.fit import FinetuneConfig, calibrate, fit
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.peaks import SMALL, write_peaks
from recsim_env.shoppers.household.prune import (
    Batch,
    folded,
    importance,
    least_layer,
    pruned,
    resized,
    without_layer,
)
from recsim_env.shoppers.weights import MODEL_FILES, load_model

TOGETHER = 32
"""Shoppers of a batch on which layers and units are judged."""


@dataclass(frozen=True)
class Config(Checked):
    """Prune a fitted household shopper, and teach what is left to answer as it does."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"epochs": AMOUNT, "learning_rate": RATE}

    shopper: Path = SHIPPED_SHOPPER
    """Folder of the fitted shopper, by `benchmarks.data.finetune`; it is read only, but for `ship`.
    The default is the shopper that the package ships."""
    log: Path = DEFAULT_LOG
    """Folder of the log that it was fitted to. It is read only; the default one is built first
    where it does not exist."""
    output: Path = Path("runs/shrink")
    """Folder of checkpoints and of the finished shopper (`shopper/`). A command that was stopped
    goes on from there."""
    layers: int = 1
    """Number of transformer blocks that stay."""
    heads: int = 2
    """Number of attention heads of each block that stay."""
    hidden_size: int = 32
    """Width of visit states and item vectors that stays."""
    intermediate_size: int = 64
    """Number of hidden units of each block's feed-forward that stay."""
    head_size: int = 32
    """Number of hidden units of slate head and gap head that stay."""
    window: int = 32
    """Number of visits that a visit can attend to, itself among them; the counters hold what is
    older."""
    measured: int = 256
    """Number of shoppers on whose valid weeks layers and units are judged."""
    epochs: float = 3.0
    """Number of passes over the log in which the small shopper learns from the fitted one; 0 leaves
    it pruned."""
    batch_visits: int = 800
    """Number of visits in a batch, about."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; that of the fitted shopper's own training."""
    seed: int = 0
    """Seed of the items that nobody was shown, and of the order of the batches."""
    ship: bool = False
    """Put the finished model into the folder `small` of the shopper that the package ships."""
    threads: int = FITTING_THREADS
    """Number of processor threads."""


def main(config: Config) -> None:
    """Prune, teach, calibrate, and write the folder of the small shopper.

    Raises:
        ValueError: If a size is larger than that of the fitted shopper, if the output lies in the
            log or the shopper or holds another training, or if the valid weeks contradict what was
            learned.
        FileNotFoundError: If a file of log or shopper is missing.
        RuntimeError: If another process writes the folder.
    """
    console = Console()
    outputs = {"output": config.output}
    teacher = load_model(SlateShopper, config.shopper)
    check_sizes(teacher, config)
    check_apart({"shopper": config.shopper}, outputs)
    log = Log.load(ready(config.log, console, outputs))
    told = settings_of(config, free=("ship",))
    tables = {TABLES: digest_of(config.log)}
    with locked(config.output):
        remember_settings(config.output, told | tables)
        use_threads(config.threads)
        _shrink(config, log, teacher, console)


def sizes(config: Config) -> dict[str, int]:
    """The sizes of the pruned model by their names in its configuration, but for the layers."""
    return {
        "num_attention_heads": config.heads,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "head_size": config.head_size,
    }


def check_sizes(teacher: SlateShopper, config: Config) -> None:
    """Check that nothing is to become larger.

    Raises:
        ValueError: If a size is larger than that of the fitted shopper.
    """
    asked = {"layers": config.layers, "window": config.window, "heads": config.heads}
    asked |= {name: value for name, value in sizes(config).items() if name.endswith("size")}
    has = {"layers": teacher.config.num_hidden_layers, "heads": teacher.config.num_attention_heads}
    for name, value in asked.items():
        most = has.get(name) or int(getattr(teacher.config, name))
        if value > most:
            raise ValueError(
                f"{name} is {value}, but it must be {most} or less, as in {config.shopper}."
            )


def _shrink(config: Config, log: Log, teacher: SlateShopper, console: Console) -> None:
    began = time.perf_counter()
    with console.status("replaying the log"):
        full = log.examples(cold_hidden=False)
    with console.status("judging layers and units"):
        student = smaller(teacher, full, config)
    with console.status("replaying the log with items that nobody was shown"):
        unlogged = taught(log, config.seed)
    if config.epochs:
        teach(student, teacher, unlogged, config)
    student = folded(student)
    found = calibrate(student, full, unlogged)
    check_scales([found])
    minutes = (time.perf_counter() - began) / 60
    folder, text = config.output / "shopper", card(student, teacher, config, found, minutes)
    write_shopper(folder, [student], config.shopper, text)
    if config.ship:
        ship(folder)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    console.print(f"{folder}: {size:.1f} MB, {minutes:.1f} minutes, calibration {found}")


def smaller(teacher: SlateShopper, examples: Examples, config: Config) -> SlateShopper:
    """Prune the fitted model to the sizes that are asked for, by the valid weeks."""

    def batches() -> Iterator[Batch]:
        collator = Collator(examples, splits=("valid",))
        most = min(config.measured, examples.n_shoppers)
        for first in range(0, most, TOGETHER):
            yield collator(range(first, min(first + TOGETHER, most)))

    student = teacher
    while student.config.num_hidden_layers > config.layers:
        student = without_layer(student, least_layer(student, batches))
    student = pruned(student, importance(student, batches()), sizes(config))
    changed = SlateShopper(resized(student.config, window=config.window))
    changed.load_state_dict(student.state_dict())
    return changed


def taught(log: Log, seed: int) -> Examples:
    """Make the rows that the small shopper learns from, without the cold items in any history."""
    generator = torch.Generator().manual_seed(seed)
    drawn = with_unlogged(log.impressions["uniform"], len(log.catalog), generator)
    with_them = replace(log, impressions=log.impressions | {"uniform": drawn})
    return as_simulated(with_them.examples(cold_hidden=True), generator)


def teach(student: SlateShopper, teacher: SlateShopper, examples: Examples, config: Config) -> None:
    """Train the student on the teacher's chances; it goes on where it was interrupted."""
    settings = FinetuneConfig(
        epochs=config.epochs,
        batch_visits=config.batch_visits,
        learning_rate=config.learning_rate,
        weight_decay=0.0,
        seed=config.seed,
    )
    wrapped = Distilled(student, teacher)
    fit(wrapped, examples, settings, config.output, stage="finetune")
    student.train(False)


def ship(folder: Path) -> None:
    """Put a small model into the folder of the shipped shopper, and compute the peaks of both."""
    part = folder.with_name("small.part")
    shutil.rmtree(part, ignore_errors=True)
    made(part)
    for name in (*MODEL_FILES, "README.md"):
        shutil.copy(folder / name, part / name)
    replace_folder(part, SHIPPED_SHOPPER / SMALL)
    shutil.rmtree(part)
    with torch.no_grad():
        write_peaks(SHIPPED_SHOPPER.resolve())


def card(
    student: SlateShopper,
    teacher: SlateShopper,
    config: Config,
    calibration: Mapping[str, float],
    minutes: float,
) -> str:
    """Write the model card: what it was made of, how large it is, command and versions."""
    names = ("num_hidden_layers", *sizes(config), "window")
    told = {
        name: f"{getattr(student.config, name)} of {getattr(teacher.config, name)}"
        for name in names
    }
    told["parameters"] = f"{_parameters(student):,} of {_parameters(teacher):,}"
    lines = "\n".join(f"- `{name}`: {value}" for name, value in told.items())
    rounded = {name: round(value, 4) for name, value in calibration.items()}
    return f"""---
license: mit
library_name: transformers
tags: [recommendation, user-simulation, recsim-env]
---

# Slate shopper, small

A slate shopper that was pruned by measured importance, and learned the chances of the fitted one.
The card of that one, with data, use and limits, is the card of this one as well.

{lines}

## Made by

`{shlex.join(["python", *sys.orig_argv[1:]])}`, {minutes:.1f} minutes: {config.epochs:g} passes over
the log. Calibration: `{json.dumps(rounded)}`.

Versions: {", ".join(f"{name} {version}" for name, version in versions().items())}.

`python -m benchmarks.speed.small` measures it beside the fitted one.
"""


def _parameters(model: SlateShopper) -> int:
    return sum(value.numel() for value in model.parameters())


if __name__ == "__main__":
    run_command(main, Config)
