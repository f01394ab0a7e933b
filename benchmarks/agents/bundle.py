"""Bundles: PPO against the best single items, the best pair by lift, and the oracle.

    python -m benchmarks.agents.bundle
    python -m benchmarks.agents.bundle --ray auto   # on the machines of a Ray cluster

In `recsim_env/Bundle-v0` items go together by a matrix that is known, and a bundle may be offered
at a discount; in `recsim_env/BundleControl-v0` nothing goes together and no price counts, so that
the best single items without a discount are optimal: by what the shop knows nobody may earn more.
Every contender serves the same shoppers. `reward_greedy` takes the items that are worth most on
their own, and `lift_pair` completes the pair that lifts each other most in the log; both are also
played at the one level of discount that earns most from training shoppers. The oracle knows the
matrix and the interests of the shoppers, which no shop does and which is why it earns more in the
control too; it is slow and plays before fewer shoppers, with whom the others are compared.

What was measured is kept in `work` world by world and training by training, and an interrupted run
goes on there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, TUNING_SEED, Site, open_place, seeds
from agents.statistics import over_training_seeds, paired_difference
from benchmarks.lab.command import run_command
from benchmarks.lab.measuring import RowCell, keeper_of, measure_and_report
from benchmarks.lab.options import Cells, Device, Results
from benchmarks.lab.plots import BLUE, INK, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import presets_told, settings_of
from benchmarks.lab.statistics import returns_of
from benchmarks.lab.tables import markdown
from policies import POLICIES
from policies.bundle_oracle import ORACLE_BUNDLE, OracleBundle
from policies.together import AtLevel
from recsim_env.estimates import Estimate
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.types import Policy

BUNDLE, CONTROL = (f"recsim_env/{name}-v0" for name in ("Bundle", "BundleControl"))
SINGLES, PAIR = "reward_greedy", "lift_pair"
DISCOUNTED = "at a discount"
"""What the names of baselines end with that everybody is offered at the best level."""
BASELINES = (SINGLES, f"{SINGLES} {DISCOUNTED}", PAIR, f"{PAIR} {DISCOUNTED}")
AGENT, OVER_SLATES = "ppo_composer", "ppo_autoregressive"
SHARE_OF_STEPS, SHARE_OF_SHOPPERS = 0.6, 0.5
"""Shares that the agent over slates takes: its steps cost several times as much, and with half of
the shoppers it learns in more updates."""
LEARNING_RATE = 0.005
"""Its learning rate. With its default, which is that of the market, what it learned in `Bundle-v0`
earned less: 46 in place of 75, where the best single items earn 44 (one training each in world 0,
120,000 steps)."""


@dataclass(frozen=True)
class Config(Device, Cells, Results):
    """Compare who offers the best bundles."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"envs": PRESETS, "agents": AGENTS}

    envs: tuple[str, ...] = (BUNDLE, CONTROL)
    """Ids of environments whose slates are bundles."""
    worlds: tuple[int, ...] = (0, 1)
    """Seeds of their catalogues, and of what goes together."""
    agents: tuple[str, ...] = (AGENT, OVER_SLATES)
    """Agents that are trained."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings."""
    steps: int = 400_000
    """Length of a training in shopper-steps; `ppo_autoregressive` takes 0.6 of them."""
    shoppers: int = 1024
    """Number of shoppers that are served at once in a training; `ppo_autoregressive` serves half of
    them."""
    slates: int = 200_000
    """Number of slates of the log that ranker and lift are learned from, about."""
    tuning_episodes: int = 256
    """Number of training shoppers with whom the best level of discount is found."""
    episodes: int = 512
    """Number of shoppers that everybody is reported on, the same in every training."""
    oracle_episodes: int = 128
    """How many of them the oracle serves, which searches at every visit; 0 leaves it out."""
    batch: int = 256
    """Number of shoppers served at a time in an evaluation, which changes its speed alone."""
    cache: Path = Path("runs/places")
    """Folder of the logs and rankers."""
    work: Path = Path("runs/bundle")
    """Folder of what is done; delete it to start anew."""


@dataclass(frozen=True)
class World:
    """An environment with one catalogue."""

    env: str
    """Id of the environment."""
    seed: int
    """Seed of its catalogue."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.env.split('/')[-1].lower()}-world{self.seed}"

    def open(self, config: Config) -> Site:
        """Open it with its log and ranker, which are made where they are missing."""
        where, device, world = config.cache, config.device, {"world": self.seed}
        return open_place(self.env, options=world, slates=config.slates, cache=where, device=device)


# ---- who plays -----------------------------------------------------------------------------------


def returns(
    config: Config, site: Site, policy: Policy | None, first: int, episodes: int
) -> list[dict[str, Any]]:
    """A row for each of some shoppers: return, visits, purchases and whether they lapsed.

    A policy that is None is the oracle, which reads the simulator that it plays in.
    """
    simulator = site.simulator()
    played = OracleBundle(simulator) if policy is None else policy
    rows = evaluate(played, simulator, seeds(first, episodes), batch=config.batch).rows
    told = rows.select("return", "visits", taken="clicks", lapsed=pl.col("lapsed").cast(pl.Int64))
    return [{"episode": at, **row} for at, row in enumerate(told.to_dicts())]


def best_level(config: Config, site: Site, name: str) -> int:
    """The level of discount at which a policy earns most from training shoppers."""
    policy = POLICIES[name].build(site.inputs)
    means = []
    for level in range(site.inputs.levels):
        offered = AtLevel(policy, site.inputs, level)
        played = returns(config, site, offered, TUNING_SEED, config.tuning_episodes)
        means.append(float(np.mean([row["return"] for row in played])))
    return int(np.argmax(means))


def baselines(config: Config, world: World, site: Site) -> list[dict[str, Any]]:
    """The rows of everybody who learns nothing, and of the oracle."""
    rows = []
    contenders: dict[str, tuple[Policy, int]] = {}
    for name in (SINGLES, PAIR):
        policy, level = POLICIES[name].build(site.inputs), best_level(config, site, name)
        contenders[name] = (policy, 0)
        contenders[f"{name} {DISCOUNTED}"] = AtLevel(policy, site.inputs, level), level
    for name, (policy, level) in contenders.items():
        played = returns(config, site, policy, REPORTED_SEED, config.episodes)
        rows += named(world, name, None, played, level=level)
    if config.oracle_episodes:
        played = returns(config, site, None, REPORTED_SEED, config.oracle_episodes)
        rows += named(world, ORACLE_BUNDLE, None, played)
    return rows


def trained(
    config: Config, world: World, agent: str, seed: int, site: Site
) -> list[dict[str, Any]]:
    """The rows of an agent that was trained with a seed."""
    steps, shoppers, options = config.steps, config.shoppers, AGENTS[agent].config()
    if agent == OVER_SLATES:
        steps, shoppers = round(SHARE_OF_STEPS * steps), round(SHARE_OF_SHOPPERS * shoppers)
        options = replace(options, ppo=replace(options.ppo, learning_rate=LEARNING_RATE))
    keeper = keeper_of(config.work / world.name / f"{agent}-seed{seed}.json")
    setup = TrainingSetup(
        site.training(), site.inputs, seed, steps, shoppers, log=site.log, keeper=keeper
    )
    learned = AGENTS[agent].learner(setup, options)
    played = returns(config, site, learned.policy, REPORTED_SEED, config.episodes)
    minutes = float(learned.facts.get("minutes", 0.0))
    return named(world, agent, seed, played, minutes=minutes)


def named(
    world: World,
    policy: str,
    seed: int | None,
    played: list[dict[str, Any]],
    *,
    level: int | None = None,
    minutes: float = 0.0,
) -> list[dict[str, Any]]:
    """Some rows with the names of who played where."""
    about = {"env": world.env, "world": world.seed, "policy": policy, "seed": seed}
    return [{**about, "level": level, "minutes": minutes, **row} for row in played]


# ---- the report ----------------------------------------------------------------------------------


def gain(rows: pl.DataFrame, policy: str, baseline: str) -> Estimate:
    """By how much a policy earns more than another in an environment, with the same shoppers.

    Where one of them was trained, the independent units are trainings in all worlds; otherwise they
    are the shoppers in all worlds. Of the baseline there is one line a world.
    """
    ones, others = [], []
    for world in sorted(rows["world"].unique()):
        own = rows.filter(pl.col("world") == world)
        one, other = returns_of(own, policy), returns_of(own, baseline)
        shared = min(one.shape[1], other.shape[1])
        ones.append(one[:, :shared])
        others.append(np.broadcast_to(other[:, :shared], (len(one), shared)))
    one, other = np.concatenate(ones), np.concatenate(others)
    if policy in AGENTS:
        worlds = rows["world"].n_unique()
        return over_training_seeds(one - other, same_episodes=worlds == 1)
    return paired_difference(one.ravel(), other.ravel())


def report(rows: pl.DataFrame) -> Report:
    """Make the table, the figures and the picture."""
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    drawn: list[tuple[str, Estimate, str]] = []
    for env in rows["env"].unique(maintain_order=True):
        own, name = rows.filter(pl.col("env") == env), env.split("/")[-1]
        for policy in own["policy"].unique(maintain_order=True):
            mine = own.filter(pl.col("policy") == policy)
            line: dict[str, object] = {
                "environment": f"`{name}`",
                "policy": policy,
                "return": float(mine["return"].to_numpy().mean()),
                "visits": float(mine["visits"].to_numpy().mean()),
                "items taken a visit": float(
                    mine["taken"].to_numpy().sum() / mine["visits"].to_numpy().sum()
                ),
            }
            for baseline in (SINGLES, PAIR):
                less = None if policy == baseline else gain(own, policy, baseline)
                line[f"less `{baseline}`"] = "" if less is None else less
                if less is not None:
                    key = f"{name}/{policy}_minus_{baseline}".replace(" ", "_")
                    summary[key] = less
            if policy != SINGLES:
                less = summary[f"{name}/{policy}_minus_{SINGLES}".replace(" ", "_")]
                drawn.append((f"{name}: {policy}", less, BLUE if policy in AGENTS else INK))
            lines.append(line)
    figure = level_intervals(drawn, f"return of an episode, less that of {SINGLES}", mark=0)
    return Report(markdown(lines), summary, figure)


def main(config: Config) -> None:
    """Measure every world and training that is not measured yet, and report.

    Raises:
        ValueError: If the slates of an environment are no bundles, or as `measure_and_report`.
    """
    for env in config.envs:
        if not make_simulator(env, device=config.device).discounts:
            raise ValueError(f"envs names {env!r}, but its slates are no bundles.")
    run = Run("bundle", config, results=config.results)
    told = settings_of(config, free=("envs", "worlds", "agents", "seeds", "batch"))
    told["shops"] = presets_told((BUNDLE, CONTROL))
    measure_and_report(run, config, cells_of(config), report, told, config.work)


def cells_of(config: Config) -> list[RowCell]:
    """The baselines of every world, and every training there."""
    cells = []
    for world in (World(env, seed) for env in config.envs for seed in config.worlds):
        rows = {"baselines": partial(baselines, config, world)}
        for agent in config.agents:
            for seed in config.seeds:
                rows[f"{agent}-seed{seed}"] = partial(trained, config, world, agent, seed)
        cells += [
            RowCell(
                config.work / world.name / f"{name}.json",
                world.name,
                partial(world.open, config),
                measured,
            )
            for name, measured in rows.items()
        ]
    return cells


if __name__ == "__main__":
    run_command(main, Config)
