"""Where agents cannot be trained and compared, one sentence says so, before anything is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.places import SHIPPED
from benchmarks.agents import compare, demo, train, tune
from policies.rankers.ctr import WEIGHTS
from recsim_env import files
from recsim_env.registration import PRESETS

MARKETS = [id for id in PRESETS if id.startswith("recsim_env/") and id != SHIPPED]

LEAGUE = r"python -m benchmarks\.agents\.league"
"""What the sentence advises."""

COMMANDS: dict[str, Callable[[World, Path], None]] = {
    "train": lambda world, folder: train.main(train.Config(world, output=folder)),
    "compare": lambda world, folder: compare.main(
        compare.Config(world, results=folder, trained=folder)
    ),
    "tune": lambda world, folder: tune.main(
        tune.Config(world, work=folder, output=folder / "tune" / "parameters.json")
    ),
    "demo": lambda world, folder: demo.main(
        demo.Config(train.Config(world, output=folder), output=folder)
    ),
}
every_command = pytest.mark.parametrize("command", COMMANDS)


def assert_refused(command: str, world: World, folder: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern) as caught:
        COMMANDS[command](world, folder)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


@every_command
@pytest.mark.parametrize("env", MARKETS)
def test_an_environment_with_one_population_is_refused(
    command: str, env: str, tmp_path: Path
) -> None:
    pattern = rf"world\.env is '{env}', but its shoppers are one population, .*{SHIPPED}; .*"
    assert_refused(command, World(env), tmp_path, pattern + LEAGUE)


@every_command
def test_a_ranker_of_another_catalogue_is_refused(command: str, tmp_path: Path) -> None:
    world = World("recsim_env/Market-v0", populations=False)
    pattern = r"world\.ranker is .*ctr_ranker\.safetensors, which does not fit to the 1,000 items "
    pattern += r"of 'recsim_env/Market-v0'"
    assert_refused(command, world, tmp_path, f"{pattern}: .*{SHIPPED}; .*{LEAGUE}")


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
    with pytest.raises(ValueError, match=r"^world\.ranker cannot be read: .*ranker") as caught:
        World(ranker=path).check()
    assert "does not fit" not in str(caught.value)
    assert ("safetensors (" if broken == "cut off" else "'mean' holds nan") in str(caught.value)


@every_command
def test_an_unknown_environment_is_refused_with_those_that_are_known(
    command: str, tmp_path: Path
) -> None:
    pattern = rf"world\.env is 'recsim_env/Nowhere-v0', but it must be one of .*'{SHIPPED}'"
    assert_refused(command, World("recsim_env/Nowhere-v0"), tmp_path, pattern)


def test_the_shipped_environment_is_accepted() -> None:
    World().check()
    assert len(MARKETS) == 5
