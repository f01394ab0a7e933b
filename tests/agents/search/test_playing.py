"""Several intents played together earn what each earns alone, with the same shoppers."""

from __future__ import annotations

import pytest
import torch

from agents.evaluate import evaluate
from agents.search.playing import first_visits, play
from policies.composer import Composer, ComposerConfig
from policies.rerankers import SameForAll
from tests.support.agent_toys import small_market
from tests.support.policy_toys import toy_inputs

SEEDS = torch.arange(100, 112)


def composer() -> Composer:
    return Composer(toy_inputs(small_market()), ComposerConfig(pool=12, offset_dims=0))


def some_intents(size: int) -> torch.Tensor:
    return torch.randn(3, size, generator=torch.Generator().manual_seed(1))


def test_played_returns_are_those_of_the_evaluation() -> None:
    here = composer()
    intents = some_intents(here.intent_size)
    played = play(here, small_market(), intents, SEEDS, 10**6, expected_clicks=False)
    steps = 0
    for intent, returns in zip(intents, played.returns, strict=True):
        rows = evaluate(SameForAll(here, intent), small_market(), SEEDS).rows
        assert returns.tolist() == pytest.approx(rows["return"].to_list(), abs=1e-4)
        steps += int(rows["visits"].sum())
    assert played.steps == steps
    assert played.whole


def test_expected_clicks_have_the_same_mean_and_less_noise() -> None:
    here, seeds = composer(), torch.arange(400)
    intent = torch.zeros(1, here.intent_size)
    fell = play(here, small_market(), intent, seeds, 10**6, expected_clicks=False).returns[0]
    expected = play(here, small_market(), intent, seeds, 10**6).returns[0]
    difference = fell - expected
    assert float(difference.mean().abs()) < 3 * float(difference.std()) / len(seeds) ** 0.5
    assert float(expected.std()) < float(fell.std())


def test_play_stops_before_it_takes_too_many_steps() -> None:
    here = composer()
    intents = some_intents(here.intent_size)
    played = play(here, small_market(), intents, SEEDS, 36 + 5)
    assert (played.steps, played.whole) == (36, False)
    nothing = play(here, small_market(), intents, SEEDS, 35)
    assert (nothing.steps, nothing.whole) == (0, False)
    assert not nothing.returns.any()


def test_the_first_visits_are_those_of_a_greedy_policy() -> None:
    here, simulator = composer(), small_market()
    seen = first_visits(here, simulator, SEEDS, 3)
    assert len(seen["recent_slates"]) == 36
    assert (seen["recent_slates"][:12] == -1).all()
    again = small_market()
    first = again.reset(SEEDS)
    slates = here.compose(first, torch.zeros(12, here.intent_size))
    assert torch.equal(seen["recent_slates"][12:24, 0], slates)
