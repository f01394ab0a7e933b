"""Fit the transformer shopper to the Complete Journey logs: python -m benchmarks.finetune

Two stages: baskets of the whole catalogue, then the exposure logs; calibration on weeks 45-48; the folder that comes
out is what `recsim_env.register` and `recsim_env/CompleteJourney-v0` read. Run again, it goes on where it stopped.
With `--members` further shoppers are fitted with other seeds: the ensemble of `recsim_env.shoppers.learned`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import torch
import tyro
from rich.console import Console

import recsim_env
from benchmarks.card import model_card
from benchmarks.report import write_text
from recsim_env.catalog import Catalog
from recsim_env.logs import complete_journey
from recsim_env.logs.complete_journey import encoder_folder
from recsim_env.logs.schema import read_baskets, read_impressions, read_popularity, read_promotions
from recsim_env.shoppers.examples import Examples, Market
from recsim_env.shoppers.finetune import FinetuneConfig, calibrate, fit, new_shopper
from recsim_env.shoppers.peaks import SHOP_FILES
from recsim_env.shoppers.text import TextTunedShopper
from recsim_env.shoppers.transformer import ROW_KINDS, SlateShopper

SHIPPED = Path(recsim_env.__file__).parent / "data" / "complete_journey"
LOGS = tuple(kind for kind in ROW_KINDS if kind != "repeat")


@dataclass(frozen=True)
class Config:
    """Fine-tune the transformer shopper."""

    shopper: FinetuneConfig = field(default_factory=FinetuneConfig)
    """The model and its training."""
    log: Path = Path(".cache/complete_journey")
    """Folder of `benchmarks.build_log`; built when it is not there."""
    output: Path = Path("runs/finetune")
    """Folder of checkpoints, TensorBoard events and the finished shopper (`shopper/`)."""
    text_encoder: str = "frozen"
    """What happens to the pretrained text encoder: frozen, lora or full (trained end to end)."""
    members: int = 1
    """Models in the folder; each after the first has the next seed, all else alike."""
    ship: bool = False
    """Put the finished shopper into the package, in place of the one that `recsim_env/CompleteJourney-v0` starts."""
    threads: int = 2
    """CPU threads."""


@dataclass(frozen=True)
class Log:
    """The Complete Journey tables: catalogue, baskets, the three impression logs, and what the shop did."""

    catalog: Catalog
    baskets: pl.DataFrame
    impressions: dict[str, pl.DataFrame]
    market: Market

    @classmethod
    def load(cls, folder: Path) -> Log:
        """Read the tables, building them first where they are missing."""
        if not (folder / "summary.json").is_file():
            complete_journey.build(folder)
        catalog = Catalog.load(folder)
        promotions, popularity = (
            read_promotions(folder / "promotions.parquet"),
            read_popularity(folder / "popularity.parquet"),
        )
        market = Market.of(promotions, popularity, len(catalog))
        impressions = {kind: read_impressions(folder / f"{kind}.parquet") for kind in LOGS}
        return cls(catalog, read_baskets(folder / "baskets.parquet"), impressions, market)

    def examples(self, *, cold_hidden: bool) -> Examples:
        """Histories and rows; `cold_hidden` leaves the cold items out of every history, as training must."""
        hidden = self.catalog.cold if cold_hidden else None
        return Examples.of(
            self.catalog,
            self.baskets,
            self.impressions,
            self.market,
            hidden=hidden,
            generator=torch.Generator().manual_seed(0),
        )


def main(config: Config) -> None:
    """Build what is missing, train what is not trained, calibrate, write the shopper's folder.

    Errors: ValueError where `members` is no whole number above 0.
    """
    if config.members < 1:
        raise ValueError(f"members is {config.members}, but it must be a whole number above 0.")
    torch.set_num_threads(config.threads)
    console = Console()
    began = time.perf_counter()
    log = Log.load(config.log)
    with console.status("replaying the log"):
        examples = log.examples(cold_hidden=True)
    members = [fit_member(log, examples, config, number) for number in range(config.members)]
    del examples
    examples = log.examples(cold_hidden=False)
    calibrations = [calibrate(member, examples) for member in members]
    minutes = (time.perf_counter() - began) / 60
    cold = torch.zeros(len(log.catalog), dtype=torch.bool) if log.catalog.cold is None else log.catalog.cold
    settings = vars(config.shopper) | {
        "text_encoder": config.text_encoder,
        "members": config.members,
        "calibration": calibrations[0] if config.members == 1 else calibrations,
    }
    save_shop(members, config, model_card(members, examples, cold, settings, minutes))
    if config.ship:
        replace_folder(config.output / "shopper", SHIPPED)
    console.print(f"{config.output / 'shopper'}: {minutes:.1f} minutes, calibration {calibrations}")


def fit_member(log: Log, examples: Examples, config: Config, number: int) -> SlateShopper:
    """Train member `number`, or go on with it; not yet calibrated.

    Checkpoints of the first one lie in the output folder itself, those of the others in `model1/`, `model2/`, ..
    """
    settings = replace(config.shopper, seed=config.shopper.seed + number)
    folder = config.output / f"model{number}" if number else config.output
    cold = log.catalog.cold
    model = new_shopper(log.catalog, settings, known=None if cold is None else ~cold)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)  # type: ignore[arg-type]
    fit(model, examples, settings, folder, stage="pretrain")
    if config.text_encoder == "frozen":
        fit(model, examples, settings, folder, stage="finetune")
    else:
        tuned = TextTunedShopper(model, log.catalog.text, encoder_folder(), config.text_encoder).to(device)
        fit(tuned, examples, settings, folder, stage="finetune")
        tuned.refresh()
    return model


def save_shop(members: Sequence[SlateShopper], config: Config, card: str) -> None:
    """Write the finished shopper with the tables that a simulation starts from; replaces the old folder at the end.

    The first member lies in the folder itself, the others in `model1/`, `model2/`, ..
    """
    folder, part = config.output / "shopper", config.output / "shopper.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number, member in enumerate(members):
        member.save_pretrained(part / f"model{number}" if number else part)
    for name in SHOP_FILES[2:]:
        shutil.copy(config.log / name, part / name)
    write_text(part / "README.md", card)
    replace_folder(part, folder)
    shutil.rmtree(part)


def replace_folder(source: Path, target: Path) -> None:
    """Copy a folder over another one; the old one goes when the new one is whole."""
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


if __name__ == "__main__":
    main(tyro.cli(Config))
