"""Autoregressive bundles: the lift, the level and what clicks earn, against an enumeration."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.gains import click_worth
from policies.learnable.autoregressive import (
    START,
    AutoregressiveActor,
    AutoregressiveConfig,
    AutoregressivePolicy,
    ItemTables,
    autoregressive_actor,
)
from policies.learnable.kinds import ActorInputs
from recsim_env import SlateSimulator, make_simulator
from recsim_env.rewards import Reward
from recsim_env.shoppers.bundles.config import BUNDLES
from recsim_env.types import Observation
from tests.policies.learnable.test_autoregressive import many
from tests.policies.test_composer import some_visits
from tests.support.policy_toys import toy_inputs

CATEGORY = [0, 1, 2]
LOGITS = [0.5, 0.2, -0.1]
PRICES = [1.0, 4.0, 2.0]
LIFT = [[0.0, -0.5, 2.0], [-0.5, 0.0, 0.3], [2.0, 0.3, 0.0]]
SCALE, TOGETHER, UNIT, LEVELS = 1.5, 0.6, 2.0, 3
OF_LEVEL = [0.1, 0.7, -0.4]


def three_items(worth: torch.Tensor | None) -> tuple[AutoregressiveActor, Observation]:
    """A pool of three items of which each has a category of its own, seen once; bundles of two."""
    items = ItemTables(
        torch.zeros(3, 0), torch.tensor(CATEGORY), torch.eye(3), torch.tensor(LIFT), worth
    )
    actor = AutoregressiveActor(
        1,
        0,
        items,
        torch.tensor([1.0, 1.0, UNIT]),
        2,
        (4,),
        AutoregressiveConfig(SCALE),
        torch.Generator().manual_seed(0),
        LEVELS,
    )
    actor.start_at(torch.tensor([0.0, 0.0, TOGETHER, *OF_LEVEL]))
    seen = {
        "features": torch.zeros(1, 1),
        "pool": torch.arange(3).unsqueeze(0),
        "logits": torch.tensor([LOGITS]),
        "cues": torch.zeros(1, 3, 0),
    }
    return actor, seen


def score(item: int, above: tuple[int, ...], *, priced: bool) -> float:
    """The module's equations by hand."""
    log_odds = LOGITS[item] + UNIT * TOGETHER * sum(LIFT[other][item] for other in above)
    if priced:
        return SCALE * math.log(PRICES[item] / (1 + math.exp(-log_odds)))
    return SCALE * log_odds


def by_hand(*, priced: bool) -> dict[tuple[int, ...], float]:
    """The probability of every bundle and level."""
    of_level = [math.exp(told + START * (at == 0)) for at, told in enumerate(OF_LEVEL)]
    found: dict[tuple[int, ...], float] = {}
    for pair in itertools.permutations(range(3), 2):
        probability = 1.0
        for position, item in enumerate(pair):
            above = pair[:position]
            weights = {
                other: math.exp(score(other, above, priced=priced))
                for other in range(3)
                if other not in above
            }
            probability *= weights[item] / sum(weights.values())
        for level, weight in enumerate(of_level):
            found[(*pair, level)] = probability * weight / sum(of_level)
    return found


@pytest.mark.parametrize("priced", [False, True])
def test_probabilities_of_all_bundles_are_those_by_hand_and_sum_to_one(priced: bool) -> None:
    worth = torch.tensor(PRICES).log() if priced else None
    actor, seen = three_items(worth)
    bundles = by_hand(priced=priced)
    assert len(bundles) == 3 * 2 * LEVELS
    with torch.no_grad():
        found, along = actor.judge(many(seen, len(bundles)), torch.tensor(list(bundles)))
    torch.testing.assert_close(found, torch.tensor(list(bundles.values())).log(), atol=1e-5, rtol=0)
    assert abs(float(found.exp().sum()) - 1) < 1e-5
    exact = -sum(chance * math.log(chance) for chance in bundles.values())
    assert abs(float((found.exp() * along).sum()) - exact) < 1e-5  # the chain rule


def test_bundles_are_drawn_as_often_as_their_probability() -> None:
    actor, seen = three_items(torch.tensor(PRICES).log())
    times = 100_000
    draws = torch.rand(times, 2 * 3 + LEVELS, generator=torch.Generator().manual_seed(0))
    drawn = actor.act(many(seen, times), draws)
    shares = torch.bincount(drawn @ torch.tensor([9, 3, 1]), minlength=27) / times
    for (one, other, level), chance in by_hand(priced=True).items():
        tolerance = 4 * math.sqrt(chance * (1 - chance) / times)
        assert abs(float(shares[9 * one + 3 * other + level]) - chance) < tolerance


# ---- in the market of bundles ----


@pytest.fixture(scope="module")
def market() -> tuple[SlateSimulator, PolicyInputs]:
    """A small market of bundles, with the lift that a log could tell."""
    config = replace(BUNDLES, market=replace(BUNDLES.market, items=40, categories=5, base=-1.0))
    simulator = make_simulator("recsim_env/Bundle-v0", config=config, device="cpu")
    lift = torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
    inputs = replace(
        toy_inputs(simulator),
        lift=lift + lift.T,
        levels=len(simulator.discounts),
        reward=simulator.reward,
    )
    return simulator, inputs


def actor_of(composer: Composer, seen: Observation, inputs: PolicyInputs) -> AutoregressiveActor:
    width = composer.features(seen).shape[1]
    generator = torch.Generator().manual_seed(0)
    return autoregressive_actor(
        ActorInputs(composer, inputs.catalog, width, (8,), generator), AutoregressiveConfig()
    )


def test_untrained_it_offers_the_best_single_items_without_a_discount(
    market: tuple[SlateSimulator, PolicyInputs],
) -> None:
    simulator, inputs = market
    composer, seen = Composer(inputs), some_visits(simulator)
    found = AutoregressivePolicy(composer, actor_of(composer, seen, inputs))(
        seen, torch.zeros(24, 0)
    )
    greedy = POLICIES["reward_greedy"].build(inputs)(seen, torch.zeros(24, 0))
    assert torch.equal(found, greedy)
    assert found[:, -1].unique().tolist() == [0]


def test_its_most_likely_bundle_is_what_the_composer_makes_of_the_same_intent(
    market: tuple[SlateSimulator, PolicyInputs],
) -> None:
    simulator, inputs = market
    composer, seen = Composer(inputs, ComposerConfig(offset_dims=0)), some_visits(simulator)
    actor = actor_of(composer, seen, inputs)
    chosen = {"together": 1.5, "count": -0.5, "similarity": -0.3, "shown": -1.0}
    intent = composer.intent(chosen)
    own = [at for at, name in enumerate(composer.knobs) if name != "discount"]
    actor.start_at(intent[own])
    found = AutoregressivePolicy(composer, actor)(seen, torch.zeros(24, 0))
    composed = composer.compose(seen, intent.expand(24, -1))
    assert torch.equal(found, composed)
    assert not torch.equal(found, composer.compose(seen, torch.zeros(24, composer.intent_size)))


def test_a_click_earns_what_the_terms_on_clicks_pay(
    market: tuple[SlateSimulator, PolicyInputs],
) -> None:
    catalog = market[0].catalog
    price = catalog.known_price
    assert price is not None
    reward = Reward({"clicks": 0.5, "revenue": 2.0, "category_coverage": 3.0})
    torch.testing.assert_close(click_worth(reward, catalog), 0.5 + 2.0 * price)
    assert click_worth(Reward({"clicks": 1.0}), catalog).unique().tolist() == [1.0]
