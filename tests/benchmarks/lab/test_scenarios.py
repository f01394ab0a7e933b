"""Agents that do not see the page, and policies of which each serves one scenario."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.lab.scenarios import OF_PAGE, PerScenario, blind_inputs
from policies.composer import Composer, ComposerConfig
from policies.features import Recent
from policies.inputs import PolicyInputs
from policies.learnable.intents import ComposerPolicy, IntentActor
from policies.registry import POLICIES
from recsim_env import SlateSimulator
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.visits.config import VisitsConfig
from recsim_env.shoppers.visits.pages import SCENARIOS
from recsim_env.shoppers.visits.population import make_visits
from recsim_env.types import Observation
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

NO_DRAWS = torch.zeros(1, 0)
SHOPPERS = 64
"""So many that each scenario is met after a few pages."""


@pytest.fixture(scope="module")
def met() -> tuple[PolicyInputs, Observation]:
    """A market of whole visits, with the lift that a log could tell, and pages of every scenario."""
    market = MarketConfig(items=60, categories=4, width=8)
    shoppers = make_visits(
        slate_size=4, config=VisitsConfig(market=market), device=torch.device("cpu")
    )
    simulator = SlateSimulator(shoppers, {"clicks": 1.0})
    lift = torch.tensor([[0.0, 2, -1, 0], [2, 0, 0, 1], [-1, 0, 0, 0], [0, 1, 0, 0]])
    inputs = replace(toy_inputs(simulator), lift=lift)
    seen = simulator.reset(torch.arange(SHOPPERS))
    greedy = POLICIES["greedy_ctr"].build(inputs)
    for _ in range(4):
        outcome = simulator.advance(greedy(seen, NO_DRAWS))
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        seen = simulator.observe()
    assert seen["scenario"].unique().tolist() == list(range(len(SCENARIOS)))
    return inputs, seen


def moving(composer: Composer, seen: Observation, seed: int) -> ComposerPolicy:
    """A policy whose intents differ by what its network sees."""
    width = composer.features(seen).shape[1]
    actor = IntentActor(
        width, composer.intent_size, (8,), -0.5, torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        last = actor.tower[-1]
        assert isinstance(last, nn.Linear)
        last.weight.copy_(3 * torch.randn(last.weight.shape, generator=torch.Generator()))
    return ComposerPolicy(composer, actor)


def turned(seen: Observation) -> Observation:
    """What was seen, with the page of each shopper given to the next one."""
    return {
        name: value.roll(1, dims=0) if name in OF_PAGE else value for name, value in seen.items()
    }


def changed(
    build: Callable[[PolicyInputs], Composer], met: tuple[PolicyInputs, Observation]
) -> int:
    """How many slates of a policy change with the pages."""
    inputs, seen = met
    policy = moving(build(inputs), seen, 0)
    return int((policy(seen, NO_DRAWS) != policy(turned(seen), NO_DRAWS)).any(dim=1).sum())


def test_slates_of_who_does_not_see_the_page_do_not_depend_on_it(
    met: tuple[PolicyInputs, Observation],
) -> None:
    assert changed(lambda inputs: Composer(blind_inputs(inputs)), met) == 0
    assert changed(Composer, met) > 0


def test_no_cue_and_no_feature_of_who_does_not_see_the_page_reads_it(
    met: tuple[PolicyInputs, Observation],
) -> None:
    inputs, seen = met
    blind, seeing = Composer(blind_inputs(inputs)), Composer(inputs)
    assert set(seeing.knobs) - set(blind.knobs) == {"searched", "beside_cart"}
    left_out = seeing.summary.state_features.keys() - blind.summary.state_features.keys()
    assert left_out == {"page", "cart"}
    assert set(seeing.summary.small) - set(blind.summary.small) == {"query"}
    pool = blind.pool(seen)
    shown = {name: value for name, value in seen.items() if name not in OF_PAGE}
    assert torch.equal(
        blind.summary(shown, pool, Recent.of(shown)), blind.features(seen)
    )  # nothing is missed where the keys are not there at all


def test_a_specialist_moves_the_slates_of_its_own_scenario_alone(
    met: tuple[PolicyInputs, Observation],
) -> None:
    inputs, seen = met
    scenario = seen["scenario"].squeeze(1)
    start = POLICIES["reward_greedy"].build(inputs)(seen, NO_DRAWS)
    everywhere = moving(Composer(inputs), seen, 0)(seen, NO_DRAWS)
    for own in range(len(SCENARIOS)):
        policy = moving(Composer(inputs, ComposerConfig(scenario=own)), seen, 0)
        found = policy(seen, NO_DRAWS)
        assert torch.equal(found[scenario != own], start[scenario != own])
        assert torch.equal(found[scenario == own], everywhere[scenario == own])
        assert not torch.equal(found[scenario == own], start[scenario == own])


def test_each_page_is_served_by_the_policy_of_its_scenario(
    met: tuple[PolicyInputs, Observation],
) -> None:
    inputs, seen = met
    scenario = seen["scenario"].squeeze(1)
    policies = {
        own: moving(Composer(inputs, ComposerConfig(scenario=own)), seen, own)
        for own in range(len(SCENARIOS))
    }
    together = PerScenario(policies)(seen, NO_DRAWS)
    for own, policy in policies.items():
        rows = scenario == own
        assert torch.equal(together[rows], policy(seen, NO_DRAWS)[rows])


class Drawing:
    """Shows the first candidates, and says that it draws."""

    draws = 1

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        return observation["candidates"][:, :4]


def test_policies_that_draw_or_are_missing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"policies\[0\] needs 1 random numbers"):
        PerScenario({0: Drawing(), 1: Drawing(), 2: Drawing()})
    with pytest.raises(ValueError, match=r"policies has the scenarios \[0, 2\]"):
        PerScenario({0: Drawing(), 2: Drawing()})


def test_pages_without_a_scenario_are_refused() -> None:
    inputs = toy_inputs(toy_simulator(items=20, slate_size=3))
    with pytest.raises(ValueError, match="they must have 'scenario'"):
        blind_inputs(inputs)
    with pytest.raises(ValueError, match=r"config\.scenario is 1, but the pages"):
        Composer(inputs, ComposerConfig(scenario=1))
    with pytest.raises(ValueError, match="scenario is 3, but"):
        ComposerConfig(scenario=3)
