"""Cells of the league: one contender's run in one place, and how it is tuned, trained and played.

    <work>/tuned/<place>/<contender>.json      the parameters that were found
    <work>/cells/<cell>.parquet                a row a mode; its presence says that the cell is done
    <work>/cells/<cell>.curve.parquet          returns on the way
    <work>/cells/<cell>.safetensors            what a composer has learned
    <work>/unfinished/<cell>/                  what a cell needs to go on; gone when it is done

`benchmarks.agents.league` plays all of them; `behaviour` and `latency` look at single ones.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import polars as pl

from agents import AGENTS, TrainingSetup
from agents.base import Watch, ignore_progress
from agents.evaluate import evaluate
from agents.keeper import Keeper
from agents.places import REPORTED_SEED, Site, seeds
from benchmarks.lab.cells import json_at, once
from benchmarks.lab.options import MarketLogs, Markets, Served
from benchmarks.lab.places import (
    ALIKE,
    CONTROL,
    JOURNEY,
    LEARNED,
    MARKET,
    MILD,
    PLACES,
    REGULARS,
    REGULARS_ALIKE,
    Place,
)
from benchmarks.lab.saved import save_actor
from benchmarks.lab.settings import presets_told, settings_of, share_settings
from benchmarks.lab.tuning import SPECIAL_CASES, policy_search, starts, trials_of
from benchmarks.lab.where import Elsewhere, There, fewer
from policies import POLICIES
from policies.learnable.intents import ComposerPolicy
from policies.oracles import ORACLES, oracle_specs
from policies.registry import PolicySpec
from recsim_env.registration import PRESETS
from recsim_env.settings import AMOUNT, POSITIVE, Within
from recsim_env.simulator import SlateSimulator
from recsim_env.tables import write_parquet
from recsim_env.types import Policy

KEY = {
    "env": pl.String,
    "world": pl.Int64,
    "believing": pl.Boolean,
    "contender": pl.String,
    "weight": pl.Float64,
    "run": pl.Int64,
}
"""Which cell; `believing` says whether the shop has a belief, and `weight` is null in the league
and the weight of diversity in the frontier's cells."""
CURVE = pl.Schema({**KEY, "steps": pl.Int64, "minutes": pl.Float64, "return": pl.Float64})
"""A point of a learning curve: `minutes` of training, `return` on the first of the run's
shoppers."""
ROW = pl.Schema(
    {
        **KEY,
        "mode": pl.String,
        "episodes": pl.Int64,
        "return": pl.Float64,
        "return_error": pl.Float64,
        "clicks": pl.Float64,
        "diversity": pl.Float64,
        "category_coverage": pl.Float64,
        "visits": pl.Float64,
        "coverage": pl.Float64,
        "gini": pl.Float64,
        "steps": pl.Int64,
        "minutes": pl.Float64,
        "date": pl.String,
    }
)
"""A contender's run in a mode: deterministic, sampled, untrained, untrained sampled, or unpolished,
which is PPO before the search that follows it. Numbers are means of its episodes. `return_error` is
the standard error over episodes; diversity and category coverage are means over an episode's
visits; coverage and Gini are of the items' exposures."""

PPO, CMA, GREEDY, REWARD_GREEDY, MMR, RERANKER, MYOPIC, STATE = (
    "ppo_composer",
    "cma",
    "greedy_ctr",
    "reward_greedy",
    "mmr",
    "constant",
    "oracle_myopic",
    "oracle_state",
)
"""Names of the contenders that reports quote."""
IN_SLATES = ("ppo_plackett_luce", "ppo_autoregressive")
"""PPO that explores in every position. A step costs several times as much, so it plays in one
environment only."""
FACTORS = {
    "ppo_plackett_luce": 0.6,
    "ppo_autoregressive": 0.3,
    "slateq": 0.25,
    "slateq_chances": 0.25,
    "linucb": 0.05,
    "thompson": 0.05,
}
"""Factors of the steps of agents whose curve is flat earlier, or whose steps take longer."""
RUN_SEEDS = 100_000
"""Seeds set aside for the shoppers of one run."""
RUNS = 90
"""Number of runs at most; other benchmarks have their shoppers behind those of all runs."""


Played = TypeVar("Played", bound="League")


@dataclass(frozen=True)
class CellSettings(Served, MarketLogs):
    """How a cell is played; the fields of `COMMON` are the same for all cells of a folder."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"factors": POSITIVE, "episodes": Within(1, RUN_SEEDS)}

    steps: dict[str, int] = field(
        default_factory=lambda: {
            **dict.fromkeys((MARKET, ALIKE, MILD, LEARNED, REGULARS, REGULARS_ALIKE), 400_000),
            CONTROL: 300_000,
            JOURNEY: 150_000,
        }
    )
    """Length of a training in shopper-steps, by environment, and 200,000 in those that are not
    named. Learning curves are flat after the defaults."""
    factors: dict[str, float] = field(default_factory=lambda: dict(FACTORS))
    """Factor of each contender's steps, 1 where it is not named. Those named by default have flat
    curves earlier, or steps that take longer."""
    episodes: int = 512
    """Number of episodes of an evaluation. The standard error is then 1 to 4 % of the return."""
    watched: int = 128
    """Number of episodes of a point of the learning curve, the first of the evaluation's."""
    trials: int = 30
    """Number of settings tried for each policy with parameters, the same for all to be fair."""
    tuning_episodes: int = 256
    """Number of episodes of a trial."""
    work: Path = Path("runs/league")
    """Folder of the cells. Those that are there are not played again; delete it to start anew."""


@dataclass(frozen=True)
class League(CellSettings, Markets):
    """Which cells are played, where and how."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "runs": Within(0, RUNS - 1),
        "frontier": AMOUNT,
        "mmr_frontier": AMOUNT,
    }
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"places": PLACES}
    EMPTY: ClassVar[Collection[str]] = ("places", "contenders", "frontier", "mmr_frontier")

    places: tuple[str, ...] = ()
    """Names of the places to play in. By default, all of them."""
    elsewhere: There = field(default_factory=Elsewhere)
    """An environment to play in instead of the places."""
    contenders: tuple[str, ...] = ()
    """Names of the policies and agents to play with. By default, all of them."""
    runs: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Numbers of the runs. Each has a training seed and shoppers of its own, and five are enough to
    tell contenders apart."""
    frontier: tuple[float, ...] = (0.0, 1.0, 3.0)
    """Weights of diversity in the reward of further ppo_composer agents in the first place, for the
    frontier of clicks and diversity. The league itself has the environment's weight."""
    mmr_frontier: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Weights of diversity of further MMR policies in the first place, for the same frontier."""


STEPS = 200_000
"""Length of a training in an environment that `League.steps` does not name."""
SLOW: Mapping[str, int] = {
    "shoppers": 32,
    "episodes": 64,
    "watched": 32,
    "trials": 8,
    "tuning_episodes": 24,
    "batch": 32,
}
"""Sizes where shoppers are served one by one, in place of those at their defaults."""
SLOW_STEPS = 20_000
"""Length of a training there."""
COMMON = (
    "steps",
    "factors",
    "shoppers",
    "episodes",
    "watched",
    "trials",
    "tuning_episodes",
    "slates",
)
"""Settings that all cells of a folder share."""


def place_of(league: League) -> Place | None:
    """The place that is named by `elsewhere`; None where the league plays in its own places."""
    where = league.elsewhere.where(league.device, 1)
    return None if where is None else Place.of(where)


def settled(league: Played) -> Played:
    """The league as it is played in the environment that is named, if one is.

    Its cells lie in a folder of their own, and what is at its default is smaller where shoppers are
    served one by one.
    """
    place = place_of(league)
    if place is None or place.where is None:
        return league
    place.where.check()
    changes: dict[str, Any] = {"work": league.work / place.name}
    if place.where.slow:
        changes |= fewer(league, SLOW)
        changes["steps"] = {place.env: SLOW_STEPS, **_told_steps(league.steps)}
    return replace(league, **changes)


def _told_steps(steps: Mapping[str, int]) -> dict[str, int]:
    """Those steps that are not the defaults."""
    usual = League().steps
    return {env: number for env, number in steps.items() if usual.get(env) != number}


def check_work(league: CellSettings) -> None:
    """Remember what the cells in `league.work` have in common.

    Every command that plays cells calls it first, so that a cell is never taken for one that was
    played with other settings.

    Raises:
        ValueError: If they were played with other settings.
    """
    told = settings_of(league, only=COMMON)
    place = place_of(league) if isinstance(league, League) else None
    if place is not None and place.where is not None:
        told["place"] = place.where.about
    markets = {place.env for place in PLACES.values() if place.oracles} & PRESETS.keys()
    told["markets"] = presets_told(sorted(markets))
    share_settings(league.work, told)


@dataclass(frozen=True)
class Cell:
    """One contender's run in one place."""

    place: Place
    """The place where the contender plays."""
    contender: str
    """Name of the policy or agent."""
    run: int
    """Number of the run, which is the training seed."""
    weight: float | None = None
    """Weight of diversity in an agent's reward or in MMR, for the frontier; None in the league."""

    @property
    def name(self) -> str:
        """The stem of the names of its files."""
        weight = "" if self.weight is None else f"-weight{self.weight:g}"
        return f"{self.place.name}--{self.contender}{weight}--run{self.run}"

    def path(self, league: CellSettings, suffix: str = ".parquet") -> Path:
        """The path of its file with a suffix."""
        return league.work / "cells" / f"{self.name}{suffix}"

    def unfinished(self, league: CellSettings) -> Path:
        """The folder of what it needs to go on."""
        return league.work / "unfinished" / self.name

    @property
    def shoppers(self) -> int:
        """The first seed of its shoppers, the same for every contender."""
        return REPORTED_SEED + self.run * RUN_SEEDS

    @property
    def key(self) -> dict[str, object]:
        """The columns `KEY` of its rows."""
        of_place = {name: getattr(self.place, name) for name in ("env", "world", "believing")}
        return {**of_place, "contender": self.contender, "weight": self.weight, "run": self.run}


def contenders(place: Place) -> list[str]:
    """The names of all who play at a place."""
    agents = [name for name, spec in AGENTS.items() if place.log or not spec.needs_log]
    agents = [name for name in agents if place.env == MARKET or name not in IN_SLATES]
    return [*POLICIES, *(ORACLES if place.oracles else ()), *agents]


def cells(league: League) -> list[Cell]:
    """The cells that are asked for: every first run before any second, then the frontier.

    Raises:
        ValueError: If a place or a contender is not known.
    """
    there = place_of(league)
    known = [PLACES[name] for name in _known("places", league.places, list(PLACES))]
    places = known if there is None else [there]
    names = {name for place in (*PLACES.values(), *places) for name in contenders(place)}
    chosen = _known("contenders", league.contenders, sorted(names))
    found = [
        Cell(place, name, run)
        for run in league.runs
        for place in places
        for name in contenders(place)
        if name in chosen
    ]
    if next(iter(PLACES.values())) in places and 0 in league.runs:
        swept = {"ppo_composer": league.frontier, "mmr": league.mmr_frontier}
        found += [
            Cell(places[0], name, 0, weight)
            for name in swept
            if name in chosen
            for weight in swept[name]
        ]
    return found


def _known(name: str, asked: tuple[str, ...], there: list[str]) -> list[str]:
    unknown = [one for one in asked if one not in there]
    if unknown:
        raise ValueError(f"{name} has {unknown}, but there are {there}.")
    return list(asked) or there


# ---- parameters ----------------------------------------------------------------------------------


def tuned_parameters(cell: Cell, site: Site, league: CellSettings) -> dict[str, float]:
    """The best parameters of a policy for its place, from their file or searched for.

    Args:
        cell: The cell of the policy.
        site: Its place, opened.
        league: How the search is made; its shoppers are those of no report.

    Returns:
        The parameters by name; empty where the policy has none to tune.
    """
    name, simulator = cell.contender, site.judging("train")
    spec = spec_of(name, simulator)
    if not spec.search():
        return {}

    def search() -> dict[str, Any]:
        """Run the trials, for the file that keeps their best parameters."""
        case = SPECIAL_CASES.get(name)
        before = {}
        if case is not None:
            before[case] = tuned_parameters(replace(cell, contender=case), site, league)
        told = (starts(name, spec, before), league.trials, league.tuning_episodes, league.batch)
        search = policy_search(name, site.inputs, simulator, *told, spec=spec)
        study = trials_of(kept / "trials.json", search)
        return {
            "return": study.best_value,
            "trials": league.trials,
            "parameters": study.best_params,
        }

    path = league.work / "tuned" / cell.place.name / f"{name}.json"
    kept = league.work / "unfinished" / f"{cell.place.name}--{name}"
    with once(path):  # the cells of all runs need it
        found = json_at(path, search)
        shutil.rmtree(kept, ignore_errors=True)
    parameters: dict[str, float] = found["parameters"]
    return parameters


def spec_of(name: str, simulator: SlateSimulator) -> PolicySpec:
    """How a policy that is not trained is built to play in a simulator."""
    return oracle_specs(simulator)[name] if name in ORACLES else POLICIES[name]


# ---- playing -------------------------------------------------------------------------------------


def training_setup(
    cell: Cell,
    site: Site,
    league: CellSettings,
    watch: Watch = ignore_progress,
    keeper: Keeper | None = None,
) -> TrainingSetup:
    """What an agent's run learns from.

    Args:
        cell: The cell of the agent.
        site: Its place, opened.
        league: How agents are trained.
        watch: Called with the policy on the way.
        keeper: Keeps the state of the training; nothing is kept by default.
    """
    steps = round(league.steps.get(cell.place.env, STEPS) * league.factors.get(cell.contender, 1.0))
    simulator = site.training(cell.weight)
    return TrainingSetup(
        simulator,
        site.inputs_for(simulator),
        cell.run,
        steps,
        league.shoppers,
        site.log,
        watch,
        keeper or Keeper(),
    )


class Watching:
    """Writes a learning curve, and leaves the time that this takes out of the training's.

    The clock starts when it is made. It goes back with a training that goes on
    (`agents.keeper.Notes`): rows that follow the training's state are played again.
    """

    def __init__(self, cell: Cell, simulator: SlateSimulator, league: CellSettings) -> None:
        self._cell, self._simulator, self._batch = cell, simulator, league.batch
        self._seeds = seeds(cell.shoppers, league.watched)
        self._began, self._watched = time.perf_counter(), 0.0
        self.rows: list[dict[str, object]] = []

    @property
    def minutes(self) -> float:
        """The minutes of training so far."""
        return (time.perf_counter() - self._began - self._watched) / 60

    def state(self) -> dict[str, object]:
        """The rows and minutes so far."""
        return {"rows": self.rows, "minutes": self.minutes}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` gave."""
        self.rows = state["rows"]
        self._began, self._watched = time.perf_counter() - 60 * state["minutes"], 0.0

    def __call__(self, steps: int, policy: Policy) -> None:
        """Evaluate the policy after so many steps, as an `agents.base.Watch`."""
        minutes, before = self.minutes, time.perf_counter()
        value = mean(
            evaluate(policy, self._simulator, self._seeds, batch=self._batch).rows, "return"
        )
        self.rows.append({**self._cell.key, "steps": steps, "minutes": minutes, "return": value})
        self._watched += time.perf_counter() - before


def play(cell: Cell, site: Site, league: CellSettings) -> None:
    """Play one cell and write its files; the rows last, because they say that it is done."""
    rows, watching = (train if cell.contender in AGENTS else show)(cell, site, league)
    write_parquet(cell.path(league, ".curve.parquet"), pl.DataFrame(watching.rows, schema=CURVE))
    write_parquet(cell.path(league), pl.DataFrame(rows, schema=ROW))


def show(cell: Cell, site: Site, league: CellSettings) -> tuple[list[dict[str, object]], Watching]:
    """Evaluate a policy that is not trained: one row, and a curve of one point."""
    simulator = site.judging()
    parameters = (
        tuned_parameters(cell, site, league) if cell.weight is None else {"weight": cell.weight}
    )
    policy = spec_of(cell.contender, simulator).build(site.inputs, parameters)
    watching = Watching(cell, simulator, league)
    watching(0, policy)
    return [
        row_of(cell, "deterministic", policy, simulator, league) | {"steps": 0, "minutes": 0.0}
    ], watching


def train(cell: Cell, site: Site, league: CellSettings) -> tuple[list[dict[str, object]], Watching]:
    """Train an agent: a row for each way to use it afterwards, and its learning curve."""
    simulator = site.judging()
    watching = Watching(cell, simulator, league)
    settings = cell.place.settings.get(cell.contender)
    keeper = Keeper(cell.unfinished(league) / "training.safetensors", watching)
    setup = training_setup(cell, site, league, watching, keeper)
    learned = AGENTS[cell.contender].learn(setup, settings)
    facts = {"steps": learned.steps, "minutes": watching.minutes}
    if isinstance(learned.policy, ComposerPolicy):
        save_actor(learned.policy, cell.path(league, ".safetensors"))
    modes = {
        "deterministic": learned.policy,
        "sampled": learned.sampled,
        "untrained": learned.untrained,
        "unpolished": learned.unpolished,
        "untrained sampled": learned.untrained_sampled,
    }
    used = {mode: policy for mode, policy in modes.items() if policy is not None}
    return [
        row_of(cell, mode, policy, simulator, league) | facts for mode, policy in used.items()
    ], watching


def row_of(
    cell: Cell, mode: str, policy: Policy, simulator: SlateSimulator, league: CellSettings
) -> dict[str, object]:
    """Evaluate a policy on the shoppers of a run: the row `ROW` of a mode."""
    found = evaluate(policy, simulator, seeds(cell.shoppers, league.episodes), batch=league.batch)
    table = found.rows.with_columns(
        (pl.col("intra_list_distance") / pl.col("visits")).alias("diversity"),
        pl.col("category_coverage") / pl.col("visits"),
    )
    means = {
        name: mean(table, name)
        for name in ("return", "clicks", "diversity", "category_coverage", "visits")
    }
    error = float(table["return"].to_numpy().std(ddof=1)) / len(table) ** 0.5
    exposure = {"coverage": found.coverage, "gini": found.gini}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        **cell.key,
        "mode": mode,
        "episodes": len(table),
        **means,
        "return_error": error,
        **exposure,
        "date": date,
    }


def mean(rows: pl.DataFrame, column: str) -> float:
    """The mean of a column in float64."""
    return float(rows[column].to_numpy().mean())
