"""Whether limits on the mean of a term are kept by new shoppers, and what that costs.

    python -m benchmarks.agents.constraint
    python -m benchmarks.agents.constraint --ray auto   # on the machines of a Ray cluster

On the market the agent `ppo_constrained` is trained for some goals: as many kinds as possible for
most of greedy CTR's clicks, half of greedy CTR's share of a department, slates that are far apart.
Fresh batches of 1,024 shoppers then tell whether their mean is within the limit; where it is
relative, the limit is a multiple of what greedy CTR reaches with the batch. Re-rankers play
before the same batches, each with the parameters that earn most of those that keep the limit on
shoppers of their own; the constant one plans for the term as the agent does.

Every world, goal and seed is a cell with a file of its own in `work`, so an interrupted run goes on
there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from agents import AGENTS, TrainedAgent, TrainingSetup
from agents.places import REPORTED_SEED, TUNING_SEED, Site, open_place, seeds
from agents.ppo.constrained import ConstrainedConfig, planned_for
from agents.ppo.constraint import BATCH, Constraint, Limit, Totals, judged, totals_of
from agents.statistics import estimate_mean
from benchmarks.lab.command import run_command
from benchmarks.lab.measuring import RowCell, keeper_of, measure_and_report
from benchmarks.lab.options import Cells, Device, Results
from benchmarks.lab.plots import BLUE, INK, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.tuning import Parameters, Search, search_here, starts, trials_of
from policies import POLICIES, PolicyInputs
from recsim_env.estimates import Estimate
from recsim_env.rewards import REWARD_TERMS, reward_term, share_of, zero_to_one
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

GREEDY, AGENT = "greedy_ctr", "ppo_constrained"
RIVALS = ("constant", "mmr", "cap")
"""Re-rankers, each with one setting for all shoppers."""
RUN_SEEDS = 1_000_000
"""Seeds set aside for the shoppers of one training's report."""
DEPARTMENT = "department 0"
"""The department whose share is limited."""
PENALTY = 20.0
"""What breaking a limit by the size of its term takes from a trial, in returns of greedy CTR."""


@dataclass(frozen=True)
class Goal:
    """A reward and a limit."""

    reward: Mapping[str, float] | None
    """Weight of each reward term; None means the market's own."""
    constraint: Constraint
    """The limit."""
    told: str
    """What tables call it."""


def department_in(world: int) -> str:
    """The name of the term that is the share of the department in a world."""
    return f"share_of_department_in_world_{world}"


def goals_in(world: int) -> dict[str, Goal]:
    """The goals by name."""
    share = Constraint(department_in(world), "at_most", 0.5, relative=True)
    return {
        "kinds": Goal(
            {"category_coverage": 1.0},
            Constraint("clicks", "at_least", 0.9, relative=True),
            "kinds, with 90 % of greedy CTR's clicks or more",
        ),
        "department": Goal(
            None, share, f"reward, with half of greedy CTR's share of {DEPARTMENT} or less"
        ),
        "distance": Goal(
            {"clicks": 1.0},
            Constraint("intra_list_distance", "at_least", 0.8),
            "clicks, with a distance of 0.8 or more",
        ),
    }


@dataclass(frozen=True)
class Config(Device, Cells, Results):
    """Measure whether limits are kept by new shoppers, and what that costs."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"goals": goals_in(0)}

    worlds: tuple[int, ...] = (0, 1)
    """Worlds of the market."""
    goals: tuple[str, ...] = tuple(goals_in(0))
    """Rewards and limits, by name."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings. Each has batches of its own to report on."""
    steps: int = 800_000
    """Length of a training in shopper-steps, the measurements of its limit included."""
    shoppers: int = 1024
    """Number of shoppers that are served at once in a training."""
    batches: int = 10
    """Number of fresh batches that each training is reported on."""
    batch_shoppers: int = BATCH
    """Number of shoppers of a batch."""
    trials: int = 20
    """Number of settings of each re-ranker that are tried."""
    tuning_episodes: int = BATCH
    """Number of episodes of a trial."""
    slates: int = 100_000
    """Number of slates, about, of the log to which the ranker of a world is fitted."""
    agent: ConstrainedConfig = field(default_factory=ConstrainedConfig)
    """Options of the agent. Its constraint is that of the goal and cannot be told."""
    work: Path = Path("runs/constraint")
    """Folder of what is done; delete it to start anew."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ValueError: If an option is outside its range, or the agent is told a constraint.
        """
        super().__post_init__()
        if self.agent.constraint != ConstrainedConfig().constraint:
            raise ValueError(
                f"agent.constraint is {self.agent.constraint}, but the limits are those of goals."
            )


@dataclass(frozen=True)
class Ground:
    """A world of the market with the reward of a goal."""

    goal: Goal
    train: SlateSimulator
    evaluation: SlateSimulator
    inputs: PolicyInputs


def ground_of(config: Config, world: int, name: str) -> Ground:
    """Open a world with the reward of a goal; its log is played where it is missing."""
    goal = goals_in(world)[name]
    site: Site = open_place(
        "recsim_env/Market-v0",
        options={"world": world},
        reward=goal.reward,
        slates=config.slates,
        device=config.device,
    )
    train, evaluation = site.simulator("train"), site.simulator("evaluation")
    return Ground(goal, train, evaluation, site.inputs_for(train))


@contextlib.contextmanager
def term_of(ground: Ground) -> Iterator[None]:
    """Register the term that a goal limits for a block, where it is the share of the department.

    That term belongs to the catalogue of a world, so no process keeps it: a worker of a cluster
    plays cells of several worlds.
    """
    name = ground.goal.constraint.term
    if name in REWARD_TERMS:
        yield
        return
    reward_term(name, bounds=zero_to_one)(share_of(ground.train.catalog, [DEPARTMENT]))
    try:
        yield
    finally:
        del REWARD_TERMS[name]


# ---- who plays -----------------------------------------------------------------------------------


Opened = tuple[Ground, Mapping[str, Policy]]
"""A world with the reward of a goal, and the re-rankers that play there, by name."""


def prepared(config: Config, world: int, name: str) -> Opened:
    """Open a world with the reward of a goal, and tune the re-rankers there."""
    ground = ground_of(config, world, name)
    with term_of(ground):
        return ground, rivals_of(config, ground, folder_of(config, world, name))


def rivals_of(config: Config, ground: Ground, folder: Path) -> dict[str, Policy]:
    """The re-rankers with what earns most of those settings that keep the limit."""
    constraint, size = ground.goal.constraint, config.tuning_episodes
    who = seeds(TUNING_SEED, size)

    def play(policy: Policy) -> Totals:
        return totals_of(policy, ground.train, who, constraint.term, config.shoppers)

    greedy = play(POLICIES[GREEDY].build(ground.inputs))
    limit = Limit.of(constraint, greedy, ground.train.slate_size)
    planned = planned_for(ground.inputs, limit, config.agent.multiplier)
    found: dict[str, Policy] = {}
    for name in RIVALS:
        spec, inputs = POLICIES[name], planned if name == "constant" else ground.inputs

        def value(parameters: Parameters, number: int, spec: Any = spec, inputs: Any = inputs):  # type: ignore[no-untyped-def]
            one = judged(limit, play(spec.build(inputs, parameters)), greedy)
            short = max(one.margin - one.slack, 0.0) / limit.size
            return one.earned - PENALTY * short * abs(float(greedy.returns.mean()))

        search = search_here(spec, inputs)
        first = [{key: one[key] for key in search} for one in starts(name, spec, {})]
        if name == "constant":
            first.insert(0, dict.fromkeys(search, 0.0))
        path = folder / f"{name}.trials.json"
        study = trials_of(path, Search(value, search, first, config.trials, title=name))
        found[name] = spec.build(inputs, dict(study.best_params))
    return found


def measured(
    config: Config, world: int, name: str, seed: int, opened: Opened
) -> list[dict[str, Any]]:
    """Train with a seed, and play everybody before the same batches: a row each."""
    ground, rivals = opened
    keeper = keeper_of(path_of(config, world, name, seed))
    setup = TrainingSetup(
        ground.train, ground.inputs, seed, config.steps, config.shoppers, keeper=keeper
    )
    options = vars(config.agent) | {"constraint": ground.goal.constraint}
    with term_of(ground):
        agent = AGENTS[AGENT].learn(setup, options)
        rows = batches_of(config, ground, seed, agent, rivals)
    return [{"world": world, "goal": name, **row} for row in rows]


def batches_of(
    config: Config, ground: Ground, seed: int, agent: TrainedAgent, rivals: Mapping[str, Policy]
) -> list[dict[str, Any]]:
    """Play everybody before the batches of a training's seed: a row each."""
    goal, constraint = ground.goal, ground.goal.constraint

    # batches of shoppers whom no training met, the same for everybody
    greedy = POLICIES[GREEDY].build(ground.inputs)
    rows = []
    for batch in range(config.batches):
        first = REPORTED_SEED + seed * RUN_SEEDS + batch * config.batch_shoppers
        who = seeds(first, config.batch_shoppers)
        aim = constraint.limit
        for policy, player in {GREEDY: greedy, AGENT: agent.policy, **rivals}.items():
            size = min(config.shoppers, len(who))
            found = totals_of(player, ground.evaluation, who, constraint.term, size)
            if policy == GREEDY and constraint.relative:
                aim = constraint.limit * found.mean
            rows.append(
                {
                    "told": goal.told,
                    "seed": seed,
                    "batch": batch,
                    "policy": policy,
                    "return": float(found.returns.mean()),
                    "mean": found.mean,
                    "limit": aim,
                    "kept": constraint.sign * (found.mean - aim) >= 0,
                    "promised": policy != AGENT or agent.facts.get("kept", 0.0) == 1.0,
                    "minutes": agent.facts["minutes"] if policy == AGENT else 0.0,
                }
            )
    return rows


# ---- the report ----------------------------------------------------------------------------------


def over_trainings(rows: pl.DataFrame, column: str) -> Estimate:
    """The mean of a column of one policy; batches of one training are no independent units."""
    trainings = rows.select(pl.struct("world", "goal", "seed").rank("dense")).to_series()
    return estimate_mean(rows[column].cast(pl.Float64).to_numpy(), clusters=trainings.to_numpy())


def above(rows: pl.DataFrame, rival: str) -> Estimate:
    """By what share the agent earns more than a rival from the same batches."""
    keys = ["world", "goal", "seed", "batch"]
    mine, theirs = (rows.filter(pl.col("policy") == one).sort(keys) for one in (AGENT, rival))
    gain = mine["return"].to_numpy() / theirs["return"].to_numpy() - 1
    return over_trainings(mine.with_columns(gain=pl.Series(gain)), "gain")


def report(rows: pl.DataFrame) -> Report:
    """Make the table, the figures and the picture."""
    agents = rows.filter(pl.col("policy") == AGENT)
    summary = {"kept_share": over_trainings(agents, "kept")}
    lines: list[dict[str, object]] = []
    drawn: list[tuple[str, Estimate, str]] = []
    for world, goal in agents.select("world", "goal").unique(maintain_order=True).iter_rows():
        own = rows.filter((pl.col("world") == world) & (pl.col("goal") == goal))
        for policy in own["policy"].unique(maintain_order=True):
            told = own.filter(pl.col("policy") == policy)
            key = f"{goal}/world{world}/{policy}"
            kept, earned = over_trainings(told, "kept"), over_trainings(told, "return")
            mean = over_trainings(told, "mean")
            summary |= {f"{key}_kept_share": kept, f"{key}_return": earned, f"{key}_mean": mean}
            lines.append(
                {
                    "as much as possible": told["told"][0],
                    "world": world,
                    "policy": f"`{policy}`",
                    "batches within the limit": kept,
                    "mean of the term": mean,
                    "limit": float(told["limit"].to_numpy().mean()),
                    "return": earned,
                }
            )
            if policy not in (GREEDY, AGENT) and kept.value > 0:
                summary[f"{goal}/world{world}/above_{policy}"] = above(own, policy)
            if policy != GREEDY:
                colour = BLUE if policy == AGENT else INK
                drawn.append((f"{goal}, world {world}: {policy}", kept, colour))
    figure = level_intervals(drawn, "share of fresh batches within the limit", mark=0.95)
    return Report(markdown(lines), summary, figure)


def folder_of(config: Config, world: int, name: str) -> Path:
    """The folder of a goal in a world."""
    return config.work / f"{name}-world{world}"


def path_of(config: Config, world: int, name: str, seed: int) -> Path:
    """The file of the rows of a cell."""
    return folder_of(config, world, name) / f"seed{seed}.json"


def cells_of(config: Config) -> list[RowCell]:
    """Every goal in every world with every seed."""
    return [
        RowCell(
            path_of(config, world, name, seed),
            f"{name}, world {world}",
            partial(prepared, config, world, name),
            partial(measured, config, world, name, seed),
        )
        for world in config.worlds
        for name in config.goals
        for seed in config.seeds
    ]


def main(config: Config) -> None:
    """Measure what is not measured yet, and report; raises as `measure_and_report`."""
    run = Run("constraint", config, results=config.results)
    told = settings_of(config, free=("worlds", "goals", "seeds"))
    measure_and_report(run, config, cells_of(config), report, told, config.work)


if __name__ == "__main__":
    run_command(main, Config)
