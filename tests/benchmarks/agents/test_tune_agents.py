"""Agents are tuned with equal trials, and an interrupted search goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from agents import AGENTS
from agents.places import Site
from benchmarks.agents import tune_agents
from benchmarks.agents.tune_agents import TUNING_RUN, Config, trained_return
from benchmarks.lab.places import PLACES, Place
from benchmarks.lab.run import read_rows, read_summary
from policies import POLICIES
from policies.parameters import Range, ranges, tunable, value_of, with_parameters
from tests.benchmarks.agents.test_league import TOY, open_toy
from tests.support.places import only
from tests.support.toys import registered_toys


@dataclass(frozen=True)
class Inner:
    rate: float = tunable(0.1, 0.01, 1.0, log=True)
    fixed: int = 3


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=lambda: Inner(rate=0.5))
    width: int = tunable(2, 1, 8, integer=True)
    name: str = "outer"


def test_a_parameter_inside_is_named_by_its_path() -> None:
    assert ranges(Outer()) == {
        "inner.rate": Range(0.01, 1.0, log=True),
        "width": Range(1, 8, integer=True),
    }
    assert [value_of(Outer(), name) for name in ranges(Outer())] == [0.5, 2]
    assert with_parameters(Outer(), {"inner.rate": 0.2, "width": 4}) == Outer(Inner(0.2), 4)
    assert with_parameters(Outer(), {}) == Outer()


@pytest.mark.parametrize("name", ["surprise", "inner.surprise", "surprise.rate"])
def test_an_unknown_parameter_is_an_error(name: str) -> None:
    with pytest.raises(TypeError):
        with_parameters(Outer(), {name: 1.0})


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Config]:
    """Two quick agents, tuned where toy shoppers come."""
    place = Place(TOY, 0, False, open_toy, oracles=False, log=False)
    only(monkeypatch, place)
    config = Config(
        agents=("linucb", "thompson"),
        place=place.name,
        trials=3,
        repetitions=2,
        steps=160,
        factors={"linucb": 2.0},
        shoppers=8,
        episodes=6,
        device="cpu",
        threads=1,
        work=tmp_path / "work",
        results=tmp_path / "results",
    )
    with registered_toys(TOY):
        yield config


def test_equal_trials_then_default_and_best_again_with_fresh_seeds(
    toy: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, str, int]] = []

    def remembered(
        site: Site, config: Config, name: str, parameters: Mapping[str, float], run: int
    ) -> float:
        trained.append((name, json.dumps(dict(parameters)), run))
        return trained_return(site, config, name, parameters, run)

    monkeypatch.setattr(tune_agents, "trained_return", remembered)
    tune_agents.main(toy)
    rows = read_rows("tune_agents", results=toy.results)
    for name in toy.agents:
        own = rows.filter(pl.col("agent") == name)
        assert own["what"].to_list() == ["trial"] * 3 + ["default"] * 2 + ["best"] * 2
        default = {key: value_of(AGENTS[name].config(), key) for key in AGENTS[name].search()}
        assert json.loads(own["parameters"][0]) == default == json.loads(own["parameters"][3])
        best = own.filter(pl.col("what") == "trial").sort("return", descending=True)["parameters"][
            0
        ]
        assert own["parameters"].to_list()[5:] == [best] * 2
        runs = [run for agent, _, run in trained if agent == name]
        assert runs == [TUNING_RUN] * 3 + [TUNING_RUN + 1, TUNING_RUN + 2] * 2
        mean = own.filter(pl.col("what") == "best")["return"].to_numpy().mean()
        assert read_summary("tune_agents", results=toy.results)[
            f"{name}/best"
        ].value == pytest.approx(mean)


def test_an_interrupted_search_goes_on_and_other_settings_are_refused(
    toy: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune_agents.main(dataclasses.replace(toy, trials=2))
    before = read_rows("tune_agents", results=toy.results)
    calls: list[int] = []

    def counted(*arguments: object) -> float:
        calls.append(1)
        return -1.0  # worse than any: the best stays what it was

    monkeypatch.setattr(tune_agents, "trained_return", counted)
    tune_agents.main(toy)
    after = read_rows("tune_agents", results=toy.results)
    assert len(calls) == len(toy.agents)
    kept = after.filter(~((pl.col("what") == "trial") & (pl.col("number") == 2)))
    assert kept.equals(before)
    with pytest.raises(ValueError, match="steps"):
        tune_agents.main(dataclasses.replace(toy, steps=320))


def test_the_place_is_one_of_the_league() -> None:
    assert Config().place in PLACES
    assert set(Config().agents) == {name for name, spec in AGENTS.items() if spec.search()}
    assert not set(Config().agents) & POLICIES.keys()
