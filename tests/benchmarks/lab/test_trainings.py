"""Only finished trainings of equal length and settings are pooled as seeds of one agent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agents.ppo import monitor
from agents.ppo.checkpoints import LAST, visits_of
from benchmarks.agents import compare, train
from benchmarks.lab.ppo.config import folder_of
from benchmarks.lab.saved import UNTRAINED
from benchmarks.lab.trainings import finished_trainings
from benchmarks.lab.where import Where
from tests.benchmarks.agents.test_compare import make_world, training

UPDATE = 16 * 4
"""Visits of an update of `training`."""


@pytest.fixture
def config(tmp_path: Path) -> train.Config:
    """A training of one seed and two updates."""
    return replace(training(make_world(tmp_path), tmp_path, visits=2 * UPDATE), seeds=(0,))


def kill_early(config: train.Config, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a training after its first update, as a kill does."""

    class Killed(Exception):
        """Stands for the machine going down."""

    keep = monitor.Monitor._keep

    def break_off(self: monitor.Monitor) -> None:
        keep(self)
        if self.num_timesteps:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(monitor.Monitor, "_keep", break_off)
        patch.setattr("agents.keeper.Clock.due", lambda clock: True)
        with pytest.raises(Killed):
            train.train(config, seed)


def test_finished_trainings_tell_seed_and_visits(config: train.Config) -> None:
    for seed in (10, 2):
        train.train(config, seed)
    found = finished_trainings(config.output / "composer")
    assert [(one.seed, one.visits) for one in found] == [(2, 2 * UPDATE), (10, 2 * UPDATE)]
    assert visits_of(found[0].folder / LAST) == 2 * UPDATE
    assert visits_of(found[0].folder / UNTRAINED) == 0
    assert json.loads((found[0].folder / "config.json").read_text())["visits"] == 2 * UPDATE


def test_a_killed_training_is_refused_until_it_is_finished(
    config: train.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.train(config, 0)
    kill_early(config, 1, monkeypatch)
    with pytest.raises(ValueError, match=r"seed1 holds a training of 64 visits.*asked for 128"):
        finished_trainings(config.output / "composer")
    train.train(config, 1)
    assert len(finished_trainings(config.output / "composer")) == 2


def test_a_longer_training_is_not_pooled(config: train.Config) -> None:
    train.train(config, 0)
    train.train(replace(config, visits=3 * UPDATE), 1)
    with pytest.raises(ValueError, match=r"seed1 made 192 visits, but .*seed0 made 128"):
        finished_trainings(config.output / "composer")
    train.train(replace(config, visits=3 * UPDATE), 0)
    assert {one.visits for one in finished_trainings(config.output / "composer")} == {3 * UPDATE}


def test_other_settings_are_not_pooled_but_for_where_they_ran(config: train.Config) -> None:
    train.train(config, 0)
    train.train(replace(config, place=replace(config.place, threads=2)), 1)
    assert len(finished_trainings(config.output / "composer")) == 2
    train.train(replace(config, ppo=replace(config.ppo, gamma=0.5)), 2)
    with pytest.raises(ValueError, match=r"seed2 and .*seed0 differ in \['ppo'\]"):
        finished_trainings(config.output / "composer")


def test_a_training_without_its_files_is_refused(config: train.Config) -> None:
    folder = train.train(config, 0).parent
    settings = json.loads((folder / "config.json").read_text())
    del settings["visits"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="does not say how many visits"):
        finished_trainings(folder.parent)
    train.train(config, 0)  # finished before, and says so from now on
    assert len(finished_trainings(folder.parent)) == 1
    (folder / LAST).unlink()
    with pytest.raises(ValueError, match=f"lacks {LAST}"):
        finished_trainings(folder.parent)


def test_a_folder_of_no_seed_is_left_out(
    config: train.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train.train(config, 0).parent
    shutil.copytree(folder, folder.with_name("seed0.bak"))
    shutil.copytree(folder, folder.with_name("seed00"))
    assert [one.seed for one in finished_trainings(folder.parent)] == [0]
    told = capsys.readouterr().err
    assert "seed0.bak is left out" in told
    assert "seed00 is left out" in told


def plays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "evaluate", lambda *_, **__: pytest.fail("a policy was played"))


def test_compare_checks_every_agent_before_anything_is_played(
    config: train.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays_nothing(monkeypatch)
    world: Where = config.place
    parameters = tmp_path / "parameters.json"
    parameters.write_text("{}")
    asked = compare.Config(world, trained=config.output, parameters=parameters, episodes=4)
    with pytest.raises(FileNotFoundError, match="compser holds no training"):
        compare.measure(replace(asked, agents=("compser",)))
    kill_early(config, 0, monkeypatch)
    with pytest.raises(ValueError, match="holds a training of 64 visits"):
        compare.measure(asked)
    train.train(config, 0)
    checkpoint = folder_of(config, 0) / UNTRAINED
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match=str(checkpoint)):
        compare.measure(asked)


@pytest.mark.parametrize("content", ["", "{", '{"mmr": {"weight": "x"}}', '{"mmr": {"weigh": 1}}'])
def test_broken_parameters_are_named_before_anything_is_played(
    config: train.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    plays_nothing(monkeypatch)
    parameters = tmp_path / "parameters.json"
    parameters.write_text(content)
    asked = compare.Config(config.place, agents=(), parameters=parameters, episodes=4)
    with pytest.raises((ValueError, TypeError), match=r"parameters\.json|weigh"):
        compare.measure(asked)
