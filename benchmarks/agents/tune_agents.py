"""Choose the agents' parameters: python -m benchmarks.agents.tune_agents

Every agent that is trained gets the same number of trials, a shorter training each, with shoppers
and a training seed that no report uses. The best setting and the defaults are then trained again
with further seeds, because the best of some noisy trials is partly luck. What wins there becomes
the defaults in `agents/`, which all benchmarks use.

Run again, it goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import tyro

from agents import AGENTS, Ground
from agents.evaluate import evaluate
from agents.keeper import Keeper
from benchmarks.agents.league import FACTORS
from benchmarks.agents.tune import defaults_of, trials_of
from benchmarks.lab.places import MARKET, PLACES, Place, Site
from benchmarks.lab.run import RESULTS, Run
from benchmarks.lab.settings import config_as_json, remember_settings
from benchmarks.lab.statistics import Estimate
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import THREADS, use_threads
from benchmarks.lab.world import TUNING_SEED, seeds
from recsim_env.files import locked, write_json

TUNING_RUN = 1_000
"""Training seed of the trials; those that follow it are the repetitions'. No report uses them."""


@dataclass(frozen=True)
class Config:
    """Choose the parameters of every agent that has some."""

    agents: tuple[str, ...] = tuple(name for name, spec in AGENTS.items() if spec.search())
    """Which agents."""
    place: str = Place(MARKET).name
    """Where in the league."""
    trials: int = 12
    """Settings tried for each agent, its defaults among them."""
    repetitions: int = 3
    """Further trainings of the defaults and of the best setting."""
    steps: int = 400_000
    """Shopper-steps of a training."""
    factors: dict[str, float] = field(default_factory=lambda: dict(FACTORS))
    """What an agent's steps are multiplied by; 1 where it is not named."""
    shoppers: int = 1024
    """Shoppers served at once in a training."""
    episodes: int = 512
    """Episodes that a training is judged by."""
    batch: int = 256
    """Shoppers at a time in an evaluation."""
    slates: int = 300_000
    """Logged slates, about."""
    seed: int = 0
    """Of the search."""
    device: str | None = None
    """cpu or cuda; None for the best there is."""
    threads: int = THREADS
    """CPU threads."""
    markets: Path = Path("runs/market")
    """Folder of logs and rankers; what is missing there is built."""
    work: Path = Path("runs/tune_agents")
    """Folder of the trials so far; delete it to start anew."""
    results: Path = RESULTS
    """Folder of the results."""


def trained_return(
    site: Site, config: Config, name: str, parameters: Mapping[str, float], run: int
) -> float:
    """Mean return, over shoppers of the run's own, of an agent trained with some parameters and the run's seed."""
    steps = round(config.steps * config.factors.get(name, 1.0))
    keeper = Keeper(config.work / "unfinished" / f"{name}.safetensors")
    ground = Ground(
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


def tuned_rows(site: Site, config: Config, name: str) -> list[dict[str, Any]]:
    """A row a training of one agent: its trials, then default and best setting again."""
    spec = AGENTS[name]
    default = defaults_of(spec.config(), spec.search())

    def row(
        what: str, number: int, value: float | None, parameters: Mapping[str, float]
    ) -> dict[str, Any]:
        told = json.dumps(dict(parameters))
        return {"agent": name, "what": what, "number": number, "return": value, "parameters": told}

    def trial_value(parameters: dict[str, float], number: int) -> float:
        return trained_return(site, config, name, parameters, TUNING_RUN)

    kept = config.work / f"{name}.trials.json"
    study = trials_of(kept, trial_value, spec.search(), [default], config.trials, config.seed, name)
    rows = [
        row("trial", trial.number, trial.value, trial.params)
        for trial in study.trials
        if trial.value is not None
    ]
    for what, parameters in (("default", default), ("best", study.best_params)):
        values = repetitions(site, config, name, parameters, config.work / f"{name}.{what}.json")
        rows += [row(what, number, value, parameters) for number, value in enumerate(values)]
    return rows


def repetitions(
    site: Site, config: Config, name: str, parameters: Mapping[str, float], path: Path
) -> list[float]:
    """Returns of one setting, trained again with further seeds; those of an interrupted run, kept in `path`, count."""
    told = dict(parameters)
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    values: list[float] = kept["values"] if kept.get("parameters") == told else []
    for number in range(len(values), config.repetitions):
        values.append(trained_return(site, config, name, parameters, TUNING_RUN + 1 + number))
        write_json(path, {"parameters": told, "values": values})
    return values[: config.repetitions]


def line(rows: pl.DataFrame, name: str) -> dict[str, Any]:
    """Of the table: one agent's defaults and its best setting, each trained again."""

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
    """Search, repeat, save every training as a row.

    Raises:
        RuntimeError: If another process tunes in the same folder.
    """
    with locked(config.work):
        _tune(config)


def _tune(config: Config) -> None:
    use_threads(config.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    same = ("place", "steps", "factors", "shoppers", "episodes", "slates", "seed")
    remember_settings(
        config.work, {key: value for key, value in config_as_json(config).items() if key in same}
    )
    run = Run("tune_agents", config, results=config.results)
    site = PLACES[config.place].open(config.markets, config.slates, config.device)
    rows = pl.DataFrame([row for name in config.agents for row in tuned_rows(site, config, name)])
    lines = [line(rows, name) for name in config.agents]
    summary = {
        f"{told['agent']}/{key}": Estimate(told[f"return, {key}"], n=config.repetitions)
        for told in lines
        for key in ("defaults", "best")
    }
    table = markdown(lines, digits=4)
    print(table)
    run.save(rows, summary=summary, table=table)


if __name__ == "__main__":
    main(tyro.cli(Config))
