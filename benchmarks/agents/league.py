"""Who earns how much where: python -m benchmarks.agents.league

Agents and policies (contenders) x environments (places) x runs, one *cell* at a time. Run r has the
training seed r and fresh shoppers of its own, the same for all contenders of a place, so policies
that nobody trains have as many runs. A policy with parameters is tuned in each place on other
shoppers, each with the same number of trials; agents have the parameters that
`benchmarks.agents.tune_agents` found.

    runs/league/config.json                         what all cells have in common
    runs/league/tuned/<place>/<contender>.json      the parameters that were found
    runs/league/cells/<cell>.parquet                a row a mode; its presence says that the cell is done
    runs/league/cells/<cell>.curve.parquet          returns on the way
    runs/league/cells/<cell>.safetensors            what a composer has learned
    runs/league/unfinished/<cell>/                  what a cell needs to go on; gone when it is done

What is there is not made again, so a league goes on where it stopped, in the middle of a training
too. Two may run side by side, best on different `--places`, `--contenders` or `--runs`: each leaves
aside what the other one plays. `benchmarks.agents.league_report` makes table, figure and summary of
the cells.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import tyro
from tqdm.auto import tqdm

from agents import AGENTS, Ground
from agents.base import Watch, unwatched
from agents.evaluate import evaluate
from agents.keeper import Keeper
from benchmarks.agents.league_report import CURVE, ROW, analyse
from benchmarks.agents.transfer import save_actor
from benchmarks.agents.tune import starts, trials_of
from benchmarks.lab.places import (
    ALIKE,
    CONTROL,
    JOURNEY,
    LEARNED,
    MARKET,
    MILD,
    PLACES,
    Place,
    Site,
)
from benchmarks.lab.run import RESULTS, Run
from benchmarks.lab.settings import config_as_json, remember_settings
from benchmarks.lab.threads import THREADS, use_threads
from benchmarks.lab.world import REPORTED_SEED, TUNING_SEED, seeds
from policies import POLICIES
from policies.base import PolicySpec
from policies.composer import ComposerPolicy
from policies.oracles import ORACLES, oracle_specs
from recsim_env.files import FolderInUse, locked, sweep, write_json
from recsim_env.registration import PRESETS
from recsim_env.simulator import SlateSimulator
from recsim_env.tables import write_parquet
from recsim_env.types import Policy

IN_SLATES = ("ppo_plackett_luce", "ppo_autoregressive")
"""PPO that explores in every position: a step costs several times as much, so it plays in one
environment only."""
FACTORS = {
    "ppo_plackett_luce": 0.6,
    "ppo_autoregressive": 0.3,
    "slateq": 0.25,
    "slateq_chances": 0.25,
    "linucb": 0.05,
    "thompson": 0.05,
}
"""Whose curve is flat earlier, or whose steps take longer, gets fewer."""
RUN_SEEDS = 100_000
"""Seeds set aside for the shoppers of one run."""


@dataclass(frozen=True)
class Config:
    """Play the league, or the part of it that is missing, and report everything that was played."""

    places: tuple[str, ...] = ()
    """Where, by name; all by default."""
    contenders: tuple[str, ...] = ()
    """Who, by name; all by default."""
    runs: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Training seeds, each with shoppers of its own."""
    frontier: tuple[float, ...] = (0.0, 1.0, 3.0)
    """Weights of diversity in the reward of further ppo_composer, in the first place; the league
    has its own weight."""
    mmr_frontier: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Weights of further MMR there."""
    steps: dict[str, int] = field(
        default_factory=lambda: {
            MARKET: 1_000_000,
            ALIKE: 400_000,
            MILD: 400_000,
            CONTROL: 300_000,
            LEARNED: 400_000,
            JOURNEY: 150_000,
        }
    )
    """Shopper-steps of a training by environment."""
    factors: dict[str, float] = field(default_factory=lambda: dict(FACTORS))
    """What a contender's steps are multiplied by; 1 where it is not named."""
    shoppers: int = 1024
    """Shoppers served at once in a training."""
    episodes: int = 512
    """Episodes of a row."""
    watched: int = 128
    """Episodes of a point of the learning curve: the first of the row's."""
    trials: int = 30
    """Settings tried for each policy with parameters."""
    tuning_episodes: int = 256
    """Episodes of a trial."""
    batch: int = 256
    """Shoppers at a time in an evaluation."""
    slates: int = 300_000
    """Logged slates of a market, about."""
    device: str | None = None
    """cpu or cuda; None for the best there is."""
    threads: int = THREADS
    """CPU threads."""
    report_only: bool = False
    """Play nothing."""
    markets: Path = Path("runs/market")
    """Folder of logs and rankers; what is missing there is built."""
    work: Path = Path("runs/league")
    """Folder of the cells; delete it to start anew."""
    results: Path = RESULTS
    """Folder of the results."""


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


# ---- cells ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One contender's run in one place."""

    place: Place
    contender: str
    run: int
    weight: float | None = None
    """Off the league, for the frontier: the weight of diversity, in an agent's reward or in MMR."""

    @property
    def name(self) -> str:
        """Of its files."""
        weight = "" if self.weight is None else f"-weight{self.weight:g}"
        return f"{self.place.name}--{self.contender}{weight}--run{self.run}"

    def path(self, config: Config, suffix: str = ".parquet") -> Path:
        """Of one of its files."""
        return config.work / "cells" / f"{self.name}{suffix}"

    def unfinished(self, config: Config) -> Path:
        """The folder of what it needs to go on."""
        return config.work / "unfinished" / self.name

    @property
    def shoppers(self) -> int:
        """First seed of its shoppers: the same for every contender."""
        return REPORTED_SEED + self.run * RUN_SEEDS


def contenders(place: Place) -> list[str]:
    """Who plays at a place."""
    agents = [name for name, spec in AGENTS.items() if place.log or not spec.needs_log]
    agents = [name for name in agents if place.env == MARKET or name not in IN_SLATES]
    return [*POLICIES, *(ORACLES if place.oracles else ()), *agents]


def cells(config: Config) -> list[Cell]:
    """What the configuration asks for: every first run before any second, then the frontier.

    Raises:
        ValueError: At a place or a contender that there is not.
    """
    places = [PLACES[name] for name in _known("places", config.places, list(PLACES))]
    names = {name for place in PLACES.values() for name in contenders(place)}
    chosen = _known("contenders", config.contenders, sorted(names))
    found = [
        Cell(place, name, run)
        for run in config.runs
        for place in places
        for name in contenders(place)
        if name in chosen
    ]
    if next(iter(PLACES.values())) in places and 0 in config.runs:
        swept = {"ppo_composer": config.frontier, "mmr": config.mmr_frontier}
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


def tuned_parameters(
    cell: Cell, site: Site, config: Config, kept: Path | None = None
) -> dict[str, float]:
    """The best of some trials on tuning shoppers, read where they were found before; empty where nothing is tuned.

    kept: folder where the trials of an interrupted search are; None for the cell's own.
    """
    kept = kept or cell.unfinished(config)
    name, simulator = cell.contender, site.judging("train")
    spec = spec_of(name, simulator)
    if not spec.search():
        return {}
    path = config.work / "tuned" / cell.place.name / f"{name}.json"
    if not path.exists():
        cases = (
            ("mmr",) if name == "constant" else ()
        )  # what it can be: its search starts from there
        before = {
            case: tuned_parameters(replace(cell, contender=case), site, config, kept)
            for case in cases
        }
        episodes = seeds(TUNING_SEED, config.tuning_episodes)

        def value(parameters: dict[str, float], number: int) -> float:
            policy = spec.build(site.inputs, parameters)
            return mean(evaluate(policy, simulator, episodes, batch=config.batch).rows, "return")

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        first, trials = starts(name, spec, before), kept / f"{name}.trials.json"
        study = trials_of(trials, value, spec.search(), first, config.trials, 0, name)
        write_json(
            path,
            {"return": study.best_value, "trials": config.trials, "parameters": study.best_params},
        )
    parameters: dict[str, float] = json.loads(path.read_text())["parameters"]
    return parameters


def spec_of(name: str, simulator: SlateSimulator) -> PolicySpec:
    """How a policy that nobody trains is built to play in `simulator`."""
    return oracle_specs(simulator)[name] if name in ORACLES else POLICIES[name]


# ---- playing -------------------------------------------------------------------------------------


def ground(
    cell: Cell, site: Site, config: Config, watch: Watch = unwatched, keeper: Keeper | None = None
) -> Ground:
    """Where an agent's run learns."""
    steps = round(config.steps[cell.place.env] * config.factors.get(cell.contender, 1.0))
    simulator = site.training(cell.weight)
    return Ground(
        simulator,
        site.inputs,
        cell.run,
        steps,
        config.shoppers,
        site.log,
        watch,
        keeper or Keeper(),
    )


class Watching:
    """Writes a learning curve, and keeps the time that this takes out of the training's. It starts the clock.

    It goes back with a training that goes on (`agents.keeper.Notes`): rows that follow the
    training's state are played again.
    """

    def __init__(self, cell: Cell, simulator: SlateSimulator, config: Config) -> None:
        self._cell, self._simulator, self._batch = cell, simulator, config.batch
        self._seeds = seeds(cell.shoppers, config.watched)
        self._began, self._watched = time.perf_counter(), 0.0
        self.rows: list[dict[str, object]] = []

    @property
    def minutes(self) -> float:
        """Of training so far."""
        return (time.perf_counter() - self._began - self._watched) / 60

    def state(self) -> dict[str, object]:
        """Rows and minutes so far."""
        return {"rows": self.rows, "minutes": self.minutes}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.rows = state["rows"]
        self._began, self._watched = time.perf_counter() - 60 * state["minutes"], 0.0

    def __call__(self, steps: int, policy: Policy) -> None:
        """A `agents.base.Watch`."""
        minutes, before = self.minutes, time.perf_counter()
        value = mean(
            evaluate(policy, self._simulator, self._seeds, batch=self._batch).rows, "return"
        )
        self.rows.append({**key(self._cell), "steps": steps, "minutes": minutes, "return": value})
        self._watched += time.perf_counter() - before


def play(cell: Cell, site: Site, config: Config) -> None:
    """Play one cell and write it; the rows last, for they say that it is done."""
    rows, watching = (train if cell.contender in AGENTS else show)(cell, site, config)
    write_parquet(cell.path(config, ".curve.parquet"), pl.DataFrame(watching.rows, schema=CURVE))
    write_parquet(cell.path(config), pl.DataFrame(rows, schema=ROW))


def show(cell: Cell, site: Site, config: Config) -> tuple[list[dict[str, object]], Watching]:
    """A row of a policy that nobody trains, and a curve of one point."""
    simulator = site.judging()
    parameters = (
        tuned_parameters(cell, site, config) if cell.weight is None else {"weight": cell.weight}
    )
    policy = spec_of(cell.contender, simulator).build(site.inputs, parameters)
    watching = Watching(cell, simulator, config)
    watching(0, policy)
    return [
        row_of(cell, "deterministic", policy, simulator, config) | {"steps": 0, "minutes": 0.0}
    ], watching


def train(cell: Cell, site: Site, config: Config) -> tuple[list[dict[str, object]], Watching]:
    """A row for each way to use an agent after its run, and its learning curve."""
    simulator = site.judging()
    watching = Watching(cell, simulator, config)
    settings = cell.place.settings.get(cell.contender)
    keeper = Keeper(cell.unfinished(config) / "training.safetensors", watching)
    learned = AGENTS[cell.contender].learn(ground(cell, site, config, watching, keeper), settings)
    facts = {"steps": learned.steps, "minutes": watching.minutes}
    if isinstance(learned.policy, ComposerPolicy):
        save_actor(learned.policy, cell.path(config, ".safetensors"))
    modes = {
        "deterministic": learned.policy,
        "sampled": learned.sampled,
        "untrained": learned.untrained,
        "untrained sampled": learned.untrained_sampled,
    }
    used = {mode: policy for mode, policy in modes.items() if policy is not None}
    return [
        row_of(cell, mode, policy, simulator, config) | facts for mode, policy in used.items()
    ], watching


def row_of(
    cell: Cell, mode: str, policy: Policy, simulator: SlateSimulator, config: Config
) -> dict[str, object]:
    """Means over the run's episodes: what `ROW` says of a policy in use."""
    found = evaluate(policy, simulator, seeds(cell.shoppers, config.episodes), batch=config.batch)
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
        **key(cell),
        "mode": mode,
        "episodes": len(table),
        **means,
        "return_error": error,
        **exposure,
        "date": date,
    }


def mean(rows: pl.DataFrame, column: str) -> float:
    """Of a column, in float64."""
    return float(rows[column].to_numpy().mean())


def key(cell: Cell) -> dict[str, object]:
    """The columns that say which cell a row is of."""
    of_place = {"env": cell.place.env, "world": cell.place.world}
    return {**of_place, "contender": cell.contender, "weight": cell.weight, "run": cell.run}


# ---- the league ----------------------------------------------------------------------------------


def play_missing(config: Config) -> list[str]:
    """Play every cell that is asked for and not there; the names of those that failed, after their traceback.

    One cell that fails stops no other: it is missing, and the next league tries it again. One that
    another process plays is left to it, which a line on stderr says.
    """
    sweep(config.work)
    missing = [cell for cell in cells(config) if not cell.path(config).exists()]
    for env in sorted({cell.place.env for cell in missing} - PRESETS.keys()):
        print(f"{env} is no registered environment, so its cells are left out.")
    sites: dict[Place, Site] = {}
    failed = []
    for cell in tqdm(
        [cell for cell in missing if cell.place.env in PRESETS], desc="league", unit="cell"
    ):
        try:
            with locked(cell.unfinished(config)):
                if not cell.path(config).exists():  # by another process, meanwhile
                    if cell.place not in sites:
                        sites[cell.place] = cell.place.open(
                            config.markets, config.slates, config.device
                        )
                    play(cell, sites[cell.place], config)
        except FolderInUse as error:
            print(f"{error} The cell is left to that process.", file=sys.stderr)
        except Exception:
            traceback.print_exc()
            failed.append(cell.name)
    _tidy(config)
    return failed


def _tidy(config: Config) -> None:
    """Remove what cells that are done needed to go on."""
    for cell in cells(config):
        if cell.path(config).exists():
            shutil.rmtree(cell.unfinished(config), ignore_errors=True)
    with contextlib.suppress(OSError):  # others are at work there
        (config.work / "unfinished").rmdir()


def read_cells(work: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows and learning curves of every cell that was played.

    Raises:
        FileNotFoundError: If none was.
    """
    curves = sorted((work / "cells").glob("*.curve.parquet"))
    rows = sorted(set((work / "cells").glob("*.parquet")) - set(curves))
    if not rows:
        raise FileNotFoundError(
            f"{work / 'cells'} holds no cell: run python -m benchmarks.agents.league."
        )
    return pl.concat(map(pl.read_parquet, rows)), pl.concat(map(pl.read_parquet, curves))


def check_work(config: Config) -> None:
    """Remember what the cells in `config.work` have in common.

    Raises:
        ValueError: If they were played with other settings.
    """
    told = {name: value for name, value in config_as_json(config).items() if name in COMMON}
    markets = {place.env for place in PLACES.values() if place.oracles} & PRESETS.keys()
    told["markets"] = {
        env: f"{PRESETS[env].reward} {PRESETS[env].shopper_options}" for env in sorted(markets)
    }
    remember_settings(config.work, told)


def note(config: Config) -> str:
    """What the tables do not say."""
    fewer = ", ".join(f"{name} {factor:g}" for name, factor in config.factors.items())
    return (
        f"A run is a training seed and {config.episodes} fresh shoppers, the same for all contenders; brackets are "
        "95 % intervals for other training seeds and other shoppers in the same worlds. Policies with parameters had "
        f"{config.trials} trials each, on other shoppers; agents have the parameters that "
        f"`benchmarks.agents.tune_agents` found. Steps as a multiple of those of the environment: {fewer}."
    )


def main(config: Config) -> None:
    """Play what is missing, then report all there is. The exit status is 1 where a cell failed."""
    use_threads(config.threads)
    check_work(config)
    run = Run("league", config, results=config.results)
    failed = [] if config.report_only else play_missing(config)
    rows, curves = read_cells(config.work)
    report = analyse(rows, curves, MARKET, note(config))
    print(report.table)
    run.save(rows, **vars(report), curves=curves)
    if failed:
        sys.exit(f"{len(failed)} cells failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(tyro.cli(Config))
