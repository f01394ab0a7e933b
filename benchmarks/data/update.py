"""Refit the shoppers and the ranker of a shop on newer rows of its log, from the weights they have.

    python -m benchmarks.data.update --site shop --log new.parquet --catalog items.csv

The newest rows are held out: every part is scored on them as it was and as it is after training on
the other new rows, and what does not get better stays as it was. A new folder is written, with all
that an environment needs and `update.md`, the report of what changed; nothing is written to the old
one. The verdicts of the first fit are kept: they are about the models of that fit.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import polars as pl
import torch
from torch import Tensor

from agents.updates import warm
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Device, Threads
from benchmarks.lab.provenance import ROOT
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from policies.rankers.files import load_ranker, save_ranker
from policies.rankers.recent import RecentRanker, counters_for
from policies.rankers.slate_examples import SlateExamples, examples_at
from policies.rankers.two_tower import TwoTowerRanker
from policies.rankers.two_tower_fit import go_on, predictions
from recsim_env import files
from recsim_env.catalog import Catalog
from recsim_env.fitting.newer import Grown, days_of, grown
from recsim_env.fitting.output import check_output
from recsim_env.logs.schema import IMPRESSIONS, write_table
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.metrics import auc, normalised_entropy
from recsim_env.registration import EnvConfig, make_simulator
from recsim_env.settings import Within
from recsim_env.shop_file import LOG, RANKER, SHOP_FILE
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session
from recsim_env.shoppers.session.model import SessionShopper
from recsim_env.shoppers.session.population import AVAILABLE, load_session, save_session
from recsim_env.shoppers.session.scores import predict
from recsim_env.shoppers.session.starts import Logged
from recsim_env.shoppers.session.visits import Visits
from recsim_env.shoppers.weights import member_folders
from recsim_env.tables import read_parquet, write_parquet
from recsim_env.types import best_device

REPORT = "update.md"
"""File of the report in the new folder."""


@dataclass(frozen=True, kw_only=True)
class Config(Threads, Device):
    """Refit a shop on newer rows."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "held_out": Within(0.01, 0.9),
        "epochs": Within(0, 1000, above=True),
        "learning_rate": Within(0, 1, above=True),
        "least_steps": Within(0, 10**6),
    }

    site: Path = Path("runs/shop")
    """Folder that `benchmarks.data.fit_log` wrote. It is only read."""
    log: Path = Path("runs/new.parquet")
    """The new rows: CSV or parquet, one row an impressed item, all after the last day that the shop
    knows."""
    catalog: Path = ROOT / "examples" / "shop_items.csv"
    """The catalogue that the shop was fitted with. The default is that of the example."""
    output: Path = Path("runs/shop-updated")
    """Folder to write: a new or empty one."""
    columns: str | None = None
    """Names that columns have in the files, as in `user=uid,item=sku`. By default those that the
    shop was fitted with."""
    time_zone: str | None = None
    """Zone of the shop's clock; that of the first fit."""
    held_out: float = 0.3
    """Share of the new slates, about, that the parts are scored on: those of the newest days."""
    epochs: float = 2.0
    """Passes of the shopper models over the users with new rows."""
    learning_rate: float = 1e-3
    """Peak learning rate of the shopper models: a third of that of a fit from new weights."""
    least_steps: int = 50
    """Fewest steps of the training of a shopper model."""


@dataclass(frozen=True)
class Score:
    """How clicks on held-out slates are predicted."""

    entropy: float
    """Normalised entropy: 1 is that of the mean rate, lower is better."""
    auc: float

    @classmethod
    def of(cls, chance: Tensor, clicks: Tensor) -> Score:
        """Score predictions (Q,) of clicks (Q,)."""
        return cls(normalised_entropy(chance, clicks), auc(chance, clicks))


@dataclass(frozen=True)
class Change:
    """What training did to a part."""

    part: str
    before: Score
    after: Score

    @property
    def better(self) -> bool:
        """Whether the new part is kept."""
        return self.after.entropy < self.before.entropy


# ---- which rows ----------------------------------------------------------------------------------


def first_held_out(log: Grown, share: float) -> int:
    """The day from which on new slates are held out.

    Raises:
        ValueError: If the new rows are of one day, or no held-out slate has a click.
    """
    new = log.used().filter(pl.col("day") >= log.first_new)
    day = int(new["day"].quantile(1 - share, interpolation="nearest") or 0)
    day = max(day, log.first_new + 1)
    held = new.filter(pl.col("day") >= day)
    clicks = held.select(pl.coalesce("click", "purchase").list.sum().sum()).item() or 0
    shown = held.select(pl.col("slate").list.len().sum()).item() or 0
    if not 0 < clicks < shown:
        raise ValueError(
            f"log has {clicks} clicks on {shown} items that are held out, those from day {day} on, "
            "but it needs some with and some without: give rows of more days."
        )
    return day


def visits_of(sessions: Sessions, first: int) -> Tensor:
    """Tell which visits of some episodes, in order, are of a day or later: (V,) bool."""
    return days_of(sessions)[sessions.real] >= first


# ---- the two kinds of parts ----------------------------------------------------------------------


def score_member(
    member: SessionShopper, everybody: Sessions, catalog: Catalog, first: int
) -> Score:
    """Score a shopper model on the slates from a day on, each from all before it."""
    visits = Visits.of(everybody, catalog)
    asked = visits_of(everybody, first).unsqueeze(1) & visits.shown
    return Score.of(predict(member, visits).clicks[asked], visits.clicks[asked])


def refit_member(
    config: Config, member: SessionShopper, log: Grown, first: int, catalog: Catalog, seed: int
) -> SessionShopper:
    """Train a shopper model on users with new rows before a day, from the weights that it has."""
    sessions, splits = log.sessions(first), log.splits(first)
    came = (days_of(sessions) >= log.first_new).masked_fill(~sessions.real, False).any(dim=1)
    learn = came & torch.tensor([split != "test" for split in splits])
    if not bool(learn.any()):
        raise ValueError("log has no user to learn from before the days that are held out.")
    told = SessionFitConfig(
        epochs=config.epochs, learning_rate=config.learning_rate, least_steps=config.least_steps
    )
    return fit_session(
        sessions.take(learn),
        catalog,
        told,
        seed=seed,
        held_out=0.0,
        validation=0.0,
        device=best_device(config.device),
        start=member,
    ).cpu()


def examples_by_day(
    sessions: Sessions,
    catalog: Catalog,
    ranker: TwoTowerRanker | RecentRanker,
    space: gymnasium.spaces.Dict,
) -> tuple[SlateExamples, Tensor]:
    """Examples of all slates, and the day (S,) of each."""
    known = None
    if isinstance(ranker, RecentRanker):
        size = sessions.slates.shape[2]
        known = counters_for(space, catalog, size)
    parts, days = [], []
    for moment in replay(sessions, catalog):
        seen = (moment.observation, moment.slates, moment.clicks)
        parts.append(examples_at(*seen, catalog, known))
        days.append(days_of(sessions)[moment.rows, moment.visit])
    return SlateExamples.join(parts), torch.cat(days)


def refit_ranker(
    ranker: TwoTowerRanker, examples: SlateExamples, days: Tensor, first_new: int, first: int
) -> TwoTowerRanker:
    """Train a ranker on the new slates before a day, and on as many older ones."""
    new = ((days >= first_new) & (days < first)).nonzero().squeeze(1)
    old = (days < first_new).nonzero().squeeze(1)
    chosen = torch.randperm(len(old), generator=torch.Generator().manual_seed(0))[: len(new)]
    told = replace(
        ranker.model.config,
        epochs=warm.EPOCHS,
        learning_rate=warm.RATE,
        batch_size=warm.BATCH,
    )
    return go_on(ranker, examples.take(torch.cat([new, old[chosen]])), told)


# ---- the command ---------------------------------------------------------------------------------


def update(config: Config) -> list[Change]:
    """Read, refit, compare and write; returns what became of each part.

    Raises:
        ValueError: If a folder, a file or the new rows are not as said. Nothing is written.
    """
    site, output = config.site, _checked_output(config)
    size, count = _slate_size(site), max(len(member_folders(site, 0)), 1)
    shoppers = load_session(site, torch.device("cpu"), size, ensemble=count)
    catalog = shoppers.catalog
    log = grown(
        site,
        config.log,
        config.catalog,
        catalog,
        columns=config.columns,
        time_zone=config.time_zone,
    )
    first, everybody = first_held_out(log, config.held_out), log.sessions()

    # The shopper models, each from its own weights.
    changes, kept = [], []
    for number, member in enumerate(shoppers.members):
        newer = refit_member(config, member, log, first, catalog, seed=number)
        scores = [score_member(one, everybody, catalog, first) for one in (member, newer)]
        changes.append(Change(f"shopper model {number}", *scores))
        kept.append(newer if changes[-1].better else member)

    # The ranker, where there is one that learns from slates.
    space = make_simulator(EnvConfig(site, slate_size=size), device="cpu").observation_space
    ranker = _ranker_of(site, catalog, space, size)
    best: TwoTowerRanker | None = None
    if ranker is not None:
        examples, days = examples_by_day(everybody, catalog, ranker, space)
        inner = ranker.two_tower if isinstance(ranker, RecentRanker) else ranker
        newest = refit_ranker(inner, examples, days, log.first_new, first)
        held = examples.take((days >= first).nonzero().squeeze(1))
        scores = [Score.of(*predictions(one, held)) for one in (inner, newest)]
        changes.append(Change("ranker", *scores))
        best = newest if changes[-1].better else inner
    _write(site, output, log, first, catalog, kept, best, changes)
    return changes


def _checked_output(config: Config) -> Path:
    """Check where the new folder goes: beside the old one, and not in it.

    Raises:
        ValueError: If it is the old one, lies in it or holds it, or holds anything.
    """
    output = check_output(config.output, (config.log, config.catalog))
    site, there = config.site.resolve(), output.resolve()
    if there.is_relative_to(site) or site.is_relative_to(there):
        raise ValueError(
            f"output is {str(output)!r}, but it must be another folder than site, which is only "
            "read, neither in it nor around it."
        )
    if output.is_dir() and any(output.iterdir()):
        raise ValueError(f"output is {str(output)!r}, but it must be a new or an empty folder.")
    return output


def _slate_size(site: Path) -> int:
    path = site / SHOP_FILE
    if not path.is_file():
        raise FileNotFoundError(f"site is {str(site)!r}, which has no {SHOP_FILE}.")
    return int(files.read_object(path).get("slate_size", 10))


def _ranker_of(
    site: Path, catalog: Catalog, space: gymnasium.spaces.Dict, slate_size: int
) -> TwoTowerRanker | RecentRanker | None:
    """The two-tower ranker of a folder; None where it has none."""
    if not (site / RANKER).is_file():
        return None
    found = load_ranker(site / RANKER, catalog, space, slate_size)
    return found if isinstance(found, (TwoTowerRanker, RecentRanker)) else None


def _write(
    site: Path,
    output: Path,
    log: Grown,
    first: int,
    catalog: Catalog,
    members: list[SessionShopper],
    ranker: TwoTowerRanker | None,
    changes: list[Change],
) -> None:
    """Write the new folder in one move."""
    # Who starts from their histories, and what shop.json says of the update.
    splits = log.splits()
    rows = torch.tensor([split != "valid" for split in splits])
    test = torch.tensor([split == "test" for split in splits])
    population = Logged(log.sessions().take(rows), test[rows])
    available = read_parquet(site / AVAILABLE, "items") if (site / AVAILABLE).exists() else None
    told: dict[str, Any] = files.read_object(site / SHOP_FILE)
    told["updated"] = {
        "days": int(log.impressions["day"].max()) + 1,  # type: ignore[arg-type]
        "first_new_day": log.first_new,
        "first_held_out_day": first,
        "parts": {
            one.part: {
                "before": vars(one.before),
                "after": vars(one.after),
                "kept": "new" if one.better else "old",
            }
            for one in changes
        },
    }

    # All files, or none.
    if output.is_dir():
        output.rmdir()  # empty, as was checked
    with files.building(output) as whole:
        files.made(whole)
        save_session(whole, catalog, members, population, available=available)
        table = files.made(whole / LOG)
        write_table(IMPRESSIONS, log.impressions, table / "impressions.parquet", len(catalog))
        write_parquet(table / "users.parquet", log.users)
        if log.declared is not None:
            write_parquet(table / "declared.parquet", log.declared)
        log.facts.write(table)
        if ranker is not None:
            save_ranker(ranker, whole / RANKER)
        files.write_text(whole / REPORT, report(log, first, changes))
        files.write_text(whole / SHOP_FILE, json.dumps(told, indent=1) + "\n")


def report(log: Grown, first: int, changes: list[Change]) -> str:
    """Say what changed, for `update.md`."""
    used = log.used()
    new = used.filter(pl.col("day") >= log.first_new)
    held = new.filter(pl.col("day") >= first)
    lines = [
        {
            "part": one.part,
            "normalised entropy before": one.before.entropy,
            "after": one.after.entropy,
            "AUC before": one.before.auc,
            "AUC after": one.after.auc,
            "kept": "new" if one.better else "old",
        }
        for one in changes
    ]
    left_out = ""
    if older := len(log.impressions) - len(used):
        left_out = (
            f"Of every user the last {log.most_steps:,} slates are used: {older:,} older ones are "
            "left out.\n\n"
        )
    return (
        f"# Update\n\n{len(new):,} new slates of {new['shopper'].n_unique():,} users, from day "
        f"{log.first_new} on. The {len(held):,} from day {first} on were held out; the others were "
        "learned from. Scores are of clicks on held-out slates; a part that did not get better "
        "stays as it was. The verdicts in shop.json are those of the first fit.\n\n"
        f"{left_out}{markdown(lines, digits=4)}"
    )


def main(config: Config) -> None:
    """Refit a shop, and print what changed."""
    use_threads(config.threads)
    update(config)
    print((config.output / REPORT).read_text())
    print(f"Next: python -m benchmarks.agents.train --env {shlex.quote(str(config.output))}")


if __name__ == "__main__":
    run_command(main, Config)
