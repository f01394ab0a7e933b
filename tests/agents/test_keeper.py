"""A killed agent continues from what was saved, and learns bit for bit what it would have."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents import AGENTS, TrainedAgent, TrainingSetup
from agents.keeper import Clock, Keeper, optimizer_state, restore_optimizer
from agents.ppo.vec_env import TrainingReward
from recsim_env import files
from recsim_env.types import Policy
from tests.agents.test_reinforce import uniform_log
from tests.recsim_env.shoppers.test_outside import tap_simulator
from tests.support.agent_toys import (
    QUICK,
    QUICK_PPO,
    SHOPPERS,
    quick_steps,
    small_market,
    tensors_of,
)
from tests.support.policy_toys import toy_inputs


class Killed(Exception):
    """Stands for a SIGKILL."""


class Killing(Keeper):
    """Keeps whenever it is asked, and is killed at the n-th time, before or after it has kept."""

    def __init__(
        self, path: Path | None, at: int, notes: Any = None, *, after: bool = True
    ) -> None:
        super().__init__(path, notes, share=float("inf"))
        self.left, self._after = at, after

    def keep(self, state: Callable[[], Any]) -> None:
        self.left -= 1
        if self._after or self.left != 0:
            super().keep(state)
        if self.left == 0:
            raise Killed


class Curve:
    """What was watched: a part of the training that is not the agent's."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []

    def state(self) -> list[list[Any]]:
        return self.rows

    def restore(self, state: list[list[Any]]) -> None:
        self.rows = state


def learn(name: str, keeper: Keeper, curve: Curve, seed: int = 0) -> TrainedAgent:
    simulator = small_market()
    log = uniform_log(small_market(), 20) if AGENTS[name].needs_log else None

    def watch(at: int, policy: Policy) -> None:
        curve.rows.append([at, shown(policy).tolist()])

    setup = TrainingSetup(
        simulator, toy_inputs(simulator), seed, quick_steps(name), SHOPPERS, log, watch, keeper
    )
    return AGENTS[name].learn(setup, QUICK[name])


def shown(policy: Policy) -> Tensor:
    seen = small_market().reset(torch.arange(9))
    return policy(seen, torch.rand(9, policy.draws, generator=torch.Generator().manual_seed(0)))


def assert_equal(one: TrainedAgent, other: TrainedAgent) -> None:
    for name in ("policy", "sampled", "untrained", "untrained_sampled", "unpolished"):
        mine, theirs = tensors_of(getattr(one, name)), tensors_of(getattr(other, name))
        assert (len(mine) > 0) == (getattr(one, name) is not None)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), name
    assert one.steps == other.steps
    drop = {"minutes"}
    assert {k: v for k, v in one.facts.items() if k not in drop} == {
        k: v for k, v in other.facts.items() if k not in drop
    }


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_a_killed_agent_goes_on_and_learns_what_it_would_have_learned(
    name: str, tmp_path: Path
) -> None:
    path, curve = tmp_path / "kept.safetensors", Curve()
    unbroken = learn(name, Keeper(), curve)
    first = Curve()
    with pytest.raises(Killed):
        learn(name, Killing(path, 3, first), first)
    assert path.exists()
    for at, after in (
        (1, True),
        (2, False),
    ):  # killed again: at the first keep of the second run, and amid the third
        again = Curve()
        with pytest.raises(Killed):
            learn(name, Killing(path, at, again, after=after), again)
    last = Curve()
    resumed = learn(name, Keeper(path, last), last)
    assert_equal(unbroken, resumed)
    assert last.rows == curve.rows


def test_what_was_kept_by_another_training_is_left_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.safetensors"
    with pytest.raises(Killed):
        learn("linucb", Killing(path, 5), Curve(), seed=1)
    other = learn("linucb", Keeper(path), Curve(), seed=0)
    assert "begins anew: " in (told := capsys.readouterr().err)
    assert "kept.safetensors was kept with another seed." in told
    assert_equal(other, learn("linucb", Keeper(), Curve(), seed=0))


@pytest.mark.parametrize("how", ["empty", "cut", "nan", "no metadata"])
def test_what_cannot_be_read_is_left_aside(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.safetensors"
    with pytest.raises(Killed):
        learn("linucb", Killing(path, 5), Curve())
    tensors, metadata = files.read_tensors(path)
    if how == "nan":
        tensors["evidence/gram"][0, 0, 0] = torch.nan
    files.write_tensors(path, tensors, None if how == "no metadata" else metadata)
    if how in ("empty", "cut"):
        path.write_bytes(path.read_bytes()[: 0 if how == "empty" else 1000])
    resumed = learn("linucb", Keeper(path), Curve())
    told = capsys.readouterr().err
    assert told.startswith("The training begins anew: ")
    assert "kept.safetensors" in told
    assert ("'evidence/gram' holds NaN" in told) == (how == "nan")
    assert_equal(resumed, learn("linucb", Keeper(), Curve()))


def test_shoppers_that_cannot_be_written_down_are_not_kept_and_that_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator = tap_simulator()
    keeper = Keeper(tmp_path / "kept.safetensors", share=float("inf"))
    setup = TrainingSetup(simulator, toy_inputs(simulator), 0, 16 * 26, 16, keeper=keeper)
    AGENTS["ppo_composer"].learn(
        setup, QUICK_PPO | {"reward": TrainingReward(expected_clicks=False)}
    )
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert (
        "cannot be kept, so an interrupted one begins anew: state/shoppers/environments/0 is"
        in told
    )
    assert not list(tmp_path.iterdir())


def test_keeping_takes_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("agents.keeper.time.perf_counter", lambda: now[0])
    clock = Clock(0.02)
    assert clock.due()
    now[0] += 2.0  # what keeping took
    clock.kept(100.0)
    now[0] += 99.9
    assert not clock.due()
    now[0] += 0.1  # 2 s are a fiftieth of 100 s
    assert clock.due()


def test_a_full_disk_leaves_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.safetensors"
    with pytest.raises(Killed):
        learn("linucb", Killing(path, 4), Curve())
    before = path.read_bytes()
    half_written(monkeypatch)
    with pytest.raises(
        OSError, match=r"could not be written \(No space left .*kept\.safetensors"
    ) as found:
        learn("linucb", Killing(path, 99), Curve())
    assert found.value.errno == 28
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["kept.safetensors"]


def half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on tensors are written halfway, then the disk is full."""
    whole = Path.write_bytes

    def write_half(path: Path, content: bytes) -> int:
        whole(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    one = torch.optim.Adam([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))])
    other = torch.optim.Adam([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))])
    for optimizer in (one, other):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    with pytest.raises(ValueError, match=r"'optimizer/1/exp_avg' is \(2,\), but it must be \(4,\)"):
        restore_optimizer(other, optimizer_state(one))
    with pytest.raises(ValueError, match="'optimizer' is about 2 parameters, but there are 1"):
        restore_optimizer(torch.optim.Adam([nn.Parameter(torch.ones(3))]), optimizer_state(one))
    assert json.dumps(sorted(optimizer_state(one)["1"])) == '["exp_avg", "exp_avg_sq", "step"]'
