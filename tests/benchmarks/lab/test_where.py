"""The options that name a place are read, and what cannot be used is refused before anything is made."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import tyro

from benchmarks.agents import compare, demo, league, train, tune, tune_agents
from benchmarks.lab.where import SHIPPED, Elsewhere, Where, told_options, told_reward
from policies.rankers.ctr import WEIGHTS
from recsim_env import files

COMMANDS: dict[str, Callable[[Where, Path], None]] = {
    "train": lambda place, folder: train.main(train.Config(place=place, output=folder)),
    "compare": lambda place, folder: compare.main(
        compare.Config(place=place, results=folder, trained=folder)
    ),
    "tune": lambda place, folder: tune.main(tune.Config(place=place, work=folder, results=folder)),
    "demo": lambda place, folder: demo.main(demo.Config(place=place, output=folder)),
    "league": lambda place, folder: league.main(
        league.Config(elsewhere=elsewhere(place), work=folder, results=folder)
    ),
    "tune_agents": lambda place, folder: tune_agents.main(
        tune_agents.Config(elsewhere=elsewhere(place), work=folder, results=folder)
    ),
}
every_command = pytest.mark.parametrize("command", COMMANDS)


def elsewhere(place: Where) -> Elsewhere:
    return Elsewhere(
        **{name: getattr(place, name) for name in vars(Elsewhere()) if hasattr(place, name)}
    )


def assert_refused(
    command: str, place: Where, folder: Path, error: type[Exception], pattern: str
) -> None:
    with pytest.raises(error, match=pattern) as caught:
        COMMANDS[command](place, folder)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


@every_command
def test_an_unknown_environment_is_refused_with_those_that_are_known(
    command: str, tmp_path: Path
) -> None:
    pattern = rf"env is 'recsim_env/Nowhere-v0', but the registered ids are \[.*'{SHIPPED}'"
    place = Where("recsim_env/Nowhere-v0")
    assert_refused(command, place, tmp_path, gymnasium.error.NameNotFound, pattern)


@every_command
def test_a_ranker_of_another_catalogue_is_refused(command: str, tmp_path: Path) -> None:
    place = Where("recsim_env/Market-v0", ranker=WEIGHTS)
    pattern = r"ctr_ranker\.safetensors does not fit to the 1,000 items of the catalogue"
    assert_refused(command, place, tmp_path, ValueError, pattern)


@every_command
def test_an_unknown_option_is_refused(command: str, tmp_path: Path) -> None:
    place = Where("recsim_env/Market-v0", options="wrold=1")
    assert_refused(command, place, tmp_path, TypeError, "unexpected keyword argument 'wrold'")


@every_command
def test_an_unknown_term_of_the_reward_is_refused(command: str, tmp_path: Path) -> None:
    place = Where("recsim_env/Market-v0", reward="margins=1")
    assert_refused(command, place, tmp_path, (ValueError, TypeError), "'margins'")  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", ["cut off", "not a number"])
def test_a_ranker_that_cannot_be_read_is_not_said_to_be_of_another_catalogue(
    broken: str, tmp_path: Path
) -> None:
    path = tmp_path / "ranker.safetensors"
    tensors, metadata = files.read_tensors(WEIGHTS)
    tensors["mean"][0] = math.nan
    files.write_tensors(path, tensors, metadata)
    if broken == "cut off":
        path.write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(ValueError, match="ranker") as caught:
        Where("recsim_env/Market-v0", ranker=path).check()
    assert "does not fit" not in str(caught.value)
    assert ("safetensors (" if broken == "cut off" else "'mean' holds nan") in str(caught.value)


def test_options_and_rewards_are_read() -> None:
    assert told_options("world=1,alike=true, base=-0.5 ,name=x") == {
        "world": 1,
        "alike": True,
        "base": -0.5,
        "name": "x",
    }
    assert told_options(None) == {}
    assert told_reward("clicks=1,intra_list_distance=.5") == {
        "clicks": 1.0,
        "intra_list_distance": 0.5,
    }
    assert told_reward(None) is None


@pytest.mark.parametrize(
    "text", ["clicks", "clicks=", "=1", "clicks=1,clicks=2", "clicks=1,,x=2", "clicks=1;x=2"]
)
def test_pairs_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(reward|options) is "):
        Where(reward=text)
    if ";" not in text:
        with pytest.raises(ValueError, match=r"^options is "):
            Where(options=text)


@pytest.mark.parametrize("weight", ["much", "nan", "inf", "true"])
def test_a_weight_is_a_finite_number(weight: str) -> None:
    with pytest.raises(ValueError, match=r"the weight of 'clicks' must be a finite number"):
        Where(reward=f"clicks={weight}")


PLACES: list[dict[str, Any]] = [
    {},
    {"env": "recsim_env/Market-v0"},
    {"env": "recsim_env/Market-v0", "options": "world=1"},
    {"env": "recsim_env/Market-v0", "options": "world=2"},
    {"env": "recsim_env/Market-v0", "reward": "clicks=1"},
    {"env": "recsim_env/Market-v0", "slate_size": 6},
    {"env": "recsim_env/Market-v0", "horizon_days": 5.0},
    {"env": "one:shop/Market-v0"},
    {"env": "other:shop/Market-v0"},
    {"env": "shop/"},
    {"env": "bad-shop/", "anyway": True},
]


def test_every_place_has_a_name_of_its_own() -> None:
    places = [Where(**told) for told in PLACES]
    assert len({place.name for place in places}) == len(places)
    assert Where().name == "completejourney-v0"
    assert all(set(place.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for place in places)
    same = replace(places[1], device="cpu", threads=2, cache=Path("x"), log_slates=7)
    assert (same.name, same.about) == (places[1].name, places[1].about)


@pytest.mark.parametrize("told", PLACES)
def test_the_command_line_of_a_place_is_read_as_the_place(told: dict[str, Any]) -> None:
    place = Where(**told)
    assert tyro.cli(Where, args=shlex.split(place.arguments)) == place


@pytest.mark.parametrize("command", [train, compare, tune, demo, league, tune_agents])
def test_every_command_takes_the_options_without_a_prefix(command: Any) -> None:
    line = (
        "--env module:shop/Mine-v0 --reward clicks=1,intra_list_distance=.5 --slate-size 6 "
        "--options world=1,alike=true"
    )
    config = tyro.cli(command.Config, args=shlex.split(line))
    place = config.elsewhere if hasattr(config, "elsewhere") else config.place
    assert (place.env, place.slate_size) == ("module:shop/Mine-v0", 6)
    assert told_options(place.options) == {"world": 1, "alike": True}
    assert told_reward(place.reward) == {"clicks": 1.0, "intra_list_distance": 0.5}
