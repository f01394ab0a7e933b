"""Terms of goals beside clicks and distance, worked out by hand, and who cannot serve them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.rewards import (
    REWARD_TERMS,
    Reward,
    RewardInputs,
    bounds_of,
    exposure_toward,
    is_linear,
    needs_of,
    reward_term,
    share_of,
    zero_to_one,
)
from recsim_env.shoppers.bundles.population import make_bundles
from recsim_env.simulator import SlateSimulator
from tests.support.toys import ToyShopper, toy_catalog


def inputs_of(slates: list[list[int]], clicks: list[list[int]] | None = None) -> RewardInputs:
    """Slates of six items: 0 and 1 of category 0, 2 of 1, 3 to 5 of 2; -1 shows nothing."""
    items = torch.tensor(slates)
    clicked = torch.zeros_like(items) if clicks is None else torch.tensor(clicks)
    return RewardInputs(
        items.clamp(min=0),
        items >= 0,
        clicked.bool(),
        torch.eye(6),
        torch.tensor([0, 0, 1, 2, 2, 2]),
        price=torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]),
        popularity=torch.tensor([0.5, 0.25, 0.125, 1.0, 0.5, 0.5]),
        category_share=torch.tensor([2 / 6, 2 / 6, 1 / 6, 0.5, 0.5, 0.5]),
        left=torch.zeros(len(slates), dtype=torch.bool),
    )


def valued(name: str, inputs: RewardInputs) -> list[float]:
    found: list[float] = REWARD_TERMS[name](inputs).tolist()
    return found


def test_revenue_is_the_price_of_what_was_bought_or_else_clicked() -> None:
    inputs = inputs_of([[0, 3, 4], [1, 2, -1]], [[1, 0, 1], [0, 0, 0]])
    assert valued("revenue", inputs) == [1.0 + 16.0, 0.0]
    bought = torch.tensor([[False, False, True], [False, False, False]])
    assert valued("revenue", replace(inputs, purchases=bought)) == [16.0, 0.0]
    with pytest.raises(ValueError, match="'revenue' sums prices, but this catalogue"):
        valued("revenue", replace(inputs, price=None))


def test_kept_is_who_comes_back() -> None:
    inputs = replace(inputs_of([[0], [1], [2]]), left=torch.tensor([False, True, False]))
    assert valued("kept", inputs) == [1.0, 0.0, 1.0]
    chance = replace(inputs, left=torch.tensor([0.25, 0.0, 1.0]))
    assert valued("kept", chance) == [0.75, 1.0, 0.0]
    with pytest.raises(ValueError, match="'kept' counts who comes back, but it is not told"):
        valued("kept", replace(inputs, left=None))


def test_novelty_is_the_mean_of_bits_and_an_empty_position_adds_none() -> None:
    inputs = inputs_of([[0, 1, 2], [3, 3, 3], [2, -1, -1]])
    assert valued("novelty", inputs) == [(1 + 2 + 3) / 3, 0.0, 3 / 3]
    with pytest.raises(ValueError, match="'novelty' is the self-information of popularity"):
        valued("novelty", replace(inputs, popularity=None))


def test_category_entropy_by_hand() -> None:
    inputs = inputs_of([[0, 1, 2, 3], [3, 4, 5, -1], [0, 2, -1, -1], [-1] * 4, [0, 1, 3, 4]])
    half, quarter = 0.5 * math.log(2), 0.25 * math.log(4)
    by_hand = [half + 2 * quarter, 0.0, math.log(2) * 2 / 4, 0.0, math.log(2)]
    assert valued("category_entropy", inputs) == pytest.approx(
        [entropy / math.log(4) for entropy in by_hand], abs=1e-12
    )
    assert valued("category_entropy", inputs_of([[0, 2, 3]])) == pytest.approx([1.0])
    assert valued("category_entropy", inputs_of([[2]])) == [0.0]


def test_exposure_is_minus_the_total_variation_from_the_catalogues_shares() -> None:
    inputs = inputs_of([[0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, -1], [-1] * 6, [2, -1, -1, -1, -1, -1]])
    full = -0.5 * (abs(2 / 6 - 2 / 6) + abs(1 / 6 - 1 / 6) + abs(3 / 6 - 3 / 6))
    assert valued("exposure", inputs) == pytest.approx([full, -1 / 6, -1.0, -5 / 6], abs=1e-6)
    one_kind = inputs_of([[3, 4, 5]])
    assert valued("exposure", one_kind) == pytest.approx([-0.5 * (2 / 6 + 1 / 6 + 0.5)], abs=1e-6)


@pytest.mark.parametrize("name", ["novelty", "category_entropy", "exposure"])
def test_hiding_an_item_never_pays(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    slates = torch.rand(200, 6, generator=generator).argsort(dim=1)[:, :4]
    inputs = inputs_of(slates.tolist())
    whole = REWARD_TERMS[name](inputs)
    for position in range(4):
        shown = torch.ones_like(inputs.shown)
        shown[:, position] = False
        assert (REWARD_TERMS[name](replace(inputs, shown=shown)) <= whole + 1e-12).all()


def test_exposure_toward_targets_of_ones_own() -> None:
    catalog = toy_catalog(items=6, categories=3)  # item i is of category i % 3
    first, second, _ = catalog.categories
    term = exposure_toward(catalog, {first: 0.5, second: 0.5})
    slates = torch.tensor([[0, 3, 1, 4], [0, 3, 1, 2], [2, 5, 2, 5]])
    shown = torch.ones_like(slates, dtype=torch.bool)
    inputs = RewardInputs(slates, shown, shown, catalog.embedding, catalog.category)
    assert term(inputs).tolist() == pytest.approx([0.0, -0.25, -1.0])
    with pytest.raises(ValueError, match="has 4 items, but the target shares are those of"):
        term(replace(inputs, category=torch.arange(4)))


def test_targets_that_cannot_be_are_refused() -> None:
    catalog = toy_catalog(items=6, categories=3)
    first, second, _ = catalog.categories
    for shares, sentence in [
        ({first: 0.5, second: 0.4}, r"^shares sum to 0.9, but they must sum to 1\.$"),
        ({"toys": 1.0}, "^a category of shares is 'toys', but it must be one of"),
        ({first: -1.0, second: 2.0}, "must be a finite number from 0 to 1"),
        ({}, "^shares sum to 0, but"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            exposure_toward(catalog, shares)


def test_the_share_of_categories_and_of_a_department() -> None:
    catalog = toy_catalog(items=6, categories=3)  # item i is of category i % 3
    catalog = replace(catalog, path=2 * ("food/milk/a", "food/tea/a", "foodless/nails/a"))
    slates = torch.tensor([[0, 3, 1, 2], [2, 5, 2, 5], [1, 4, 0, 3]])
    shown = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    inputs = RewardInputs(slates, shown, shown, catalog.embedding, catalog.category)
    assert share_of(catalog, ["food/milk"])(inputs).tolist() == [0.5, 0.0, 0.25]
    assert share_of(catalog, ["food"])(inputs).tolist() == [0.75, 0.0, 0.75]
    both = share_of(catalog, ["food/tea", "foodless"])
    assert both(inputs).tolist() == [0.5, 0.5, 0.5]
    assert both.of(torch.tensor([0, 1, 2])).tolist() == [0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="has 4 items, but the named categories are those of"):
        both(replace(inputs, category=torch.arange(4)))
    with pytest.raises(
        ValueError, match=r"^categories\[1\] is 'toys', but it must be one of 'food'"
    ):
        share_of(catalog, ["food", "toys"])
    with pytest.raises(ValueError, match=r"^categories is empty"):
        share_of(catalog, [])


def test_terms_tell_their_bounds() -> None:
    assert bounds_of("clicks", 5) == (0.0, 5.0)
    assert bounds_of("kept", 5) == (0.0, 1.0)
    assert bounds_of("exposure", 5) == (-1.0, 0.0)
    assert bounds_of("revenue", 5) == (0.0, math.inf)
    assert bounds_of("outside_reward", 5) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match=r"^bounds is 3, but it must be a function of the slate"):
        reward_term("wide", bounds=3)  # type: ignore[arg-type]


def test_what_shoppers_cannot_serve_is_refused_when_the_simulator_is_made() -> None:
    with pytest.raises(ValueError, match=r"^reward has the term 'novelty', but the catalogue of"):
        SlateSimulator(ToyShopper(), {"novelty": 1.0})
    with pytest.raises(ValueError, match=r"^objectives has the term 'purchases', but ToyShopper"):
        SlateSimulator(ToyShopper(), objectives=("clicks", "purchases"))
    with pytest.raises(ValueError, match=r"^reward has the term 'outside_reward', but ToyShopper"):
        SlateSimulator(ToyShopper(), {"outside_reward": 1.0})
    with pytest.raises(ValueError, match=r"^objectives has the term 'outside_reward', but ToySho"):
        SlateSimulator(ToyShopper(), objectives=("clicks", "outside_reward"))
    shopper = ToyShopper()
    price = shopper.catalog.price.clone()
    price[3] = math.nan
    shopper.catalog = replace(shopper.catalog, price=price)
    with pytest.raises(ValueError, match=r"^reward has the term 'revenue', but the catalogue of"):
        SlateSimulator(shopper, {"clicks": 1.0, "revenue": 1.0})


def test_terms_on_bundles_are_refused_where_none_are_offered() -> None:
    @reward_term("whole", needs=["whole"], bounds=zero_to_one)
    def whole(inputs: RewardInputs) -> Tensor:
        assert inputs.whole is not None
        return inputs.whole

    try:
        with pytest.raises(ValueError, match=r"^reward has the term 'whole', but ToyShopper is of"):
            SlateSimulator(ToyShopper(), {"whole": 1.0})
        bundles = SlateSimulator(make_bundles(torch.device("cpu")), {"whole": 1.0})
        bundles.reset(torch.arange(2))
        assert bundles.step(torch.arange(4).expand(2, 4)).reward.shape == (2,)
    finally:
        del REWARD_TERMS["whole"]


def test_a_promise_of_an_outside_reward_is_kept_both_ways() -> None:
    for promised in (True, False):
        shopper = ToyShopper()
        shopper.tells_outside_reward = promised
        simulator = SlateSimulator(shopper, {"clicks": 1.0})
        simulator.reset(torch.arange(2))
        if promised:
            with pytest.raises(ValueError, match=r"no outside_reward, but tells_outside_reward is"):
                simulator.step(torch.zeros(2, simulator.slate_size, dtype=torch.int64))
        else:
            simulator.step(torch.zeros(2, simulator.slate_size, dtype=torch.int64))


def test_a_term_says_whether_it_is_linear_and_what_it_needs() -> None:
    assert needs_of("revenue") == ("price",)
    assert needs_of("clicks") == ()
    linear = {name for name in REWARD_TERMS if is_linear(name)}
    assert linear == {"clicks", "purchases", "revenue", "kept"}
    with pytest.raises(ValueError, match=r"^linear is 'yes'"):
        reward_term("mine", linear="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^a field of needs is 'colour', but it must be one of"):
        reward_term("mine", needs=["colour"])


@pytest.mark.parametrize("name", ["clicks", "purchases", "revenue", "kept"])
def test_a_linear_term_at_chances_is_the_mean_over_draws(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = inputs_of([[0, 2, 4]] * 20_000)
    chance, leaving = torch.tensor([[0.2, 0.5, 0.7]]), torch.tensor([0.3])
    drawn = torch.rand(20_000, 3, generator=generator) < chance
    left = torch.rand(20_000, generator=generator) < leaving
    fell = replace(inputs, clicks=drawn, purchases=drawn, left=left)
    one = inputs_of([[0, 2, 4]])
    expected = replace(one, clicks=chance, purchases=chance, left=leaving)
    mean, spread = REWARD_TERMS[name](fell).double().mean(), REWARD_TERMS[name](fell).double().std()
    assert abs(float(mean - REWARD_TERMS[name](expected)[0])) < 4 * float(spread) / math.sqrt(
        20_000
    )


def test_the_simulator_tells_terms_what_followed_and_what_was_before() -> None:
    simulator = SlateSimulator(ToyShopper(), {"clicks": 1.0, "revenue": 0.5, "kept": 2.0})
    simulator.reset(torch.arange(16))
    before = None
    for visit in range(3):
        slates = (torch.arange(4) + 4 * visit).expand(16, 4).contiguous()
        step = simulator.step(slates, validate=False)
        told = step.inputs
        assert told.left is not None
        assert torch.equal(told.left, step.terminated)
        assert torch.equal(torch.as_tensor(told.days), step.info["gap_days"])
        assert told.recent_slates is not None
        assert before is None or torch.equal(told.recent_slates[:, 0], before)
        before = slates.where(told.shown, -1)
        price = simulator.catalog.price[slates]
        paid = (price.double() * step.response.clicks).sum(1)
        by_hand = step.info["clicks"] + 0.5 * paid + 2.0 * ~step.terminated
        torch.testing.assert_close(step.reward, by_hand.float())


def test_a_catalogue_keeps_its_popularity_and_refuses_what_is_no_share(tmp_path: object) -> None:
    catalog = toy_catalog(items=4, categories=2)
    popular = replace(catalog, popularity=torch.tensor([0.5, 0.1, 1.0, 0.25]))
    popular.save(str(tmp_path))
    again = Catalog.load(str(tmp_path))
    assert again.popularity is not None
    assert again.popularity.tolist() == pytest.approx([0.5, 0.1, 1.0, 0.25])
    for wrong in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="column 'popularity', row 2: found"):
            replace(catalog, popularity=torch.tensor([0.5, 0.1, wrong, 0.25]))


def test_a_reward_sums_terms_of_the_shelf() -> None:
    inputs = inputs_of([[0, 1, 2], [3, 4, 5]])
    total, terms = Reward({"novelty": 2.0, "exposure": 3.0})(inputs)
    torch.testing.assert_close(total, 2 * terms["novelty"] + 3 * terms["exposure"])
