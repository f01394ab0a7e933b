"""Choose the agents' parameters.

    python -m benchmarks.agents.tune_agents
    python -m benchmarks.agents.tune_agents --env my_module:shop/Mine-v0 --agents ppo_composer

Every agent that is trained gets the same number of trials, a shorter training each, with shoppers
and a training seed that no report uses. The best setting and the defaults are then trained again
with further seeds, because the best of some noisy trials is partly luck. What wins there becomes
the defaults in `agents/`, which all benchmarks use.

Run again, it goes on where it stopped. `--ray` searches for agents at once on a cluster, and
`--searchers` has several workers make each search together.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.keeper import Keeper
from agents.places import TUNING_SEED, Site, seeds
from benchmarks.lab.command import run_command
from benchmarks.lab.league_cells import FACTORS
from benchmarks.lab.options import Crew, Markets, Results, Searchers, Served, Threads
from benchmarks.lab.places import MARKET, PLACES, Place
from benchmarks.lab.playable import playable
from benchmarks.lab.playing import Places, Task, check_cluster, end, play_cells
from benchmarks.lab.run import Report, Run
from benchmarks.lab.searching import Searches
from benchmarks.lab.settings import remember_settings, settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.tuning import PLACE, Parameters, Search, defaults_of
from benchmarks.lab.where import Elsewhere, There, fewer
from recsim_env.estimates import Estimate
from recsim_env.files import locked, read_object, write_json
from recsim_env.settings import POSITIVE, Within

TUNING_RUN = 1_000
"""Training seed of the trials, which those of the repetitions follow; no report uses them."""


SLOW: Mapping[str, int] = {"steps": 20_000, "shoppers": 32, "episodes": 64, "batch": 32}
"""Sizes where shoppers are served one by one, in place of those at their defaults."""
SAME = ("place", "elsewhere", "steps", "factors", "shoppers", "episodes", "slates", "seed")
"""Settings that all trials of a work folder share."""


@dataclass(frozen=True)
class Config(Served, Markets, Threads, Searchers, Results):
    """Choose the parameters of every agent that has some."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"factors": POSITIVE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"agents": AGENTS, "place": PLACES}

    agents: tuple[str, ...] = tuple(name for name, spec in AGENTS.items() if spec.search())
    """Names of the agents to tune. By default, all that have parameters."""
    place: str = Place(MARKET).name
    """Name of the league's place in which the agents are tuned."""
    elsewhere: There = field(default_factory=Elsewhere)
    """An environment to tune in instead of the place."""
    trials: int = 12
    """Number of settings tried for each agent, its defaults among them; the same for all to be
    fair."""
    repetitions: int = 3
    """Number of further trainings of the defaults and of the best setting, whose trial was partly
    luck."""
    steps: int = 400_000
    """Length of a training in shopper-steps. It is shorter than in the league, to save time."""
    factors: dict[str, float] = field(default_factory=lambda: dict(FACTORS))
    """Factor of each agent's steps, 1 where it is not named. The defaults are those of the
    league."""
    episodes: int = 512
    """Number of episodes that a training is judged by."""
    seed: int = 0
    """Seed of the search."""
    work: Path = Path("runs/tune_agents")
    """Folder of the trials so far, which are not made again; delete it to start anew."""


def trained_return(
    site: Site, config: Config, name: str, parameters: Mapping[str, float], run: int
) -> float:
    """Train an agent with some parameters; its mean return over shoppers of the run's own.

    The number of the run is the training seed.
    """
    steps = round(config.steps * config.factors.get(name, 1.0))
    told = zlib.crc32(json.dumps(dict(parameters)).encode())  # others may be trained at once
    keeper = Keeper(config.work / "unfinished" / f"{name}-run{run}-{told:08x}.safetensors")
    ground = TrainingSetup(
        site.training(), site.inputs, run, steps, config.shoppers, site.log, keeper=keeper
    )
    policy = AGENTS[name].learn(ground, parameters).policy
    episodes = seeds(TUNING_SEED + (run - TUNING_RUN) * config.episodes, config.episodes)
    found = (
        evaluate(policy, site.judging("train"), episodes, batch=config.batch)
        .rows["return"]
        .to_numpy()
    )
    keeper.forget()
    return float(found.mean())


@dataclass(frozen=True)
class Tuning(Searches):
    """The searches for the parameters of some agents, and what repeats their settings."""

    config: Config
    """How they are made."""

    def stages(self, site: Site) -> Iterator[list[Task]]:
        """Searches as cells, then repetitions; a stage is asked for when those before are made."""
        each = [self.tasks(name) for name in self.names]
        yield [task for several in zip(*each, strict=True) for task in several]
        yield [
            self.task(
                path.stem,
                partial(repetitions, config=self.config, name=name, parameters=told, path=path),
                partial(repeated, self.config, told, path),
            )
            for name in self.names
            for told, path in self.settings(name, site).values()
        ]

    def default(self, name: str) -> dict[str, float]:
        """The defaults of those parameters of an agent that are searched."""
        return defaults_of(AGENTS[name].config(), AGENTS[name].search())

    def search(self, name: str, site: Site) -> Search:
        """What is searched for, from the defaults on."""

        def value(parameters: Parameters, number: int) -> float:
            return trained_return(site, self.config, name, parameters, TUNING_RUN)

        first, seed = [self.default(name)], self.config.seed
        return Search(value, AGENTS[name].search(), first, self.trials, seed, name)

    def settings(self, name: str, site: Site) -> dict[str, tuple[dict[str, float], Path]]:
        """The settings of an agent that are repeated, with the files of their returns."""
        best = dict(self.study(name, site).best_params)
        return {
            what: (parameters, self.config.work / f"{name}.{what}.json")
            for what, parameters in (("default", self.default(name)), ("best", best))
        }

    def rows(self, name: str, site: Site) -> list[dict[str, Any]]:
        """A row for each trial of an agent, and for each repetition of default and best."""

        def row(
            what: str, number: int, value: float | None, parameters: Mapping[str, float]
        ) -> dict[str, Any]:
            told = {"agent": name, "what": what, "number": number, "return": value}
            return {**told, "parameters": json.dumps(dict(parameters))}

        rows = [
            row("trial", trial.number, trial.value, trial.params)
            for trial in self.study(name, site).trials
            if trial.value is not None
        ]
        for what, (parameters, path) in self.settings(name, site).items():
            values = repetitions(site, self.config, name, parameters, path)
            rows += [row(what, number, value, parameters) for number, value in enumerate(values)]
        return rows


def repeated(config: Config, parameters: Mapping[str, float], path: Path) -> bool:
    """Whether the returns of all repetitions of a setting are in a file."""
    return len(_returns(parameters, path)) >= config.repetitions


def _returns(parameters: Mapping[str, float], path: Path) -> list[float]:
    kept: dict[str, Any] = read_object(path) if path.exists() else {}
    return kept["values"] if kept.get("parameters") == dict(parameters) else []


def repetitions(
    site: Site, config: Config, name: str, parameters: Mapping[str, float], path: Path
) -> list[float]:
    """The returns of one setting with further seeds, kept in a file as they come.

    Those of an interrupted run count.
    """
    told, values = dict(parameters), _returns(parameters, path)
    for number in range(len(values), config.repetitions):
        values.append(trained_return(site, config, name, parameters, TUNING_RUN + 1 + number))
        write_json(path, {"parameters": told, "values": values})
    return values[: config.repetitions]


def line(rows: pl.DataFrame, name: str) -> dict[str, Any]:
    """Make the line of the table of one agent: its defaults and its best setting, trained again."""

    def returns(what: str) -> Any:
        own = rows.filter((pl.col("agent") == name) & (pl.col("what") == what)).sort("number")
        return own["return"].to_numpy(), json.loads(own["parameters"][0])

    (default, _), (best, parameters) = returns("default"), returns("best")
    gain = best - default
    return {
        "agent": name,
        "best of the trials": ", ".join(f"{key} {value:.3g}" for key, value in parameters.items()),
        "return, defaults": float(default.mean()),
        "return, best": float(best.mean()),
        "gain": float(gain.mean()),
        "standard error": float(gain.std(ddof=1) / len(gain) ** 0.5) if len(gain) > 1 else None,
    }


def main(config: Config) -> None:
    """Search, train the best settings again, and save every training as a row.

    Raises:
        ConnectionError: If the cluster cannot be reached.
        RuntimeError: If another process tunes in the same folder.
    """
    check_cluster(config.ray)
    config = settled(config)
    with locked(config.work):
        _tune(config)


def settled(config: Config) -> Config:
    """The configuration for the environment that is named, if one is, in a folder of its own.

    What is at its default is smaller where shoppers are served one by one.
    """
    where = config.elsewhere.where(config.device, config.threads)
    if where is None:
        return config
    where.check()
    changes: dict[str, Any] = {"work": config.work / where.name}
    if where.slow:
        changes |= fewer(config, SLOW)
    return replace(config, **changes)


def _tune(config: Config) -> None:
    use_threads(config.threads)
    remember_settings(config.work, settings_of(config, only=SAME))
    run = Run("tune_agents", config, results=config.results)
    where = config.elsewhere.where(config.device, config.threads)
    opening: Callable[[], Site]
    if where is None:
        place = PLACES[config.place]
        opening = partial(place.open, config.markets, config.slates, config.device)
    else:
        opening = where.open
    site = opening()
    names = playable(config.agents, site)
    if not names:
        raise ValueError(f"agents is {config.agents}, but none of them can learn in {site.env}.")
    told = (config.work, config.trials, config.searchers, tuple(names), opening)
    tuning, places = Tuning(*told, config), Places()
    places.get(PLACE, lambda: site)
    crew = Crew(ray=config.ray, threads=config.threads, device=config.device)
    for tasks in tuning.stages(site):
        end(play_cells(tasks, crew, "tune_agents", places))
    rows = pl.DataFrame([row for name in names for row in tuning.rows(name, site)])
    lines = [line(rows, name) for name in names]
    summary = {
        f"{told['agent']}/{key}": Estimate(told[f"return, {key}"], n=config.repetitions)
        for told in lines
        for key in ("defaults", "best")
    }
    run.publish(rows, Report(markdown(lines, digits=4), summary))


if __name__ == "__main__":
    run_command(main, Config)
