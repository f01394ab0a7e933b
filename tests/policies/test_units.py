"""One unit of every number of an intent costs the same share of what the ranker expects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from policies.composer import Composer, ComposerConfig, View
from policies.gains import Gains
from policies.units import COST, MOST, TRIED, crossing, fitted_units, repeated
from recsim_env.rewards import Reward
from recsim_env.simulator import SlateSimulator
from tests.support.agent_toys import small_market
from tests.support.policy_toys import toy_inputs

REWARD = Reward({"clicks": 1.0, "intra_list_distance": 0.3})


def composer_on(simulator: SlateSimulator, offset_dims: int = 1) -> Composer:
    inputs = replace(toy_inputs(simulator), reward=REWARD)
    return Composer(inputs, ComposerConfig(pool=30, offset_dims=offset_dims))


def some_views(composer: Composer, simulator: SlateSimulator, visits: int = 6) -> View:
    """Visits of shoppers who have seen greedy slates."""
    observation = simulator.reset(torch.arange(24))
    for _ in range(visits):
        view = composer.view(observation)
        simulator.advance(composer.compose_view(view, torch.zeros(24, composer.intent_size)))
        observation = simulator.observe()
    return composer.view(observation)


def cost_of(composer: Composer, view: View, intent: Tensor) -> float:
    """Share of the expected reward that an intent gives away."""
    rows = len(view.features)
    nothing = torch.zeros(rows, composer.intent_size)
    greedy = composer.worth(view, composer.compose_view(view, nothing)).mean()
    moved = composer.worth(view, composer.compose_view(view, intent.expand(rows, -1))).mean()
    return float(1 - moved / greedy)


def test_the_worth_of_a_slate_is_its_clicks_and_its_distance() -> None:
    simulator = small_market()
    composer = composer_on(simulator)
    view = some_views(composer, simulator)
    slates = composer.compose_view(view, torch.zeros(24, composer.intent_size))
    catalog = simulator.catalog
    for row in range(3):
        places = [view.pool.items[row].tolist().index(item) for item in slates[row].tolist()]
        clicks = torch.sigmoid(view.pool.logits[row, places]).sum()
        vectors = catalog.embedding[slates[row]]
        cosines = (vectors @ vectors.T).clamp(min=0)
        pairs = torch.triu(torch.ones_like(cosines), diagonal=1).bool()
        expected = clicks + 0.3 * (1 - cosines[pairs]).mean()
        worth = composer.worth(view, slates)[row]
        assert float(worth) == pytest.approx(float(expected), rel=1e-4)
    assert Gains(REWARD).knobs == ("scale_intra_list_distance",)


def test_a_unit_of_every_number_costs_the_same() -> None:
    simulator = small_market()
    composer = composer_on(simulator)
    view = some_views(composer, simulator)
    units = fitted_units(composer, view)
    assert units.shape == (composer.intent_size,)
    ends = torch.tensor([TRIED[0], TRIED[-1]])
    for at in range(composer.intent_size):
        step = torch.zeros(composer.intent_size)
        step[at] = units[at]
        cost = (cost_of(composer, view, step) + cost_of(composer, view, -step)) / 2
        far = [(cost_of(composer, view, size * step / units[at]), size) for size in (*ends, *-ends)]
        if units[at] == 1.0:  # it changes nothing
            assert max(abs(value) for value, _ in far) < 1e-6
            continue
        # between two tried sizes the cost is read off a straight line of logarithms
        assert 0.3 * COST < cost < 2.5 * COST, composer.knobs[at : at + 1]


def test_units_of_other_sizes_give_the_same_slates() -> None:
    """Whatever a cue is measured in, its fitted unit does the same to a slate."""
    simulator = small_market()
    composer = composer_on(simulator, offset_dims=0)
    view = some_views(composer, simulator)
    before = fitted_units(composer, view)
    scaled = replace(view, cues=view.cues * 4)  # as if every cue were told in quarters
    after = fitted_units(composer, scaled)
    cues = len(composer.cues)
    moved = before[-cues:] != 1.0
    assert moved.any()
    torch.testing.assert_close(after[-cues:][moved] * 4, before[-cues:][moved], rtol=0.15, atol=0)
    torch.testing.assert_close(after[:-cues], before[:-cues])


def test_the_crossing_is_read_off_between_two_sizes_or_at_most_of_what_is_possible() -> None:
    # the cost of the first number grows as the square of its size: .0001 at 1, so .05 = .0001 u^2
    # gives u = 22.36. The second never costs more than .02, and crosses 3 / 4 of it between 1 and 4
    # at log u / log 4 = log(.015 / .005) / log(.02 / .005). The third costs nothing.
    square = [0.0001 * size**2 for size in TRIED]
    level = [0.0, 0.0, 0.0, 0.005, 0.02, 0.02, 0.02]
    costs = torch.tensor([square, level, [0.0] * 7], dtype=torch.float64).T
    found = crossing(costs, 0.05)
    assert MOST == 0.75
    assert found[0] == pytest.approx((0.05 / 0.0001) ** 0.5, rel=1e-5)
    ratio = torch.log(torch.tensor(3.0)) / torch.log(torch.tensor(4.0))
    assert found[1] == pytest.approx(4 ** float(ratio), rel=1e-5)
    assert found[2] == 1.0


def test_repeated_visits_are_the_same_visits() -> None:
    simulator = small_market()
    composer = composer_on(simulator)
    view = some_views(composer, simulator)
    intents = torch.randn(24, composer.intent_size, generator=torch.Generator().manual_seed(0))
    slates = composer.compose_view(view, intents)
    again = composer.compose_view(repeated(view, 3), intents.repeat(3, 1))
    assert torch.equal(again, slates.repeat(3, 1))
