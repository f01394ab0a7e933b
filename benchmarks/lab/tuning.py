"""Search for parameters: trials that are kept one by one, so that an interrupted search goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from tqdm.auto import tqdm

from agents.evaluate import evaluate
from agents.places import TUNING_SEED, seeds
from benchmarks.lab.cells import alone
from benchmarks.lab.run import RESULTS
from benchmarks.lab.where import Where
from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.cues import BUDGET_KNOBS, WORTH_KNOBS, knobs
from policies.gains import scale_knobs
from policies.parameters import Range, value_of
from policies.registry import PolicySpec
from recsim_env.checks import mapping, number, told
from recsim_env.files import read_json, read_object, write_json
from recsim_env.simulator import SlateSimulator

PARAMETERS = RESULTS / "tune" / "parameters.json"
"""The file of the re-rankers' parameters: policy -> parameter -> value."""
TUNED = Path("runs/tune")
"""Folder of the parameters that were tuned here: one folder for each place."""
PLACE = "place"
"""Name of the entry of a file of parameters that says where they were tuned."""
Parameters = dict[str, float]


@dataclass(frozen=True)
class Search:
    """A search for the parameters of the highest value."""

    value: Callable[[Parameters, int], float]
    """Gives the value of some parameters in the trial of a number."""
    ranges: Mapping[str, Range]
    """The range of every parameter."""
    first: Sequence[Mapping[str, float]]
    """Settings that are tried first."""
    trials: int
    """The number of trials, with those that were kept."""
    seed: int = 0
    """The seed of the sampler."""
    title: str = ""
    """What is tuned, for the progress bar."""


def trials_of(path: Path, search: Search) -> optuna.Study:
    """Make a search, and keep every trial in a JSON file.

    What an interrupted search has kept is told to the sampler again in its order, so the trials
    that follow are those that would have followed. A process that finds another one at the same
    search waits for it, and then has its trials.

    Raises:
        ValueError: If the file holds the trials of another search.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=search.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for start in search.first:
        study.enqueue_trial(dict(start))
    with alone(path):
        _go_on(study, path, search)
    return study


def _go_on(study: optuna.Study, path: Path, search: Search) -> None:
    """Tell a study its trials that were kept, and make those that are missing."""
    kept: list[dict[str, Any]] = read_json(path) if path.exists() else []
    if not isinstance(kept, list):
        raise ValueError(f"{path} is {told(kept)}, but it must be a JSON list of trials.")

    def played(trial: optuna.Trial) -> float:
        """Return the value of a trial, which is played unless an earlier run kept it."""
        parameters = suggest(trial, search.ranges)
        if trial.number == len(kept):
            value = search.value(parameters, trial.number)
            kept.append({"parameters": parameters, "value": value})
            write_json(path, kept)
        if kept[trial.number]["parameters"] != parameters:
            raise ValueError(
                f"{path} holds the trials of another search: delete it to search anew."
            )
        found: float = kept[trial.number]["value"]
        return found

    for _ in tqdm(range(search.trials), desc=f"tuning {search.title}", unit="trial"):
        study.optimize(played, n_trials=1)


def policy_search(
    name: str,
    inputs: PolicyInputs,
    simulator: SlateSimulator,
    first: Sequence[Mapping[str, float]],
    trials: int,
    episodes: int,
    batch: int = 256,
    seed: int = 0,
    *,
    spec: PolicySpec | None = None,
) -> Search:
    """The search for the parameters with which a policy has the highest mean return.

    Args:
        name: The policy's name.
        inputs: What it is built from.
        simulator: The shoppers that it serves.
        first: Settings that are tried first; what has no effect here is left out.
        trials: The number of trials.
        episodes: The number of episodes of every trial, the same for all and for no report.
        batch: The number of shoppers served at a time.
        seed: The seed of the sampler.
        spec: How the policy is built; by default as registered.
    """
    spec = spec or POLICIES[name]
    who, ranges = seeds(TUNING_SEED, episodes), search_here(spec, inputs)

    def value(parameters: Parameters, number: int) -> float:
        rows = evaluate(spec.build(inputs, parameters), simulator, who, batch=batch).rows
        return float(rows["return"].to_numpy().mean())

    tried = [{key: one[key] for key in ranges} for one in first]
    return Search(value, ranges, tried, trials, seed, name)


def suggest(trial: optuna.Trial, search: Mapping[str, Range]) -> Parameters:
    """Have a trial choose every parameter from its range."""
    return {
        name: trial.suggest_int(name, int(allowed.low), int(allowed.high))
        if allowed.integer
        else trial.suggest_float(name, allowed.low, allowed.high, log=allowed.log)
        for name, allowed in search.items()
    }


def defaults_of(parameters: Any, search: Mapping[str, Range]) -> Parameters:
    """The default values of those parameters that are searched."""
    return {name: value_of(parameters, name) for name in search}


SPECIAL_CASES = {
    "constant": "reward_greedy",
    "constant_budget": "constant",
    "constant_log_odds": "mmr",
}
"""Policies of which another one is a special case: they are searched from the tuned case on, so
that they are never worse in a search."""


def starts(name: str, spec: PolicySpec, best: Mapping[str, Parameters]) -> list[Parameters]:
    """The settings to try first: the defaults, and the tuned special case where there is one.

    Args:
        name: The policy's name.
        spec: How the policy is built.
        best: The parameters of the policies that were tuned before.
    """
    search = spec.search()
    first = [defaults_of(spec.parameters(), search)]
    case = SPECIAL_CASES.get(name, "")
    if case not in best:
        return first
    if case == "mmr":
        knobs = {"similarity": -best[case]["weight"]}
    elif case == "constant":
        knobs = dict(best[case])
    else:
        knobs = dict.fromkeys(scale_knobs(), math.log(best[case]["factor"]))
    within = {
        knob: min(max(value, search[knob].low), search[knob].high) for knob, value in knobs.items()
    }
    return [*first, dict.fromkeys(search, 0.0) | within]


def search_here(spec: PolicySpec, inputs: PolicyInputs) -> dict[str, Range]:
    """The ranges of a policy's parameters that have an effect in an environment.

    Knobs of the composer have none where their cue is not shown, or their reward term not paid for.
    """
    if not spec.needs_ranker:
        return spec.search()
    here = Composer(inputs, ComposerConfig(budget=True)).knobs
    everywhere = {**knobs(), **BUDGET_KNOBS, **WORTH_KNOBS, **scale_knobs()}
    return {
        name: allowed
        for name, allowed in spec.search().items()
        if name in here or name not in everywhere
    }


def parameters_for(place: Where, told: Path | None, tuned: Path = TUNED) -> dict[str, Parameters]:
    """The parameters of policies for a place, and a line that says where they come from.

    They are those of the file that is told, else those that were tuned in this place, else, in the
    environment of the reported results, those of these. There are none for other places: parameters
    of another place are used only where their file is told, and a line says so.

    Args:
        place: The place.
        told: The file; None means that none is told.
        tuned: The folder of the parameters that were tuned here.

    Raises:
        FileNotFoundError: If the file that is told is missing.
        ValueError: If the file is cut off, or holds something else.
    """
    own = tuned / place.name / PARAMETERS.name
    path = told or (own if own.is_file() else None)
    if path is None and place.about == Where().about:
        path = PARAMETERS
    if path is None:
        return {}
    print(f"Parameters of policies: {path}")
    where, found = read_parameters(path)
    if where != place.about:
        print(
            f"{path} was tuned in {where['env']} with other options than these: its parameters are "
            "used because --parameters names them."
        )
    return found


def read_parameters(path: Path = PARAMETERS) -> tuple[dict[str, Any], dict[str, Parameters]]:
    """Read the parameters that `benchmarks.agents.tune` chose for every policy.

    Returns:
        Where they were tuned, as `Where.about`, and the parameters. A file that does not say where
        is one of the reported results.

    Raises:
        FileNotFoundError: If nothing was tuned yet.
        ValueError: If the file is cut off, or holds something else.
        TypeError: If the parameters of a policy are no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, but re-rankers are compared with its parameters: "
            "run python -m benchmarks.agents.tune."
        )
    found: dict[str, Any] = read_object(path)
    place = dict(mapping(f"{path}: {PLACE}", found.pop(PLACE, Where().about)))
    place = {**dict.fromkeys(Where().about), "env": "an unknown place", **place}
    for policy, parameters in found.items():
        for name, value in mapping(f"{path}: {policy}", parameters).items():
            number(f"{path}: {policy}.{name}", value)
    return place, found


def untuned(names: Sequence[str], parameters: Mapping[str, Parameters]) -> list[str]:
    """Those of some policies that have parameters to tune and play with their defaults."""
    return [name for name in names if POLICIES[name].search() and name not in parameters]
