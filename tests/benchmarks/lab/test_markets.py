"""A market's log is served by those of its mixture to shoppers of its own, and built once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import polars as pl
import pytest
import torch

from agents.places import exploring
from agents.places.exploring import (
    HELD_OUT_SEED,
    LOG_SEED,
    PER_CATEGORY,
    ROUNDS,
    play_log,
    policy_inputs,
)
from agents.places.mixture import (
    BROAD,
    GROUP,
    KNOBS,
    TEMPERATURES,
    TRIED,
    rerankers,
    servers,
    tried,
)
from benchmarks.lab import markets
from benchmarks.lab.markets import MarketWorld
from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.heuristics import Uniform
from policies.log_servers import NoisyComposerPolicy, RandomKnobsPolicy
from policies.rankers.two_tower import TwoTowerRanker
from policies.rankers.two_tower_fit import fit_two_tower
from recsim_env.logs.record import record
from recsim_env.logs.schema import read_impressions
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import PRESETS, EnvConfig, add_preset
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import MarketConfig
from recsim_env.simulator import SlateSimulator
from tests.support.policy_toys import made_up_ranker

ID = "toys/TinyMarket-v0"
CONFIG = MarketConfig(items=24, categories=4, width=3, favourites=2, base=-1.0)
WORLD = MarketWorld(ID, slates=600)
NO_DRAWS = torch.zeros(1, 0)


def register(config: MarketConfig) -> None:
    options = {"config": config}
    gymnasium.registry.pop(ID, None)
    add_preset(
        ID,
        EnvConfig(
            make_market, {"clicks": 1.0}, slate_size=4, horizon_days=6, shopper_options=options
        ),
    )


@pytest.fixture(autouse=True)
def tiny_market() -> Iterator[None]:
    register(CONFIG)
    yield
    PRESETS.pop(ID, None)
    gymnasium.registry.pop(ID, None)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `WORLD` built in it."""
    register(CONFIG)
    folder = tmp_path_factory.mktemp("market")
    WORLD.open(folder, "cpu")
    return folder


def tables(work: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    folder = work / WORLD.name
    return read_impressions(folder / "impressions.parquet", CONFIG.items), pl.read_parquet(
        folder / "declared.parquet"
    )


def made_up_inputs(simulator: SlateSimulator, log: Sessions | None = None) -> PolicyInputs:
    ranker = made_up_ranker(len(simulator.catalog))
    return dataclasses.replace(policy_inputs(simulator, None, log), ranker=ranker)


def made_up_composer(simulator: SlateSimulator) -> Composer:
    return Composer(made_up_inputs(simulator), ComposerConfig(offset_dims=0))


# --- the log ---


def test_everyone_of_the_mixture_serves(work: Path) -> None:
    names = {
        "uniform",
        "greedy",
        *(f"softmax {t}" for t in TEMPERATURES),
        *(f"knobs {n}" for n in range(12)),
    }
    impressions, _ = tables(work)
    for number in range(len(ROUNDS)):
        first = LOG_SEED + number * 1_000_000
        served = impressions.filter(pl.col("shopper").is_between(first, first + 999_999))
        assert set(served["policy"]) == ({"uniform"} if number == 0 else names)
    per_shopper = impressions.group_by("shopper").agg(pl.col("policy").n_unique())
    assert per_shopper["policy"].max() == 1  # an episode is served by one policy


def test_every_logged_shopper_is_there_once_and_belongs_to_the_log(work: Path) -> None:
    impressions, declared = tables(work)
    assert declared["shopper"].is_unique().all()
    assert set(declared["shopper"]) == set(impressions["shopper"])
    assert impressions["visit"].is_unique().all()
    assert impressions["shopper"].is_between(LOG_SEED, HELD_OUT_SEED - 1).all()
    days = impressions.group_by("shopper").agg(pl.col("day").sort(), pl.len())
    assert all(
        row["day"] == list(range(row["len"])) for row in days.iter_rows(named=True)
    )  # whole episodes


def test_as_much_is_logged_as_was_asked_for() -> None:
    """Each policy serves its share at least, and less than 16 episodes of 6 visits more."""
    world = dataclasses.replace(WORLD, mixture="greedy")
    impressions, _ = play_log(world.simulator("cpu"), world.plan)
    for number, share in enumerate(ROUNDS):
        first = LOG_SEED + number * 1_000_000
        logged = impressions["shopper"].is_between(first, first + 999_999).sum()
        assert share * 600 <= logged < share * 600 + 16 * 6
    assert set(impressions.filter(pl.col("shopper") < LOG_SEED + 1_000_000)["policy"]) == {
        "uniform"
    }
    assert set(impressions.filter(pl.col("shopper") >= LOG_SEED + 1_000_000)["policy"]) == {
        "greedy"
    }


def test_a_uniform_log_has_one_round() -> None:
    world = dataclasses.replace(WORLD, mixture="uniform", slates=100)
    impressions, _ = play_log(world.simulator("cpu"), world.plan)
    assert set(impressions["policy"]) == {"uniform"}
    assert impressions["shopper"].max() < LOG_SEED + 1_000_000  # type: ignore[operator]


def test_the_log_is_what_the_simulator_says_under_the_shoppers_seeds(work: Path) -> None:
    impressions, _ = tables(work)
    simulator = WORLD.simulator("cpu")
    sessions = Sessions.of(*tables(work))
    numbers = torch.tensor(impressions["shopper"].unique().sort().to_list())
    assert torch.equal(sessions.declared, simulator.reset(numbers)["declared"])
    first_round = numbers[numbers < LOG_SEED + 1_000_000]
    again, _ = record(simulator, Uniform(24, 24, 4), first_round)
    logged = impressions.filter(pl.col("shopper") < LOG_SEED + 1_000_000)
    assert again["slate"].to_list() == logged["slate"].to_list()
    assert again["purchase"].to_list() == logged["click"].to_list()
    assert again["gap"].to_list() == logged["gap"].to_list()


def test_what_is_popular_is_counted_in_the_log(work: Path) -> None:
    site = WORLD.open(work, "cpu")
    slates = site.logged.slates[site.logged.real].flatten().tolist()
    clicks = site.logged.clicks[site.logged.real].flatten().tolist()
    rate = sum(clicks) / len(clicks)
    popularity = site.inputs.popularity
    assert popularity is not None
    for item in (0, 11, 23):
        shown = slates.count(item)
        clicked = sum(click for at, click in zip(slates, clicks, strict=True) if at == item)
        assert popularity[item].item() == pytest.approx(
            (clicked + 100 * rate) / (shown + 100), rel=1e-5
        )
    assert site.inputs.per_category == PER_CATEGORY
    assert site.inputs_for(WORLD.simulator("cpu")).ranker is site.inputs.ranker


# --- built once ---


def test_what_was_built_is_used_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (work / WORLD.name).iterdir()}

    def never(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(exploring, "play_log", never)
    monkeypatch.setattr(markets, "fit_ranker", never)
    one, other = WORLD.open(work, "cpu"), WORLD.open(work, "cpu")
    assert {path.name: path.stat().st_mtime_ns for path in (work / WORLD.name).iterdir()} == before
    assert torch.equal(one.logged.slates, other.logged.slates)
    seen = one.simulator().reset(torch.arange(3))
    rankers = [site.inputs.need_ranker("greedy_ctr") for site in (one, other)]
    assert torch.equal(*(ranker.logits(seen) for ranker in rankers))


def test_the_ranker_on_disk_is_the_one_that_the_whole_log_gives(work: Path) -> None:
    site = WORLD.open(work, "cpu")
    fitted = fit_two_tower(site.logged, site.inputs.catalog, 4)
    seen = site.simulator().reset(torch.arange(3))
    assert isinstance(site.inputs.ranker, TwoTowerRanker)
    assert torch.equal(site.inputs.ranker.logits(seen), fitted.logits(seen))


def test_the_same_world_writes_the_same_log(work: Path) -> None:
    impressions, declared = play_log(WORLD.simulator("cpu"), WORLD.plan)
    logged, said = tables(work)
    assert impressions.select(logged.columns).equals(logged)
    assert declared is not None
    assert declared.equals(said)


def test_a_folder_of_another_market_is_refused(work: Path) -> None:
    register(dataclasses.replace(CONFIG, fatigue=0.1))
    path = work / WORLD.name / "market.json"
    with pytest.raises(
        ValueError, match="was built with other settings of the market: delete the folder"
    ) as caught:
        WORLD.open(work, "cpu")
    assert str(caught.value).startswith(str(path))
    assert json.loads(path.read_text())["config"]["fatigue"] == str(CONFIG.fatigue)


def test_worlds_that_differ_have_folders_of_their_own() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"world": 1},
        {"slates": 7},
        {"mixture": "greedy"},
        {"alike": True},
    ]
    changes.append({"env": "toys/Other-v0"})
    names = {dataclasses.replace(WORLD, **change).name for change in changes}
    assert len(names) == len(changes)


# --- who serves ---


def test_the_shares_of_a_mixture_are_everything(work: Path) -> None:
    simulator = WORLD.simulator("cpu")
    inputs = made_up_inputs(simulator, Sessions.of(*tables(work)))
    exploring = 2 + len(TEMPERATURES) + 12
    broad = 3 + len(TEMPERATURES) + 15 + 15 + 1
    for mixture, many in (
        ("exploring", exploring),
        ("broad", broad),
        ("greedy", 1),
        ("uniform", 1),
    ):
        found = servers(simulator, inputs, mixture, 60 * GROUP, seed=1)  # type: ignore[arg-type]
        assert len(found) == many
        assert sum(share for _, _, share in found) == pytest.approx(1.0)
        assert len({name for name, _, _ in found}) == many


def test_knobs_lie_in_their_ranges_and_come_from_the_seed() -> None:
    simulator = WORLD.simulator("cpu")
    inputs, drawn = made_up_inputs(simulator), []
    for seed in (1, 1, 2):
        found = servers(simulator, inputs, "exploring", 600, seed)
        policies = [policy for name, policy, _ in found if name.startswith("knobs")]
        assert all(isinstance(policy, NoisyComposerPolicy) for policy in policies)
        drawn.append(torch.stack([policy._intent for policy in policies]))  # type: ignore[attr-defined]
    composer = made_up_composer(simulator)
    for name, (low, high) in KNOBS.items():
        at = composer.knobs.index(name)
        values = drawn[0][:, at] * composer.units[at]
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6
        assert values.std() > 0.1 * (high - low)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_in_a_broad_log_each_knob_is_off_half_of_the_time() -> None:
    composer = made_up_composer(WORLD.simulator("cpu"))
    served = [policy for _, policy, _ in rerankers(composer, 400, 1.0, 1, BROAD, 0.5)]
    of_episodes = torch.stack([policy._intent for policy in served])  # type: ignore[attr-defined]
    for name, (low, high) in BROAD.items():
        values = (
            of_episodes[:, composer.knobs.index(name)] * composer.units[composer.knobs.index(name)]
        )
        assert (values == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6


def test_policies_that_are_tried_have_parameters_from_their_ranges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = made_up_composer(WORLD.simulator("cpu"))._inputs
    built: dict[str, list[dict[str, float]]] = {name: [] for name in TRIED}
    for name in TRIED:
        spec = POLICIES[name]

        def build(inputs: object, parameters: dict[str, float], *, of: str = name) -> object:
            built[of].append(parameters)
            return of

        monkeypatch.setitem(POLICIES, name, SimpleNamespace(build=build, search=spec.search))
    names = [name for name, _, _ in tried(inputs, 60, 1.0, seed=1)]
    assert len(set(names)) == 60
    for name, found in built.items():
        assert len(found) == 60 / len(TRIED)
        for key, span in POLICIES[name].search().items():
            values = [parameters[key] for parameters in found]
            assert min(values) >= span.low
            assert max(values) <= span.high
            assert max(values) - min(values) > 0.6 * (span.high - span.low)
            assert all(isinstance(value, int) for value in values) == span.integer


def test_a_restless_policy_draws_its_knobs_at_every_visit() -> None:
    simulator = WORLD.simulator("cpu")
    composer = made_up_composer(simulator)
    restless, seen = (
        RandomKnobsPolicy(composer, BROAD, TEMPERATURES[-1]),
        simulator.reset(torch.arange(3)),
    )
    knobs = len(composer.intent({}))
    quiet = torch.full((3, restless.draws), 0.25)  # every knob is off
    quiet[:, -1] = 0.0  # and no noise
    assert torch.equal(
        restless(seen, quiet), POLICIES["greedy_ctr"].build(composer._inputs)(seen, NO_DRAWS)
    )
    pushed = quiet.clone()
    pushed[:, -1 - knobs : -1] = 0.5  # every knob at the low end of its range
    lowest = composer.intent({name: low for name, (low, _) in BROAD.items()})
    assert torch.equal(
        restless(seen, pushed), composer.compose_view(composer.view(seen), lowest.expand(3, -1))
    )


def test_without_noise_and_knobs_the_logging_policy_is_greedy() -> None:
    simulator = WORLD.simulator("cpu")
    composer = made_up_composer(simulator)
    seen = simulator.reset(torch.arange(5))
    logging = NoisyComposerPolicy(composer, {}, 0.0)
    greedy = POLICIES["greedy_ctr"].build(composer._inputs)(seen, NO_DRAWS)
    for edge in (0.0, 0.5, 1 - 2**-24):
        assert torch.equal(logging(seen, torch.full((5, logging.draws), edge)), greedy)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_first_item_of_a_noisy_slate_is_a_softmax_sample(temperature: float) -> None:
    simulator = WORLD.simulator("cpu")
    composer = made_up_composer(simulator)
    logging = NoisyComposerPolicy(composer, {}, temperature)
    batch = 4000
    seen = {
        name: value.expand(batch, *value.shape[1:])
        for name, value in simulator.reset(torch.tensor([3])).items()
    }
    draws = torch.rand(batch, logging.draws, generator=torch.Generator().manual_seed(0))
    slates = logging(seen, draws)
    assert (slates.sort(dim=1).values.diff(dim=1) > 0).all()  # distinct items
    pool = composer.view({name: value[:1] for name, value in seen.items()}).pool
    chance = torch.softmax(pool.logits[0] / temperature, dim=0)
    for item, expected in zip(pool.items[0].tolist()[:5], chance.tolist()[:5], strict=True):
        found = (slates[:, 0] == item).float().mean().item()
        assert found == pytest.approx(
            expected, abs=4 * math.sqrt(expected * (1 - expected) / batch)
        )
