"""The budget of a category: what is counted, what it costs, and that it does nothing at intent 0."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from policies import PolicyInputs
from policies.budget import PLACE, SLOPE, WINDOW, Budget, Remembered
from policies.composer import Composer, ComposerConfig
from policies.cosines import Cosines
from policies.cues import BUDGET_KNOBS
from policies.filling import SlateSoFar
from policies.pool import Pool
from recsim_env.types import Observation
from tests.policies.test_composer import some_visits
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_catalog, toy_simulator

SHOWN: Observation = {
    # items 0 and 3 are of category 0, 1 and 4 of category 1, 2 and 5 of category 2
    "recent_slates": torch.tensor([[[0, 1], [3, 4], [0, 5]]]),
    "recent_clicks": torch.tensor([[[1, 0], [1, 1], [1, 1]]], dtype=torch.int8),
}
LOGITS = torch.tensor([[math.log(3.0), 0.0, -math.log(3.0)]])  # chances of 3/4, 1/2 and 1/4


def budget_of(height: float, place: float, slope: float, window: float) -> Budget:
    """A budget of these numbers over the items 0, 1 and 3, looked at by 1 and then by 1/2."""
    catalog = toy_catalog(items=6, categories=3)
    items = torch.tensor([[0, 1, 3]])
    pool = Pool(items, LOGITS, items)
    slate = SlateSoFar(pool, catalog, Cosines(catalog), 2)
    logs = [math.log(place / PLACE), math.log(slope / SLOPE), math.log(window / WINDOW)]
    remembered = Remembered.of(SHOWN, catalog.category)
    return Budget(slate, remembered, torch.tensor([[1.0, 0.5]]), torch.tensor([[height, *logs]]))


@pytest.mark.parametrize(
    ("window", "clicks"),
    [
        (1.0, [0.0, 0.0, 0.0]),  # the slate that is filled, and nothing else
        (2.0, [1.0, 0.0, 1.0]),
        (2.5, [1.0 + 0.5, 0.5, 1.0 + 0.5]),
        (3.0, [2.0, 1.0, 2.0]),
        (9.0, [3.0, 1.0, 3.0]),  # all that is remembered
    ],
)
def test_a_window_counts_slates_and_parts_of_them(window: float, clicks: list[float]) -> None:
    found = budget_of(-1.0, 2.0, 4.0, window).clicks
    torch.testing.assert_close(found, torch.tensor([clicks]))


def test_the_cost_is_a_threshold_on_the_clicks() -> None:
    at_place, far_below = 3.0 / 3.0, 1.0 / 3.0  # clicks over the place
    expected = [-6 / (1 + math.exp(-5 * (share - 1))) for share in (at_place, far_below, at_place)]
    assert expected[0] == -3.0  # half of the height
    found = budget_of(-6.0, 3.0, 5.0, 9.0).log_odds()
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_what_is_expected_of_the_slate_so_far_counts_too() -> None:
    budget = budget_of(-6.0, 2.0, 4.0, 2.0)
    slate = budget._slate
    for place in (0, 1):
        budget.add(torch.tensor([place]))
        slate.add(torch.tensor([place]))
    in_first = 1.0 + 1.0 * 0.75  # the click that is remembered, and item 0, looked at for sure
    in_second = 0.5 * 0.5  # item 1, looked at with a chance of 1/2
    expected = torch.tensor([[in_first, in_second, in_first]])
    torch.testing.assert_close(budget.clicks, expected)


def test_clicks_of_empty_positions_do_not_count() -> None:
    empty = {
        "recent_slates": torch.full((1, 2, 2), -1),
        "recent_clicks": torch.ones(1, 2, 2, dtype=torch.int8),
    }
    assert not bool(Remembered.of(empty, torch.zeros(6, dtype=torch.int64)).clicks.any())


def with_budget(inputs: PolicyInputs) -> Composer:
    """A composer whose intents set a budget."""
    return Composer(inputs, ComposerConfig(budget=True))


def intents(composer: Composer, rows: int, **values: float) -> Tensor:
    """One intent for all, with some knobs."""
    return composer.intent(values).expand(rows, -1)


def test_a_height_of_zero_does_nothing_whatever_the_other_knobs() -> None:
    simulator = toy_simulator(items=60, slate_size=6)
    composer, seen = with_budget(toy_inputs(simulator)), some_visits(simulator)
    still = composer.compose(seen, intents(composer, 24))
    others = {name: 1.0 for name in BUDGET_KNOBS if name != "budget"}
    assert torch.equal(composer.compose(seen, intents(composer, 24, **others)), still)

    # a row with a height leaves the rows without one as they are
    mixed = intents(composer, 24).clone()
    mixed[::2] = intents(composer, 12, budget=-8.0, budget_place=-1.5)
    found = composer.compose(seen, mixed)
    assert torch.equal(found[1::2], still[1::2])
    assert not torch.equal(found[::2], still[::2])


def test_a_batch_is_its_singles() -> None:
    simulator = toy_simulator(items=60, slate_size=6)
    composer, seen = with_budget(toy_inputs(simulator)), some_visits(simulator)
    intent = torch.randn(24, composer.intent_size, generator=torch.Generator().manual_seed(4))
    together = composer.compose(seen, intent)
    for row in range(24):
        alone = {name: value[row : row + 1] for name, value in seen.items()}
        assert torch.equal(composer.compose(alone, intent[row : row + 1])[0], together[row])


def test_a_hard_budget_caps_each_category() -> None:
    """With a certain click a position, no category gets more items than its place is clicks."""

    class Certain:
        """All items are clicked, and those of the first category are the best by little."""

        def logits(self, observation: Observation) -> Tensor:
            candidates = observation["candidates"]
            category = simulator.catalog.category[candidates.clamp(min=0)]
            return (20.0 - category).masked_fill(candidates < 0, -math.inf)

    simulator = toy_simulator(items=40, slate_size=8)
    inputs = dataclasses.replace(toy_inputs(simulator), ranker=Certain())
    composer = Composer(inputs, ComposerConfig(form="log_odds", pool=40, budget=True))
    seen = simulator.reset(torch.arange(3))
    knobs = {"budget": -100.0, "budget_place": math.log(1.5 / PLACE), "budget_slope": 3.0}
    slates = composer.compose(seen, intents(composer, 3, **knobs))
    category = simulator.catalog.category[slates]
    counts = torch.nn.functional.one_hot(category).sum(dim=1)
    assert int(counts.max()) == 2  # the third click of a category would be beyond 1.5
    greedy = composer.compose(seen, intents(composer, 3))
    of_greedy = torch.nn.functional.one_hot(simulator.catalog.category[greedy]).sum(dim=1)
    assert int(of_greedy.max()) > 2


def test_wild_intents_keep_the_slates_distinct() -> None:
    simulator = toy_simulator(items=60, slate_size=6)
    composer, seen = with_budget(toy_inputs(simulator)), some_visits(simulator)
    for value in (-1e6, 1e6):
        intent = torch.full((24, composer.intent_size), value)
        slates = composer.compose(seen, intent)
        assert all(len(set(slate)) == 6 for slate in slates.tolist())
