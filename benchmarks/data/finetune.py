"""Fit the household shopper to a log: `python -m benchmarks.data.finetune`.

A training has two stages: baskets of the whole catalogue, then the slate logs. The valid weeks
calibrate the model. The folder that comes out is what `recsim_env.register` and
`recsim_env/CompleteJourney-v0` read. A command that was stopped goes on where it stopped. With
`--members` several models are fitted with different seeds: the ensemble of
`recsim_env.shoppers.household.population`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console

from benchmarks.data.model_card import COMPLETE_JOURNEY, model_card
from benchmarks.lab.command import run_command
from benchmarks.lab.folders import replace_folder
from benchmarks.lab.log_checks import check_scales, digest_of
from benchmarks.lab.logs import SHIPPED_SHOPPER, Log, ReadsLog, ready
from benchmarks.lab.settings import TABLES, remember_settings, settings_of
from benchmarks.lab.shopper_folder import write_shopper
from benchmarks.lab.threads import FITTING_THREADS, use_threads
from recsim_env.files import locked
from recsim_env.logs.complete_journey import encoder_folder, is_of_build
from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.fit import (
    FinetuneConfig,
    calibrate,
    fit,
    new_shopper,
)
from recsim_env.shoppers.household.model import SlateShopper
from recsim_env.shoppers.household.text import TextTunedShopper
from recsim_env.shoppers.training import process

ENCODERS = ("frozen", "lora", "full")


@dataclass(frozen=True)
class Config(ReadsLog):
    """Fit the household shopper to a log."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"text_encoder": ENCODERS}

    shopper: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Size of the model, and settings of its training."""
    output: Path = Path("runs/finetune")
    """Folder of checkpoints, TensorBoard events and the finished shopper (`shopper/`). A command
    that was stopped goes on from there."""
    text_encoder: str = "frozen"
    """Training of the pretrained text encoder beside the shopper: `frozen` (none), `lora` (low-rank
    adapters) or `full` (all of its weights). Frozen trains the fastest."""
    members: int = 1
    """Number of models that are trained for an ensemble. They differ in their seeds, which count up
    from that of `shopper`. One is enough unless their disagreement is asked for."""
    ship: bool = False
    """Replace the shopper that the package ships for `recsim_env/CompleteJourney-v0` by the
    finished one."""
    threads: int = FITTING_THREADS
    """Number of processor threads for the training. The default is the fastest where this was
    measured."""


def main(config: Config) -> None:
    """Train what is not trained yet, calibrate, and write the folder of the shopper.

    Raises:
        ValueError: If the output lies in the log or the log in the output, or the folder holds a
            training with other settings or tables. If tables of the log do not fit together. If the
            valid weeks contradict what was learned.
        FileNotFoundError: If the log lacks tables.
        RuntimeError: If another process writes the folder.
    """
    console = Console()
    shipped = {"the shipped folder": SHIPPED_SHOPPER} if config.ship else {}
    ready(config.log, console, {"output": config.output} | shipped)
    log = Log.load(config.log)
    told = settings_of(config, only=("shopper", "log", "text_encoder"))
    if process() > 0:  # of torchrun: the first one writes
        use_threads(config.threads)
        trained(config, log, log.examples(cold_hidden=True))
        return
    with locked(config.output):
        remember_settings(config.output, told | {TABLES: digest_of(config.log)})
        _finetune(config, log, console)


def trained(config: Config, log: Log, examples: Examples) -> list[SlateShopper]:
    """Train all members on histories without the cold items; they are not calibrated yet."""
    return [fit_member(log, examples, config, number) for number in range(config.members)]


def _finetune(config: Config, log: Log, console: Console) -> None:
    # Trained on histories without the cold items, and calibrated on those with them as well.
    use_threads(config.threads)
    began = time.perf_counter()
    hidden = log.examples(cold_hidden=True)
    members = trained(config, log, hidden)
    examples = log.examples(cold_hidden=False)
    calibrations = [calibrate(member, examples, hidden) for member in members]
    del hidden
    check_scales(calibrations)
    minutes = (time.perf_counter() - began) / 60

    # The folder of the shopper, with its card.
    settings = vars(config.shopper) | {
        "text_encoder": config.text_encoder,
        "members": config.members,
        "calibration": calibrations[0] if config.members == 1 else calibrations,
    }
    source = COMPLETE_JOURNEY if is_of_build(config.log) else f"Tables of `{config.log}`."
    folder = config.output / "shopper"
    card = model_card(members, examples, log, source, settings, minutes)
    write_shopper(folder, members, config.log, card)
    if config.ship:
        replace_folder(folder, SHIPPED_SHOPPER)
    console.print(f"{folder}: {minutes:.1f} minutes, calibration {calibrations}")


def fit_member(log: Log, examples: Examples, config: Config, number: int) -> SlateShopper:
    """Train a member of the ensemble, or go on with its training; it is not calibrated yet.

    Checkpoints of the first one lie in the output folder itself, those of the others in `model1/`,
    `model2/`, ..
    """
    settings = replace(config.shopper, seed=config.shopper.seed + number)
    folder = config.output / f"model{number}" if number else config.output
    cold = log.catalog.cold
    model = new_shopper(log.catalog, settings, log.facts, known=None if cold is None else ~cold)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)  # type: ignore[arg-type]
    fit(model, examples, settings, folder, stage="pretrain")
    if config.text_encoder == "frozen":
        fit(model, examples, settings, folder, stage="finetune")
    else:
        tuned = TextTunedShopper(model, log.catalog.text, encoder_folder(), config.text_encoder).to(
            device
        )
        fit(tuned, examples, settings, folder, stage="finetune")
        tuned.refresh()
    return model


if __name__ == "__main__":
    run_command(main, Config)
