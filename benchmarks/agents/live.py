"""What it is worth to learn from what was served, in a market that moves, and in one that stays.

    python -m benchmarks.agents.live

A ranker is fitted to a log of uniform slates. From then on each block of days is served to new
shoppers, logged, and learned from, by every registered update (`agents.updates`): nothing, a fit
from new weights to everything, the old weights trained further alone and with a replay, steps by
visit, and PPO that goes on. In `MarketControl-v0` nothing that is shown has a later effect, so the
oracle, which shows what is most likely clicked, is optimal, and what an update earns less from the
same shoppers is its regret. The calendar of `drift` moves; in `control` it stands still, where who
learned nothing must lose nothing from block to block.

Rankers are scored on slates that uniform policies serve in each block to other shoppers, the same
for every update. `forgot` is by how much the score on earlier blocks has fallen since each of them
was served. Plasticity: the ranker that was trained through the whole stream and a new one of the
same form learn the log of the last block in as many passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import polars as pl
import torch
from torch import Tensor

from agents.evaluate import Evaluation, count_shown, evaluate
from agents.places import REPORTED_SEED, seeds
from agents.places.exploring import HELD_OUT_SEED, LOG_SEED, policy_inputs
from agents.updates import UPDATES, Start, Update
from agents.updates.base import serve
from benchmarks.agents.live_report import report
from benchmarks.lab.command import run_command
from benchmarks.lab.measuring import RowCell, measure_and_report, read_cells
from benchmarks.lab.options import Cells, Device, Results
from benchmarks.lab.run import Run
from benchmarks.lab.settings import settings_of
from policies import POLICIES
from policies.inputs import PolicyInputs
from policies.oracles import OracleMyopic
from policies.rankers.slate_examples import SlateExamples, examples_at
from policies.rankers.two_tower import TwoTowerConfig, TwoTowerRanker
from policies.rankers.two_tower_fit import fit_examples, go_on, predictions
from recsim_env import make_simulator
from recsim_env.metrics import normalised_entropy
from recsim_env.rollout import Visit, rollout
from recsim_env.shoppers.drift import Drift
from recsim_env.simulator import SlateSimulator

ENV = "recsim_env/MarketControl-v0"
"""Nothing that is shown has a later effect, so that regret has an oracle."""
MOVES, STAYS = CALENDARS = ("drift", "control")
MOVING = Drift(
    interests=0.7,
    popularity=0.7,
    arrivals=1.0,
    season=0.5,
    half_life=7.0,
    entering=0.3,
    leaving=0.3,
    item_days=28,
)
"""Everything moves, and half of what moved is left after a week."""
PASSES = 20
"""Passes over the log of the last block by which plasticity is told."""
APART = 100_000
"""Seeds between the shoppers of two seeds of the benchmark."""


@dataclass(frozen=True)
class Config(Cells, Device, Results):
    """Compare updates in a market that moves and in one that stays."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "updates": UPDATES,
        "calendars": CALENDARS,
    }

    calendars: tuple[str, ...] = CALENDARS
    """Whether the market moves (`drift`) or not (`control`)."""
    updates: tuple[str, ...] = tuple(UPDATES)
    """Names of the updates."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds: each has a world, shoppers and initial weights of its own."""
    blocks: int = 6
    """Number of blocks that are served."""
    block_days: int = 4
    """Days of a block."""
    shoppers: int = 256
    """Number of new shoppers that come in each block, every day of it."""
    log_slates: int = 20_000
    """Number of slates, about, of the log to which the first ranker is fitted."""
    held_out: int = 256
    """Number of other shoppers in each block on whose slates rankers are scored."""
    drift: Drift = field(default_factory=lambda: MOVING)
    """How the market moves where it does."""
    ranker: TwoTowerConfig = field(
        default_factory=lambda: TwoTowerConfig(hidden=32, epochs=4, batch_size=512)
    )
    """The ranker, and how it is fitted from new weights."""
    work: Path = Path("runs/live")
    """Folder of what is done; delete it to start anew."""


@dataclass(frozen=True)
class Ground:
    """What all updates of a seed and a calendar have in common."""

    simulator: Callable[[int], SlateSimulator]
    """Makes the shoppers of a block, by its number; -1 is the block of the log."""
    inputs: PolicyInputs
    ranker: TwoTowerRanker
    log: SlateExamples
    oracle: list[Tensor]
    """(S,) returns of the shoppers of each block before the oracle."""
    held_out: list[SlateExamples]
    """Slates of other shoppers in each block, which uniform policies served."""


def ground_of(config: Config, calendar: str, seed: int) -> Ground:
    """Make the market of a seed, its log and ranker, and what updates are measured by."""

    def simulator(block: int) -> SlateSimulator:
        moves = {
            "drift": config.drift if calendar == MOVES else None,
            "first_day": (block + 1) * config.block_days,
        }
        return make_simulator(
            ENV, device=config.device, horizon_days=float(config.block_days), world=seed, **moves
        )

    before = simulator(-1)
    inputs = policy_inputs(before, None)

    def uniform(shoppers: SlateSimulator, who: Tensor) -> SlateExamples:
        policy = POLICIES["uniform"].build(inputs)
        return examples_in(list(rollout(policy, shoppers, who)), shoppers)

    who = seeds(LOG_SEED + APART * seed, max(config.log_slates // config.block_days, 1))
    log = uniform(before, who)
    oracle, held_out = [], []
    for block in range(config.blocks):
        shoppers = simulator(block)
        found = evaluate(OracleMyopic(shoppers), shoppers, served(config, seed, block))
        oracle.append(torch.from_numpy(found.rows["return"].to_numpy().copy()))
        first = HELD_OUT_SEED + APART * seed + block * config.held_out
        held_out.append(uniform(shoppers, seeds(first, config.held_out)))
    ranker = fit_examples(log, before.catalog, replace(config.ranker, seed=seed))
    return Ground(simulator, inputs, ranker, log, oracle, held_out)


def served(config: Config, seed: int, block: int) -> Tensor:
    """The episode seeds of the shoppers of a block, the same for every update."""
    return seeds(REPORTED_SEED + APART * seed + block * config.shoppers, config.shoppers)


def examples_in(visits: list[Visit], simulator: SlateSimulator) -> SlateExamples:
    """The slates of some visits as examples."""
    parts = [
        examples_at(one.observation, one.shown, one.outcome.response.clicks, simulator.catalog)
        for one in visits
    ]
    return SlateExamples.join(parts)


# ---- one cell ------------------------------------------------------------------------------------


def played(config: Config, calendar: str, seed: int, name: str, ground: Ground) -> pl.DataFrame:
    """Serve all blocks with an update: one row for each."""
    start = Start(
        ground.ranker,
        ground.log,
        ground.inputs,
        replace(config.ranker, seed=seed),
        ground.simulator(-1),
        config.shoppers,
        seed,
    )
    began = time.process_time()
    update = UPDATES[name](start)
    beginning = (time.process_time() - began) / 60
    rows: list[dict[str, object]] = []
    scores_then: list[float] = []
    for block in range(config.blocks):
        simulator, who = ground.simulator(block), served(config, seed, block)
        began = time.process_time()
        visits = serve(update, simulator, who)
        update.after_block(simulator)
        minutes = (time.process_time() - began) / 60 + (beginning if block == 0 else 0.0)

        # what was earned, what was shown, and what the ranker knows now of all blocks so far
        returns = returns_of(visits, len(who))
        shown = shown_in(visits, len(simulator.catalog))
        scores = [score(update.ranker, held) for held in ground.held_out[: block + 1]]
        scores_then.append(scores[block])
        forgot = [now - then for now, then in zip(scores, scores_then, strict=True)][:-1]
        rows.append(
            {
                "calendar": calendar,
                "seed": seed,
                "update": name,
                "block": block,
                "return": float(returns.mean()),
                "regret": float((ground.oracle[block] - returns).mean()),
                "minutes": minutes,
                "coverage": shown.coverage,
                "gini": shown.gini,
                "score": scores[block],
                "forgot": sum(forgot) / len(forgot) if forgot else None,
                **dict.fromkeys(PLASTICITY),
            }
        )
    rows[-1] |= plasticity(config, update, examples_in(visits, simulator), ground.held_out[-1])
    kinds = dict.fromkeys(("forgot", *PLASTICITY), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=kinds)


def returns_of(visits: list[Visit], shoppers: int) -> Tensor:
    """The return (S,) float64 of each shopper."""
    total = torch.zeros(shoppers, dtype=torch.float64)
    for visit in visits:
        total.index_add_(0, visit.number.cpu(), visit.outcome.reward.double().cpu())
    return total


def shown_in(visits: list[Visit], items: int) -> Evaluation:
    """How often each item was shown."""
    exposures = torch.zeros(items + 1, dtype=torch.int64, device=visits[0].shown.device)
    for visit in visits:
        count_shown(exposures, visit.shown)
    return Evaluation(pl.DataFrame(), exposures[1:].cpu())


def score(ranker: TwoTowerRanker, held_out: SlateExamples) -> float:
    """Normalised entropy of the clicks on held-out slates: 1 is that of the mean rate."""
    return normalised_entropy(*predictions(ranker, held_out))


PLASTICITY = ("loss_long", "loss_new", "score_long", "score_new")
"""Columns of the last block: of the ranker of the stream and of a new one, each after `PASSES`
passes over the log of the block, the log loss on that log and the score on held-out slates."""


def plasticity(
    config: Config, update: Update, last: SlateExamples, held_out: SlateExamples
) -> dict[str, float]:
    """Let the ranker of the stream and a new one of the same form learn the last block's log."""
    told = replace(config.ranker, epochs=PASSES, seed=update.start.seed)
    if not bool(last.clicks.any()):
        return {}
    both = {
        "long": go_on(update.ranker, last, told),
        "new": fit_examples(last, update.start.inputs.catalog, told),
    }
    found = {}
    for name, ranker in both.items():
        chance, clicks = predictions(ranker, last)
        likely = torch.where(clicks, chance, 1 - chance)
        found[f"loss_{name}"] = -float(likely.log().mean())
        found[f"score_{name}"] = score(ranker, held_out)
    return found


# ---- all cells -----------------------------------------------------------------------------------


def path_of(config: Config, calendar: str, seed: int, name: str) -> Path:
    """The file of the rows of a cell."""
    return config.work / "cells" / f"{calendar}-seed{seed}-{name}.parquet"


def cells_of(config: Config) -> list[RowCell]:
    """Every cell, those of a seed and a calendar together."""
    return [
        RowCell(
            path_of(config, calendar, seed, name),
            f"{calendar}-{seed}",
            partial(ground_of, config, calendar, seed),
            partial(played, config, calendar, seed, name),
        )
        for seed in config.seeds
        for calendar in config.calendars
        for name in config.updates
    ]


def main(config: Config) -> None:
    """Play all cells that are missing, and report; raises as `measure_and_report`."""

    def by_path(cells: Sequence[RowCell]) -> pl.DataFrame:
        return read_cells(sorted(cells, key=lambda cell: cell.path))

    run = Run("live", config, results=config.results)
    told = settings_of(config, free=("seeds", "updates", "calendars"))
    measure_and_report(run, config, cells_of(config), report, told, config.work, by_path)


if __name__ == "__main__":
    run_command(main, Config)
