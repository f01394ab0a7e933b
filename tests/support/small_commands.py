"""Small configurations of commands that consist of cells: seconds each.

They are of environments that are registered everywhere, so that a worker of a cluster can play
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agents.ppo.agents import PPOComposerConfig
from agents.ppo.config import PPOConfig
from agents.ppo.constrained import ConstrainedConfig
from benchmarks.agents import (
    bundle,
    cold,
    constraint,
    knowing,
    live,
    ope,
    sardine,
    visit,
    visit_report,
)
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.measuring import Cell
from benchmarks.lab.places import REGULARS_ALIKE
from benchmarks.lab.playing import Task
from benchmarks.shopper import history, own_log, stress, verdict_cases, young_shop
from policies.composer import ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from policies.rankers.two_tower import TwoTowerConfig
from recsim_env.fitting import FitConfig
from recsim_env.shoppers.household.fit import FinetuneConfig
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session
from recsim_env.shoppers.session.population import save_session
from recsim_env.shoppers.session.starts import Logged
from tests.support import plain_logs
from tests.support.fake_log import write_shop

PPO = PPOConfig(n_steps=4, batch_size=32, n_epochs=1)
NETWORK = NetworkConfig((8,), (8,))
MODEL = SessionFitConfig(
    epochs=1, least_steps=2, temperaments=4, hidden_size=8, layers=1, head_size=8
)


def small_bundle(work: Path) -> bundle.Config:
    return bundle.Config(
        envs=(bundle.BUNDLE,),
        worlds=(0,),
        agents=("ppo_autoregressive",),
        seeds=(0, 1),
        steps=8 * 32 * 2,
        shoppers=8,
        slates=300,
        tuning_episodes=4,
        episodes=4,
        oracle_episodes=2,
        work=work,
        device="cpu",
    )


def small_cold(work: Path) -> cold.Config:
    return cold.Config(
        seeds=(0, 1),
        agents=(cold.GREEDY, cold.TUNED, cold.THOMPSON),
        worlds=(cold.COLD,),
        items=40,
        known=24,
        slates=300,
        steps=500,
        shoppers=16,
        trials=2,
        tuning_episodes=4,
        episodes=8,
        work=work,
        device="cpu",
    )


def small_constraint(work: Path) -> constraint.Config:
    return constraint.Config(
        worlds=(0,),
        goals=("department",),
        seeds=(0, 1),
        steps=16 * 60,
        shoppers=16,
        batches=2,
        batch_shoppers=4,
        trials=2,
        tuning_episodes=4,
        slates=300,
        agent=ConstrainedConfig(
            ppo=PPO,
            network=NETWORK,
            composer=ComposerConfig(pool=12, offset_dims=0),
            polished=0.0,
            steered=0.0,
            checked=0.0,
        ),
        work=work,
        device="cpu",
    )


def small_knowing(work: Path) -> knowing.Config:
    return knowing.Config(
        envs=(REGULARS_ALIKE,),
        seeds=(0, 1),
        steps=8 * 16,
        shoppers=8,
        trials=2,
        tuning_episodes=4,
        episodes=4,
        ppo=PPOComposerConfig(ppo=PPO, network=NETWORK, polished=0.0),
        work=work,
        device="cpu",
    )


def small_live(work: Path) -> live.Config:
    return live.Config(
        updates=("frozen", "warm_start"),
        seeds=(0, 1),
        blocks=2,
        block_days=2,
        shoppers=8,
        log_slates=80,
        held_out=8,
        ranker=TwoTowerConfig(width=4, hidden=8, category_hidden=4, epochs=1, batch_size=128),
        work=work,
        device="cpu",
    )


def small_ope(work: Path) -> ope.Config:
    return ope.Config(
        slates=300,
        sizes=(400, 600),
        seeds=(0, 1),
        fits=(0,),
        other=None,
        model=MODEL,
        episodes=4,
        work=work,
        device="cpu",
    )


def small_own_log(work: Path) -> own_log.Config:
    return own_log.Config(
        parts=("market",),
        worlds=(0,),
        cases=("hidden",),
        slates=1500,
        fit=FitConfig(members=1, counterfactual=False, judged_users=4, model=MODEL),
        episodes=4,
        trials=4,
        tuning_episodes=4,
        work=work,
        device="cpu",
    )


def small_sardine(work: Path) -> sardine.Config:
    return sardine.Config(
        envs=("sardine/SlateRerank-Bored-v0",),
        model=MODEL,
        clusters=3,
        log_users=16,
        exploring=1,
        trials=1,
        tuning_users=2,
        seeds=(0, 1),
        steps=1_000,
        shoppers=16,
        ppo=PPOConfig(n_steps=20, batch_size=160),
        pool=10,
        users=3,
        work=work,
    )


def small_verdict_cases(work: Path) -> verdict_cases.Config:
    """Two cases whose models are there, because the smallest fit of the command takes minutes."""
    config = verdict_cases.Config(worlds=(10,), slates=300, episodes=4, work=work)
    for case in verdict_cases.cases_of(config):
        site = case.world.open(config.markets, "cpu")
        log = site.logged
        if case.case == "hidden":
            log = verdict_cases.without_declared(log)
        catalog = site.inputs.catalog
        model = fit_session(log, catalog, MODEL)
        save_session(case.folder / "model", catalog, [model], Logged.newcomers(log.declared))
    return config


def small_history(work: Path) -> history.Config:
    """Two shoppers of a log that is written where it is missing."""
    log = Path("log")
    if not log.exists():
        write_shop(log, cold=8)
    return history.Config(
        windows=(2,),
        without_counters=(6,),
        shopper=FinetuneConfig(
            hidden_size=16, layers=1, head_size=16, pretrain_epochs=0.0, epochs=0.1
        ),
        log=log,
        output=work,
        samples=4,
        threads=1,
    )


def small_stress(work: Path) -> stress.Config:
    return stress.Config(
        market=MarketWorld(world=10, slates=300, mixture="broad"),
        episodes=60,
        held_out=20,
        shares=(0.2,),
        model=MODEL,
        trials=4,
        tuning_episodes=4,
        served=4,
        work=work,
    )


def small_visit(work: Path) -> visit.Config:
    return visit.Config(
        envs=(visit.VISIT,),
        agents=(visit_report.SHARED,),
        seeds=(0, 1),
        steps=2_000,
        shoppers=8,
        slates=300,
        tuning_episodes=4,
        episodes=4,
        work=work,
        device="cpu",
    )


def small_young_shop(work: Path) -> young_shop.Config:
    """Sixty users of a log that is written where it is missing."""
    folder = Path("plain")
    if not folder.exists():
        folder.mkdir()
        plain_logs.log(users=60).write_csv(folder / "log.csv")
        plain_logs.catalog().write_csv(folder / "catalog.csv")
    return young_shop.Config(
        log=folder, slates=(4, 0), seeds=(0, 1), model=MODEL, samples=8, work=work
    )


def tasks(cells: Callable[[Any], Sequence[Cell]]) -> Callable[[Any], list[Task]]:
    return lambda config: [cell.task for cell in cells(config)]


@dataclass(frozen=True)
class Small:
    """A command in small."""

    config: Callable[[Path], Any]
    """Its configuration, by the folder of what is done."""
    tasks: Callable[[Any], list[Task]]
    """Its cells, as they are played."""


SMALL: Mapping[str, Small] = {
    "benchmarks.agents.bundle": Small(small_bundle, tasks(bundle.cells_of)),
    "benchmarks.agents.cold": Small(small_cold, tasks(cold.cells_of)),
    "benchmarks.agents.constraint": Small(small_constraint, tasks(constraint.cells_of)),
    "benchmarks.agents.knowing": Small(small_knowing, tasks(knowing.cells_of)),
    "benchmarks.agents.live": Small(small_live, tasks(live.cells_of)),
    "benchmarks.agents.ope": Small(small_ope, tasks(ope.cells_of)),
    "benchmarks.agents.sardine": Small(small_sardine, tasks(sardine.cells_of)),
    "benchmarks.agents.visit": Small(small_visit, tasks(visit.cells_of)),
    "benchmarks.shopper.history": Small(small_history, tasks(history.cells_of)),
    "benchmarks.shopper.own_log": Small(small_own_log, own_log.tasks_of),
    "benchmarks.shopper.stress": Small(small_stress, tasks(stress.cells_of)),
    "benchmarks.shopper.verdict_cases": Small(small_verdict_cases, tasks(verdict_cases.cases_of)),
    "benchmarks.shopper.young_shop": Small(small_young_shop, tasks(young_shop.cells_of)),
}
"""By the name of the command. Their caches are relative to the working folder."""
if find_spec("sardine") is None:  # the extra `peers`
    SMALL = {name: one for name, one in SMALL.items() if not name.endswith("sardine")}
