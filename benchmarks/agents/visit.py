"""What page, query and cart are worth in the market of whole visits, with and without training.

    python -m benchmarks.agents.visit
    python -m benchmarks.agents.visit --ray auto   # on the machines of a Ray cluster

In `MarketVisit-v0` and in its control, where neither scenario nor cart changes anything, the same
shoppers meet two groups of contenders.

Without training: uniform slates; slates that are greedy in the reward by a ranker that was fitted
to a log; the same with two cues, what is searched for and what goes together with the cart by that
log, whose weights are tuned on other shoppers; and two policies that know the true chances of a
click, one of them without the complements.

PPO over intents (`ppo_composer`), from several seeds: *shared*, one agent that sees page, scenario,
query and cart; *per scenario*, three agents, each of which learns to move the slates of one
scenario while the others keep those that all start from, which are greedy in the reward, and which
then serve together; and *not seeing*, one agent from which page, scenario, query and cart are
hidden (`benchmarks.lab.scenarios`). These three take equally many steps: each specialist takes a
third, with a third of the shoppers, so that it learns in as many updates. Because only some of its
pages are its own, *per scenario, thrice the steps* gives each specialist as many steps as the
shared agent.

In the control cues, seeing and sharing must bring nothing, and complements must not count. What was
measured is kept in `work`, training by training, and an interrupted run goes on there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents import AGENTS, TrainedAgent, TrainingSetup
from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, TUNING_SEED, Site, open_place, seeds
from agents.places.opening import PLACES
from agents.ppo.agents import PPOComposerConfig
from benchmarks.agents.visit_report import (
    BLIND,
    CUED,
    GREEDY,
    ORACLE,
    SHARED,
    SPLIT,
    SPLIT_LONGER,
    TRAINED,
    UNIFORM,
    report,
)
from benchmarks.lab.command import run_command
from benchmarks.lab.measuring import RowCell, measure_and_report
from benchmarks.lab.options import Cells, Device, Results
from benchmarks.lab.run import Run
from benchmarks.lab.scenarios import PerScenario, blind_inputs
from benchmarks.lab.settings import presets_told, settings_of
from policies import POLICIES
from policies.composer import Composer
from policies.log_servers import NoisyComposerPolicy
from policies.oracles import OracleMyopic
from policies.slates import top_slates
from recsim_env import checks
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.settings import MOST
from recsim_env.shoppers.visits.pages import SCENARIOS
from recsim_env.shoppers.visits.population import VisitsShopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

VISIT, CONTROL = "recsim_env/MarketVisit-v0", "recsim_env/MarketVisitControl-v0"
AGENT = "ppo_composer"
SPECIALISTS = {SPLIT: len(SCENARIOS), SPLIT_LONGER: 1}
"""Name -> what steps and shoppers of each specialist are divided by."""
STEMS = ("shared", "per_scenario", "per_scenario_thrice", "not_seeing")
FILES = dict(zip(TRAINED, STEMS, strict=True))
"""Name -> what the files of its trainings begin with."""
WEIGHTS = {"searched": (0.0, 1.0, 2.0, 4.0), "beside_cart": (0.0, 1.0, 2.0, 4.0)}
"""Cue -> log-odds that are tried for it, one cue after the other."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Config(Device, Cells, Results):
    """Measure what page, query and cart are worth, to cues and to trained agents."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"envs": PRESETS, "agents": TRAINED}
    EMPTY: ClassVar[Collection[str]] = ("agents",)

    envs: tuple[str, ...] = (VISIT, CONTROL)
    """Ids of environments with whole visits."""
    agents: tuple[str, ...] = TRAINED
    """Contenders that are trained; without any, nothing is."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings."""
    steps: int = 150_000
    """Length of a training in shopper-steps, of all specialists together as of any other agent."""
    shoppers: int = 768
    """Number of shoppers that are served at once in a training, 3 or more. A third of it fills one
    batch of PPO with each rollout."""
    slates: int = 100_000
    """Number of slates of the log that ranker and lift are learned from, about."""
    tuning_episodes: int = 256
    """Number of episodes on which each weight of a cue is tried."""
    episodes: int = 512
    """Number of episodes that each policy is reported on, the same for all."""
    batch: int = 256
    """Number of shoppers served at a time, which changes the speed alone."""
    cache: Path = PLACES
    """Folder of logs and rankers, which are made where they are missing."""
    work: Path = Path("runs/visit")
    """Folder of what is done; delete it to start anew."""


class KnowsAllButComplements:
    """Shows what is most likely clicked, were there neither complements nor substitutes.

    Args:
        simulator: its shoppers are read on every page

    Raises:
        TypeError: If its shoppers are not those of whole visits.
    """

    draws = 0

    def __init__(self, simulator: SlateSimulator) -> None:
        if not isinstance(simulator.shopper, VisitsShopper):
            raise TypeError(
                f"simulator has {type(simulator.shopper).__name__}, but it must have VisitsShopper."
            )
        self._simulator, self._shopper = simulator, simulator.shopper

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K) for the shoppers as they are; the observation is not read."""
        candidates = self._simulator.candidates
        log_odds = self._shopper.log_odds(self._simulator.hidden, candidates, pairs=False)
        return top_slates(log_odds, candidates, self._simulator.slate_size)


def steered(composer: Composer, knobs: Mapping[str, float]) -> Policy:
    """A composer with constant knobs, in log-odds per unit of each cue, and no noise."""
    return NoisyComposerPolicy(composer, knobs, temperature=0.0)


def tuned_knobs(config: Config, site: Site, composer: Composer) -> dict[str, float]:
    """The best weight of each cue on shoppers who are not reported on, one cue after the other."""
    simulator, who = site.simulator("train"), seeds(TUNING_SEED, config.tuning_episodes)
    found: dict[str, float] = {}
    for name, weights in WEIGHTS.items():
        means = {}
        for weight in weights:
            policy = steered(composer, {**found, name: weight})
            rows = evaluate(policy, simulator, who, batch=config.batch).rows
            means[weight] = float(rows["return"].to_numpy().mean())
        found[name] = max(means, key=lambda weight: means[weight])
    return found


def returns(config: Config, simulator: SlateSimulator, policy: Policy) -> list[float]:
    """The returns of the shoppers that everybody is reported on."""
    who = seeds(REPORTED_SEED, config.episodes)
    rows = evaluate(policy, simulator, who, batch=config.batch).rows
    return [float(value) for value in rows["return"]]


def untrained(config: Config, env: str, site: Site) -> list[Row]:
    """The rows of every policy that is not trained."""
    simulator, composer = site.simulator("evaluation"), Composer(site.inputs)
    knobs = tuned_knobs(config, site, composer)
    contenders: dict[str, Policy] = {
        UNIFORM: POLICIES["uniform"].build(site.inputs),
        GREEDY: POLICIES["reward_greedy"].build(site.inputs),
        CUED: steered(composer, knobs),
        BLIND: KnowsAllButComplements(simulator),
        ORACLE: OracleMyopic(simulator),
    }
    rows: list[Row] = []
    for name, policy in contenders.items():
        weights = knobs if name == CUED else dict.fromkeys(knobs, 0.0)
        found = returns(config, simulator, policy)
        rows += named(env, name, None, found, weights=weights)
    return rows


def trained(config: Config, env: str, name: str, seed: int, site: Site) -> list[Row]:
    """The rows of a contender that is trained with a seed."""
    if name in SPECIALISTS:
        parts = SPECIALISTS[name]
        learned = [specialist(config, site, place, seed, parts) for place in range(len(SCENARIOS))]
        policy: Policy = PerScenario({at: agent.policy for at, agent in enumerate(learned)})
    else:
        inputs = site.inputs if name == SHARED else blind_inputs(site.inputs)
        setup = TrainingSetup(site.training(), inputs, seed, config.steps, config.shoppers)
        learned = [AGENTS[AGENT].learn(setup)]
        policy = learned[0].policy
    found = returns(config, site.simulator("evaluation"), policy)
    steps = sum(agent.steps for agent in learned)
    minutes = sum(agent.facts["minutes"] for agent in learned)
    return named(env, name, seed, found, steps=steps, minutes=minutes)


def specialist(config: Config, site: Site, scenario: int, seed: int, parts: int) -> TrainedAgent:
    """Train an agent for the pages of one scenario, with a part of the steps and shoppers."""
    steps, shoppers = config.steps // parts, config.shoppers // parts
    setup = TrainingSetup(site.training(), site.inputs, seed, steps, shoppers)
    usual = PPOComposerConfig()
    own = replace(usual, composer=replace(usual.composer, scenario=scenario))
    return AGENTS[AGENT].learner(setup, own)


def named(
    env: str,
    policy: str,
    seed: int | None,
    found: list[float],
    *,
    weights: Mapping[str, float] | None = None,
    steps: int = 0,
    minutes: float = 0.0,
) -> list[Row]:
    """A row for each episode's return, with the names of who played where."""
    about = {"env": env, "policy": policy, "seed": seed, "steps": steps, "minutes": minutes}
    told = dict.fromkeys(WEIGHTS, 0.0) if weights is None else weights
    return [{**about, "episode": at, "return": value, **told} for at, value in enumerate(found)]


def main(config: Config) -> None:
    """Measure what is not measured yet, and report.

    Raises:
        ValueError: If the pages of an environment have no scenario, there are too few shoppers, or
            as `measure_and_report`.
    """
    checks.whole("shoppers", config.shoppers, len(SCENARIOS), MOST)
    for env in config.envs:
        if "scenario" not in make_simulator(env, device=config.device).observation_space.spaces:
            raise ValueError(f"envs names {env!r}, but its pages have no scenario.")
    run = Run("visit", config, results=config.results)
    told = settings_of(config, free=("envs", "agents", "seeds", "batch"))
    told["shops"] = presets_told((VISIT, CONTROL))
    measure_and_report(run, config, cells_of(config), report, told, config.work)


def cells_of(config: Config) -> list[RowCell]:
    """The policies of every environment that are not trained, and every training there."""
    cells = []
    for env in config.envs:
        rows = {"untrained": partial(untrained, config, env)}
        for name in config.agents:
            for seed in config.seeds:
                rows[f"{FILES[name]}-seed{seed}"] = partial(trained, config, env, name, seed)
        folder = config.work / env.split("/")[-1].lower()
        cells += [
            RowCell(folder / f"{name}.json", env, partial(site_of, config, env), measured)
            for name, measured in rows.items()
        ]
    return cells


def site_of(config: Config, env: str) -> Site:
    """Open an environment with its log and ranker, which are made where they are missing."""
    return open_place(env, slates=config.slates, cache=config.cache, device=config.device)


if __name__ == "__main__":
    run_command(main, Config)
