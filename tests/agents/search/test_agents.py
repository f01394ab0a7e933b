"""Searches find out that greed loses, and do not keep what was only lucky."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from agents import AGENTS, TrainingSetup
from agents.search.agents import CMAConfig, search
from agents.search.searchers import Searcher
from policies.rerankers import SameForAll
from tests.agents.ppo.test_agents import (
    PLAIN,
    SPOILT,
    SWEET,
    first_and_second,
    mean_return,
    two_visit_setup,
)
from tests.support.agent_toys import SHOPPERS, small_market
from tests.support.policy_toys import toy_inputs

OPTIONS: dict[str, dict[str, Any]] = {"cma": {}, "optuna": {"episodes": 32}}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_greed_loses_and_the_search_finds_out(name: str) -> None:
    """With one offset along which sweet and plain items differ, plain slates are within reach."""
    setup = two_visit_setup(64 * 2 * 60)
    composer = replace(AGENTS[name].config().composer, offset_dims=4, offset_unit=1.0)
    found = AGENTS[name].learn(setup, OPTIONS[name] | {"composer": composer})
    assert first_and_second(found.untrained)[0] == [2] * 4
    assert first_and_second(found.policy)[0] == [0] * 4
    assert mean_return(found.policy) > 2 * PLAIN + 2 * PLAIN - 0.08  # the best without looking
    assert mean_return(found.untrained) < 2 * SWEET + 2 * SPOILT + 0.08
    assert found.facts["return_best"] > found.facts["return_start"]
    assert found.steps <= setup.steps


class Misled:
    """Proposes ever worse intents, and takes them for the best."""

    fresh = True

    def __init__(self, size: int) -> None:
        self._size = size
        self._asked = 0

    def ask(self) -> torch.Tensor:
        self._asked += 1
        return torch.full((1, self._size), 50.0 * self._asked)

    def tell(self, values: torch.Tensor) -> None:
        pass

    def finalists(self, most: int) -> torch.Tensor:
        return torch.full((1, self._size), 50.0 * self._asked)


def test_a_search_that_found_nothing_keeps_its_start() -> None:
    def make(size: int) -> Searcher:
        return Misled(size)

    simulator = small_market()
    inputs = replace(toy_inputs(simulator), reward={"clicks": 1.0})
    setup = TrainingSetup(simulator, inputs, 0, SHOPPERS * 200, SHOPPERS)
    found = search("misled", setup, CMAConfig(), make)
    assert isinstance(found.policy, SameForAll)
    assert (found.facts["return_best"] == found.facts["return_start"]) == bool(
        torch.equal(found.policy.intent, torch.zeros_like(found.policy.intent))
    )


def test_too_few_steps_for_a_round_are_refused() -> None:
    simulator = small_market()
    setup = TrainingSetup(simulator, toy_inputs(simulator), 0, 200, SHOPPERS)
    with pytest.raises(ValueError, match=r"^steps is 200, but cma cannot play one round of 16"):
        AGENTS["cma"].learn(setup)
