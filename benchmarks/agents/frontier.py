"""What one agent for all weights is worth: clicks and diversity, weighed in eleven ways.

    python -m benchmarks.agents.frontier
    python -m benchmarks.agents.frontier --contenders ppo_conditioned --worlds 0 --seeds 0 1

The weight of diversity goes from 0 to 1, and that of clicks is what is left. One `ppo_conditioned`
is played at each weight. It is compared with *specialists*, a `ppo_composer` for each weight: the
agent has a fifth of the steps of all specialists together, and as `ppo_conditioned_equal` as many.
Further contenders are re-rankers with one parameter, swept over its range, `reward_greedy` in each
weighted reward, and `constant` with knobs that were tuned anew for each weight on other shoppers.

All contenders of a world and a seed serve the same fresh shoppers. What is measured is the return
of each goal; a front is judged by the hypervolume beyond the return of `uniform`, by the expected
utility over the weights, and by the most that is lost at any weight beside all contenders together.

Every contender, world, seed and weight is a cell with a file of its own. What is there is not made
again, so a run goes on where it stopped, within a training too. Several may run side by side on
different `--contenders`, `--worlds` or `--seeds`; each reports on all cells that are there.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.keeper import Keeper
from agents.places import REPORTED_SEED, TUNING_SEED, Site, seeds
from agents.statistics import estimate_mean
from benchmarks.lab.cells import json_at
from benchmarks.lab.command import run_command
from benchmarks.lab.fronts import Floats, expected_utility, hypervolume, most_lost
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.options import Markets, Results, Threads
from benchmarks.lab.places import MARKET
from benchmarks.lab.plots import panels
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import remember_settings, settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.tuning import policy_trials
from policies import POLICIES
from policies.inputs import PolicyInputs
from policies.learnable.conditioned import ConditionedPolicy
from recsim_env.estimates import Estimate
from recsim_env.files import FolderInUse, locked, read_json
from recsim_env.settings import SHARE, Within
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

GOALS = ("clicks", "intra_list_distance")
CONDITIONED, EQUAL, SPECIALISTS = "ppo_conditioned", "ppo_conditioned_equal", "ppo_composer"
CONSTANT, GREEDY, UNIFORM = "constant", "reward_greedy", "uniform"
SWEPT = ("mmr", "dpp", "cap")
"""Re-rankers with one parameter."""
CONTENDERS = (UNIFORM, GREEDY, *SWEPT, CONSTANT, SPECIALISTS, CONDITIONED, EQUAL)
"""Who may play, the quick ones first."""
SHARES = {CONDITIONED: 0.2, EQUAL: 1.0}
"""Steps of the agent for all weights, as a share of those of all specialists together."""
RUN_SEEDS = 100_000
"""Seeds set aside for the shoppers of one run."""
Row = dict[str, Any]
SETTINGS: dict[str, dict[str, Any]] = {"ppo_composer": {}, "ppo_conditioned": {}}
"""Options of the agents that are not their defaults. The goals of `ppo_conditioned` are by default
the terms of the reward, clicks and intra_list_distance."""


@dataclass(frozen=True)
class Config(Markets, Threads, Results):
    """Play the cells of the frontier that are missing, and report on all that were played."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"weights": SHARE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"contenders": CONTENDERS}

    contenders: tuple[str, ...] = CONTENDERS
    """Who plays. `ppo_composer` are the specialists; `ppo_conditioned_equal` is the most
    expensive."""
    worlds: tuple[int, ...] = (0, 1)
    """Seeds of the markets' catalogues."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings. Each has shoppers of its own to report on."""
    weights: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Weights of diversity; that of clicks is one less it."""
    steps: int = 400_000
    """Length of the training of a specialist in shopper-steps."""
    shoppers: int = 1024
    """Number of shoppers that are served at once in a training."""
    trials: int = 30
    """Number of knobs that are tried for `constant`, at each weight."""
    tuning_episodes: int = 256
    """Number of episodes of a trial."""
    points: int = 11
    """Number of values of the parameter of each re-ranker that is swept."""
    episodes: int = 512
    """Number of episodes that each policy is reported on, for each seed."""
    batch: int = 256
    """Number of shoppers served at a time in an evaluation, which changes its speed alone."""
    work: Path = Path("runs/frontier")
    """Folder of the cells; delete it to start anew."""
    report_only: bool = False
    """Play no cell, and only report on those that were played before."""


@dataclass(frozen=True)
class Cell:
    """A contender in a world with a seed, at one weight where it is made for one."""

    config: Config
    world: int
    seed: int
    contender: str
    weight: float | None = None

    @property
    def path(self) -> Path:
        """The file of its rows."""
        at = "" if self.weight is None else f"-weight{self.weight:g}"
        return (
            self.config.work
            / "cells"
            / f"{self.contender}-world{self.world}-seed{self.seed}{at}.json"
        )

    @property
    def unfinished(self) -> Path:
        """The folder of what it needs to go on."""
        return self.config.work / "unfinished" / self.path.stem


def cells_of(config: Config) -> list[Cell]:
    """Every cell that is asked for, contender by contender in the order of `CONTENDERS`."""
    alone = (CONSTANT, SPECIALISTS)
    return [
        Cell(config, world, seed, contender, weight)
        for contender in CONTENDERS
        if contender in config.contenders
        for world in config.worlds
        for seed in config.seeds
        for weight in (config.weights if contender in alone else (None,))
    ]


# ---- who plays -----------------------------------------------------------------------------------


def reward_at(weight: float) -> dict[str, float]:
    """The reward in which diversity has a weight."""
    return dict(zip(GOALS, (1 - weight, weight), strict=True))


@dataclass(frozen=True)
class Ground:
    """A market in which a cell is played."""

    site: Site
    config: Config

    def learning(self, weight: float) -> tuple[SlateSimulator, PolicyInputs]:
        """Training shoppers who pay by a weight, and what policies are built from for them."""
        simulator = self.site.simulator("train", reward=reward_at(weight))
        return simulator, self.site.inputs_for(simulator)

    def row(self, cell: Cell, policy: Policy, at: float | None, **facts: float) -> Row:
        """What a policy earns of each goal from the fresh shoppers of a cell.

        Args:
            cell: The cell.
            policy: The policy.
            at: The weight or the parameter that it is played at.
            facts: What else the row tells.
        """
        simulator = self.site.simulator("evaluation", reward=dict.fromkeys(GOALS, 1.0))
        who = seeds(REPORTED_SEED + cell.seed * RUN_SEEDS, self.config.episodes)
        rows = evaluate(policy, simulator, who, batch=self.config.batch).rows
        means = {name: float(rows[name].cast(pl.Float64).to_numpy().mean()) for name in GOALS}
        visits = float(rows["visits"].cast(pl.Float64).to_numpy().mean())
        told = {"world": cell.world, "seed": cell.seed, "contender": cell.contender, "at": at}
        return {**told, **means, "visits": visits, "steps": 0, "minutes": 0.0, **facts}


def play_policies(cell: Cell, ground: Ground) -> list[Row]:
    """Play a policy that needs no training: alone, at every weight, or swept over its parameter."""
    config, spec = cell.config, POLICIES[cell.contender]
    if cell.contender == UNIFORM:
        return [ground.row(cell, spec.build(ground.site.inputs), None)]
    if cell.contender == GREEDY:
        return [
            ground.row(cell, spec.build(ground.learning(weight)[1]), weight)
            for weight in config.weights
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
    """Play the constant re-ranker with the best knobs for a weight, found on training shoppers.

    The search begins with all knobs at 0, which is the slate that is greedy in the reward.
    """
    assert cell.weight is not None
    config, spec = cell.config, POLICIES[CONSTANT]
    simulator, inputs = ground.learning(cell.weight)
    nothing = dict.fromkeys(spec.search(), 0.0)
    # the knobs of a world are found once: training shoppers are the same for all seeds
    path = config.work / "tuned" / f"world{cell.world}-weight{cell.weight:g}.json"
    study = policy_trials(
        path,
        CONSTANT,
        spec,
        inputs,
        simulator,
        episodes=seeds(TUNING_SEED, config.tuning_episodes),
        first=[nothing],
        trials=config.trials,
        batch=config.batch,
    )
    return [ground.row(cell, spec.build(inputs, dict(study.best_params)), cell.weight)]


def play_specialist(cell: Cell, ground: Ground) -> list[Row]:
    """Train PPO for a weight, and play it."""
    assert cell.weight is not None
    config = cell.config
    simulator, inputs = ground.learning(cell.weight)
    keeper = Keeper(cell.unfinished / "training.safetensors")
    setup = TrainingSetup(
        simulator, inputs, cell.seed, config.steps, config.shoppers, keeper=keeper
    )
    learned = AGENTS["ppo_composer"].learn(setup, SETTINGS["ppo_composer"])
    facts = {"steps": learned.steps, "minutes": learned.facts["minutes"]}
    return [ground.row(cell, learned.policy, cell.weight, **facts)]


def play_conditioned(cell: Cell, ground: Ground) -> list[Row]:
    """Train the agent for all weights once, and play it at each."""
    config = cell.config
    simulator, inputs = ground.learning(0.5)
    steps = round(SHARES[cell.contender] * config.steps * len(config.weights))
    keeper = Keeper(cell.unfinished / "training.safetensors")
    setup = TrainingSetup(simulator, inputs, cell.seed, steps, config.shoppers, keeper=keeper)
    learned = AGENTS["ppo_conditioned"].learn(setup, SETTINGS["ppo_conditioned"])
    policy = learned.policy
    assert isinstance(policy, ConditionedPolicy)
    facts = {"steps": learned.steps, "minutes": learned.facts["minutes"]}
    return [
        ground.row(cell, policy.at(reward_at(weight)), weight, **facts) for weight in config.weights
    ]


PLAYED: Mapping[str, Callable[[Cell, Ground], list[Row]]] = {
    CONSTANT: play_constant,
    SPECIALISTS: play_specialist,
    CONDITIONED: play_conditioned,
    EQUAL: play_conditioned,
}
"""How each contender plays a cell; the others need no training."""


def play_missing(config: Config) -> None:
    """Play every cell that is asked for and missing; one that another process plays is left."""
    sites: dict[int, Site] = {}
    for cell in cells_of(config):
        if cell.path.exists():
            continue
        try:
            with locked(cell.unfinished):
                if cell.path.exists():  # by another process, meanwhile
                    continue
                if cell.world not in sites:
                    world = MarketWorld(MARKET, cell.world, config.slates, "broad")
                    sites[cell.world] = world.open(config.markets, config.device)
                ground = Ground(sites[cell.world], config)
                play = PLAYED.get(cell.contender, play_policies)
                json_at(cell.path, lambda cell=cell, ground=ground, play=play: play(cell, ground))  # type: ignore[misc]
        except FolderInUse as error:
            print(f"{error} The cell is left to that process.", file=sys.stderr)
            continue
        shutil.rmtree(cell.unfinished, ignore_errors=True)


# ---- the report ----------------------------------------------------------------------------------


def fronts_of(rows: pl.DataFrame) -> dict[tuple[int, int], dict[str, Floats]]:
    """The points (P, 2) of each contender, by world and seed."""
    found: dict[tuple[int, int], dict[str, Floats]] = {}
    for (world, seed, contender), own in rows.group_by(
        ["world", "seed", "contender"], maintain_order=True
    ):
        points = own.select(GOALS).to_numpy().astype(np.float64)
        found.setdefault((int(str(world)), int(str(seed))), {})[str(contender)] = points
    return found


def judged(rows: pl.DataFrame, weights: tuple[float, ...]) -> pl.DataFrame:
    """Hypervolume, expected utility and most lost of each contender, by world and seed.

    Worlds and seeds in which `uniform` did not play are left out: it is the reference.
    """
    ways = np.array([[1 - weight, weight] for weight in weights])
    lines = []
    for (world, seed), fronts in fronts_of(rows).items():
        if UNIFORM not in fronts:
            continue
        every = np.concatenate(list(fronts.values()))
        for contender, points in fronts.items():
            lines.append(
                {
                    "world": world,
                    "seed": seed,
                    "contender": contender,
                    "hypervolume": hypervolume(points, fronts[UNIFORM][0]),
                    "utility": expected_utility(points, ways),
                    "lost": most_lost(points, every, ways),
                }
            )
    return pl.DataFrame(lines)


def compared(found: pl.DataFrame) -> dict[str, Estimate]:
    """The figures that compare hypervolumes within worlds and seeds, where both sides played.

    The best sweep is chosen anew in each world and seed, in favour of the sweeps.
    """
    wide = {
        (line["world"], line["seed"], line["contender"]): line["hypervolume"]
        for line in found.iter_rows(named=True)
    }
    runs = sorted({(world, seed) for world, seed, _ in wide})
    figures: dict[str, Estimate] = {}

    def ratio(name: str, ours: str, others: Collection[str], less: float) -> None:
        pairs = [
            (wide[(*run, ours)], [wide[(*run, one)] for one in others if (*run, one) in wide])
            for run in runs
            if (*run, ours) in wide
        ]
        values = [mine / max(theirs) - less for mine, theirs in pairs if theirs and max(theirs) > 0]
        if values:
            figures[f"market_{name}"] = estimate_mean(np.asarray(values))

    for ours, name in ((CONDITIONED, "conditioned"), (EQUAL, "conditioned_equal")):
        ratio(f"{name}_over_specialists", ours, (SPECIALISTS,), 0)
        ratio(f"{name}_minus_best_sweep", ours, (GREEDY, *SWEPT), 1)
        ratio(f"{name}_minus_constants", ours, (CONSTANT,), 1)
    return figures


def at_clicks(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Clicks of the agent at the weight 0 of diversity over those of greed there, a control."""
    first = rows.filter(pl.col("at") == 0)
    wide = {
        (line["world"], line["seed"], line["contender"]): line["clicks"]
        for line in first.iter_rows(named=True)
    }
    values = [
        wide[(world, seed, CONDITIONED)] / clicks
        for (world, seed, contender), clicks in wide.items()
        if contender == GREEDY and (world, seed, CONDITIONED) in wide
    ]
    return {"market_conditioned_over_greedy_at_clicks": estimate_mean(values)} if values else {}


def report(rows: pl.DataFrame, weights: tuple[float, ...]) -> Report:
    """Make the table, the figures and the picture.

    Only contenders whose cells are all there in a world and seed are told of it.

    Raises:
        ValueError: If `uniform` played nowhere, which is the point of reference.
    """
    whole = complete(rows, weights)
    found = judged(whole, weights)
    if found.is_empty():
        raise ValueError("The rows have no `uniform`, but hypervolumes begin at what it earns.")
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    for contender in CONTENDERS:
        own = found.filter(pl.col("contender") == contender)
        if own.is_empty():
            continue
        line: dict[str, object] = {"contender": f"`{contender}`"}
        for figure in ("hypervolume", "utility", "lost"):
            value = estimate_mean(own[figure].to_numpy())
            line[figure] = summary[f"{contender}/{figure}"] = value
        steps = whole.filter(pl.col("contender") == contender)
        each = steps.group_by("world", "seed").agg(
            pl.col("steps").sum() if contender == SPECIALISTS else pl.col("steps").max()
        )
        line["steps"] = int(each["steps"].to_numpy().mean())
        lines.append(line)
    headers = {
        "contender": "contender",
        "hypervolume": "hypervolume",
        "utility": "expected utility",
        "lost": "most lost",
        "steps": "steps",
    }
    summary |= compared(found) | at_clicks(whole)
    return Report(markdown(lines, headers), summary, picture(whole))


def complete(rows: pl.DataFrame, weights: tuple[float, ...]) -> pl.DataFrame:
    """The rows without those of contenders that still lack weights in a world and seed."""
    told = rows.filter(pl.col("contender").is_in([CONSTANT, SPECIALISTS]))
    number = told.group_by("world", "seed", "contender").len()
    short = number.filter(pl.col("len") < len(weights))
    return rows.join(short, on=["world", "seed", "contender"], how="anti")


def picture(rows: pl.DataFrame) -> Figure:
    """Draw the points of every contender in the first world, the mean of its seeds."""
    figure, (axes,) = panels(7.0, 4.5)
    first = rows.filter(pl.col("world") == rows["world"].min())
    for contender in CONTENDERS:
        own = first.filter(pl.col("contender") == contender)
        if own.is_empty():
            continue
        means = own.group_by("at", maintain_order=True).agg(pl.col(GOALS).mean())
        axes.plot(means[GOALS[1]], means[GOALS[0]], marker="o", markersize=3, label=contender)
    axes.set_xlabel("diversity, the sum over an episode")
    axes.set_ylabel("clicks of an episode")
    axes.legend(frameon=False, fontsize=8)
    return figure


SCHEMA = pl.Schema(
    {
        "world": pl.Int64,
        "seed": pl.Int64,
        "contender": pl.String,
        "at": pl.Float64,
        **dict.fromkeys(GOALS, pl.Float64),
        "visits": pl.Float64,
        "steps": pl.Int64,
        "minutes": pl.Float64,
    }
)
"""A policy with a seed in a world: returns of both goals, means of its episodes. `at` is the weight
of diversity that it was made for or told, or the parameter of a sweep."""


def main(config: Config) -> None:
    """Play what is missing, then report on every cell that is there.

    Raises:
        ValueError: If the folder holds cells with other settings, or nobody played yet.
    """
    use_threads(config.threads)
    run = Run("frontier", config, results=config.results)
    free = ("contenders", "worlds", "seeds", "batch", "device", "threads", "results", "work")
    told = settings_of(config, free=(*free, "markets", "report_only"))
    with locked(config.work, wait=True):
        remember_settings(config.work, told)
    if not config.report_only:
        play_missing(config)
    paths = sorted((config.work / "cells").glob("*.json"))
    rows = pl.DataFrame([row for path in paths for row in read_json(path)], schema=SCHEMA)
    run.publish(rows, report(rows, config.weights))


if __name__ == "__main__":
    run_command(main, Config)
