"""Shelf policies draw with the chances that they tell."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from policies.composer import Composer, ComposerConfig
from policies.shelves import HOTTEST, ShelfPolicy, Shelves, propensities
from recsim_env.types import Observation
from tests.policies.test_composer import some_visits
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator


def shelves_and_visits(pool: int = 20, size: int = 6) -> tuple[Shelves, Observation, Tensor]:
    """Shelves of a toy shop, what is known of shoppers, and the pool by a composer."""
    simulator = toy_simulator(items=120, slate_size=size)
    inputs = dataclasses.replace(toy_inputs(simulator), pool=pool)
    seen = some_visits(simulator)
    composer = Composer(inputs, ComposerConfig(form="log_odds", offset_dims=0))
    return Shelves(inputs, ("shown", "repeated")), seen, composer.pool(seen).items


def test_the_pool_is_dealt_out_in_turns() -> None:
    shelves, seen, pool = shelves_and_visits()
    shelved = shelves(seen)
    assert shelved.items.shape == (24, 6, 4)  # of 20 items, so that four shelves are shorter
    for position in range(6):
        own = pool[:, position::6]
        assert torch.equal(shelved.items[:, position, : own.shape[1]], own)
        assert bool((shelved.items[:, position, own.shape[1] :] == -1).all())


def test_slates_are_drawn_with_the_chances_that_are_told() -> None:
    shelves, seen, _ = shelves_and_visits()
    policy = ShelfPolicy(shelves, {"shown": -0.5}, 0.7)
    one = {name: value[:1].expand(20_000, *value.shape[1:]) for name, value in seen.items()}
    draws = torch.rand(20_000, policy.draws, generator=torch.Generator().manual_seed(0))
    shelved = shelves({name: value[:1] for name, value in seen.items()})
    chances = policy.chances(shelved)[0]
    assert chances.sum(dim=1) == pytest.approx(torch.ones(6).double())
    slates = policy(one, draws)
    places = (slates.unsqueeze(2) == shelved.items).int().argmax(dim=2)
    found = torch.stack([torch.bincount(places[:, k], minlength=4) for k in range(6)]) / 20_000
    assert found == pytest.approx(chances, abs=4 * math.sqrt(0.25 / 20_000))
    told = policy.log_propensity({name: value[:3] for name, value in one.items()}, slates[:3])
    by_hand = [
        math.log(math.prod(chances[k, places[row, k]] for k in range(6))) for row in range(3)
    ]
    assert told.tolist() == pytest.approx(by_hand)


def test_knobs_and_temperature_move_the_chances_as_said() -> None:
    shelves, seen, _ = shelves_and_visits()
    shelved = shelves(seen)
    scores = shelved.logits - 0.5 * shelved.cues[..., 0]
    wanted = torch.softmax(scores.double() / 2, dim=2)
    assert torch.equal(ShelfPolicy(shelves, {"shown": -0.5}, 2.0).chances(shelved), wanted)
    even = ShelfPolicy(shelves, {}, HOTTEST).chances(shelved)
    assert even[:, 0] == pytest.approx(torch.full((24, 4), 1 / 4).double(), abs=1e-4)
    assert even[:, 5, 3].tolist() == [0.0] * 24  # the shelf has three items
    highest = ShelfPolicy(shelves, {}, 1.0)(seen, torch.full((24, 6), 1 - 2**-24))
    assert bool((highest >= 0).all())


def test_what_cannot_be_is_told() -> None:
    shelves, seen, _ = shelves_and_visits()
    with pytest.raises(ValueError, match="knobs is 'sated', but it must be one of"):
        ShelfPolicy(shelves, {"sated": 1.0})
    with pytest.raises(ValueError, match="temperature is 0"):
        ShelfPolicy(shelves, {}, 0.0)
    slates = shelves(seen).items[:, :, 0].flip(1)
    with pytest.raises(ValueError, match=r"slates holds \d+ at \[0, 0\], but it must be an item"):
        ShelfPolicy(shelves, {}).log_propensity(seen, slates)
    simulator = toy_simulator(items=120, slate_size=6)
    with pytest.raises(ValueError, match=r"cues is .nothing., but it must be one of"):
        Shelves(toy_inputs(simulator), ("nothing",))


def test_propensities_are_looked_up() -> None:
    chances = torch.tensor([[[0.2, 0.8], [0.5, 0.5]]])
    assert propensities(chances, torch.tensor([[1, 0]])).tolist() == [pytest.approx([0.8, 0.5])]
