"""Fit the learned market to a market's log: python -m benchmarks.data.fit_market

Several session models with different seeds (`recsim_env.shoppers.session.fit`) learn from the log
that `benchmarks.data.market_log` writes; together they are the ensemble of
`recsim_env.shoppers.session.population`. With `--ship` the folder goes into the package, where
`recsim_env/LearnedMarket-v0` finds it.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from benchmarks.data.market_log import MarketWorld, build
from benchmarks.lab.folders import replace_folder
from benchmarks.lab.settings import remember_settings
from benchmarks.lab.threads import THREADS, use_threads
from recsim_env.catalog import Catalog
from recsim_env.files import locked, write_json
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.session.fit import (
    SessionFitConfig,
    SessionScores,
    Visits,
    fit_session,
    learn_and_check,
    score,
)
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import SHIPPED, save_learned_market
from recsim_env.shoppers.weights import load_model, member_folders, save_model

SHOWN = (
    "click_auc",
    "click_ne",
    "click_ratio",
    "click_calibration",
    "leave_auc",
    "leave_ne",
    "leave_ratio",
)
UNFINISHED = "unfinished"
"""Folder of the members of a run that did not end."""
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
    """Build the log where it is missing, fit the members, score them on held-out episodes, write the folder.

    Members that an interrupted run has fitted are kept in `unfinished/` of the folder, and not
    fitted again.

    Raises:
        RuntimeError: If another process fits into the same folder.
        ValueError: If members of other settings are kept there.
    """
    with locked(config.output):
        _fit(config)


def _fit(config: Config) -> None:
    use_threads(config.threads)
    built = build(config.market, config.work, "cpu")
    catalog = built.simulator.catalog.to("cpu")
    visits = Visits.of(learn_and_check(built.log, config.model)[1], catalog)
    members: list[SessionShopper] = []
    scores: list[SessionScores] = []
    began = time.perf_counter()
    kept = config.output / UNFINISHED
    remember_settings(kept, {"market": asdict(config.market), "model": asdict(config.model)})
    for number in range(config.members):
        members.append(_member(config, number, built.log, catalog, kept / f"model{number}"))
        scores.append(score(members[-1], visits))
    minutes = (time.perf_counter() - began) / 60
    part = config.output / f"{UNFINISHED}.part"
    shutil.rmtree(part, ignore_errors=True)
    save_learned_market(part, catalog, members, built.log.declared[:NEWCOMERS])
    told = {
        "market": asdict(config.market),
        "model": asdict(config.model),
        "log": {"episodes": len(built.log), "slates": built.log.n_slates},
        "minutes": round(minutes, 1),
        "held_out": [one.row() for one in scores],
    }
    write_json(part / "fit.json", told)
    _put(part, config.output)
    shutil.rmtree(kept)
    if config.ship:
        SHIPPED.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(config.output, SHIPPED)
    console = Console()
    console.print(table(scores))
    console.print(
        f"{SHIPPED if config.ship else config.output}: {config.members} models, {minutes:.1f} minutes"
    )


def _member(
    config: Config, number: int, log: Sessions, catalog: Catalog, folder: Path
) -> SessionShopper:
    """A fitted member, from its folder where it is there."""
    if not folder.exists():
        settings = replace(config.model, seed=config.model.seed + number)
        with tqdm(desc=f"member {number + 1} of {config.members}", unit="step", leave=False) as bar:
            member = fit_session(
                log, catalog, settings, device=config.device, progress=partial(_advance, bar)
            )
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        save_model(member, part)
        part.rename(folder)
    found: SessionShopper = load_model(SessionShopper, folder).to(config.device)  # type: ignore[arg-type]
    return found


def _put(part: Path, folder: Path) -> None:
    """Move everything of one folder into another one; members that stood there before go first."""
    for old in member_folders(folder, 0):
        shutil.rmtree(old)
    for child in sorted(part.iterdir()):
        child.replace(folder / child.name)
    part.rmdir()


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
