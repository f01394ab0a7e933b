"""PPO training loops that are timed update by update: this project's and Stable-Baselines3's.

PPO over the composer's intents learns in the same market, with the same policy, networks, rollouts,
shoppers and seeds, in the ways of `LOOPS`. They take turns, update by update, so that whatever else
the machine does strikes all. Every part is timed on the clock of the processor, on a GPU on the
wall clock after waiting for the device.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import polars as pl
from stable_baselines3 import PPO

from agents.base import TrainingSetup
from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, Site, seeds
from agents.ppo.agents import PPOComposerConfig, learn_update, untrained_model
from agents.ppo.algorithm import (
    StockPPO,
    environment_of,
    make_ppo,
    make_stock_ppo,
    policy_of,
)
from agents.ppo.config import PPOConfig
from benchmarks.lab.options import Markets
from benchmarks.lab.places import MARKET, PLACES, Place
from benchmarks.lab.stopwatch import Stopwatch
from policies.learnable.intents import IntentConfig

AGENT = "ppo_composer"
SB3_DEFAULTS = {
    field.name: inspect.signature(PPO).parameters[field.name].default
    for field in fields(PPOConfig)
    if field.name != "n_steps"
}
"""SB3's defaults for PPO. The number of visits between two updates is the same for all loops."""


def as_it_comes(agent: PPOComposerConfig) -> PPOComposerConfig:
    """The agent with SB3's default hyper-parameters and a constant learning rate."""
    return replace(agent, ppo=replace(agent.ppo, **SB3_DEFAULTS), annealed=1.0)


@dataclass(frozen=True)
class Loop:
    """A way to train."""

    label: str
    """The name of the loop in tables and figures."""
    make: Callable[..., StockPPO]
    """Makes a model that trains in this way."""
    settings: Callable[[PPOComposerConfig], PPOComposerConfig] = lambda agent: agent
    """Gives the agent's hyper-parameters in this way."""


LOOPS = {
    "device": Loop("here: rollouts on the device", make_ppo),
    "stock": Loop("stock SB3, its defaults", make_stock_ppo, as_it_comes),
    "same_settings": Loop("stock SB3, settings as here", make_stock_ppo),
}
"""This project's loop, SB3's as it comes, and SB3's with the agent's hyper-parameters."""
NECESSARY = ("simulate", "act", "learn")
"""Parts that any PPO has: shoppers answer; the network, the ranker and the composer make slates;
gradients change the network."""
PARTS = (*NECESSARY, "store", "other")
"""All parts: `store` is the rollout buffer and the advantages, `other` is the rest of an update."""


@dataclass(frozen=True)
class Trainings(Markets):
    """Which trainings are timed, and how they are evaluated on the way."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"place": PLACES, "loops": LOOPS}

    place: str = Place(MARKET, 0).name
    """Name of the market, which is one of the league's places."""
    shoppers: int = 1024
    """Number of shoppers that are served at once."""
    updates: int = 10
    """Number of rollouts and updates of each training. The first is left out of the speed, because
    it warms up."""
    loops: tuple[str, ...] = tuple(LOOPS)
    """Ways to train: `device` is this project's loop, `stock` is SB3's at its defaults,
    `same_settings` is SB3's with the settings of this project."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, over which intervals are taken."""
    evaluate_every: int = 2
    """Number of updates between two evaluations, which are not timed."""
    episodes: int = 512
    """Number of episodes of an evaluation, the same for all."""


def watched(model: StockPPO) -> Stopwatch:
    """Put a stopwatch on everything that PPO does."""
    env = environment_of(model)
    watch = Stopwatch(env.device, PARTS)
    watch.watch("simulate", env.simulator, "reset", "advance", "restart", "observe")
    watch.watch("act", env.composer, "view", "compose_view")
    watch.watch("act", model.policy, "forward", "predict_values")
    watch.watch("store", model.rollout_buffer, "reset", "add", "compute_returns_and_advantage")
    watch.watch("learn", model, "train")
    return watch


class Training:
    """One training with one loop, which makes one update at a time."""

    def __init__(self, config: Trainings, site: Site, loop: str, seed: int) -> None:
        self._config, self._site, self._loop, self._seed = config, site, loop, seed
        self._agent = LOOPS[loop].settings(
            PPOComposerConfig(**PLACES[config.place].settings.get(AGENT, {}))
        )
        ground = TrainingSetup(site.training(), site.inputs, seed, 0, config.shoppers)
        start = IntentConfig(self._agent.network.log_std)
        self._model = untrained_model("composer", ground, self._agent, start, LOOPS[loop].make)
        self._watch = watched(self._model)

    def update(self, number: int) -> dict[str, Any]:
        """Make an update, and time its parts.

        Args:
            number: The number of the update; 0 trains nothing.

        Returns:
            A row of seconds, with a `return` every few updates and null elsewhere.
        """
        before = dict(self._watch.seconds)
        wall, cpu, began = time.perf_counter(), time.process_time(), self._watch.now()
        if number:
            learn_update(self._model, self._agent, number, self._config.updates)
        whole = self._watch.now() - began if number else 0.0
        clocks = (
            {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            if number
            else {}
        )
        parts = {part: self._watch.seconds[part] - before[part] for part in PARTS}
        parts["other"] = whole - sum(parts.values())
        return {
            "loop": self._loop,
            "seed": self._seed,
            "update": number,
            "steps": self._model.num_timesteps,
            "wall_s": clocks.get("wall_s", 0.0),
            "cpu_s": clocks.get("cpu_s", 0.0),
            **{f"{part}_s": seconds for part, seconds in parts.items()},
            "return": None if number % self._config.evaluate_every else self._return(),
        }

    def _return(self) -> float:
        episodes = seeds(REPORTED_SEED, self._config.episodes)
        rows = evaluate(policy_of(self._model), self._site.judging(), episodes).rows
        return float(rows["return"].to_numpy().mean())


def measure(config: Trainings) -> pl.DataFrame:
    """Train with every loop and seed in turns: a row an update, see `Training.update`."""
    site = PLACES[config.place].open(config.markets, config.slates, config.device)
    rows: list[dict[str, Any]] = []
    for seed in config.seeds:
        trainings = [Training(config, site, loop, seed) for loop in config.loops]
        for number in range(config.updates + 1):
            turn = trainings if number % 2 else trainings[::-1]
            rows += [training.update(number) for training in turn]
    schema = {"loop": pl.String, "seed": pl.Int64, "update": pl.Int64, "steps": pl.Int64}
    floats = dict.fromkeys(
        ("wall_s", "cpu_s", *(f"{part}_s" for part in PARTS), "return"), pl.Float64
    )
    return pl.DataFrame(rows, schema={**schema, **floats}).sort("loop", "seed", "update")


def with_minutes(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort the rows, and add the wall `minutes` of training so far."""
    minutes = pl.col("wall_s").cum_sum().over("loop", "seed", order_by="update") / 60
    return rows.sort("loop", "seed", "update").with_columns(minutes=minutes)
