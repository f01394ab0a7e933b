"""The outsider of the frontier is given what happened, and leaves global generators alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.lab import capql
from benchmarks.lab.capql import CapqlConfig, train_capql
from policies.inputs import PolicyInputs
from recsim_env.simulator import SlateSimulator
from tests.support.policy_toys import toy_inputs
from tests.support.toys import ToyShopper

GOALS = ("clicks", "intra_list_distance")
CONFIG = CapqlConfig(shoppers=8, updates=2, random_visits=16)
STEPS = 80


class Library:
    """Stands in for CAPQL: keeps what it is given, and answers with noise or the first weight."""

    def __init__(self, env: Any, **options: Any) -> None:
        self.goals = env.unwrapped.reward_space.shape[0]
        self.size = env.action_space.shape[0]
        self.options = options
        self.policy = self.replay_buffer = self
        self.pushed: list[tuple[Any, ...]] = []
        self.updates = 0
        MADE.append(self)

    def sample(self, seen: Any, weights: Any) -> tuple[Any, None, None]:
        assert seen.shape[0] == weights.shape[0] == CONFIG.shoppers
        return torch.rand(len(seen), self.size) + random.random() / 9, None, None

    def push(self, *row: Any) -> None:
        self.pushed.append(tuple(np.array(part).copy() for part in row))

    def update(self) -> None:
        self.updates += 1

    def eval(self, observations: Any, weights: Any) -> Any:
        return np.repeat(weights[:, :1], self.size, axis=1)


MADE: list[Library] = []


def shop() -> tuple[SlateSimulator, PolicyInputs]:
    simulator = SlateSimulator(ToyShopper(items=40, lapse=0.2), horizon_days=30, objectives=GOALS)
    return simulator, replace(toy_inputs(simulator), pool=12)


def test_every_step_is_pushed_as_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capql, "library", lambda: Library)
    predict = train_capql(shop, STEPS, 3, CONFIG)
    agent = MADE[-1]
    assert agent.goals == len(GOALS)
    assert len(agent.pushed) == STEPS
    assert agent.updates == (STEPS - CONFIG.random_visits) / CONFIG.shoppers
    assert agent.options["gradient_updates"] == CONFIG.updates
    ends = 0
    for before, after in zip(
        agent.pushed[: -CONFIG.shoppers], agent.pushed[CONFIG.shoppers :], strict=True
    ):
        _, actions, weights, reward, following, left = before
        assert weights.shape == reward.shape == (len(GOALS),)
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
        assert (np.abs(actions) <= 2).all()
        assert 0 <= reward[1] <= 1  # a mean distance
        if np.array_equal(following, after[0]):
            assert not left
        else:  # an episode ended: what follows in the stream is another shopper
            ends += 1
    assert ends > 0
    assert any(row[-1] for row in agent.pushed)
    told = predict(np.zeros((2, 5)), np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert told[:, 0].tolist() == [0.25, 1.0]


def test_the_same_seed_gives_the_same_training_and_nothing_global_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capql, "library", lambda: Library)
    states = random.getstate(), torch.random.get_rng_state()
    for seed in (3, 3, 4):
        train_capql(shop, STEPS, seed, CONFIG)
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])
    one, same, other = (np.stack([row[1] for row in agent.pushed]) for agent in MADE[-3:])
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_without_the_library_a_sentence_says_what_makes_it() -> None:
    with pytest.raises(ValueError, match=r"^MORL-Baselines is not installed, but capql needs it"):
        train_capql(shop, STEPS, 0, CONFIG)
