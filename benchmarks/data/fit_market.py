"""Fit the session shoppers to the log of a market: `python -m benchmarks.data.fit_market`.

Several session models with different seeds (`recsim_env.shoppers.session.fit`) learn from the log
that `benchmarks.data.market_log` writes; together they are the ensemble of
`recsim_env.shoppers.session.population`. With `--ship` the folder goes into the package, where
`recsim_env/LearnedMarket-v0` finds it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

import recsim_env
from agents.places.exploring import TABLE_FILES
from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from benchmarks.lab.folders import check_apart, replace_folder
from benchmarks.lab.log_checks import digest_of_files
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.settings import TABLES, remember_settings
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import THREADS, use_threads
from recsim_env.catalog import Catalog
from recsim_env.files import (
    building,
    locked,
    made,
    refill,
    refilling,
    write_json,
    write_text,
)
from recsim_env.fitting.bar import step_bar
from recsim_env.logs.sessions import Sessions
from recsim_env.settings import Within
from recsim_env.shop_file import SESSION, SHOP_FILE, UNFINISHED, ShopFile
from recsim_env.shoppers.hub import CARD, card_of
from recsim_env.shoppers.session.fit import HELD_OUT, SessionFitConfig, fit_session, learn_and_check
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import earlier_parts, save_session
from recsim_env.shoppers.session.scores import SessionScores, score
from recsim_env.shoppers.session.starts import Logged
from recsim_env.shoppers.session.visits import Visits
from recsim_env.shoppers.weights import load_model, save_model

SHOWN = (
    "click_auc",
    "click_ne",
    "click_ratio",
    "click_calibration",
    "leave_auc",
    "leave_ne",
    "leave_ratio",
)
SHIPPED = Path(recsim_env.__file__).parent / "data" / "market"
"""The folder of `recsim_env/LearnedMarket-v0`."""
NEWCOMERS = 4096
"""Largest number of declared interests that are kept for newcomers to draw from."""


@dataclass(frozen=True)
class Config(Checked):
    """Fit the session shoppers to the log of a market."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"held_out": Within(0, 0.9, above=True)}

    market: MarketWorld = field(default_factory=lambda: MarketWorld(mixture="broad"))
    """The market and its log, which is built where it is missing. The default mixture of policies
    writes slates of all kinds, good and bad."""
    model: SessionFitConfig = field(default_factory=SessionFitConfig)
    """Size of the model and settings of its training."""
    members: int = 3
    """Number of models in the ensemble, which differ in their seeds. The default is that of the
    shipped shoppers."""
    seed: int = 0
    """Seed of the first member; the others have those that follow it."""
    held_out: float = HELD_OUT
    """Share of the episodes that scores are made on, the same for every member."""
    work: Path = Path("runs/market")
    """Folder in which the logs of markets lie, each in a folder of its own name."""
    output: Path = Path("runs/fit_market")
    """Folder that the finished shoppers are written into. A command that was stopped goes on from
    there."""
    ship: bool = False
    """Replace the shoppers that the package ships for `recsim_env/LearnedMarket-v0` by the finished
    ones."""
    device: str = "cpu"
    """Device of the training: cpu, or cuda where there is a GPU."""
    threads: int = THREADS
    """Number of processor threads for the training. One repeats a training bit for bit."""


def main(config: Config) -> None:
    """Build the log where it is missing, fit and score the members, and write the folder.

    Members that an interrupted run has fitted are kept in `unfinished/` of the folder, and not
    fitted again.

    Raises:
        RuntimeError: If another process fits into the same folder.
        ValueError: If members of other settings are kept there, or the folder and that of the
            market lie in each other.
    """
    shipped = {"the shipped folder": SHIPPED} if config.ship else {}
    check_apart(
        {"log of the market": config.work / config.market.name}, {"output": config.output} | shipped
    )
    with locked(config.output):
        _fit(config)


def _fit(config: Config) -> None:
    # The members, each kept as soon as it is fitted.
    use_threads(config.threads)
    site = config.market.open(config.work, "cpu")
    catalog, log = site.inputs.catalog.to("cpu"), site.logged
    visits = Visits.of(learn_and_check(log, config.held_out)[1], catalog)
    members: list[SessionShopper] = []
    scores: list[SessionScores] = []
    began = time.perf_counter()
    kept = config.output / UNFINISHED
    refill(config.output, kept, SHOP_FILE, earlier_parts)
    told: dict[str, Any] = {
        "market": asdict(config.market),
        "model": asdict(config.model),
        "seed": config.seed,
        "held_out_share": config.held_out,
    }
    remember_settings(kept, told | {TABLES: digest_of_files(tables_of(config))})
    for number in range(config.members):
        members.append(_member(config, number, log, catalog, kept / f"model{number}"))
        scores.append(score(members[-1], visits))
    minutes = (time.perf_counter() - began) / 60

    # The folder of all members, which takes the place of an earlier one when it is whole.
    newcomers = Logged.newcomers(log.declared)
    evaluation = log.held_out(config.held_out)
    logged = replace(newcomers, evaluation=evaluation).some(NEWCOMERS)
    told |= {
        "log": {"episodes": len(log), "slates": log.n_slates},
        "minutes": round(minutes, 1),
        "held_out": [one.row() for one in scores],
    }
    true = site.simulator()
    shop = ShopFile(SESSION, true.slate_size, true.horizon_days, true.reward.weights)
    with refilling(config.output, kept, SHOP_FILE, earlier_parts) as part:
        save_session(part, catalog, members, logged)
        write_json(part / "fit.json", told)
        write_text(part / CARD, market_card(told))
        write_json(part / SHOP_FILE, shop.plain())
    if config.ship:
        made(SHIPPED.parent)
        replace_folder(config.output, SHIPPED)
    console = Console()
    console.print(table(scores))
    console.print(
        f"{SHIPPED if config.ship else config.output}: "
        f"{config.members} models, {minutes:.1f} minutes"
    )


def tables_of(config: Config) -> list[Path]:
    """The files of the log that the members learn from."""
    return [config.work / config.market.name / name for name in TABLE_FILES]


def _member(
    config: Config, number: int, log: Sessions, catalog: Catalog, folder: Path
) -> SessionShopper:
    """Fit a member, or read it from its folder where it was fitted before."""
    training = folder.with_name(f"{folder.name}.training")
    if not folder.exists():
        with step_bar(f"member {number + 1} of {config.members}") as bar:
            member = fit_session(
                log,
                catalog,
                config.model,
                seed=config.seed + number,
                held_out=config.held_out,
                device=config.device,
                progress=bar,
                folder=training,
            )
        with building(folder) as part:
            save_model(member, part)
        shutil.rmtree(training, ignore_errors=True)
    found: SessionShopper = load_model(SessionShopper, folder).to(config.device)  # type: ignore[arg-type]
    return found


def market_card(told: Mapping[str, Any]) -> str:
    """The model card of the members, from what `fit.json` says of them."""
    market = told["market"]
    lines = [
        {"member": number} | {name: one[name] for name in SHOWN}
        for number, one in enumerate(told["held_out"])
    ]
    return card_of(
        "session_shopper",
        data=(
            f"{told['log']['slates']:,} slates of {told['log']['episodes']:,} shoppers of "
            f"`{market['env']}`, a closed-form market, logged by the mixture of policies "
            f"`{market['mixture']}` (`benchmarks.data.market_log`). They are no people, and the "
            "market's rules are assumptions. Each folder `model0`, `model1`, .. is a model that "
            "was fitted with another seed."
        ),
        training=told["model"]
        | {name: told[name] for name in ("seed", "held_out_share", "minutes") if name in told},
        scores=f"On shoppers that were held out:\n\n{markdown(lines, digits=3)}".strip(),
        license="mit",
    )


def table(scores: list[SessionScores]) -> Table:
    """Lay out the held-out scores, one row a member."""
    found = Table(
        "member", *(name.replace("_", "\n") for name in SHOWN), title="on held-out episodes"
    )
    for number, one in enumerate(scores):
        found.add_row(str(number), *(f"{one.row()[name]:.3f}" for name in SHOWN))
    return found


if __name__ == "__main__":
    run_command(main, Config)
