"""A place has its log and its ranker: made once, and made anew where something changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import polars as pl
import pytest
import torch

import recsim_env
from agents.places import Site, exploring, open_place, opening
from agents.places.exploring import Exploration, play_log, read_tables, write_tables
from agents.places.opening import find_place, registered
from policies.rankers.ctr import CTRRanker
from policies.rankers.files import kind_of, save_ranker
from policies.rankers.recent import RecentCounters, RecentRanker
from policies.rankers.two_tower import SHOPPER_KEYS, TwoTowerRanker
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.registration import PRESETS, EnvConfig, add_preset, make_simulator
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import MarketConfig, MarketShopper
from tests.support.policy_toys import TOY_FACTS
from tests.support.toys import ToyShopper, make_toy_shopper, registered_toys

ID, TOY = "tests/PlaceMarket-v0", "tests/PlaceToy-v0"
CONFIG = MarketConfig(items=24, categories=4, width=3, favourites=2, base=-1.0)


def register(config: MarketConfig = CONFIG, id: str = ID) -> None:
    gymnasium.registry.pop(id, None)
    options = {"config": config}
    reward = {"clicks": 1.0}
    add_preset(
        id, EnvConfig(make_market, reward, slate_size=4, horizon_days=6, shopper_options=options)
    )


@pytest.fixture(autouse=True)
def market() -> Iterator[None]:
    register()
    yield
    PRESETS.pop(ID, None)
    gymnasium.registry.pop(ID, None)


def opened(folder: Path, env: str = ID, **options: Any) -> Site:
    """A place with a small log of uniform slates, which is quick."""
    told: dict[str, Any] = {"slates": 200, "mixture": "uniform", **options}
    return open_place(env, cache=folder, device="cpu", progress=False, **told)


def test_a_place_has_a_log_a_ranker_and_what_policies_need(tmp_path: Path) -> None:
    site = opened(tmp_path, slates=400, mixture="exploring")
    assert 400 <= site.logged.n_slates < 700
    assert isinstance(site.inputs.ranker, TwoTowerRanker)
    assert site.inputs.popularity is not None
    assert site.inputs.per_category == exploring.PER_CATEGORY
    assert site.logged.declared.shape[1] == 3
    assert site.reward == {"clicks": 1.0}
    (folder,) = tmp_path.iterdir()
    assert {"place.json", "impressions.parquet", "ranker.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "unfinished").exists()


def test_options_reward_and_sizes_reach_every_simulator(tmp_path: Path) -> None:
    site = opened(
        tmp_path, options={"alike": True}, reward={"clicks": 2.0}, slate_size=3, horizon_days=4.0
    )
    for simulator in (site.simulator(), site.training(), site.judging("train")):
        assert simulator.slate_size == 3
        assert simulator.horizon_days == 4
        assert simulator.reward.weights["clicks"] == 2.0
        assert isinstance(simulator.shopper, MarketShopper)
        assert simulator.shopper.config == CONFIG.alike()
    assert site.training().reward.weights == {"clicks": 2.0}
    assert site.inputs.slate_size == 3


def test_what_was_made_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = opened(tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(exploring, "play_log", never)
    monkeypatch.setattr(opening, "fit_ranker", never)
    other = opened(tmp_path)
    assert torch.equal(one.logged.slates, other.logged.slates)
    seen = one.simulator().reset(torch.arange(3))
    logits = [site.inputs.need_ranker("x").logits(seen) for site in (one, other)]
    assert torch.equal(*logits)
    opened(tmp_path, reward={"clicks": 3.0})  # a log does not depend on the reward


@pytest.mark.parametrize(
    "change",
    [{"slate_size": 3}, {"horizon_days": 5.0}, {"options": {"world": 1}}, {"mixture": "greedy"}],
)
def test_another_place_has_another_folder(tmp_path: Path, change: dict[str, Any]) -> None:
    opened(tmp_path)
    opened(tmp_path, **change)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_whose_shoppers_changed_has_another_folder(tmp_path: Path) -> None:
    opened(tmp_path)
    register(dataclasses.replace(CONFIG, fatigue=0.1))
    opened(tmp_path)
    folders = sorted(tmp_path.iterdir())
    told = [json.loads((folder / "place.json").read_text()) for folder in folders]
    assert len(told) == 2
    assert [name for name in told[0] if told[0][name] != told[1][name]] == ["shopper"]


def test_a_log_that_was_interrupted_goes_on_and_comes_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Exploration(120, fewest=1)
    simulator = find_place(ID, device="cpu").simulator
    whole, said = play_log(simulator, plan)
    real, rounds = exploring.play_round, []

    def break_off(*arguments: Any) -> Any:
        rounds.append(arguments[4])
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(exploring, "play_round", break_off)
    with pytest.raises(KeyboardInterrupt):
        play_log(simulator, plan, tmp_path)
    again, said_again = play_log(simulator, plan, tmp_path)
    assert len(rounds) == 4  # the third round alone is played once more
    assert again.select(whole.columns).equals(whole)
    assert said is not None
    assert said_again is not None
    assert said_again.equals(said)


def test_shoppers_who_tell_nothing_are_ranked_by_their_last_slates(tmp_path: Path) -> None:
    def make(device: torch.device, slate_size: int) -> ToyShopper:
        shopper = make_toy_shopper(device, slate_size)
        shopper.facts = TOY_FACTS
        return shopper

    with registered_toys(TOY):
        PRESETS[TOY] = dataclasses.replace(PRESETS[TOY], shopper=make, horizon_days=60)
        site = opened(tmp_path, TOY)
        assert isinstance(site.inputs.ranker, RecentRanker)
        simulator = site.simulator()
        logits = site.inputs.ranker.logits(simulator.reset(torch.arange(4)))
        assert logits.shape == (4, simulator.shopper.max_candidates)
        (folder,) = tmp_path.iterdir()
        assert kind_of(folder / "ranker.safetensors") == "two_tower"


def test_the_counters_of_recent_slates_are_those_of_the_profile_while_they_reach_back(
    tmp_path: Path,
) -> None:
    """Up to the tenth visit nothing is forgotten, so both ways agree."""
    site = opened(tmp_path)
    catalog = site.inputs.catalog
    counters = RecentCounters(catalog, 4)
    moments = list(replay(site.logged, catalog))
    assert len(moments) > 3
    for moment in moments:
        found = counters(
            {name: moment.observation[name] for name in ("recent_slates", "recent_clicks")}
        )
        for name in SHOPPER_KEYS:
            assert torch.allclose(found[name], moment.observation[name], atol=1e-5), name


def test_an_environment_with_a_shipped_ranker_needs_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = opened(tmp_path)
    path = tmp_path / "own.safetensors"
    save_ranker(site.inputs.need_ranker("x"), path)
    monkeypatch.setattr(opening, "SHIPPED_RANKERS", {ID: path})
    bare = open_place(ID, cache=tmp_path / "none", device="cpu")
    assert bare.log is None
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="has no log, but one is needed"):
        _ = bare.logged
    with pytest.raises(
        ValueError, match="was fitted to slates of 4 positions, but slate_size is 3"
    ):
        open_place(ID, slate_size=3, cache=tmp_path / "none", device="cpu")
    with pytest.raises(ValueError, match="does not fit to the 12 items"):
        open_place(
            ID, options={"config": dataclasses.replace(CONFIG, items=12)}, ranker=path, device="cpu"
        )


def shop(folder: Path, site: Site) -> None:
    """What a fit leaves in the folder of a shop, of what a place opens."""
    (folder / "log").mkdir(parents=True)
    (folder / "shop.json").write_text(json.dumps({"kind": "session", "slate_size": 4}))
    simulator = find_place(ID, device="cpu").simulator
    rows, said = play_log(simulator, Exploration(300, "uniform", 1))
    half = rows["shopper"].unique().sort()[: rows["shopper"].n_unique() // 2]
    split = pl.when(pl.col("shopper").is_in(half.to_list())).then(pl.lit("train"))
    rows = rows.with_columns(split=split.otherwise(pl.lit("test")))
    write_tables(folder / "log", (rows, said), simulator)


def test_a_folder_opens_with_its_own_log_and_ranker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, folder = opened(tmp_path / "places"), tmp_path / "My shop"
    shop(folder, site)
    taken: list[tuple[str, Path]] = []

    def fake(id: str, folder: Path, *, anyway: bool) -> None:  # what reads the kind from shop.json
        taken.append((id, folder))
        register(id=id)

    monkeypatch.setattr(recsim_env, "register", fake)
    found = opened(tmp_path / "cache", str(folder))
    ((id, registered_folder),) = taken
    assert id.startswith("shop/Myshop")
    assert registered_folder == folder
    assert registered(str(folder)) == (id, folder)
    assert len(taken) == 1
    rows, said = read_tables(folder / "log", 24)
    train = rows.filter(pl.col("split") == "train")
    assert found.logged.n_slates == len(train)  # of those whom agents may know
    assert torch.equal(found.logged.slates, Sessions.of(train, _of(train, said)).slates)
    assert isinstance(found.inputs.ranker, TwoTowerRanker)

    # its own ranker comes first; one for other slates does not
    save_ranker(site.inputs.need_ranker("x"), folder / "ranker.safetensors")
    own = opened(tmp_path / "cache", str(folder))
    seen = own.simulator().reset(torch.arange(3))
    expected = site.inputs.need_ranker("x").logits(seen)
    assert torch.equal(own.inputs.need_ranker("x").logits(seen), expected)
    shorter = opened(tmp_path / "cache", str(folder), slate_size=3)
    assert shorter.logged.slates.shape[2] == 3
    PRESETS.pop(id)
    gymnasium.registry.pop(id)


def _of(rows: pl.DataFrame, said: pl.DataFrame | None) -> pl.DataFrame:
    assert said is not None
    return said.join(rows.select("shopper").unique(), on="shopper", how="semi")


def test_what_cannot_be_opened_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(gymnasium.error.NameNotFound, match="env is 'nowhere/Shop-v0', but the reg"):
        open_place("nowhere/Shop-v0")
    for path in ("/nope", "runs/nope", "./nope-v0", "nope"):
        with pytest.raises(FileNotFoundError, match=f"^env is '{path}', but there is no such fold"):
            open_place(path)
    with pytest.raises(gymnasium.error.NameNotFound, match="env is 'json:nope', but the reg"):
        open_place("json:nope")
    with pytest.raises(ModuleNotFoundError, match="its module cannot be imported"):
        open_place("no_such_module:nowhere/Shop-v0")
    with pytest.raises(FileNotFoundError, match=r"which has no shop\.json"):
        open_place(str(tmp_path))
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrold'"):
        open_place(ID, options={"wrold": 1})
    for wrong, error, message in (
        ({"slates": 0}, ValueError, "slates is 0, but it must be a whole number of 1 or more"),
        ({"slates": "100"}, ValueError, "slates is '100', but it must be a whole number"),
        ({"mixture": "unifrom"}, ValueError, "mixture is 'unifrom', but it must be one of"),
        ({"cache": 5}, TypeError, "cache is 5, but it must be a path"),
        ({"progress": "no"}, ValueError, "progress is 'no', but it must be True or False"),
        ({"ranker": "/nope"}, FileNotFoundError, "/nope"),
        ({"belief": "owm"}, FileNotFoundError, "belief is 'owm', but it must be 'own' or a folder"),
    ):
        told: dict[str, Any] = {"cache": tmp_path, "device": "cpu", **wrong}
        with pytest.raises(error, match=message):
            open_place(ID, **told)
    assert not list(tmp_path.iterdir())
    silent = dataclasses.replace(CONFIG, base=-30.0)
    register(silent)
    with pytest.raises(ValueError, match=r"slates and no click, .*log more slates"):
        opened(tmp_path)


def test_populations_are_used_where_there_are_some() -> None:
    assert not find_place(ID, device="cpu").populations

    def make(device: torch.device, slate_size: int, population: str = "train") -> MarketShopper:
        made = make_simulator(ID, device=device, slate_size=slate_size).shopper
        assert isinstance(made, MarketShopper)
        asked.append(population)
        return made

    asked: list[str] = []
    add_preset("tests/Two-v0", EnvConfig(make, {"clicks": 1.0}, slate_size=4, horizon_days=6))
    found = find_place("tests/Two-v0", device="cpu")
    assert found.populations
    assert asked == ["train"]
    assert found.options("evaluation") == {"population": "evaluation"}
    PRESETS.pop("tests/Two-v0")
    gymnasium.registry.pop("tests/Two-v0")


@pytest.mark.slow
def test_the_complete_journey_keeps_its_ranker_and_its_two_populations() -> None:
    site = open_place("recsim_env/CompleteJourney-v0", device="cpu")
    assert isinstance(site.inputs.ranker, CTRRanker)
    assert (site.log, site.inputs.per_category, site.inputs.popularity) == (None, 0, None)
    assert site.options("train") == {"population": "train"}


def test_a_refused_folder_is_opened_on_request(tmp_path: Path) -> None:
    told = {"kind": "session", "verdicts": {"clicks": {"holds": False, "sentence": "Clicks: no."}}}
    (tmp_path / "shop.json").write_text(json.dumps(told))
    with pytest.raises(
        ValueError, match=r"Clicks: no\. Give anyway=True, or --anyway to a command"
    ):
        registered(str(tmp_path))
    id, folder = registered(str(tmp_path), anyway=True)
    assert folder == tmp_path
    assert id in PRESETS
    PRESETS.pop(id)
    gymnasium.registry.pop(id)
