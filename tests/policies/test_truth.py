"""Shoppers who hide nothing: what they tell is what they do, and they do what they did before."""

from __future__ import annotations

import pytest
import torch

from policies.truth import Told, readable
from recsim_env import make_simulator
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.shoppers.regulars.traits import TRAITS
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper
from tests.support.toys import ToyShopper

TINY = RegularsConfig(items=40, categories=4, width=8, known=24, fewest_visits=3, most_visits=9)
IDS = ("Market", "MarketRegulars", "MarketVisit", "LearnedMarket")
TOLERANCE = {**dict.fromkeys(IDS, 1e-5), "LearnedMarket": 0.01}
"""Largest error of a chance; that of the learned market is of a polynomial."""


def hiding(name: str) -> SlateSimulator:
    options = {"config": TINY} if name == "MarketRegulars" else {}
    return make_simulator(f"recsim_env/{name}-v0", device="cpu", slate_size=4, **options)


def telling(name: str) -> SlateSimulator:
    like = hiding(name)
    return SlateSimulator(Told(like.shopper), like.reward, horizon_days=like.horizon_days)


@pytest.mark.parametrize("name", IDS)
def test_what_is_told_is_what_happens(name: str) -> None:
    told, plain = telling(name), hiding(name)
    seen, other = told.reset(torch.arange(8)), plain.reset(torch.arange(8))
    assert {key: torch.equal(value, seen[key]) for key, value in other.items()} == dict.fromkeys(
        other, True
    )
    slates = torch.tensor([[5, 11, 17, 23]]).expand(8, -1)
    for _ in range(3):
        chance = seen["belief_logits"].gather(1, slates).sigmoid() * seen["belief_looks"]
        outcome, same = told.advance(slates), plain.advance(slates)
        assert torch.equal(outcome.response.clicks, same.response.clicks)
        error = (outcome.response.probability - chance).abs()
        # below the top a learned mood joins look and click, so that the product is near
        assert float(error[:, 0].max()) < TOLERANCE[name]
        assert float(error.max()) < 3 * TOLERANCE[name] + 0.01 * (name == "LearnedMarket")
        seen = told.observe()


def test_traits_are_told_and_stay_as_they_are() -> None:
    shop = telling("MarketRegulars")
    before = shop.reset(torch.arange(6))["belief_traits"]
    assert before.shape == (6, len(TRAITS))
    assert torch.equal(before[:, 0], shop.hidden.traits.habit)
    assert torch.equal(
        shop.step(torch.zeros(6, 4, dtype=torch.int64)).observation["belief_traits"], before
    )


def test_shoppers_who_tell_keep_the_promises_of_those_who_do_not() -> None:
    check_shopper(telling("MarketRegulars").shopper)


def test_others_cannot_be_read() -> None:
    assert not readable(ToyShopper())
    with pytest.raises(ValueError, match="shopper is a ToyShopper, but the truth can be read of"):
        Told(ToyShopper())
