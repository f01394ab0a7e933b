"""The commands that are killed, each small enough to be run a hundred times."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from agents.keeper import Clock
from agents.places import Site
from agents.places.opening import find_place
from agents.ppo.agents import PPOComposerConfig
from agents.ppo.config import PPOConfig
from agents.ppo.monitor import MonitorConfig
from benchmarks.agents import demo, league, train, transfer, tune, tune_agents
from benchmarks.data import finetune, fit_market
from benchmarks.lab import contenders
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.places import PLACES, Place
from benchmarks.lab.where import Where
from policies.composer import ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from policies.rankers.ctr import CTRRanker
from recsim_env import fit, register
from recsim_env.files import FRESH, GONE, building
from recsim_env.fitting import FitConfig
from recsim_env.logs import complete_journey
from recsim_env.shop_file import SHOP_FILE, UNFINISHED
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.household.fit import FinetuneConfig
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.session.fit import SessionFitConfig
from tests.benchmarks.agents.test_league import TOY, open_toy
from tests.kill.harness import Command
from tests.kill.left import left
from tests.policies.rankers.test_ctr import some_ranker
from tests.recsim_env.logs.test_complete_journey import RECIPE, fake_encoder, fake_sources
from tests.support.fake_log import write_shop
from tests.support.plain_logs import catalog as shop_items
from tests.support.plain_logs import log as shop_log
from tests.support.policy_toys import toy_inputs
from tests.support.toys import make_toy_shopper

MARKET = "toys/Kill-v0"
SESSIONS = SessionFitConfig(
    epochs=0.5, least_steps=1, hidden_size=16, layers=1, head_size=16, window=12
)
PPO: dict[str, Any] = {
    "ppo": PPOConfig(n_steps=4, batch_size=32, n_epochs=1),
    "network": NetworkConfig((8,), (8,)),
    "composer": ComposerConfig(pool=12, offset_dims=0),
    "checked": 0.0,
    "watch_every": 2,
}
SLATEQ: dict[str, Any] = {
    "warm_up": 16,
    "batch_size": 16,
    "memory": 64,
    "hidden": 8,
    "item_hidden": 8,
    "pool": 12,
}


def register_toys() -> None:
    """The environments that the commands name; once a process."""
    register(TOY, make_toy_shopper, reward={"clicks": 1.0}, slate_size=4, horizon_days=30.0)
    options = {"config": MarketConfig(items=60, categories=6, width=4)}
    reward = {"clicks": 1.0, "intra_list_distance": 0.3}
    register(
        MARKET, make_market, reward=reward, slate_size=5, horizon_days=12.0, shopper_options=options
    )
    place = Place(
        TOY,
        0,
        False,
        open_toy,
        oracles=False,
        log=False,
        settings={"ppo_composer": PPO, "slateq": SLATEQ, "linucb": {}},
    )
    PLACES.clear()
    PLACES[place.name] = place
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    vars(transfer)["FIXED"] = ("uniform", "greedy_ctr", "mmr 1", "softmax 1", contenders.TUNED)
    setattr(Clock, "due", always)  # noqa: B010 - mypy knows no other way to replace a method


def always(clock: Clock) -> bool:
    """Checkpoints at every occasion: the more there are, the more can go wrong."""
    return True


@dataclass(frozen=True)
class ToyWorld(Where):
    """Toy shoppers, and a ranker with weights that are made up."""

    env: str = TOY
    reward: str | None = "clicks=1,intra_list_distance=0.3"
    horizon_days: float | None = 60.0
    options: str | None = "items=30"
    device: str | None = "cpu"

    def open(self) -> Site:
        """The toy shop; nothing is logged there."""
        found = find_place(*self._told(), self.device)
        ranker = CTRRanker(found.simulator.catalog, some_ranker().model)
        inputs = replace(toy_inputs(found.simulator), ranker=ranker)
        return Site(self.env, inputs, None, found.options, self.device)


# ---- what is run ---------------------------------------------------------------------------------


def train_config(work: Path, seeds: tuple[int, ...] = (0,)) -> train.Config:
    """A few updates of each seed."""
    return train.Config(
        place=ToyWorld(),
        seeds=seeds,
        visits=16 * 4 * 6,
        shoppers=16,
        ppo=PPOConfig(n_steps=4, batch_size=32, n_epochs=2),
        network=NetworkConfig((8,), (8,), log_std=-1.5),
        composer=ComposerConfig(pool=12),
        monitor=MonitorConfig(evaluate_every=2, episodes=6, batch=6, pictures=1),
        output=work,
    )


def run_train(inputs: Path, work: Path) -> None:
    """One seed."""
    train.main(train_config(work))


def run_train_with_more_seeds(inputs: Path, work: Path) -> None:
    """The same seed and another one."""
    train.main(train_config(work, (0, 1)))


def run_demo(inputs: Path, work: Path) -> None:
    """Training, comparison and report."""
    told = vars(train_config(work))
    demo.main(demo.Config(**told, episodes=6))


def run_finetune(inputs: Path, work: Path) -> None:
    """Two stages, two members, and the finished shopper."""
    shopper = FinetuneConfig(
        hidden_size=16,
        layers=1,
        window=8,
        head_size=16,
        batch_visits=600,
        pretrain_epochs=0.5,
        epochs=1.0,
    )
    finetune.main(finetune.Config(shopper=shopper, log=inputs, output=work, members=2, threads=1))


def prepare_finetune(inputs: Path) -> None:
    """A log of a small shop."""
    write_shop(inputs)
    (inputs / "summary.json").write_text("{}")


def run_league(inputs: Path, work: Path) -> None:
    """Policies, one of them tuned, and agents of every kind."""
    failed = league.play_missing(
        league.Config(
            runs=(0,),
            steps={TOY: 16 * 26},
            factors={"linucb": 0.2, "slateq": 0.3},
            contenders=("uniform", "cap", "linucb", "slateq", "ppo_composer"),
            shoppers=16,
            episodes=6,
            watched=4,
            trials=3,
            tuning_episodes=4,
            batch=6,
            device="cpu",
            threads=1,
            work=work,
        )
    )
    assert failed == []


def run_transfer(inputs: Path, work: Path) -> None:
    """One learned market beside the true one."""
    transfer.main(
        transfer.Config(
            part="main",
            env=MARKET,
            worlds=(0,),
            seeds=(0,),
            slates=600,
            mixture="uniform",
            sizes=(600,),
            model=SESSIONS,
            ppo=PPOComposerConfig(
                ppo=PPO["ppo"], network=PPO["network"], checked=0.0, watch_every=100
            ),
            steps=16 * (10 + 3 * 4),
            shoppers=16,
            trials=5,
            tuning_episodes=4,
            episodes=6,
            batch=6,
            device="cpu",
            markets=inputs,
            work=work / "work",
            results=work / "results",
        )
    )


def prepare_market(inputs: Path) -> None:
    """The market's log and ranker."""
    MarketWorld(MARKET, 0, 600, "uniform").open(inputs, "cpu")


def run_market(inputs: Path, work: Path) -> None:
    """The market's log and ranker again, in the folder that is looked at."""
    MarketWorld(MARKET, 0, 600, "uniform").open(work, "cpu")


def run_fit_market(inputs: Path, work: Path) -> None:
    """Two user models."""
    world = MarketWorld(MARKET, 0, 600, "uniform")
    fit_market.main(
        fit_market.Config(
            market=world, model=SESSIONS, members=2, work=inputs, output=work / "fitted", threads=1
        )
    )


SHOP = FitConfig(members=1, judged_users=8, counterfactual=False, model=SESSIONS)


def prepare_fit(inputs: Path) -> None:
    """A shop of another seed."""
    fit(shop_log(), shop_items(), inputs / "shop", config=replace(SHOP, seed=1))


def run_fit(inputs: Path, work: Path) -> None:
    """A shop in place of an earlier one, one of which is whole whenever this begins."""
    shop = work / "shop"
    if not shop.exists():
        with building(shop) as part:
            shutil.copytree(inputs / "shop", part)
    aside = shop / UNFINISHED
    assert any(
        (folder / SHOP_FILE).is_file() and (folder / "model0" / "model.safetensors").is_file()
        for folder in (shop, aside / FRESH, aside / GONE)
    )
    fit(shop_log(), shop_items(), shop, config=SHOP)


def run_tune(inputs: Path, work: Path) -> None:
    """Two re-rankers."""
    tune.main(
        tune.Config(
            place=ToyWorld(),
            policies=("mmr", "cap"),
            trials=12,
            episodes=4,
            batch=4,
            work=work / "work",
            results=work / "results",
        )
    )


def run_tune_agents(inputs: Path, work: Path) -> None:
    """Two agents."""
    (place,) = PLACES
    tune_agents.main(
        tune_agents.Config(
            agents=("linucb", "thompson"),
            place=place,
            trials=3,
            repetitions=2,
            steps=96,
            factors={},
            shoppers=8,
            episodes=4,
            batch=4,
            device="cpu",
            threads=1,
            work=work / "work",
            results=work / "results",
        )
    )


def run_build_log(inputs: Path, work: Path) -> None:
    """The tables of twelve households."""
    complete_journey.build(work, seed=0, sources=fake_sources(), recipe=RECIPE, encode=fake_encoder)


COMMANDS = {
    command.name: command
    for command in (
        Command("build_log", run_build_log, left),
        Command("finetune", run_finetune, left, prepare_finetune),
        Command("train", run_train, left, tail=run_train_with_more_seeds),
        Command("demo", run_demo, left),
        Command("league", run_league, left),
        Command("market", run_market, left),
        Command("transfer", run_transfer, left, prepare_market),
        Command("fit_market", run_fit_market, left, prepare_market),
        Command("fit", run_fit, left, prepare_fit),
        Command("tune", run_tune, left),
        Command("tune_agents", run_tune_agents, left),
    )
}
"""By name."""
