"""Searches find out that greed loses, and do not keep what was only lucky."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from agents import AGENTS, TrainingSetup
from agents.search.playing import Played
from policies.composer import Composer
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


def test_a_search_that_found_nothing_keeps_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds praise whatever is far from 0, and the finals tell that it earns less."""
    rounds = []

    def played(
        composer: Composer, simulator: object, intents: Tensor, seeds: Tensor, most: int, **_: bool
    ) -> Played:
        lengths = intents.abs().sum(dim=1, keepdim=True).double().expand(-1, len(seeds))
        is_finals = not intents[0].any()
        rounds.append(is_finals)
        steps = 500 if most >= 500 else most
        return Played(-lengths if is_finals else lengths, steps, most >= 500)

    monkeypatch.setattr("agents.search.ground.play", played)
    simulator = small_market()
    setup = TrainingSetup(simulator, toy_inputs(simulator), 0, 5000, SHOPPERS)
    found = AGENTS["cma"].learn(setup)
    assert rounds == [False] * 7 + [True] * 2  # 160 + 7 * 500 <= 3750, then 2 * 350 <= 1340 left
    assert found.facts["return_start"] == found.facts["return_best"] == 0
    assert isinstance(found.policy, SameForAll)
    assert not found.policy.intent.any()


def test_too_few_steps_for_a_round_are_refused() -> None:
    simulator = small_market()
    setup = TrainingSetup(simulator, toy_inputs(simulator), 0, 200, SHOPPERS)
    with pytest.raises(ValueError, match=r"^steps is 200, but cma cannot play one round of 16"):
        AGENTS["cma"].learn(setup)
