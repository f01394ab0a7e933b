"""Choose the re-rankers' parameters: python -m benchmarks.tune

Every tuned policy gets the same number of trials on the same episodes, of training shoppers and of seeds that no
report uses. Run again, it goes on where it stopped. `benchmarks.compare` reads the parameters.
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
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tqdm.auto import tqdm

from agents.evaluate import evaluate
from benchmarks.report import RESULTS, Run, config_as_json, markdown, remember_settings, write_text
from benchmarks.statistics import Estimate
from benchmarks.threads import use_threads
from benchmarks.world import TUNING_SEED, World, seeds
from policies import POLICIES, PolicyInputs
from policies.base import PolicySpec, Range, value_of
from recsim_env import SlateSimulator

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


def starts(name: str, spec: PolicySpec, best: dict[str, dict[str, float]]) -> list[dict[str, float]]:
    """What is tried first: the defaults; for the constant re-ranker also the tuned MMR, which is a case of it."""
    first = [defaults_of(spec.parameters(), spec.search())]
    if name == "constant" and "mmr" in best:
        first.append(
            dict.fromkeys(spec.search(), 0.0)
            | {"similarity": max(-best["mmr"]["weight"], spec.search()["similarity"].low)}
        )
    return first


def search(
    config: Config, name: str, simulator: SlateSimulator, inputs: PolicyInputs, best: dict[str, dict[str, float]]
) -> optuna.Study:
    """The trials of one policy; `best` holds the policies tuned before."""
    spec = POLICIES[name]
    episodes = seeds(TUNING_SEED, config.episodes)

    def value(trial: optuna.Trial) -> float:
        rows = evaluate(spec.build(inputs, suggest(trial, spec.search())), simulator, episodes, batch=config.batch).rows
        return float(rows["return"].to_numpy().mean())

    return trials_of(name, value, starts(name, spec, best), config.trials, config.work, config.seed)


def trials_of(
    name: str,
    value: Callable[[optuna.Trial], float],
    first: Sequence[Mapping[str, float]],
    number: int,
    work: Path,
    seed: int,
) -> optuna.Study:
    """So many trials with the settings `first` among them; those of an interrupted run, kept in `work`, count."""
    study = optuna.create_study(
        study_name=name,
        direction="maximize",
        storage=JournalStorage(JournalFileBackend(str(work / "trials.log"))),
        sampler=optuna.samplers.TPESampler(seed=seed),
        load_if_exists=True,
    )
    for start in first if not study.trials else ():
        study.enqueue_trial(dict(start))
    done = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
    for _ in tqdm(range(done, number), initial=done, total=number, desc=f"tuning {name}", unit="trial"):
        study.optimize(value, n_trials=1)
    return study


def check_work(config: Config) -> None:
    """Remember what the trials in `config.work` belong to.

    Errors: ValueError where they belong to another configuration.
    """
    told = {key: value for key, value in config_as_json(config).items() if key in ("world", "episodes", "seed")}
    remember_settings(config.work, told)


def main(config: Config) -> None:
    """Tune, save the parameters, and the trials as rows."""
    config.world.check()
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
            {"policy": name, "trial": trial.number, "return": trial.value, "parameters": json.dumps(trial.params)}
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
    summary = {f"{line['policy']}/return": Estimate(line["return, tuned"], n=config.episodes) for line in table}
    run.save(pl.DataFrame(rows), summary=summary, table=markdown(table, digits=4))
    write_text(config.output, json.dumps(best, indent=1) + "\n")


def read_parameters(path: Path = PARAMETERS) -> dict[str, dict[str, float]]:
    """The chosen parameters of every tuned policy.

    Errors: FileNotFoundError where nothing was tuned yet.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but re-rankers are compared tuned: run python -m benchmarks.tune.")
    found: dict[str, dict[str, float]] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
