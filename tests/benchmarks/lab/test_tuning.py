"""A search goes on where it was cut off, and a policy is tuned by what it earns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from agents.evaluate import evaluate
from agents.places import TUNING_SEED, seeds
from benchmarks.lab.tuning import (
    SPECIAL_CASES,
    Search,
    policy_search,
    search_here,
    starts,
    trials_of,
)
from policies import POLICIES
from policies.composer import Composer
from policies.gains import scale_knobs
from policies.parameters import Range
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator


def test_a_search_that_was_cut_off_tries_what_it_would_have_tried(tmp_path: Path) -> None:
    search = {"a": Range(0.0, 1.0), "b": Range(1, 9, integer=True)}

    class Killed(Exception):
        """Stands for a SIGKILL."""

    def played(
        path: Path, until: int = 99, trials: int = 14
    ) -> list[tuple[dict[str, float], float]]:
        def value(parameters: dict[str, float], number: int) -> float:
            if number == until:
                raise Killed
            calls.append(number)
            return -((parameters["a"] - 0.3) ** 2) - 0.1 * parameters["b"]

        study = trials_of(path, Search(value, search, [{"a": 0.5, "b": 2}], trials))
        return [(trial.params, trial.values[0]) for trial in study.trials]

    calls: list[int] = []
    unbroken = played(tmp_path / "unbroken.json")
    assert calls == list(range(14))
    assert unbroken[0][0] == {"a": 0.5, "b": 2}
    calls.clear()
    for until in (0, 3, 12, 13):
        with pytest.raises(Killed):
            played(tmp_path / "cut.json", until)
    assert played(tmp_path / "cut.json") == unbroken
    assert calls == list(range(14))  # each once
    assert played(tmp_path / "cut.json", trials=5) == unbroken[:5]
    search["a"] = Range(0.0, 2.0)
    with pytest.raises(ValueError, match=r"cut\.json holds the trials of another search"):
        played(tmp_path / "cut.json")


def test_a_trial_of_a_policy_is_worth_the_mean_return_of_its_episodes(tmp_path: Path) -> None:
    simulator, spec = toy_simulator(), POLICIES["mmr"]
    inputs, episodes = toy_inputs(simulator), seeds(TUNING_SEED, 6)
    path = tmp_path / "mmr.trials.json"
    study = trials_of(path, policy_search("mmr", inputs, simulator, [{"weight": 0.5}], 2, 6))
    first = json.loads(path.read_text())[0]
    assert first["parameters"] == {"weight": 0.5}
    played = evaluate(spec.build(inputs, {"weight": 0.5}), simulator, episodes).rows["return"]
    assert first["value"] == played.to_numpy().mean()
    assert len(study.trials) == 2


def test_a_search_starts_from_the_tuned_special_case_too() -> None:
    spec = POLICIES["constant_log_odds"]
    default, as_mmr = starts("constant_log_odds", spec, {"mmr": {"weight": 0.7}})
    assert set(default) == set(as_mmr) == set(spec.search())
    assert {name: knob for name, knob in as_mmr.items() if knob} == {"similarity": -0.7}
    assert len(starts("mmr", POLICIES["mmr"], {"mmr": {"weight": 0.7}})) == 1
    factors = starts("constant", POLICIES["constant"], {"reward_greedy": {"factor": math.e}})[1]
    assert {name: knob for name, knob in factors.items() if knob} == dict.fromkeys(
        scale_knobs(), 1.0
    )


@pytest.mark.parametrize("name", SPECIAL_CASES)
def test_the_special_case_is_the_same_policy(name: str) -> None:
    simulator = toy_simulator(items=60, slate_size=6)
    case, inputs = SPECIAL_CASES[name], toy_inputs(simulator)
    still = dict.fromkeys(POLICIES["constant"].search(), 0.0)
    best = {
        "mmr": {"weight": 1.3},
        "reward_greedy": {"factor": 3.0},
        "constant": {**still, "count": -0.7},
    }[case]
    started = starts(name, POLICIES[name], {case: best})[1]
    seen = simulator.reset(torch.arange(8))
    one, other = POLICIES[name].build(inputs, started), POLICIES[case].build(inputs, best)
    assert torch.equal(one(seen, torch.zeros(1, 0)), other(seen, torch.zeros(1, 0)))


def test_only_knobs_whose_cue_is_shown_are_searched() -> None:
    inputs, spec = toy_inputs(toy_simulator()), POLICIES["constant"]
    found = search_here(spec, inputs)
    assert set(found) == set(spec.search()) & set(Composer(inputs).knobs)
    assert found
