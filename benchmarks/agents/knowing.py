"""What knowing the shoppers is worth: PPO that sees their traits, less the best rule for everybody.

    python -m benchmarks.agents.knowing
    python -m benchmarks.agents.knowing --ray auto   # on the machines of a Ray cluster

In every environment with hidden traits two contenders play on the same truth (`policies.truth`):
both rank by the true chances of a click and of a look, and steer the same composer by the same
cues, true weariness among them. The constant re-ranker has the best knobs of `trials` for all
shoppers; `ppo_composer` chooses its knobs at every visit, and the true traits are among its
features. The difference, as a share of the constant's return, is the *value of knowing the
shopper*: what this agent gains by rules that differ between shoppers. Where it is small, constants
suffice.

Every environment and seed is a cell with a file of its own in `work`, so an interrupted run goes on
there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, seeds
from agents.places.exploring import PER_CATEGORY
from agents.places.opening import has_populations
from agents.ppo.agents import PPOComposerConfig
from agents.statistics import estimate_mean
from benchmarks.lab.command import run_command
from benchmarks.lab.league_cells import RUN_SEEDS
from benchmarks.lab.measuring import RowCell, keeper_of, measure_and_report
from benchmarks.lab.options import Cells, Device, Results, Served
from benchmarks.lab.places import LEARNED, MARKET, REGULARS, REGULARS_ALIKE
from benchmarks.lab.plots import BLUE, INK, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.session_markets import market_of
from benchmarks.lab.settings import presets_told, settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.tuning import Parameters, policy_search, starts, trials_of
from policies import POLICIES, PolicyInputs
from policies.rankers.belief import BeliefRanker
from policies.truth import Told, readable
from recsim_env.estimates import Estimate
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

GREEDY, RERANKER, PPO = "reward_greedy", "constant", "ppo_composer"
ENOUGH = 0.05
"""Value of knowing below which a line says that constants suffice."""


@dataclass(frozen=True)
class Config(Served, Device, Cells, Results):
    """Measure what knowing the shoppers is worth."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"envs": PRESETS}

    envs: tuple[str, ...] = (MARKET, REGULARS, REGULARS_ALIKE, LEARNED)
    """Ids of environments whose hidden state can be read."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings. Each has shoppers of its own to report on."""
    steps: int = 400_000
    """Length of a training in shopper-steps."""
    trials: int = 30
    """Number of settings of the constant re-ranker that are tried; the best is the rule for all."""
    tuning_episodes: int = 256
    """Number of episodes of a trial."""
    episodes: int = 512
    """Number of episodes that each contender is reported on, for each seed."""
    ppo: PPOComposerConfig = field(default_factory=PPOComposerConfig)
    """Options of PPO; the composer is that of the constant."""
    work: Path = Path("runs/knowing")
    """Folder of what is done; delete it to start anew."""


@dataclass(frozen=True)
class Ground:
    """An environment in which everything is known."""

    train: SlateSimulator
    """The shoppers that agents learn with, and that the rule is tuned on."""
    evaluation: SlateSimulator
    """Those who are reported on."""
    inputs: PolicyInputs
    """What both contenders are built from."""


def ground_of(env: str, device: str | None) -> Ground:
    """Open an environment whose shoppers hide nothing.

    Raises:
        ValueError: If nobody registered how its shoppers are read.
    """
    simulators = []
    for population in ("train", "evaluation"):
        options = {"population": population} if has_populations(env) else {}
        hiding = make_simulator(env, device=device, **options)
        if not readable(hiding.shopper):
            raise ValueError(f"envs names {env!r}, but no truth is registered for its shoppers.")
        simulators.append(market_of(Told(hiding.shopper), hiding))
    train, evaluation = simulators
    inputs = PolicyInputs(
        train.catalog,
        train.observation_space,
        train.slate_size,
        BeliefRanker(),
        per_category=PER_CATEGORY,
        reward=train.reward,
    )
    return Ground(train, evaluation, inputs)


# ---- who plays -----------------------------------------------------------------------------------


def best_rule(config: Config, env: str, ground: Ground) -> Parameters:
    """The knobs of the constant re-ranker, found on training shoppers by TPE.

    The search begins with the defaults, with all knobs at 0, which is the slate that is greedy in
    the reward, and with that of the best weight of diversity.
    """

    def search(name: str, trials: int, first: list[Parameters]) -> Parameters:
        told = (first, trials, config.tuning_episodes, config.batch)
        found = policy_search(name, ground.inputs, ground.train, *told)
        path = folder_of(config, env) / f"{name}.trials.json"
        return dict(trials_of(path, found).best_params)

    greedy = search(GREEDY, max(config.trials // 4, 1), starts(GREEDY, POLICIES[GREEDY], {}))
    spec = POLICIES[RERANKER]
    nothing = dict.fromkeys(spec.search(), 0.0)
    return search(RERANKER, config.trials, [nothing, *starts(RERANKER, spec, {GREEDY: greedy})])


def returns(config: Config, ground: Ground, policy: Policy, seed: int) -> list[float]:
    """Returns of the shoppers that the training of a seed is reported on."""
    who = seeds(REPORTED_SEED + seed * RUN_SEEDS, config.episodes)
    rows = evaluate(policy, ground.evaluation, who, batch=config.batch).rows
    return [float(value) for value in rows["return"]]


def prepared(config: Config, env: str) -> tuple[Ground, Parameters]:
    """Open an environment, and find the best rule for everybody there."""
    ground = ground_of(env, config.device)
    return ground, best_rule(config, env, ground)


def measured(
    config: Config, env: str, seed: int, opened: tuple[Ground, Parameters]
) -> list[dict[str, Any]]:
    """Train with a seed, and play all contenders before the same shoppers: a row each."""
    ground, rule = opened
    keeper = keeper_of(path_of(config, env, seed))
    setup = TrainingSetup(
        ground.train, ground.inputs, seed, config.steps, config.shoppers, keeper=keeper
    )
    agent = AGENTS[PPO].learner(setup, config.ppo)
    contenders = {
        GREEDY: POLICIES[GREEDY].build(ground.inputs),
        RERANKER: POLICIES[RERANKER].build(ground.inputs, rule),
        PPO: agent.policy,
    }
    rows = []
    for name, policy in contenders.items():
        found = np.asarray(returns(config, ground, policy, seed))
        rows.append(
            {
                "env": env,
                "seed": seed,
                "policy": name,
                "return": float(found.mean()),
                "error": float(found.std(ddof=1) / len(found) ** 0.5) if len(found) > 1 else 0.0,
                "steps": agent.steps if name == PPO else 0,
                "minutes": agent.facts["minutes"] if name == PPO else 0.0,
            }
        )
    return rows


# ---- the report ----------------------------------------------------------------------------------


def value_of_knowing(rows: pl.DataFrame) -> Estimate:
    """PPO less the constant in an environment, as a share of the constant's return, over seeds."""
    wide = rows.pivot("policy", index="seed", values="return").sort("seed")
    ppo, constant = wide[PPO].to_numpy(), wide[RERANKER].to_numpy()
    return estimate_mean((ppo - constant) / constant)


def report(rows: pl.DataFrame) -> Report:
    """Make the table, the figures and the picture."""
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    drawn: list[tuple[str, Estimate, str]] = []
    for env in rows["env"].unique(maintain_order=True):
        own = rows.filter(pl.col("env") == env)
        name = env.split("/")[-1]
        line: dict[str, object] = {"environment": f"`{name}`"}
        for policy in (GREEDY, RERANKER, PPO):
            means = own.filter(pl.col("policy") == policy)["return"].to_numpy()
            line[f"`{policy}`"] = summary[f"{name}/{policy}_return"] = estimate_mean(means)
        value = value_of_knowing(own)
        line["value of knowing"] = summary[f"{name}/value_of_knowing"] = value
        line["constants suffice"] = bool(value.value < ENOUGH)
        lines.append(line)
        drawn.append((name, value, BLUE if value.value >= ENOUGH else INK))
    label = "value of knowing the shopper, as a share of the return"
    return Report(markdown(lines), summary, level_intervals(drawn, label, mark=0))


def folder_of(config: Config, env: str) -> Path:
    """The folder of an environment."""
    return config.work / env.split("/")[-1].lower()


def path_of(config: Config, env: str, seed: int) -> Path:
    """The file of the rows of a cell."""
    return folder_of(config, env) / f"seed{seed}.json"


def cells_of(config: Config) -> list[RowCell]:
    """Every environment with every seed."""
    return [
        RowCell(
            path_of(config, env, seed),
            env,
            partial(prepared, config, env),
            partial(measured, config, env, seed),
        )
        for env in config.envs
        for seed in config.seeds
    ]


def main(config: Config) -> None:
    """Measure what is not measured yet, and report; raises as `measure_and_report`."""
    run = Run("knowing", config, results=config.results)
    told = settings_of(config, free=("envs", "seeds", "batch"))
    told["worlds"] = presets_told((MARKET, REGULARS))
    measure_and_report(run, config, cells_of(config), report, told, config.work)


if __name__ == "__main__":
    run_command(main, Config)
