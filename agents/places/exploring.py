"""A log that exploring policies play, in rounds, and the ranker that is fitted to it.

The ranker from which the policies of a round start is fitted to the rounds before; the first round
is uniform. Each round is kept on disk as soon as it is played, so that a log that was interrupted
goes on with the next one and comes out the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import polars as pl
import torch
from torch import Tensor
from tqdm.auto import tqdm

from agents.places.mixture import Mixture, servers
from agents.places.site import seeds
from policies.inputs import PolicyInputs, Ranker
from policies.lasting import lasting_value
from policies.lift import category_lift
from policies.rankers.recent import RecentRanker, counters_for
from policies.rankers.two_tower_fit import fit_two_tower
from policies.visits import together_lift
from recsim_env import checks
from recsim_env.logs.record import record
from recsim_env.logs.schema import read_impressions, write_impressions
from recsim_env.logs.sessions import Sessions
from recsim_env.simulator import SlateSimulator
from recsim_env.tables import write_parquet

LOG_SEED, HELD_OUT_SEED = 40_000_000, 50_000_000
"""First seeds of the logged episodes and of held-out ones, which nothing else uses."""
ROUNDS = (0.2, 0.3, 0.5)
"""Share of the log that each round writes; the first round is uniform."""
PER_CATEGORY = 4
"""Candidates of each category in the pool that re-rankers and composers look at, beside the best
ones, where there are few categories."""
OF_CATEGORIES = 200
"""Largest number of candidates that join the pool for their category, those of all together."""
DECLARED = {"shopper": pl.Int64(), "declared": pl.List(pl.Float32)}
"""Columns of the table of what shoppers declared."""
TABLE_FILES = ("declared.parquet", "impressions.parquet")
"""Files of a log; the first is there where shoppers declare something."""
Tables = tuple[pl.DataFrame, pl.DataFrame | None]
"""Impressions, and what their shoppers declared."""


@dataclass(frozen=True)
class Exploration:
    """Who plays a log, and how long it becomes."""

    slates: int
    """Number of logged slates, about."""
    mixture: Mixture = "exploring"
    """Who serves."""
    fewest: int = 16
    """Least number of episodes that a policy serves at a time; more are quicker in a batch."""

    @property
    def rounds(self) -> tuple[float, ...]:
        """Share of the log that each round writes."""
        return (1.0,) if self.mixture == "uniform" else ROUNDS


# ---- what policies are built from ----------------------------------------------------------------


def policy_inputs(
    simulator: SlateSimulator, ranker: Ranker | None, log: Sessions | None = None
) -> PolicyInputs:
    """What policies are built from; nothing of it comes from the shoppers' hidden state."""
    popularity = (
        None if log is None else popularity_of(log, len(simulator.catalog)).to(simulator.device)
    )
    return PolicyInputs(
        simulator.catalog,
        simulator.observation_space,
        simulator.slate_size,
        ranker,
        popularity,
        per_category=min(PER_CATEGORY, OF_CATEGORIES // len(simulator.catalog.categories)),
        facts=simulator.shopper.facts,
        reward=simulator.reward,
        lasting=None if log is None else lasting_value(log, simulator.catalog),
        lift=_lift_of(simulator, log),
        levels=len(simulator.discounts),
    )


def _lift_of(simulator: SlateSimulator, log: Sessions | None) -> Tensor | None:
    """The log lift of categories, where there is a log of bundles or of visits with a cart."""
    if log is None:
        return None
    if simulator.discounts:
        return category_lift(log, simulator.catalog)
    if "cart" in simulator.observation_space.spaces:
        return together_lift(log, simulator.catalog)
    return None


def popularity_of(log: Sessions, items: int) -> Tensor:
    """Responses an exposure of each item (N,), shrunk to the log's mean by a hundred exposures."""
    shown = torch.bincount(log.slates[log.slates >= 0], minlength=items).float()
    clicked = torch.bincount(log.slates[log.clicks], minlength=items).float()
    return (clicked + 100 * clicked.sum() / shown.sum()) / (shown + 100)


def fit_ranker(log: Sessions, simulator: SlateSimulator, title: str | None = None) -> Ranker:
    """Fit a two-tower ranker to a log, for what the simulator's observations hold.

    Raises:
        ValueError: If the log holds no click.
    """
    if not bool(log.clicks.any()):
        raise ValueError(
            f"The log has {log.n_slates} slates and no click, but a ranker needs some: log more "
            "slates."
        )
    catalog, size = simulator.catalog, simulator.slate_size
    counters = counters_for(simulator.observation_space, catalog, size)
    fitted = fit_two_tower(log, catalog, size, title=title, known=counters)
    return fitted if counters is None else RecentRanker(fitted, counters)


# ---- playing -------------------------------------------------------------------------------------


def play_round(
    simulator: SlateSimulator,
    inputs: PolicyInputs | None,
    plan: Exploration,
    slates: int,
    first_seed: int,
) -> Iterator[Tables]:
    """Play one round of a log.

    Args:
        simulator: The shoppers.
        inputs: What policies are built from; None in the first round.
        plan: Who serves.
        slates: The number of slates of the round, about.
        first_seed: The first episode seed, by which shoppers are numbered.

    Yields:
        The impressions of some episodes, and what their shoppers declared.
    """
    at = first_seed
    for name, policy, share in servers(simulator, inputs, plan.mixture, slates, first_seed):
        wanted, visits, mean = slates * share, 0, simulator.horizon_days  # a slate a day, at first
        while visits < wanted:
            episodes = min(max(round((wanted - visits) / mean), plan.fewest), 1024)
            numbers = seeds(at, episodes)
            table, _ = record(simulator, policy, numbers, policy_name=name, split="train")
            table = table.with_columns(
                pl.col("shopper") + at,
                pl.col("visit") + at * 1000,
                click=pl.coalesce("click", "purchase"),
            )
            yield table, _said(simulator, numbers)
            visits, at, mean = visits + len(table), at + episodes, len(table) / episodes


def _said(simulator: SlateSimulator, numbers: Tensor) -> pl.DataFrame | None:
    """What the shoppers of some seeds declare, where the shop asks."""
    if "declared" not in simulator.observation_space.spaces:
        return None
    said = simulator.reset(numbers)["declared"].cpu().numpy()
    return pl.DataFrame({"shopper": numbers.numpy(), "declared": said}, schema_overrides=DECLARED)


def before_new_items(simulator: SlateSimulator) -> SlateSimulator:
    """The shop as it was before new items came, which is where its logs come from."""
    if simulator.shopper.new_items is None:
        return simulator
    return SlateSimulator(
        simulator.shopper,
        simulator.reward,
        horizon_days=simulator.horizon_days,
        history=simulator.history,
        newcomers=simulator.newcomers,
        withholds_new=True,
    )


def play_log(
    simulator: SlateSimulator,
    plan: Exploration,
    kept: Path | None = None,
    *,
    fit: Callable[..., Ranker] = fit_ranker,
    title: str | None = None,
) -> Tables:
    """Play the whole log in rounds; the ranker of a round was fitted to the rounds before.

    New items are not in it: nobody has shown them yet.

    Args:
        simulator: The shoppers.
        plan: Who serves, and how long.
        kept: The folder where rounds are kept that were played; None keeps none.
        fit: Fits the rankers, as `fit_ranker`.
        title: What is played, for the progress bars; None shows none.
    """
    simulator = before_new_items(simulator)
    parts: list[Tables] = []
    inputs = None
    with tqdm(
        total=plan.slates,
        desc=f"log of {title}",
        unit="slate",
        unit_scale=True,
        disable=title is None,
    ) as bar:
        for number, share in enumerate(plan.rounds):
            found = None if kept is None else _kept_round(kept, number, simulator)
            if found is None:
                first = LOG_SEED + number * 1_000_000
                pieces = []
                for piece in play_round(simulator, inputs, plan, round(share * plan.slates), first):
                    pieces.append(piece)
                    bar.update(len(piece[0]))
                found = _joined(pieces)
                if kept is not None:
                    write_tables(kept, found, simulator, f"round{number}.")
            else:
                bar.update(len(found[0]))
            parts.append(found)
            if number + 1 < len(plan.rounds):
                log = Sessions.of(*_joined(parts))
                of_round = None if title is None else f"ranker of round {number + 1}"
                inputs = policy_inputs(simulator, fit(log, simulator, of_round), log)
    return _joined(parts)


def learn_ranker(
    simulator: SlateSimulator,
    slates: int = 3_000,
    *,
    mixture: Mixture = "exploring",
    title: str | None = None,
) -> Ranker:
    """Play a log for shoppers of whom there is none, and fit a ranker to it; nothing is kept.

    It is what `open_place` does for an environment that is registered.

    Args:
        simulator: The shoppers; it is reset.
        slates: Number of slates of the log, about.
        mixture: Who serves.
        title: What is played, for the progress bars; None shows none.

    Raises:
        ValueError: If an argument is out of its range, or the log holds no click.
    """
    checks.instance("simulator", simulator, SlateSimulator)
    slates = checks.whole("slates", slates, 1)
    checks.choice("mixture", mixture, get_args(Mixture))
    tables = play_log(simulator, Exploration(slates, mixture, fewest=1), title=title)
    return fit_ranker(Sessions.of(*tables), simulator, title and f"ranker of {title}")


def _joined(parts: list[Tables]) -> Tables:
    impressions, declared = zip(*parts, strict=True)
    said = None if declared[0] is None else pl.concat(declared).sort("shopper")
    return pl.concat(impressions).sort("shopper", "visit"), said


# ---- on disk -------------------------------------------------------------------------------------


def read_tables(folder: Path, items: int, prefix: str = "") -> Tables:
    """Read a log: impressions, and what shoppers declared where they declare something.

    Args:
        folder: The folder of the log.
        items: Number of items in the catalogue.
        prefix: Beginning of the names of the files.
    """
    declared = folder / f"{prefix}declared.parquet"
    rows = read_impressions(folder / f"{prefix}impressions.parquet", items)
    return rows, pl.read_parquet(declared) if declared.exists() else None


def write_tables(folder: Path, tables: Tables, simulator: SlateSimulator, prefix: str = "") -> None:
    """Write a log; its impressions are written last, and say that it is whole."""
    impressions, declared = tables
    if declared is not None:
        write_parquet(folder / f"{prefix}declared.parquet", declared)
    write_impressions(impressions, folder / f"{prefix}impressions.parquet", len(simulator.catalog))


def _kept_round(kept: Path, number: int, simulator: SlateSimulator) -> Tables | None:
    if not (kept / f"round{number}.impressions.parquet").exists():
        return None
    return read_tables(kept, len(simulator.catalog), f"round{number}.")


def logged(
    folder: Path, simulator: SlateSimulator, plan: Exploration, title: str | None = None
) -> Sessions:
    """Read the log in a folder, after playing it where it is missing.

    The folder has to be locked by the caller where the log is missing.
    """
    if not (folder / TABLE_FILES[1]).exists():
        kept = folder / "unfinished"
        tables = play_log(simulator, plan, kept, title=title)
        simulator.catalog.to("cpu").save(folder)
        write_tables(folder, tables, simulator)
        shutil.rmtree(kept, ignore_errors=True)
    return Sessions.of(*read_tables(folder, len(simulator.catalog)))
