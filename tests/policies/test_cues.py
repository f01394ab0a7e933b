"""A cue is one registered function: tuned, explored and weighed without a second edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.lab.tuning import search_here
from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.cues import BUDGET_KNOBS, CUES, WORTH_KNOBS, CueInputs, cue, explored_ranges, knobs
from policies.features import Recent
from policies.gains import scale_knobs
from policies.parameters import Range
from recsim_env import make_simulator
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.types import Observation
from tests.policies.test_composer import some_visits
from tests.policies.test_pooling import inputs_of, market
from tests.policies.test_visits import visiting
from tests.recsim_env.belief.test_simulator import believing
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

NO_DRAWS = torch.zeros(1, 0)
RANGES = {
    "count": (-4.0, 0.5),
    "similarity": (-4.0, 0.5),
    "clicked": (-4.0, 2.0),
    "shown": (-4.0, 2.0),
    "repeated": (-2.0, 2.0),
    "habit": (-1.5, 1.5),
    "lately": (-2.0, 2.0),
    "popular": (-1.0, 1.0),
    "promoted": (-1.5, 1.5),
    "sated": (-2.0, 1.0),
    "flooded": (-4.0, 2.0),
    "loyal": (-2.0, 2.0),
    "lasting": (-1.0, 4.0),
    "weary": (-4.0, 2.0),
    "uncertain": (-2.0, 2.0),
    "new": (-2.0, 2.0),
    "searched": (-1.0, 6.0),
    "beside_cart": (-1.0, 6.0),
}
"""Tuned parameters of the policy "constant", in the order that tuned results were found in."""


@pytest.fixture
def even_items() -> Iterator[str]:
    """A cue that is 1 at items of even number, registered while a test runs."""
    before, sources = dict(CUES), dict(CUES._sources)

    @cue("even", 3.0, "candidates", tuned=(-5.0, 5.0), explored=(0.0, 2.0))
    def even_item(inputs: CueInputs) -> Tensor:
        """1 at items of even number."""
        return (inputs.pool.ids % 2 == 0).float()

    yield "even"
    CUES.clear()
    CUES.update(before)
    CUES._sources = sources


def test_the_tuned_parameters_are_the_knobs_in_the_order_of_tuned_results() -> None:
    search = POLICIES["constant_log_odds"].search()
    assert list(search) == list(knobs()) == list(RANGES)
    assert search == {name: Range(low, high) for name, (low, high) in RANGES.items()}
    assert set(CUES) <= set(search)
    scales = list(scale_knobs())
    assert scales[:2] == ["scale_intra_list_distance", "scale_category_coverage"]
    assert list(POLICIES["constant"].search()) == [*RANGES, *WORTH_KNOBS, *scales]
    budget = [*RANGES, *BUDGET_KNOBS, *WORTH_KNOBS, *scales]
    assert list(POLICIES["constant_budget"].search()) == budget


def test_the_defaults_of_constant_steer_by_the_slate_alone() -> None:
    values = dataclasses.asdict(POLICIES["constant_log_odds"].parameters())
    expected = {**dict.fromkeys(RANGES, 0.0), "count": -1.0, "similarity": -0.5}
    assert values == expected


def test_a_new_cue_is_tunable_and_usable_without_a_second_edit(even_items: str) -> None:
    spec = POLICIES["constant_log_odds"]
    assert spec.search()[even_items] == Range(-5.0, 5.0)
    assert list(spec.search()) == [*RANGES, even_items]
    simulator = toy_simulator(items=40, slate_size=4)
    inputs, seen = toy_inputs(simulator), some_visits(simulator)
    even = spec.build(inputs, {even_items: 1000.0})(seen, NO_DRAWS)
    odd = spec.build(inputs, {even_items: -1000.0})(seen, NO_DRAWS)
    assert bool((even % 2 == 0).all())
    assert bool((odd % 2 == 1).all())


def test_a_new_cue_steers_the_composer_and_may_be_explored(even_items: str) -> None:
    simulator = toy_simulator(items=40, slate_size=4)
    composer = Composer(toy_inputs(simulator), ComposerConfig(offset_dims=0))
    assert composer.knobs[-1] == even_items
    view = composer.view(some_visits(simulator))
    assert torch.equal(view.cues[:, :, -1], 3.0 * (view.pool.ids % 2 == 0))
    assert float(composer.intent({even_items: 6.0})[-1]) == 6.0 / 3.0
    assert explored_ranges()[even_items] == (0.0, 2.0)
    assert even_items not in explored_ranges(broadly=True)


def test_the_explored_ranges_are_those_that_logs_were_written_with() -> None:
    assert list(explored_ranges().items()) == [
        ("count", (-2.0, 0.0)),
        ("similarity", (-2.0, 0.0)),
        ("sated", (-1.5, 0.3)),
        ("flooded", (-3.0, 0.5)),
    ]
    assert list(explored_ranges(broadly=True).items()) == [
        ("count", (-2.0, 0.0)),
        ("similarity", (-2.0, 0.0)),
        ("sated", (-3.0, 0.3)),
        ("flooded", (-3.0, 0.5)),
    ]


@pytest.mark.parametrize(
    ("told", "options", "message"),
    [
        (("new cue", "1", "candidates"), {}, "unit is '1', but it must be a finite number"),
        (("new cue", 1.0, 3), {}, "a key is 3, but it must be a text"),
        (("new cue", 1.0), {"tuned": 3}, "tuned is 3, but it must be a list of 2 values"),
        (
            ("new cue", 1.0),
            {"tuned": (2.0, -2.0)},
            r"high is -2\.0, but it must be a finite number",
        ),
        (("new cue", 1.0), {"default": None}, "default is None, but it must be a finite number"),
        ((None, 1.0), {}, "name is None, but it must be a text"),
    ],
)
def test_a_cue_that_cannot_be_weighed_is_refused(told: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cue(*told, **options)


def test_a_name_is_given_to_one_cue_only(even_items: str) -> None:
    def other(inputs: CueInputs) -> Tensor:
        return torch.zeros_like(inputs.pool.logits)

    with pytest.raises(ValueError, match=r"^name is 'even', but a cue of that name"):
        cue(even_items, 1.0)(other)


@pytest.mark.parametrize("name", CUES)
def test_every_cue_is_finite_and_needs_no_more_than_its_keys(name: str) -> None:
    shops = [
        (inputs, seen)
        for inputs, seen in shops_of_all_kinds()
        if set(CUES[name].keys) <= seen.keys()
        and (inputs.lasting is not None or not CUES[name].needs_lasting)
        and (inputs.lift is not None or not CUES[name].needs_lift)
    ]
    assert shops, "no shop of this test tells what this cue reads"
    for inputs, seen in shops:
        composer = Composer(inputs)
        view = composer.view(seen)
        keys = {*CUES[name].keys, "recent_slates", "recent_clicks", "candidates"} & seen.keys()
        known = {key: seen[key] for key in keys}
        values = CUES[name].values(
            CueInputs(
                known,
                Recent.of(known),
                view.pool,
                inputs.catalog.category,
                inputs.catalog.category[view.pool.ids],
                len(inputs.catalog.categories),
                inputs.slate_size,
                inputs.facts,
                inputs.lasting,
                inputs.catalog.embedding,
                inputs.lift,
            )
        )
        assert values.shape == view.pool.items.shape
        assert bool(values.isfinite().all())
        of_view = view.cues[:, :, list(composer.cues).index(name)]
        torch.testing.assert_close(CUES[name].unit * values, of_view)


def shops_of_all_kinds() -> list[tuple[PolicyInputs, Observation]]:
    """Shops with loyalty cards, an impression log, a belief, carts, and new items."""
    toy, with_belief = toy_simulator(items=40, slate_size=4), believing()
    market_simulator, seen = market()
    values = torch.linspace(-1, 1, len(market_simulator.catalog))
    return [
        (toy_inputs(toy), some_visits(toy)),
        (dataclasses.replace(inputs_of(market_simulator, 2), lasting=values), seen),
        (inputs_of(with_belief, 2), some_visits(with_belief)),
        visiting(),
        with_new_items(),
    ]


def with_new_items() -> tuple[PolicyInputs, Observation]:
    """A shop of regulars in which a quarter of the items is new."""
    small = RegularsConfig(
        items=40, categories=4, width=8, known=24, fewest_visits=3, most_visits=9
    )
    simulator = make_simulator(
        "recsim_env/MarketRegulars-v0", device="cpu", slate_size=4, config=small, new_items=0.25
    )
    return toy_inputs(simulator), some_visits(simulator)


def test_a_bonus_for_new_items_shows_them_and_a_malus_does_not() -> None:
    inputs, seen = with_new_items()
    assert "new" in Composer(inputs).knobs
    assert "new" not in Composer(toy_inputs(toy_simulator())).knobs
    shown = {}
    for weight in (-1000.0, 1000.0):
        slates = POLICIES["constant_log_odds"].build(inputs, {"new": weight})(seen, NO_DRAWS)
        table = torch.zeros(len(slates), 40, dtype=torch.int8)
        table.scatter_(1, seen["candidates"], seen["new_candidates"])
        shown[weight] = table.gather(1, slates).bool()
    assert bool(shown[1000.0].all())
    assert not bool(shown[-1000.0].any())


def test_an_uncertain_item_gains_by_the_spread_of_its_log_odds() -> None:
    simulator = believing()
    inputs, seen = inputs_of(simulator, 2), some_visits(simulator)
    assert {"uncertain", "weary"} <= set(Composer(inputs).knobs)
    assert {"uncertain", "weary"} <= search_here(POLICIES["constant"], inputs).keys()
    certain = {**seen, "belief_spread": torch.zeros_like(seen["belief_spread"])}
    certain["belief_spread"][:, 7] = 30.0  # a single item of which little is known
    slates = {
        weight: POLICIES["constant"].build(inputs, {"uncertain": weight})(certain, NO_DRAWS)
        for weight in (-2.0, 0.0, 2.0)
    }
    assert (slates[2.0][:, 0] == 7).all()
    assert not (slates[-2.0] == 7).any()
    assert not torch.equal(slates[0.0], slates[2.0])


def test_the_lasting_value_of_an_item_is_a_cue_where_it_is_known() -> None:
    simulator = toy_simulator(items=40, slate_size=4)
    seen = some_visits(simulator)
    value = torch.arange(40, dtype=torch.float32) / 40
    without = toy_inputs(simulator)
    composer = Composer(dataclasses.replace(without, lasting=value))
    assert "lasting" not in Composer(without).knobs
    assert "lasting" in composer.knobs
    view = composer.view(seen)
    found = view.cues[:, :, list(composer.cues).index("lasting")]
    known = view.pool.items >= 0
    assert torch.equal(found[known], value[view.pool.items[known]])
    assert not bool(found[~known].any())


def test_without_facts_a_cue_on_placements_says_so() -> None:
    inputs = dataclasses.replace(toy_inputs(toy_simulator()), facts=None)
    with pytest.raises(ValueError, match=r"^The cue 'promoted' needs facts about the shop"):
        Composer(inputs)
