"""Every cause is taken out by itself, under the same noise, and what is told then happens."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from torch import Tensor

import recsim_env
from recsim_env.explaining import Cause, Explanation, explain, without
from recsim_env.explaining.counterfactual import kinds_of
from recsim_env.explaining.kind import KINDS, Kind, register_kind
from recsim_env.registration import make_simulator
from recsim_env.shoppers.market import MarketShopper
from recsim_env.shoppers.worlds import category_centres
from recsim_env.simulator import SlateSimulator
from tests.support.friends import Friends
from tests.support.outside_toys import make_songs

CLOSED = ("Market", "MarketRegulars", "MarketVisit", "Bundle", "LearnedMarket")


def slates_of(simulator: SlateSimulator, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    items = len(simulator.catalog)
    picked = [
        torch.randperm(items, generator=generator)[: simulator.slate_size]
        for _ in range(simulator.num_envs)
    ]
    slates = torch.stack(picked)
    level = torch.full((len(slates), 1), 1)
    return torch.cat([slates, level], dim=1) if simulator.discounts else slates


def after(name: str, visits: int = 3, shoppers: int = 4) -> SlateSimulator:
    """A simulator whose shoppers have met the same slate several times."""
    simulator = make_simulator(f"recsim_env/{name}-v0")
    simulator.reset(torch.arange(shoppers), staying=True)
    for _ in range(visits):
        simulator.step(slates_of(simulator, 0))
    return simulator


def effect(explained: Explanation, kind: str, row: int, key: int) -> list[float]:
    """The chances of a shopper's responses without a cause."""
    at = explained.causes.index(Cause(kind, key), int((explained.rows < row).sum()))
    assert explained.rows[at] == row
    found: list[float] = explained.without_probability[at].tolist()
    return found


@pytest.mark.parametrize("name", CLOSED)
def test_what_is_explained_then_happens(name: str) -> None:
    simulator = after(name)
    slates = slates_of(simulator, 0)
    explained = explain(simulator, slates)
    response = simulator.step(slates).response
    assert torch.equal(explained.clicks, response.clicks)
    assert torch.allclose(explained.probability, response.probability, atol=1e-6)
    assert {cause.kind for cause in explained.causes} <= set(kinds_of(simulator.shopper))


@pytest.mark.parametrize("name", CLOSED)
def test_explaining_changes_nothing(name: str) -> None:
    explained, left = after(name), after(name)
    slates = slates_of(left, 1)
    explain(explained, slates)
    before, now = left.state().tensors, explained.state().tensors
    assert all(torch.equal(now[key], value) for key, value in before.items())
    assert torch.equal(explained.step(slates).reward, left.step(slates).reward)


def test_in_the_market_every_cause_has_its_closed_form() -> None:
    simulator = after("Market")
    shopper, state = simulator.shopper, simulator.hidden
    assert isinstance(shopper, MarketShopper)
    slates = slates_of(simulator, 0)
    explained, row, config = explain(simulator, slates), 2, shopper.config
    for position in (0, 4):
        item = int(slates[row, position])
        category = int(simulator.catalog.category[item])
        odds = float(shopper.log_odds(state, slates)[row, position])
        looks = float(state.examination[row]) ** position

        def chance(odds: float, looks: float = looks) -> float:
            return looks / (1 + math.exp(-odds))

        assert float(explained.probability[row, position]) == pytest.approx(chance(odds), rel=1e-4)

        sated = float(state.variety[row] * state.satiation[row, category])
        found = effect(explained, "boredom", row, category)[position]
        assert found == pytest.approx(chance(odds + config.satiation * sated), rel=1e-4)

        tired = float(state.fatigue[row, item])
        assert tired > 0
        found = effect(explained, "repetition", row, item)[position]
        assert found == pytest.approx(chance(odds + config.fatigue * tired), rel=1e-4)

        found = effect(explained, "position", row, 0)[position]
        assert found == pytest.approx(chance(odds, looks=1.0), rel=1e-4)

        centre = category_centres(simulator.catalog)[category]
        along = float(state.interest[row] @ centre)
        moved = config.interest * along * float(simulator.catalog.embedding[item] @ centre)
        found = effect(explained, "interest", row, category)[position]
        assert found == pytest.approx(chance(odds - moved), rel=1e-4)


def test_a_neighbour_adds_what_the_closed_form_says() -> None:
    """Items 0, 3 and 6 are of one category: each of three has two friends, 0.1 + 0.2 * 2 = 0.5."""
    simulator = SlateSimulator(Friends(), {"clicks": 1.0})
    category = simulator.catalog.category
    same = (category == category[0]).nonzero().flatten()[:3]
    other = (category != category[0]).nonzero().flatten()[:1]
    simulator.reset(torch.arange(2))
    explained = explain(simulator, torch.stack([same, torch.cat([same[:2], other])]))
    assert explained.probability.tolist() == [
        pytest.approx([0.5, 0.5, 0.5]),
        pytest.approx([0.3, 0.3, 0.1]),
    ]
    assert effect(explained, "neighbours", 0, 0) == pytest.approx([0.0, 0.3, 0.3])
    assert effect(explained, "neighbours", 1, 1) == pytest.approx([0.1, 0.0, 0.1])
    reason = explained.reasons(0, 2)[0]
    assert reason.cause == Cause("neighbours", 0)
    assert reason.factor == pytest.approx(0.5 / 0.3)
    assert explained.reasons(1, 2) == []  # nothing moves an item without friends
    assert explained.reasons(0, 0, most=1)[0].name.endswith(", on the same slate")


def test_several_causes_are_taken_out_together() -> None:
    simulator = SlateSimulator(Friends(), {"clicks": 1.0})
    category = simulator.catalog.category
    same = (category == category[0]).nonzero().flatten()[:3]
    simulator.reset(torch.arange(2))
    slates = torch.stack([same, same])
    taken = [[Cause("neighbours", 1), Cause("neighbours", 2)], []]
    probability, _ = without(simulator, slates, taken)
    assert probability.tolist() == [pytest.approx([0.1, 0.0, 0.0]), pytest.approx([0.5] * 3)]
    with pytest.raises(ValueError, match="causes has 1 lists, but it must have 2"):
        without(simulator, slates, taken[:1])


@pytest.mark.parametrize("name", ["Market", "MarketVisit", "LearnedMarket", "Bundle"])
def test_a_shopper_alone_is_explained_as_in_a_batch(name: str) -> None:
    simulator = after(name)
    slates = slates_of(simulator, 0)
    together = explain(simulator, slates)
    simulator.keep(torch.tensor([1]))
    alone = explain(simulator, slates[1:2])
    mine = together.rows == 1
    assert alone.causes == tuple(
        cause for cause, own in zip(together.causes, mine.tolist(), strict=True) if own
    )
    assert torch.allclose(alone.without_probability, together.without_probability[mine], atol=1e-6)


@pytest.mark.parametrize("name", ["Market", "LearnedMarket"])
def test_one_cause_by_itself_is_what_is_explained(name: str) -> None:
    simulator = after(name)
    slates = slates_of(simulator, 0)
    explained = explain(simulator, slates)
    for at in (0, len(explained.causes) // 2, len(explained.causes) - 1):
        row = int(explained.rows[at])
        taken: list[list[Cause]] = [[] for _ in slates]
        taken[row] = [explained.causes[at]]
        probability, clicks = without(simulator, slates, taken)
        expected = explained.probability.clone()
        expected[row] = explained.without_probability[at]
        assert torch.allclose(probability, expected, atol=1e-6)
        assert torch.equal(clicks[row], explained.without_clicks[at])


def test_a_discount_and_what_was_declared_are_causes() -> None:
    bundles = after("Bundle", visits=0)
    explained = explain(bundles, slates_of(bundles, 0), kinds=["promotion"])
    assert set(explained.names) == {"10% off the whole"}
    plain = slates_of(bundles, 0)[:, :-1]
    assert torch.allclose(explained.without_probability, explain(bundles, plain).probability)

    newcomers, known = after("LearnedMarket", visits=0), after("LearnedMarket", visits=1)
    told = explain(newcomers, slates_of(newcomers, 0), kinds=["declared"])
    assert told.rows.tolist() == [0, 1, 2, 3]
    assert bool((told.without_probability != told.probability).any())
    assert explain(known, slates_of(known, 0), kinds=["declared"]).causes == ()


def test_a_search_and_the_cart_are_causes_of_their_pages_alone() -> None:
    simulator = make_simulator("recsim_env/MarketVisit-v0")
    observation = simulator.reset(torch.arange(64), staying=True)
    for visit in range(4):
        observation = simulator.step(slates_of(simulator, visit)).observation
    scenario, filled = observation["scenario"][:, 0], (observation["cart"] >= 0).any(dim=1)
    explained = explain(simulator, slates_of(simulator, 9), kinds=["query", "cart"])
    by_kind: dict[str, set[int]] = {"query": set(), "cart": set()}
    for cause, row in zip(explained.causes, explained.rows.tolist(), strict=True):
        by_kind[cause.kind].add(row)
    assert by_kind["query"] == set((scenario == 1).nonzero().flatten().tolist()) != set()
    assert by_kind["cart"] == set(((scenario == 2) & filled).nonzero().flatten().tolist()) != set()


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["fireworks"], r"kinds\[0\] is 'fireworks', but it must be one of"),
        (["position", "cart"], r"kinds\[1\] is 'cart', but MarketShopper has no such causes"),
        ("position", "kinds is 'position'"),
    ],
)
def test_kinds_that_are_none_are_refused(kinds: Any, message: str) -> None:
    simulator = after("Market", visits=0)
    with pytest.raises(ValueError, match=message):
        explain(simulator, slates_of(simulator, 0), kinds=kinds)


@pytest.mark.parametrize(
    ("causes", "error", "message"),
    [
        (None, ValueError, "causes is None, but it must be a list"),
        ([Cause("position", 0)], ValueError, r"causes\[0\] is Cause\(.*\), but it must be a list"),
        ([["position"]], TypeError, r"causes\[0\]\[0\] is 'position', but it must be a Cause"),
        ([[Cause("cart", 0)]], ValueError, "'cart', but MarketShopper has no such causes"),
        ([[Cause("position", 5)]], ValueError, r"causes\[0\] holds Cause\(.*\), but that shopper"),
    ],
)
def test_what_is_no_cause_cannot_be_taken_out(
    causes: Any, error: type[Exception], message: str
) -> None:
    simulator = after("Market", visits=0, shoppers=1)
    with pytest.raises(error, match=message):
        without(simulator, slates_of(simulator, 0), causes)


def test_what_cannot_be_explained_is_refused() -> None:
    simulator = make_simulator("recsim_env/Market-v0")
    with pytest.raises(ResetNeeded):
        explain(simulator, torch.zeros(1, 10, dtype=torch.int64))
    simulator.reset(torch.arange(1))
    with pytest.raises(TypeError, match="slates is"):
        explain(simulator, np.zeros((1, 10)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="simulator is"):
        explain("recsim_env/Market-v0", torch.zeros(1, 10, dtype=torch.int64))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [5, lambda: None, dict])
def test_a_kind_is_a_class_of_kinds(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"The kind of cause 'rain' is .*, but it must be a class"):
        register_kind("rain")(kind)
    with pytest.raises(ValueError, match=r"name is .*, but it must be a text"):
        register_kind(Kind)  # type: ignore[arg-type]
    assert "rain" not in KINDS


def test_every_kind_says_what_it_is() -> None:
    assert len(KINDS) == 14
    for kind in KINDS.values():
        assert isinstance(kind, Kind)
        assert type(kind).__doc__


def test_the_package_offers_it() -> None:
    assert recsim_env.explain is explain
    env = gymnasium.make("recsim_env/Market-v0").unwrapped
    env.reset(seed=0)
    simulator: SlateSimulator = env.simulator  # type: ignore[attr-defined]
    text = str(explain(simulator, slates_of(simulator, 0)))
    assert text.startswith("shopper 0\n   1. item ")
    assert ": x" in text


def test_shoppers_of_somebody_else_are_refused() -> None:
    simulator = SlateSimulator(make_songs(torch.device("cpu"), 3), {"clicks": 1.0})
    simulator.reset(torch.arange(2))
    with pytest.raises(ValueError, match="simulator has the shoppers of somebody else"):
        explain(simulator, torch.tensor([[0, 1, 2], [3, 4, 5]]))
