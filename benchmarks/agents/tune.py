"""Choose the re-rankers' parameters: python -m benchmarks.agents.tune

Every tuned policy gets the same number of trials on the same episodes, of training shoppers and of
seeds that no report uses. Run again, it goes on where it stopped. `benchmarks.agents.compare` reads
the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import tyro
from tqdm.auto import tqdm

from agents.evaluate import evaluate
from benchmarks.lab.run import RESULTS, Run
from benchmarks.lab.settings import config_as_json, remember_settings
from benchmarks.lab.statistics import Estimate
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.world import TUNING_SEED, World, seeds
from policies import POLICIES, PolicyInputs
from policies.base import PolicySpec, Range, value_of
from recsim_env import SlateSimulator
from recsim_env.files import locked, write_json

PARAMETERS = RESULTS / "tune" / "parameters.json"
"""Policy -> parameter -> value."""


@dataclass(frozen=True)
class Config:
    """Choose the parameters of every policy that has some."""

    world: World = field(default_factory=World)
    """Environment, populations and device to tune in."""
    policies: tuple[str, ...] = tuple(name for name, spec in POLICIES.items() if spec.search())
    """Which policies."""
    trials: int = 16
    """Settings tried for each policy, its defaults among them."""
    episodes: int = 128
    """Episodes of a trial."""
    batch: int = 128
    """Shoppers at a time."""
    seed: int = 0
    """Of the search."""
    work: Path = Path("runs/tune")
    """Folder of the trials so far; delete it to start anew."""
    output: Path = PARAMETERS
    """Where the parameters go."""


def suggest(trial: optuna.Trial, search: Mapping[str, Range]) -> dict[str, float]:
    """A setting of every tuned parameter, each from its range."""
    return {
        name: trial.suggest_int(name, int(allowed.low), int(allowed.high))
        if allowed.integer
        else trial.suggest_float(name, allowed.low, allowed.high, log=allowed.log)
        for name, allowed in search.items()
    }


def defaults_of(parameters: Any, search: Mapping[str, Range]) -> dict[str, float]:
    """What parameters have by themselves, for those that are searched."""
    return {name: value_of(parameters, name) for name in search}


def starts(
    name: str, spec: PolicySpec, best: dict[str, dict[str, float]]
) -> list[dict[str, float]]:
    """What is tried first: the defaults; for the constant re-ranker also the tuned MMR, which is a case of it."""
    first = [defaults_of(spec.parameters(), spec.search())]
    if name == "constant" and "mmr" in best:
        first.append(
            dict.fromkeys(spec.search(), 0.0)
            | {"similarity": max(-best["mmr"]["weight"], spec.search()["similarity"].low)}
        )
    return first


def search(
    config: Config,
    name: str,
    simulator: SlateSimulator,
    inputs: PolicyInputs,
    best: dict[str, dict[str, float]],
) -> optuna.Study:
    """The trials of one policy; `best` holds the policies tuned before."""
    spec = POLICIES[name]
    episodes = seeds(TUNING_SEED, config.episodes)

    def value(parameters: dict[str, float], number: int) -> float:
        rows = evaluate(
            spec.build(inputs, parameters), simulator, episodes, batch=config.batch
        ).rows
        return float(rows["return"].to_numpy().mean())

    path = config.work / f"{name}.trials.json"
    return trials_of(
        path, value, spec.search(), starts(name, spec, best), config.trials, config.seed, name
    )


def trials_of(
    path: Path,
    value: Callable[[dict[str, float], int], float],
    search: Mapping[str, Range],
    first: Sequence[Mapping[str, float]],
    trials: int,
    seed: int,
    title: str,
) -> optuna.Study:
    """So many trials with the settings `first` among them, kept in a JSON file one by one.

    What an interrupted search has kept is told to the sampler again in its order, so the trials
    that follow are those that would have followed.

    Args:
        value: of some parameters, in the trial of a number
        search: the range of every parameter

    Raises:
        ValueError: If the file holds the trials of another search.
    """
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for start in first:
        study.enqueue_trial(dict(start))
    kept: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    def played(trial: optuna.Trial) -> float:
        parameters = suggest(trial, search)
        if trial.number == len(kept):
            kept.append({"parameters": parameters, "value": value(parameters, trial.number)})
            write_json(path, kept)
        if kept[trial.number]["parameters"] != parameters:
            raise ValueError(
                f"{path} holds the trials of another search: delete it to search anew."
            )
        found: float = kept[trial.number]["value"]
        return found

    for _ in tqdm(range(trials), desc=f"tuning {title}", unit="trial"):
        study.optimize(played, n_trials=1)
    return study


def check_work(config: Config) -> None:
    """Remember what the trials in `config.work` belong to.

    Raises:
        ValueError: If they belong to another configuration.
    """
    told = {
        key: value
        for key, value in config_as_json(config).items()
        if key in ("world", "episodes", "seed")
    }
    remember_settings(config.work, told)


def main(config: Config) -> None:
    """Tune, save the parameters, and the trials as rows.

    Raises:
        RuntimeError: If another process tunes in the same folder.
    """
    config.world.check()
    with locked(config.work):
        _tune(config)


def _tune(config: Config) -> None:
    use_threads(config.world.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    simulator = config.world.simulator("train")
    inputs = config.world.inputs(simulator)
    check_work(config)
    run = Run("tune", config, results=config.output.parent.parent)
    best: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    for name in config.policies:
        study = search(config, name, simulator, inputs, best)
        best[name] = dict(study.best_params)
        rows += [
            {
                "policy": name,
                "trial": trial.number,
                "return": trial.value,
                "parameters": json.dumps(trial.params),
            }
            for trial in study.trials
            if trial.value is not None
        ]
    table = [
        {
            "policy": name,
            "parameters": ", ".join(f"{key} {value:.3g}" for key, value in parameters.items()),
            "return, default": next(row["return"] for row in rows if row["policy"] == name),
            "return, tuned": max(row["return"] for row in rows if row["policy"] == name),
        }
        for name, parameters in best.items()
    ]
    print(markdown(table, digits=4))
    summary = {
        f"{line['policy']}/return": Estimate(line["return, tuned"], n=config.episodes)
        for line in table
    }
    run.save(pl.DataFrame(rows), summary=summary, table=markdown(table, digits=4))
    write_json(config.output, best)


def read_parameters(path: Path = PARAMETERS) -> dict[str, dict[str, float]]:
    """The chosen parameters of every tuned policy.

    Raises:
        FileNotFoundError: If nothing was tuned yet.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, but re-rankers are compared tuned: run python -m benchmarks.agents.tune."
        )
    found: dict[str, dict[str, float]] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
