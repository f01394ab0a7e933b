"""Fit the learned market to a market's log: python -m benchmarks.fit_market

Several session models with different seeds (`recsim_env.shoppers.session_fit`) learn from the log that
`benchmarks.market` writes; together they are the ensemble of `recsim_env.shoppers.learned_market`. With `--ship` the
folder goes into the package, where `recsim_env/LearnedMarket-v0` finds it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from benchmarks.finetune import replace_folder
from benchmarks.market import MarketWorld, build
from benchmarks.report import write_text
from benchmarks.threads import THREADS, use_threads
from recsim_env.shoppers.learned_market import SHIPPED, save_learned_market
from recsim_env.shoppers.session import SessionShopper
from recsim_env.shoppers.session_fit import (
    SessionFitConfig,
    SessionScores,
    Visits,
    fit_session,
    learn_and_check,
    score,
)

SHOWN = ("click_auc", "click_ne", "click_ratio", "click_calibration", "leave_auc", "leave_ne", "leave_ratio")
NEWCOMERS = 4096
"""Most declarations that are kept for newcomers to draw from."""


@dataclass(frozen=True)
class Config:
    """Fit a learned market."""

    market: MarketWorld = field(default_factory=lambda: MarketWorld(mixture="broad"))
    """The market and its log; built where it is not there."""
    model: SessionFitConfig = field(default_factory=SessionFitConfig)
    """The model and its training; its seed is that of the first member."""
    members: int = 3
    """Models, one seed each."""
    work: Path = Path("runs/market")
    """Folder of the log."""
    output: Path = Path("runs/fit_market")
    """Where the learned market goes."""
    ship: bool = False
    """Put it into the package, in place of the one of `recsim_env/LearnedMarket-v0`."""
    device: str = "cpu"
    """Where to train."""
    threads: int = THREADS
    """CPU threads."""


def main(config: Config) -> None:
    """Build the log where it is missing, fit the members, score them on held-out episodes, write the folder."""
    use_threads(config.threads)
    built = build(config.market, config.work, "cpu")
    catalog = built.simulator.catalog.to("cpu")
    visits = Visits.of(learn_and_check(built.log, config.model)[1], catalog)
    members: list[SessionShopper] = []
    scores: list[SessionScores] = []
    began = time.perf_counter()
    for number in range(config.members):
        settings = replace(config.model, seed=config.model.seed + number)
        with tqdm(desc=f"member {number + 1} of {config.members}", unit="step", leave=False) as bar:
            members.append(
                fit_session(built.log, catalog, settings, device=config.device, progress=partial(_advance, bar))
            )
        scores.append(score(members[-1], visits))
    minutes = (time.perf_counter() - began) / 60
    save_learned_market(config.output, catalog, members, built.log.declared[:NEWCOMERS])
    told = {
        "market": asdict(config.market),
        "model": asdict(config.model),
        "log": {"episodes": len(built.log), "slates": built.log.n_slates},
        "minutes": round(minutes, 1),
        "held_out": [one.row() for one in scores],
    }
    write_text(config.output / "fit.json", json.dumps(told, indent=1) + "\n")
    if config.ship:
        SHIPPED.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(config.output, SHIPPED)
    console = Console()
    console.print(table(scores))
    console.print(f"{SHIPPED if config.ship else config.output}: {config.members} models, {minutes:.1f} minutes")


def _advance(bar: Any, step: int, steps: int) -> None:
    bar.total = steps
    bar.update(step - bar.n)


def table(scores: list[SessionScores]) -> Table:
    """The held-out scores, a row a member."""
    found = Table("member", *SHOWN, title="on held-out episodes")
    for number, one in enumerate(scores):
        found.add_row(str(number), *(f"{one.row()[name]:.3f}" for name in SHOWN))
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
