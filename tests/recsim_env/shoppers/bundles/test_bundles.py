"""Shoppers of bundles: utility and revenue by hand, the control, batches, errors and frames."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from recsim_env import SlateEnv, make_simulator
from recsim_env.registration import PRESETS
from recsim_env.rewards import RewardInputs, term_value
from recsim_env.shoppers.bundles.complements import pairs_of
from recsim_env.shoppers.bundles.config import BUNDLES, BUNDLES_CONTROL, BundleConfig
from recsim_env.shoppers.bundles.population import BundleShopper, make_bundles
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import CONTROL, MarketConfig
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper

CPU = torch.device("cpu")
SMALL = BundleConfig(market=dataclasses.replace(BUNDLES.market, items=40, categories=8, width=4))


def simulator_of(config: BundleConfig = SMALL, **options: Any) -> SlateSimulator:
    return make_simulator("recsim_env/Bundle-v0", device="cpu", config=config, **options)


def bundles(simulator: SlateSimulator, seed: int, level: int | None = None) -> Tensor:
    """Random bundles (B, K), with a level for everybody where one is told."""
    generator = torch.Generator().manual_seed(seed)
    shape = (simulator.num_envs, simulator.slate_size)
    slates = torch.randint(len(simulator.catalog), shape, generator=generator)
    if level is None:
        return slates
    return torch.cat([slates, torch.full((len(slates), 1), level)], dim=1)


# ---- the truth ----


def test_the_utility_is_that_worked_out_by_hand() -> None:
    shopper = make_bundles(CPU, 2, config=SMALL)
    state = shopper.start(torch.full((1, shopper.start_draws), 0.3))
    state.sensitivity = torch.tensor([2.0])
    items = torch.tensor([[3, 17]])
    log_price = shopper.catalog.price.log()
    liked = SMALL.market.base + SMALL.market.interest * (
        shopper.catalog.embedding[items[0]] @ state.market.interest[0]
    )
    expected = (
        liked + shopper.market.quality[items[0]] - 2.0 * (log_price[items[0]] - log_price.mean())
    )
    assert torch.allclose(shopper.utilities(state, items)[0], expected, atol=1e-5)
    pair = float(shopper.pairs[shopper.catalog.category[3], shopper.catalog.category[17]])
    shown = torch.ones(1, 2, dtype=torch.bool)
    found = shopper.chances(state, items, shown, torch.tensor([0.25]))
    a, b = expected.tolist()
    whole = math.exp(a + b + pair - 2.0 * 2 * math.log(0.75))
    total = 1 + math.exp(a) + math.exp(b) + whole
    assert found.whole.item() == pytest.approx(whole / total, rel=1e-4)


def test_pairs_are_those_of_the_world() -> None:
    config = BundleConfig(complement=2.0, substitute=0.5, partners=0.3)
    pairs = pairs_of(config, 20, world=3)
    assert torch.equal(pairs, pairs.T)
    assert pairs.diagonal().tolist() == [-0.5] * 20
    apart = pairs[~torch.eye(20, dtype=torch.bool)]
    assert set(apart.tolist()) == {0.0, 2.0}
    assert 0.2 < float((apart > 0).float().mean()) < 0.4
    assert not torch.equal(pairs, pairs_of(config, 20, world=4))


def test_the_catalogue_is_that_of_the_market_of_the_same_world() -> None:
    market = make_market(CPU, config=SMALL.market, world=5)
    assert torch.equal(make_bundles(CPU, config=SMALL, world=5).catalog.price, market.catalog.price)


def test_a_discount_raises_the_chance_of_the_whole_of_whoever_looks_at_prices() -> None:
    simulator = simulator_of()
    simulator.reset(torch.arange(200))
    shopper = simulator.shopper
    assert isinstance(shopper, BundleShopper)
    slates, state = bundles(simulator, 0), simulator.hidden
    shown = torch.ones_like(slates, dtype=torch.bool)
    rating = [
        shopper.chances(state, slates, shown, torch.full((200,), level)).whole
        for level in shopper.discounts
    ]
    assert all(bool((low < high).all()) for low, high in itertools.pairwise(rating))
    state.sensitivity = torch.zeros(200)
    same = shopper.chances(state, slates, shown, torch.full((200,), 0.3)).whole
    none = shopper.chances(state, slates, shown, torch.zeros(200)).whole
    assert torch.equal(same, none)


# ---- the answer ----


def test_the_whole_is_told_where_everything_shown_was_taken() -> None:
    simulator = simulator_of()
    simulator.reset(torch.arange(300))
    for visit in range(4):
        outcome = simulator.advance(bundles(simulator, visit, level=3))
        told = outcome.response
        assert told.whole is not None
        assert told.purchases is not None
        shown = simulator.episodes.recent_slates[:, 0] >= 0
        assert torch.equal(told.whole, (told.clicks == shown).all(dim=1) & (shown.sum(dim=1) >= 2))
        assert torch.equal(told.purchases, told.clicks)
        assert torch.equal(outcome.info["whole"], told.whole.long())
        assert bool((outcome.info["discount"] == torch.tensor(0.3)).all())


def test_a_single_item_is_offered_at_no_discount() -> None:
    simulator = simulator_of()
    simulator.reset(torch.arange(2))
    slates = torch.tensor([[5, 5, 5, 5, 3], [5, 7, 5, 5, 3]])
    outcome = simulator.advance(slates)
    assert outcome.info["discount"].tolist() == pytest.approx([0.0, 0.3])
    assert outcome.inputs.discount is not None
    assert torch.equal(outcome.inputs.discount, outcome.info["discount"])


def test_revenue_is_net_of_the_discount() -> None:
    simulator = simulator_of()
    simulator.reset(torch.arange(300))
    slates = bundles(simulator, 7, level=2)
    outcome = simulator.advance(slates)
    shown = simulator.episodes.recent_slates[:, 0] >= 0
    price = simulator.catalog.price[slates[:, :4]]
    for row in range(300):
        bought = outcome.response.clicks[row]
        paid = float(price[row][bought].sum())
        if bool(outcome.info["whole"][row]):
            assert torch.equal(bought, shown[row])
            paid *= 0.8
        assert outcome.reward[row].item() == pytest.approx(paid, rel=1e-5)
    assert 0 < int(outcome.info["whole"].sum()) < 300


def test_revenue_at_the_chances_is_its_expected_value() -> None:
    catalog = make_bundles(CPU, 2, config=SMALL).catalog
    price = catalog.price[[1, 2]].tolist()
    inputs = RewardInputs(
        torch.tensor([[1, 2]]),
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[0.6, 0.5]]),
        catalog.embedding,
        catalog.category,
        purchases=torch.tensor([[0.6, 0.5]]),
        price=catalog.price,
        discount=torch.tensor([0.25]),
        whole=torch.tensor([0.4]),
    )
    expected = 0.6 * price[0] + 0.5 * price[1] - 0.25 * 0.4 * sum(price)
    assert term_value("revenue", inputs).item() == pytest.approx(expected)


def test_offers_are_counted_by_level() -> None:
    simulator = simulator_of()
    simulator.reset(torch.arange(50), staying=True)
    whole = torch.zeros(50)
    for visit, level in enumerate((0, 3, 3)):
        info = simulator.advance(bundles(simulator, visit, level)).info
        whole += info["whole"] * (level == 3)
    offers = simulator.observe()["offers"]
    assert offers[:, :, 0].tolist() == [[1.0, 0.0, 0.0, 2.0]] * 50
    assert torch.equal(offers[:, 3, 1], whole)


def test_slates_without_a_level_are_offered_at_none() -> None:
    found = []
    for level in (None, 0):
        simulator = simulator_of()
        simulator.reset(torch.arange(20))
        found.append(simulator.advance(bundles(simulator, 1, level)))
    assert torch.equal(found[0].reward, found[1].reward)
    assert torch.equal(found[0].response.probability, found[1].response.probability)
    assert bool((found[0].info["discount"] == 0).all())


def test_what_follows_is_the_same_whatever_the_batch() -> None:
    together = simulator_of()
    together.reset(torch.arange(40))
    slates = bundles(together, 3, level=1)
    first = together.advance(slates)
    second = together.advance(slates)
    for row in (0, 17, 39):
        alone = simulator_of()
        alone.reset(torch.tensor([row]))
        for outcome in (first, second):
            single = alone.advance(slates[row : row + 1])
            assert torch.equal(single.response.clicks[0], outcome.response.clicks[row])
            assert torch.equal(single.reward[0], outcome.reward[row])
            assert single.response.whole_probability is not None
            assert outcome.response.whole_probability is not None
            assert single.response.whole_probability[0].item() == pytest.approx(
                outcome.response.whole_probability[row].item(), rel=1e-5
            )


# ---- the control ----


def test_nothing_goes_together_in_the_control() -> None:
    config = dataclasses.replace(
        BUNDLES_CONTROL, market=dataclasses.replace(CONTROL, items=40, categories=8, width=4)
    )
    found = []
    for other in (False, True):
        simulator = simulator_of(config)
        shopper = simulator.shopper
        assert isinstance(shopper, BundleShopper)
        if other:  # another matrix, of the same strength, which is none
            drawn = pairs_of(BundleConfig(), 8, world=9)
            shopper.pairs = config.complement * drawn
        simulator.reset(torch.arange(30))
        found.append(
            [simulator.advance(bundles(simulator, visit, level=visit)) for visit in range(4)]
        )
    for one, two in zip(*found, strict=True):
        assert torch.equal(one.reward, two.reward)
        assert torch.equal(one.response.probability, two.response.probability)
        assert one.response.whole_probability is not None
        assert two.response.whole_probability is not None
        assert torch.equal(one.response.whole_probability, two.response.whole_probability)
        likely = one.response.probability
        assert torch.allclose(
            one.response.whole_probability[(likely > 0).all(dim=1)],
            likely.prod(dim=1)[(likely > 0).all(dim=1)],
            rtol=1e-4,
        )
        assert not bool(one.response.left.any())


def test_alike_shoppers_have_one_sensitivity() -> None:
    shopper = make_bundles(CPU, config=SMALL, alike=True)
    state = shopper.start(torch.rand(5, shopper.start_draws))
    assert state.sensitivity.tolist() == [SMALL.sensitivity] * 5


def test_the_environments_have_these_parameters() -> None:
    options = {
        name: PRESETS[f"recsim_env/{name}-v0"].shopper_options["config"]
        for name in ("Bundle", "BundleControl")
    }
    assert options == {"Bundle": BUNDLES, "BundleControl": BUNDLES_CONTROL}


def test_the_shoppers_keep_their_promises() -> None:
    check_shopper(make_bundles(CPU, 3, config=SMALL))


# ---- the action, and errors ----


def test_the_action_has_one_more_number_for_the_level() -> None:
    simulator = simulator_of(discounts=(0.0, 0.5))
    assert simulator.action_space.nvec.tolist() == [40, 40, 40, 40, 2]
    assert simulator.discounts == (0.0, 0.5)
    assert make_simulator("recsim_env/Market-v0", device="cpu").discounts == ()


@pytest.mark.parametrize(
    ("discounts", "message"),
    [
        ((), "discounts is (), but it must be ascending shares"),
        ((0.1, 0.2), "discounts is (0.1, 0.2), but it must be ascending"),
        ((0.0, 0.2, 0.2), "the first of which is 0"),
        ((0.0, 1.0), "it must be ascending shares of a price below 1"),
        ((0.0, 1 - 1e-9), "it must be ascending shares of a price below 1"),  # 1 in float32
        ((0.0, 0.1, 0.1 + 1e-10), "it must be ascending shares"),
        ((0.0, -0.1), "discounts[1] is -0.1, but it must be"),
        (0.3, "discounts is 0.3, but"),
    ],
)
def test_bad_discounts_raise(discounts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        simulator_of(discounts=discounts)


def test_shoppers_without_discounts_refuse_them() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'discounts'"):
        make_simulator("recsim_env/Market-v0", discounts=(0.0, 0.1))


def test_bad_levels_and_shapes_raise_before_anything_changes() -> None:
    simulator = simulator_of()
    simulator.reset(torch.arange(2))
    for slates, message in (
        (bundles(simulator, 0, level=4), "slates holds 4 at [0, 4], but a level of discount is"),
        (bundles(simulator, 0, level=-1), "slates holds -1 at [0, 4], but a level of discount is"),
        (bundles(simulator, 0, 0)[:, :3], "shape (2, 3), but it must be (2, 4) or (2, 5)"),
        (torch.full((2, 5), 3).index_fill(1, torch.tensor([1]), 40), "holds 40 at [0, 1], but an"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            simulator.step(slates)
    assert simulator.episodes.visit.tolist() == [0, 0]
    env = gymnasium.make("recsim_env/Bundle-v0", device="cpu", config=SMALL).unwrapped
    env.reset(seed=0)
    message = "action holds 4 at [4], but a level of discount is a number from 0 to 3"
    with pytest.raises(ValueError, match=re.escape(message)):
        env.step(np.array([0, 1, 2, 3, 4]))


@pytest.mark.parametrize("size", [1, 9])
def test_a_bundle_has_two_to_eight_items(size: int) -> None:
    with pytest.raises(ValueError, match=f"slate_size is {size}, but it must be"):
        make_bundles(CPU, size, config=SMALL)


@pytest.mark.parametrize(
    ("field", "value"),
    [("complement", -1.0), ("partners", 1.5), ("sensitivity", float("nan")), ("market", None)],
)
def test_bad_parameters_raise(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} is "):
        dataclasses.replace(SMALL, **{field: value})


def test_a_market_is_no_configuration_of_bundles() -> None:
    with pytest.raises(ValueError, match="it must be a BundleConfig"):
        make_bundles(CPU, config=MarketConfig())  # type: ignore[arg-type]


# ---- both faces ----


def test_both_faces_take_every_action_of_their_space() -> None:
    env = gymnasium.make("recsim_env/Bundle-v0", device="cpu", config=SMALL)
    envs = gymnasium.make_vec(
        "recsim_env/Bundle-v0", num_envs=3, device="cpu", config=SMALL, vectorization_mode=None
    )
    env.reset(seed=1)
    envs.reset(seed=1)
    envs.action_space.seed(0)
    for _ in range(5):
        actions = envs.action_space.sample()
        _, reward, terminated, _, info = env.step(actions[0])
        _, rewards, _, _, infos = envs.step(actions)
        assert reward == pytest.approx(rewards[0], rel=1e-6)
        assert info["whole"] == infos["whole"][0]
        assert info["discount"] == pytest.approx(infos["discount"][0])
        if terminated:
            break


# ---- as a person sees it ----


def test_a_frame_tells_price_discount_answer_and_reason() -> None:
    config = dataclasses.replace(SMALL, partners=1.0)
    env = gymnasium.make(
        "recsim_env/Bundle-v0", device="cpu", config=config, render_mode="ansi"
    ).unwrapped
    env.reset(seed=0)
    env.step(np.array([0, 1, 8, 2, 2]))
    simulator = env.simulator  # type: ignore[attr-defined]
    frame = str(env.render())
    price = float(simulator.catalog.price[[0, 1, 8, 2]].sum())
    assert f"the bundle costs {0.8 * price:.2f}, 20% off {price:.2f}: " in frame
    assert "category 0 goes with category 1" in frame
    assert "category 0 more than once: one stands for another" in frame
    assert "taken whole before: 0 of 0 bundles" in frame
    env.step(np.array([0, 0, 0, 0, 2]))  # a single item is no bundle, and costs its price
    frame = str(env.render())
    assert "nothing in it goes together" in frame
    assert f"the bundle costs {float(simulator.catalog.price[0]):.2f}: " in frame


def test_the_picture_has_room_for_the_bundle() -> None:
    heights = []
    for simulator in (
        simulator_of(),
        make_simulator("recsim_env/Market-v0", device="cpu", slate_size=4),
    ):
        env = SlateEnv(simulator, render_mode="rgb_array")
        env.reset(seed=0)
        arrived = np.asarray(env.render()).shape
        env.step(np.array([0, 1, 2, 3]))
        assert np.asarray(env.render()).shape == arrived
        heights.append(arrived[0])
    assert heights[0] > heights[1]
