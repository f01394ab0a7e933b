"""What one agent for all weights is worth: goals weighed in many ways.

    python -m benchmarks.agents.frontier
    python -m benchmarks.agents.frontier --contenders ppo_conditioned --worlds 0 --seeds 0 1
    python -m benchmarks.agents.frontier --goals clicks intra_list_distance revenue kept
    python -m benchmarks.agents.frontier --env recsim_env/CompleteJourney-v0 --seeds 0 1 2

By default the goals are clicks and diversity: the weight of diversity goes from 0 to 1, and that of
clicks is what is left. Three and four goals have the weights of a grid on the simplex. One
`ppo_conditioned` is played at each of the weights. It is compared with *specialists*, a
`ppo_composer` for each: the agent has a fifth of the steps of all specialists together, and as
`ppo_conditioned_equal` as many. Further contenders are re-rankers with one parameter, swept over
its range, `reward_greedy` in each weighted reward, and `constant` with knobs that were tuned anew
for each on other shoppers. `capql`, of MORL-Baselines, is an agent for all weights too: it plays
where it is asked for, in an environment of its own (`benchmarks.lab.capql`).

All contenders of a world and a seed serve the same fresh shoppers. What is measured is the return
of each goal. A front is judged by two hypervolumes, beyond the return of `uniform`, where a sweep
that is nowhere better than `uniform` in all goals has none, and beyond the lowest return of each
goal among all contenders; by the expected utility over the weights; and by the most that is lost at
any weight beside all contenders together.

Every contender, world, seed and weight is a cell with a file of its own. What is there is not made
again, so a run goes on where it stopped, within a training too. Several may run side by side on
different `--contenders`, `--worlds` or `--seeds`; each reports on all cells that are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.faces import IntentFace
from agents.places import REPORTED_SEED, Site, seeds
from agents.places.opening import slug
from benchmarks.agents.frontier_report import (
    ALONE,
    CONDITIONED,
    CONSTANT,
    CONTENDERS,
    EQUAL,
    EVERYBODY,
    GREEDY,
    OUTSIDER,
    SPECIALISTS,
    UNIFORM,
    Weighed,
    report,
)
from benchmarks.lab.capql import library, train_capql
from benchmarks.lab.command import run_command
from benchmarks.lab.fronts import simplex_grid
from benchmarks.lab.league_cells import RUN_SEEDS
from benchmarks.lab.measuring import RowCell, keeper_of
from benchmarks.lab.options import Cells, Markets, Results, Served
from benchmarks.lab.places import CONTROL, JOURNEY, LEARNED, MARKET, PLACES, Place
from benchmarks.lab.playing import Places, Task, end, play_cells
from benchmarks.lab.run import Run
from benchmarks.lab.settings import settings_of, share_settings
from benchmarks.lab.threads import use_threads
from benchmarks.lab.tuning import policy_search, trials_of
from policies import POLICIES
from policies.goals import checked_goals
from policies.inputs import PolicyInputs
from policies.learnable.conditioned import ConditionedPolicy
from recsim_env import make_simulator
from recsim_env.files import read_json
from recsim_env.settings import SHARE, Within, put
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

GOALS = ("clicks", "intra_list_distance")
"""The goals by default."""
MOST_GOALS = 4
"""Most goals of a frontier: of more, a grid of weights has too many points to train for."""
ENVS = {MARKET: "market", CONTROL: "control", LEARNED: "learned", JOURNEY: "journey"}
"""Id of an environment -> what the names of its figures begin with."""
WORLDS = (0, 1)
"""Worlds of the market by default; other environments have one."""
SHARES = {CONDITIONED: 0.2, EQUAL: 1.0}
"""Steps of the agent for all weights, as a share of those of all specialists together."""
Row = dict[str, Any]
SETTINGS: dict[str, dict[str, Any]] = {"ppo_composer": {}, "ppo_conditioned": {}}
"""Options of the agents that are not their defaults. The goals of `ppo_conditioned` are by default
the terms of the reward."""


@dataclass(frozen=True)
class Config(Served, Markets, Cells, Results):
    """Play the cells of the frontier that are missing, and report on all that were played."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"weights": SHARE, "parts": Within(1, 100)}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"contenders": EVERYBODY, "env": ENVS}

    env: str = MARKET
    """The environment: the market, its control in which nothing shown has a later effect, the
    market that was learned from its log, or the Complete Journey."""
    goals: tuple[str, ...] = GOALS
    """The goals, two to four names of reward terms."""
    contenders: tuple[str, ...] = CONTENDERS
    """Who plays. `ppo_composer` are the specialists; `ppo_conditioned_equal` is the most expensive.
    `capql` can be asked for where MORL-Baselines is installed."""
    worlds: tuple[int, ...] = WORLDS
    """Seeds of the markets' catalogues. Environments other than the market have one, which is 0."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings. Each has shoppers of its own to report on."""
    weights: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Weights of the second of two goals, by default diversity; that of the first is one less it.
    More goals have the weights of `parts`."""
    parts: int = 4
    """Where there are more than two goals, their weights are all multiples of one over this number
    that have the sum 1: with 4, 15 ways to weigh three goals and 35 to weigh four."""
    steps: int = 400_000
    """Length of the training of a specialist in shopper-steps."""
    outsider_steps: int = 100_000
    """Length of a training of `capql` in shopper-steps; each takes many times as long as PPO's."""
    trials: int = 30
    """Number of knobs that are tried for `constant`, at each weight."""
    tuning_episodes: int = 256
    """Number of episodes of a trial."""
    points: int = 11
    """Number of values of the parameter of each re-ranker that is swept."""
    episodes: int = 512
    """Number of episodes that each policy is reported on, for each seed."""
    work: Path = Path("runs/frontier")
    """Folder of the cells; delete it to start anew. Those of an environment or of goals other than
    the default ones lie in a folder in it, named after them."""
    report_only: bool = False
    """Play no cell, and only report on those that were played before."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ValueError: If an option is outside its range or has no effect beside the others.
        """
        super().__post_init__()
        put(self, goals=checked_goals("goals", self.goals))
        if not 2 <= len(self.goals) <= MOST_GOALS:
            raise ValueError(
                f"goals is {self.goals}, but it must be two to {MOST_GOALS} different names."
            )
        unused, why = ("parts", "two goals have") if self.two else ("weights", "more goals have")
        if getattr(self, unused) != getattr(type(self), unused):
            other = "weights" if self.two else "parts"
            raise ValueError(
                f"{unused} is {getattr(self, unused)}, but {why} the weights that {other} tells."
            )
        if self.env != MARKET and self.worlds not in (WORLDS, (0,)):
            raise ValueError(f"worlds is {self.worlds}, but {self.env} has one world, which is 0.")
        if self.env != MARKET:
            put(self, worlds=(0,))

    @property
    def two(self) -> bool:
        """Whether there are two goals."""
        return len(self.goals) == 2

    @property
    def weighed(self) -> Weighed:
        """The goals, and the ways in which they are weighed."""
        if self.two:
            return Weighed(self.goals, tuple((1 - weight, weight) for weight in self.weights))
        return Weighed(self.goals, simplex_grid(len(self.goals), self.parts))

    @property
    def own(self) -> str:
        """What tells its files from those of the default environment and goals: nothing there."""
        if (self.env, self.goals) == (MARKET, GOALS):
            return ""
        return "-".join([slug(self.env), *self.goals])

    @property
    def folder(self) -> Path:
        """The folder of its cells."""
        return self.work / self.own if self.own else self.work


@dataclass(frozen=True)
class Cell:
    """A contender in a world with a seed, in one way of weighing where it is made for one."""

    config: Config
    world: int
    seed: int
    contender: str
    way: int | None = None
    """Number of the way."""

    @property
    def weights(self) -> str:
        """The part of names of files that tells the weights."""
        if self.way is None:
            return ""
        weights = self.config.weighed.ways[self.way]
        if self.config.two:
            return f"-weight{weights[1]:g}"
        return "-weights" + "-".join(f"{weight:g}" for weight in weights)

    @property
    def path(self) -> Path:
        """The file of its rows."""
        name = f"{self.contender}-world{self.world}-seed{self.seed}{self.weights}.json"
        return self.config.folder / "cells" / name


def cells_of(config: Config) -> list[Cell]:
    """Every cell that is asked for, contender by contender in the order of `CONTENDERS`."""
    ways = range(len(config.weighed.ways))
    return [
        Cell(config, world, seed, contender, way)
        for contender in EVERYBODY
        if contender in config.contenders
        for world in config.worlds
        for seed in config.seeds
        for way in (ways if contender in ALONE else (None,))
    ]


# ---- who plays -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """A place in which a cell is played."""

    site: Site
    config: Config

    def learning(self, reward: Mapping[str, float]) -> tuple[SlateSimulator, PolicyInputs]:
        """Training shoppers who pay a reward, and what policies are built from for them."""
        simulator = self.site.simulator("train", reward=reward)
        return simulator, self.site.inputs_for(simulator)

    def row(self, cell: Cell, policy: Policy, at: float | None, **facts: float) -> Row:
        """What a policy earns of each goal from the fresh shoppers of a cell.

        Args:
            cell: The cell.
            policy: The policy.
            at: What tells the way of weighing or the parameter that it is played at.
            facts: What else the row tells.
        """
        goals = self.config.goals
        simulator = self.site.simulator("evaluation", reward=dict.fromkeys(goals, 1.0))
        who = seeds(REPORTED_SEED + cell.seed * RUN_SEEDS, self.config.episodes)
        rows = evaluate(policy, simulator, who, batch=self.config.batch).rows
        means = {name: float(rows[name].cast(pl.Float64).to_numpy().mean()) for name in goals}
        visits = float(rows["visits"].cast(pl.Float64).to_numpy().mean())
        told = {"world": cell.world, "seed": cell.seed, "contender": cell.contender, "at": at}
        return {**told, **means, "visits": visits, "steps": 0, "minutes": 0.0, **facts}


def play_policies(cell: Cell, ground: Ground) -> list[Row]:
    """Play a policy that needs no training: alone, in every way, or swept over its parameter."""
    config, spec, weighed = cell.config, POLICIES[cell.contender], cell.config.weighed
    if cell.contender == UNIFORM:
        return [ground.row(cell, spec.build(ground.site.inputs), None)]
    if cell.contender == GREEDY:
        return [
            ground.row(cell, spec.build(ground.learning(weighed.reward(way))[1]), weighed.at(way))
            for way in range(len(weighed.ways))
        ]
    ((name, allowed),) = spec.search().items()
    shares = np.linspace(0, 1, config.points) ** 2  # most of what matters happens at small ones
    values = allowed.low + (allowed.high - allowed.low) * shares
    if allowed.integer:
        values = np.unique(values.round().astype(int))
    return [
        ground.row(cell, spec.build(ground.site.inputs, {name: value.item()}), float(value))
        for value in values
    ]


def play_constant(cell: Cell, ground: Ground) -> list[Row]:
    """Play the constant re-ranker with the best knobs for some weights, found while training.

    The search begins with all knobs at 0, which is the slate that is greedy in the reward.
    """
    assert cell.way is not None
    config, spec, weighed = cell.config, POLICIES[CONSTANT], cell.config.weighed
    simulator, inputs = ground.learning(weighed.reward(cell.way))
    first = [dict.fromkeys(spec.search(), 0.0)]
    told = (first, config.trials, config.tuning_episodes, config.batch)
    # the knobs of a world are found once: training shoppers are the same for all seeds
    path = config.folder / "tuned" / f"world{cell.world}{cell.weights}.json"
    study = trials_of(path, policy_search(CONSTANT, inputs, simulator, *told))
    policy = spec.build(inputs, dict(study.best_params))
    return [ground.row(cell, policy, weighed.at(cell.way))]


def play_specialist(cell: Cell, ground: Ground) -> list[Row]:
    """Train PPO for some weights, and play it."""
    assert cell.way is not None
    config, weighed = cell.config, cell.config.weighed
    simulator, inputs = ground.learning(weighed.reward(cell.way))
    keeper = keeper_of(cell.path)
    setup = TrainingSetup(
        simulator, inputs, cell.seed, config.steps, config.shoppers, keeper=keeper
    )
    learned = AGENTS["ppo_composer"].learn(setup, SETTINGS["ppo_composer"])
    facts = {"steps": learned.steps, "minutes": learned.facts["minutes"]}
    return [ground.row(cell, learned.policy, weighed.at(cell.way), **facts)]


def play_conditioned(cell: Cell, ground: Ground) -> list[Row]:
    """Train the agent for all weights once, and play it at each."""
    config, weighed = cell.config, cell.config.weighed
    simulator, inputs = ground.learning(dict.fromkeys(config.goals, 1 / len(config.goals)))
    steps = round(SHARES[cell.contender] * config.steps * len(weighed.ways))
    keeper = keeper_of(cell.path)
    setup = TrainingSetup(simulator, inputs, cell.seed, steps, config.shoppers, keeper=keeper)
    learned = AGENTS["ppo_conditioned"].learn(setup, SETTINGS["ppo_conditioned"])
    policy = learned.policy
    assert isinstance(policy, ConditionedPolicy)
    facts = {"steps": learned.steps, "minutes": learned.facts["minutes"]}
    return [
        ground.row(cell, policy.at(weighed.reward(way)), weighed.at(way), **facts)
        for way in range(len(weighed.ways))
    ]


def play_outsider(cell: Cell, ground: Ground) -> list[Row]:
    """Train CAPQL once, and play it at each of the weights. It does not go on where it stopped."""
    config, weighed = cell.config, cell.config.weighed
    shares = dict.fromkeys(config.goals, 1 / len(config.goals))

    def make() -> tuple[SlateSimulator, PolicyInputs]:
        simulator = ground.site.simulator("train", reward=shares, objectives=config.goals)
        return simulator, ground.site.inputs_for(simulator)

    began = time.perf_counter()
    predict = train_capql(make, config.outsider_steps, cell.seed)
    facts = {
        "steps": config.outsider_steps,
        "minutes": (time.perf_counter() - began) / 60,
    }
    face = IntentFace(*make())
    return [
        ground.row(
            cell,
            face.policy(lambda seen, way=way: predict(seen, np.tile(way, (len(seen), 1)))),
            weighed.at(number),
            **facts,
        )
        for number, way in enumerate(np.array(weighed.ways, np.float32))
    ]


PLAYED: Mapping[str, Callable[[Cell, Ground], list[Row]]] = {
    CONSTANT: play_constant,
    SPECIALISTS: play_specialist,
    CONDITIONED: play_conditioned,
    EQUAL: play_conditioned,
    OUTSIDER: play_outsider,
}
"""How each contender plays a cell; the others need no training."""


def opened(config: Config, world: int) -> Site:
    """The place of a world; its log and ranker are made where they are missing."""
    known = {(place.env, place.world): place for place in PLACES.values() if not place.believing}
    place = known.get((config.env, world), Place(config.env, world))
    return place.open(config.markets, config.slates, config.device)


def check_served(config: Config) -> None:
    """Check that the shoppers can serve the goals, and that all can play, before anything is made.

    Raises:
        ValueError: If they cannot.
    """
    if OUTSIDER in config.contenders:
        library()
    make_simulator(config.env, device=config.device, reward=dict.fromkeys(config.goals, 1.0))


def play(cell: Cell, site: Site) -> list[Row]:
    """Play a cell: its rows."""
    return PLAYED.get(cell.contender, play_policies)(cell, Ground(site, cell.config))


def tasks_of(config: Config) -> list[Task]:
    """Every cell that is asked for, as it is played."""
    places = {
        world: (f"{config.env} {world}", partial(opened, config, world)) for world in config.worlds
    }
    return [
        RowCell(cell.path, *places[cell.world], partial(play, cell)).task
        for cell in cells_of(config)
    ]


def main(config: Config) -> None:
    """Play what is missing, then report on every cell that is there.

    Raises:
        ValueError: If the folder holds cells with other settings, or nobody played yet.
    """
    use_threads(config.threads)
    if not config.report_only:
        check_served(config)
    name = "-".join(["frontier", config.own]) if config.own else "frontier"
    run = Run(name, config, results=config.results)
    free = ("contenders", "worlds", "seeds", "batch", "report_only", "env", "goals")
    unused = "parts" if config.two else "weights"
    share_settings(config.folder, settings_of(config, free=(*free, unused)))
    failed = []
    if not config.report_only:
        failed = play_cells(tasks_of(config), config, "frontier", Places(len(config.worlds)))
    paths = sorted((config.folder / "cells").glob("*.json"))
    rows = [row for path in paths for row in read_json(path)]
    weighed = config.weighed
    table = pl.DataFrame(rows, schema=weighed.schema)
    run.publish(table, report(table, weighed, ENVS[config.env]))
    end(failed)


if __name__ == "__main__":
    run_command(main, Config)
