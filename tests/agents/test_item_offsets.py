"""Thompson sampling on items: its step by hand, what it learns, and what it shows."""

from __future__ import annotations

import math

import pytest
import torch

from agents import AGENTS, TrainingSetup
from agents.item_offsets import ItemOffsetsConfig, OffsetPolicy, Offsets, _new_items
from recsim_env import SlateSimulator, make_simulator
from recsim_env.shoppers.regulars.config import RegularsConfig
from tests.support.policy_toys import toy_inputs

SMALL = RegularsConfig(items=40, categories=4, width=8, known=24, fewest_visits=3, most_visits=9)


def regulars(new_items: float) -> SlateSimulator:
    return make_simulator(
        "recsim_env/MarketRegulars-v0",
        device="cpu",
        slate_size=5,
        config=SMALL,
        new_items=new_items,
        reward={"clicks": 1.0},
    )


def test_a_step_is_newtons() -> None:
    offsets = Offsets(torch.tensor([0.5, 0.0, 0.0]), torch.tensor([2.0, 1.0, 0.25]))
    found = offsets.learned(
        items=torch.tensor([[0, 1]]),
        logits=torch.tensor([[-1.0, 0.0]]),
        looks=torch.tensor([[1.0, 0.5]]),
        shown=torch.tensor([[True, True]]),
        clicks=torch.tensor([[True, False]]),
    )
    # The first position is looked at: the information is s (1 - s), the surprise click - s.
    s = 1 / (1 + math.exp(0.5))
    variance = 1 / (1 / 2.0 + s * (1 - s))
    assert found.variance[0].item() == pytest.approx(variance)
    assert found.mean[0].item() == pytest.approx(0.5 + variance * (1 - s))
    # The second is looked at with chance 1/2: p = 1/4, its slope in the offset 1/8.
    p, slope = 0.5 * 0.5, 0.5 * 0.25
    variance = 1 / (1 / 1.0 + slope**2 / (p * (1 - p)))
    assert found.variance[1].item() == pytest.approx(variance)
    assert found.mean[1].item() == pytest.approx(-variance * slope * p / (p * (1 - p)))
    assert (found.mean[2].item(), found.variance[2].item()) == (0.0, 0.25)


def test_what_was_not_shown_and_what_is_certain_teach_nothing() -> None:
    offsets = Offsets(torch.tensor([0.5, 0.2]), torch.tensor([2.0, 0.0]))
    found = offsets.learned(
        items=torch.tensor([[0, 1]]),
        logits=torch.zeros(1, 2),
        looks=torch.ones(1, 2),
        shown=torch.tensor([[False, True]]),
        clicks=torch.tensor([[False, True]]),
    )
    assert torch.equal(found.mean, offsets.mean)
    assert torch.equal(found.variance, offsets.variance)


def test_it_finds_the_offset_of_an_item_from_many_clicks() -> None:
    generator = torch.Generator().manual_seed(0)
    offsets, true = Offsets(torch.zeros(1), torch.ones(1)), 0.8
    chance = torch.sigmoid(torch.tensor(-2.0 + true))
    for _ in range(40):
        clicks = torch.rand(100, 1, generator=generator) < chance
        offsets = offsets.learned(
            torch.zeros(100, 1, dtype=torch.int64),
            torch.full((100, 1), -2.0),
            torch.ones(1, 1),
            torch.ones(100, 1, dtype=torch.bool),
            clicks,
        )
    deviation = offsets.variance.sqrt().item()
    assert deviation < 0.06
    assert abs(offsets.mean.item() - true) < 4 * deviation


def test_new_items_are_those_that_the_shop_tells() -> None:
    simulator = regulars(0.25)
    seen = simulator.reset(torch.arange(3))
    assert simulator.shopper.new_items is not None
    assert torch.equal(_new_items(seen, 40), simulator.shopper.new_items)
    assert not bool(_new_items(regulars(0.0).reset(torch.arange(3)), 40).any())


def test_without_a_scale_it_shows_the_best_by_the_mean_and_draws_nothing() -> None:
    simulator = regulars(0.25)
    inputs, seen = toy_inputs(simulator), simulator.reset(torch.arange(3))
    mean = torch.zeros(40)
    mean[7] = 100.0
    policy = OffsetPolicy(inputs, Offsets(mean, torch.ones(40)), 0.0)
    assert policy.draws == 0
    assert policy(seen, torch.zeros(3, 0))[:, 0].tolist() == [7, 7, 7]
    sampling = OffsetPolicy(inputs, Offsets(mean, torch.full((40,), 9.0)), 1.0)
    assert sampling.draws == 40
    slates = [
        sampling(seen, torch.rand(3, 40, generator=torch.Generator().manual_seed(at)))
        for at in (0, 1)
    ]
    assert not torch.equal(*slates)


def test_it_shows_more_new_items_where_it_explores() -> None:
    shown = {}
    for scale in (0.0, 2.0):
        simulator = regulars(0.25)
        setup = TrainingSetup(simulator, toy_inputs(simulator), 0, 200, 50)
        agent = AGENTS["thompson_items"].learn(setup, {"scale": scale, "new_spread": 3.0})
        assert agent.steps == 200
        policy, seen = agent.untrained_sampled, simulator.reset(torch.arange(64))
        assert policy is not None
        draws = torch.rand(64, policy.draws, generator=torch.Generator().manual_seed(0))
        assert simulator.shopper.new_items is not None
        shown[scale] = int(simulator.shopper.new_items[policy(seen, draws)].sum())
    assert shown[2.0] > shown[0.0]


@pytest.mark.parametrize("name", ["new_spread", "known_spread", "scale"])
@pytest.mark.parametrize("value", [-1.0, math.nan, "much"])
def test_bad_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is"):
        ItemOffsetsConfig(**{name: value})  # type: ignore[arg-type]
