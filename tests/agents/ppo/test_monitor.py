"""Curves are honest and have one point a step, wherever the training was interrupted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.evaluate import evaluate
from agents.folder import load_agent
from agents.places import seeds
from agents.ppo import monitor, polish
from agents.ppo.algorithm import SlatePPO
from agents.ppo.checkpoints import LAST
from agents.ppo.config import PPOConfig
from agents.ppo.monitor import MonitorConfig
from agents.progress import Progress
from benchmarks.agents import train
from benchmarks.lab.ppo.config import folder_of
from benchmarks.lab.ppo.limit import LimitOptions
from benchmarks.lab.saved import AGENT, POLISHED, UNTRAINED
from benchmarks.lab.trainings import KEPT, finished_trainings
from benchmarks.lab.where import Where
from policies import POLICIES
from recsim_env.files import read_tensors
from tests.benchmarks.agents.test_compare import make_world
from tests.support.curves import points
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

ROLLOUT = 16 * 4
UPDATES = 9


def training(world: Where, folder: Path, updates: int = UPDATES, **options: Any) -> train.Config:
    options = {"shoppers": 16, "ppo": PPOConfig(n_steps=4, batch_size=32, n_epochs=1), **options}
    watched = MonitorConfig(evaluate_every=2, episodes=6, batch=6, pictures=0)
    return train.Config(
        **{
            "place": world,
            "seeds": (0,),
            "visits": updates * ROLLOUT,
            "polished": 0.0,
            "monitor": watched,
            "output": folder,
            **options,
        }
    )


@pytest.fixture(scope="module")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> Where:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def unbroken(toy_world: Where, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """Where the curves of a training that nothing interrupts have points."""
    config = training(toy_world, tmp_path_factory.mktemp("unbroken"))
    train.train(config, 0)
    return steps_of(curves(config))


def curves(config: train.Config) -> dict[str, list[tuple[int, float | None]]]:
    return points(folder_of(config, 0))


def assert_one_point_a_step(found: dict[str, list[tuple[int, float | None]]]) -> None:
    for tag, pairs in found.items():
        steps = [step for step, _ in pairs]
        assert len(set(steps)) == len(steps), (tag, steps)
        assert steps == sorted(steps), tag


def steps_of(found: dict[str, list[tuple[int, float | None]]]) -> dict[str, list[int]]:
    """Where each curve has points; not those of cohorts, which depend on when episodes end."""
    return {
        tag: [step for step, _ in pairs]
        for tag, pairs in found.items()
        if not tag.startswith(("rollout/", "episodes/"))
    }


def test_every_update_is_one_point_and_the_first_evaluation_is_at_0(
    toy_world: Where, tmp_path: Path
) -> None:
    config = training(toy_world, tmp_path)
    config = replace(config, monitor=replace(config.monitor, pictures=1))
    train.train(config, 0)
    found = curves(config)
    assert_one_point_a_step(found)
    every = [update * ROLLOUT for update in range(UPDATES + 1)]
    assert [step for step, _ in found["train/loss"]] == every[1:]
    assert [step for step, _ in found["time/fps"]] == every[1:]
    assert [step for step, _ in found["evaluation/return"]] == [
        *every[::2],
        every[-1],
    ]  # every second, and the last
    assert [step for step, _ in found["slates"]] == [*every[::2], every[-1]]
    assert len(found["_hparams_/experiment"]) == 1
    longer = replace(config, visits=(UPDATES + 3) * ROLLOUT)
    train.train(longer, 0)
    found = curves(longer)
    assert_one_point_a_step(found)
    assert [step for step, _ in found["train/loss"]] == [
        update * ROLLOUT for update in range(1, UPDATES + 4)
    ]
    assert [step for step, _ in found["evaluation/return"]] == [
        update * ROLLOUT for update in (0, 2, 4, 6, 8, 9, 10, 12)
    ]


class Killed(Exception):
    """Stands for the machine going down."""


@contextmanager
def killed_at(owner: Any, method: str, call: int, *, after: bool = False) -> Iterator[None]:
    """Inside, the training dies before (or after) the given call of a method."""
    calls, real = 0, getattr(owner, method)

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        result = real(*args, **kwargs)
        if calls == call:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, dying)
        with pytest.raises(Killed):
            yield


DEATHS: dict[str, Callable[[], Any]] = {
    "in the first evaluation": lambda: killed_at(monitor, "evaluate", 1),
    "before anything is kept": lambda: killed_at(monitor.Monitor, "_keep", 1),
    "in the first rollout": lambda: killed_at(monitor.Monitor, "_on_step", 2),
    "in the first update": lambda: killed_at(SlatePPO, "train", 1),
    "after the first update": lambda: killed_at(SlatePPO, "train", 1, after=True),
    "in a rollout": lambda: killed_at(monitor.Monitor, "_on_step", 14),
    "in an update": lambda: killed_at(SlatePPO, "train", 4),
    "after an update": lambda: killed_at(SlatePPO, "train", 4, after=True),
    "in an evaluation": lambda: killed_at(monitor, "evaluate", 6),
    "before the checkpoint": lambda: killed_at(monitor.Monitor, "_keep", 5),
    "in the last evaluation": lambda: killed_at(monitor, "evaluate", 12),
    "at the very end": lambda: killed_at(Progress, "close", 1),
}


@pytest.mark.parametrize("death", DEATHS)
def test_an_interrupted_training_draws_the_points_of_an_unbroken_one(
    toy_world: Where, unbroken: dict[str, list[int]], tmp_path: Path, death: str
) -> None:
    config = training(toy_world, tmp_path)
    with DEATHS[death]():
        train.train(config, 0)
    train.train(config, 0)
    found = curves(config)
    assert_one_point_a_step(found)
    assert steps_of(found) == unbroken


def test_a_training_that_was_broken_off_twice_at_the_same_place_has_one_point_a_step(
    toy_world: Where, tmp_path: Path
) -> None:
    config = training(toy_world, tmp_path)
    for _ in range(2):
        with killed_at(SlatePPO, "train", 3):
            train.train(config, 0)
    train.train(config, 0)
    assert_one_point_a_step(curves(config))


def test_a_policy_that_does_not_change_has_a_flat_curve_from_the_first_point_on(
    toy_world: Where, tmp_path: Path
) -> None:
    """At learning rate 0, every point of a training is within noise of an evaluation."""
    still = PPOConfig(learning_rate=0.0, n_steps=4, batch_size=1024, n_epochs=1)
    watched = MonitorConfig(evaluate_every=40, episodes=400, batch=400, pictures=0)
    shoppers = 256
    config = training(
        toy_world, tmp_path, ppo=still, shoppers=shoppers, monitor=watched, visits=shoppers * 4 * 40
    )
    train.train(config, 0)
    found = curves(config)
    assert found["evaluation_sampled/return"][0][0] == 0
    for curve, truth in (
        ("rollout/ep_rew_mean", "return"),
        ("rollout/ep_len_mean", "visits"),
        ("episodes/clicks", "clicks"),
    ):
        level = found[f"evaluation_sampled/{truth}"][0][1]
        drawn = np.array([value for _, value in found[curve]])
        assert len(drawn) > 10
        # a cohort is 256 episodes at first and about half as many later; an episode's deviation is
        # about its mean
        assert level is not None
        assert np.abs(drawn - level).max() < 4 * level * (1 / 80 + 1 / 400) ** 0.5, curve
        assert abs(drawn[0] - level) < 4 * level * (1 / 256 + 1 / 400) ** 0.5, curve


def test_the_monitor_refuses_to_share_the_log() -> None:
    from tests.agents.ppo.test_algorithm import composer_model

    with pytest.raises(ValueError, match="log_interval is 1, but it must be None"):
        composer_model().learn(64, monitor.Monitor(MonitorConfig(), None, None, {}))


def test_a_counted_policy_is_the_policy_and_tells_of_every_slate() -> None:
    simulator, told = toy_simulator(items=40), [0][:0]
    greedy = POLICIES["uniform"].build(toy_inputs(simulator))
    counted = monitor.Counted(greedy, told.append)
    assert counted.draws == greedy.draws
    rows = evaluate(counted, simulator, torch.arange(7), batch=3).rows
    assert rows.equals(evaluate(greedy, simulator, torch.arange(7), batch=3).rows)
    assert sum(told) == rows["visits"].sum()


def test_the_end_says_what_came_of_it_and_what_comes_next(
    toy_world: Where,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = training(toy_world, tmp_path)
    monkeypatch.setattr(polish, "returns_of", lambda *_: (torch.tensor([[2.0], [3.0]]), 0))
    train.main(config)
    returns = [value for _, value in curves(config)["evaluation/return"]]
    last = returns[-1]
    assert last is not None
    agent = load_agent(folder_of(config, 0) / AGENT, "cpu")
    gain = agent.scores["return_above_greedy_ctr"]
    assert agent.scores["return"]["value"] == pytest.approx(last, rel=1e-6)
    site = config.place.open()
    greedy = evaluate(
        POLICIES["greedy_ctr"].build(site.inputs),
        site.simulator("evaluation"),
        seeds(config.monitor.first_seed, config.monitor.episodes),
    ).rows["return"]
    assert gain["value"] == pytest.approx(last - greedy.to_numpy().mean(), abs=1e-5)
    path = folder_of(config, 0) / AGENT
    following = [
        f"Watch: tensorboard --logdir {tmp_path}",
        f"Next:  python -m benchmarks.agents.compare{config.place.arguments} "
        f"--trained {tmp_path} --agents composer",
    ]
    lines = capsys.readouterr().out.splitlines()
    verdict = lines.pop(1)
    assert verdict.startswith("composer, seed 0: ")
    assert "explained variance" in verdict
    assert lines == [
        "composer, seed 0: from 6 training shoppers untrained 2.00, trained 3.00; kept is trained: "
        f"return {last:.2f}, {gain['value']:+.2f} [{gain['low']:.2f}, {gain['high']:.2f}] above "
        f"greedy CTR in the same 6 episodes; {path}",
        *following,
    ]
    train.main(config)
    assert capsys.readouterr().out.splitlines() == [
        f"composer, seed 0: was finished before, at 576 visits; {path}",
        *following,
    ]


@pytest.mark.slow
def test_a_training_under_a_limit_keeps_it_in_the_folder(
    toy_world: Where, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = LimitOptions("clicks", "at_most", 0.8, relative=True)
    config = training(
        toy_world, tmp_path, updates=60, polished=0.2, agent="constrained", constraint=limit
    )
    folder = train.train(config, 0).parent
    line = capsys.readouterr().out.splitlines()[-2]
    assert line.startswith("constrained, seed 0: clicks has to be at most ")
    agent = load_agent(folder / AGENT, "cpu")
    assert agent.constraint == limit.constraint
    assert {"return", "return_above_greedy_ctr", "clicks_per_visit", "limit"} == set(agent.scores)
    site = config.place.open()
    rows = evaluate(
        agent.policy,
        site.simulator("evaluation"),
        seeds(config.monitor.first_seed, config.monitor.episodes),
    ).rows
    mean = float(rows["clicks"].to_numpy().sum() / rows["visits"].to_numpy().sum())
    assert agent.scores["clicks_per_visit"] == pytest.approx(mean)
    assert f"clicks {mean:.3f} a visit and return {rows['return'].to_numpy().mean():.2f}" in line
    settings = json.loads((folder / "config.json").read_text())
    assert settings["constraint"] == dataclasses.asdict(limit.constraint)
    train.train(config, 0)
    assert "was finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("means", "kept"),
    [((1.0, 2.0, 3.0), POLISHED), ((2.0, 3.0, 1.0), LAST), ((3.0, 1.0, 2.0), UNTRAINED)],
)
def test_the_best_of_polished_trained_and_untrained_is_kept(
    toy_world: Where,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    means: tuple[float, float, float],
    kept: str,
) -> None:
    monkeypatch.setattr(polish, "returns_of", lambda *_: (torch.tensor(means).unsqueeze(1), 0))
    config = training(toy_world, tmp_path, updates=60, polished=0.9)
    folder = train.train(config, 0).parent
    (one,) = finished_trainings(folder.parent)
    assert one.visits == 6 * ROLLOUT  # PPO's part
    actors = {
        name: {
            key: value for key, value in read_tensors(folder / name)[0].items() if "actor" in key
        }
        for name in (LAST, POLISHED, UNTRAINED, KEPT)
    }
    bias = "policy/actor.tower.2.bias"
    moved = [
        name
        for name, value in actors[LAST].items()
        if not torch.equal(value, actors[POLISHED][name])
    ]
    assert moved == [bias]
    for name in (LAST, POLISHED, UNTRAINED):
        same = all(torch.equal(actors[KEPT][key], actors[name][key]) for key in actors[KEPT])
        assert same == (name == kept)
