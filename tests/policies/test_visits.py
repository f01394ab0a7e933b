"""Cues and features of whole visits, by hand, and what a log says of categories."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from policies import PolicyInputs
from policies.composer import Composer
from policies.visits import PRIOR, together_lift
from recsim_env import Catalog
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.visits.config import VisitsConfig
from recsim_env.shoppers.visits.pages import CART, HOME, SEARCH
from recsim_env.shoppers.visits.population import make_visits
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation
from tests.support.policy_toys import made_up_ranker

ITEMS, GROUPS, SIZE = 40, 5, 4
CONFIG = VisitsConfig(
    market=MarketConfig(items=ITEMS, categories=GROUPS, width=4, favourites=2), cart_size=3
)


def visiting(shoppers: int = 6) -> tuple[PolicyInputs, Observation]:
    """A small market of whole visits after a page, and what policies are built from there."""
    simulator = SlateSimulator(make_visits(torch.device("cpu"), SIZE, config=CONFIG))
    simulator.reset(torch.arange(shoppers))
    simulator.advance(torch.arange(SIZE).expand(shoppers, -1))
    lift = torch.linspace(-2, 2, GROUPS**2).view(GROUPS, GROUPS)
    inputs = PolicyInputs(
        simulator.catalog,
        simulator.observation_space,
        SIZE,
        made_up_ranker(ITEMS),
        per_category=2,
        lift=lift + lift.T,
    )
    return inputs, simulator.observe()


def cue_of(inputs: PolicyInputs, seen: Observation, name: str) -> tuple[Tensor, Tensor]:
    """The values (B, P) of a cue, and the items (B, P) of the pool."""
    composer = Composer(inputs)
    view = composer.view(seen)
    at = list(composer.cues).index(name)
    return view.cues[:, :, at] / composer.cues[name].unit, view.pool.ids


def test_what_is_searched_for_is_near_the_query() -> None:
    inputs, seen = visiting()
    query = torch.nn.functional.normalize(torch.ones(6, 4), dim=1)
    query[1] = 0  # no search
    values, items = cue_of(inputs, {**seen, "query": query}, "searched")
    expected = (inputs.catalog.embedding[items] * query.unsqueeze(1)).sum(dim=2)
    torch.testing.assert_close(values, expected)
    assert (values[1] == 0).all()


def test_the_cue_of_the_cart_is_the_lift_of_its_categories_on_the_cart_page() -> None:
    inputs, seen = visiting()
    assert inputs.lift is not None
    category = inputs.catalog.category
    first, second = (int((category == group).nonzero()[0]) for group in (1, 3))
    more = int((category == 3).nonzero()[1])
    cart = torch.tensor(
        [[first, -1, -1], [first, second, more], [-1] * 3, [second, -1, -1]] + 2 * [[0, 1, 2]]
    )
    scenario = torch.tensor([CART, CART, CART, HOME, SEARCH, HOME]).unsqueeze(1)
    values, items = cue_of(inputs, {**seen, "cart": cart, "scenario": scenario}, "beside_cart")
    of_items = category[items]
    torch.testing.assert_close(values[0], inputs.lift[1, of_items[0]].clamp(-3, 3))
    both = inputs.lift[1] + inputs.lift[3]  # a category counts once
    torch.testing.assert_close(values[1], both[of_items[1]].clamp(-3, 3))
    assert (values[2:] == 0).all()


def test_a_cue_that_needs_the_lift_is_not_there_without_it() -> None:
    inputs, _ = visiting()
    assert {"searched", "beside_cart"} <= set(Composer(inputs).knobs)
    without = Composer(dataclasses.replace(inputs, lift=None)).knobs
    assert "searched" in without
    assert "beside_cart" not in without
    with pytest.raises(ValueError, match="lift"):
        dataclasses.replace(inputs, lift=torch.zeros(2, 2))


def test_the_state_tells_scenario_page_and_cart() -> None:
    inputs, seen = visiting()
    composer = Composer(inputs)
    features = list(composer.summary.state_features)
    assert features[-2:] == ["page", "cart"]
    told = {
        **seen,
        "scenario": torch.full((6, 1), SEARCH),
        "page": torch.full((6, 1), 2),
        "cart": torch.tensor([[5, 9, -1]]).expand(6, -1),
    }
    shapes = [inputs.observation_space[name].shape or () for name in composer.summary.small]
    small = sum(math.prod(shape) for shape in shapes)
    assert "query" in composer.summary.small
    dims = composer.summary.vectors.shape[1]
    found = composer.features(told)[0]
    found = found[len(found) - small - 4 - dims - 1 : len(found) - small]
    assert found[:4].tolist() == [0, 1, 0, pytest.approx(math.log(3))]
    expected = composer.summary.vectors[[5, 9]].mean(dim=0)
    torch.testing.assert_close(found[4 : 4 + dims], expected)
    assert found[-1].item() == pytest.approx(math.log(3))


# ---- what a log says of categories ----


def a_log(clicked: list[list[int]], days: list[int]) -> Sessions:
    """One shopper, who is shown four items a step; the categories clicked are told for each."""
    steps = len(clicked)
    slates = torch.arange(SIZE).expand(1, steps, -1).clone()  # item i is of category i
    clicks = torch.zeros(1, steps, SIZE, dtype=torch.bool)
    for step, categories in enumerate(clicked):
        clicks[0, step, categories] = True
    return Sessions(
        slates,
        clicks,
        length=torch.tensor([steps]),
        left=torch.tensor([False]),
        propensity=torch.full((1, steps), math.nan),
        policy=torch.zeros(1, steps, dtype=torch.int64),
        declared=torch.zeros(1, 0),
        policies=("test",),
        days=torch.tensor([days], dtype=torch.float32),
    )


def catalog() -> Catalog:
    return Catalog.synthetic(8, SIZE, 3, torch.Generator().manual_seed(0))


def test_the_lift_compares_pages_of_one_visit_with_those_of_others_by_hand() -> None:
    log = a_log([[0], [1], [0], [2]], [0, 0, 1, 1])
    lift = together_lift(log, catalog())
    of = catalog().category.tolist()
    # in one visit: (0, 1), (0, 2); in different ones: (0, 0), (0, 2), (1, 0), (1, 2)
    share = 4 / 8  # pairs in one visit over pairs in others, each counted in both directions
    for pair, together, apart in (((0, 1), 1, 1), ((0, 0), 0, 2), ((1, 2), 0, 1), ((3, 3), 0, 0)):
        expected = math.log((together + PRIOR) / (apart * share + PRIOR))
        found = lift[of[pair[0]], of[pair[1]]].item()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert torch.equal(lift, lift.T)


def test_a_log_without_pairs_says_nothing() -> None:
    for log in (a_log([[0]], [0]), a_log([[0], [1]], [0, 1]), a_log([[0], [1]], [0, 0])):
        assert (together_lift(log, catalog()) == 0).all()


def test_items_beyond_the_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match="log holds item 3, but the catalogue has the items 0 to"):
        together_lift(a_log([[0]], [0]), Catalog.synthetic(3, 2, 3, torch.Generator()))
    with pytest.raises(TypeError, match="log"):
        together_lift(None, catalog())  # type: ignore[arg-type]
