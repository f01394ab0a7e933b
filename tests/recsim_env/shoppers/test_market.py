"""The closed-form market: formulas by hand; where nothing has a later effect, greed is optimal."""

from __future__ import annotations

import dataclasses
import math
import random
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.evaluate import evaluate
from policies import POLICIES, PolicyInputs
from policies.slates import top_slates
from recsim_env import make_simulator, noise
from recsim_env.registration import PRESETS
from recsim_env.rewards import Reward
from recsim_env.shoppers import market
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import (
    CONTROL,
    MARKET,
    MILD,
    MarketConfig,
    MarketShopper,
    MarketState,
)
from recsim_env.shoppers.worlds import MOST
from recsim_env.simulator import SlateSimulator
from recsim_env.trees import pick, put
from recsim_env.types import Observation, Policy

CPU = torch.device("cpu")
TINY = MarketConfig(
    items=4,
    categories=2,
    width=2,
    favourites=1,
    base=-1.0,
    interest=2.0,
    examination=0.5,
    satiation=0.5,
    satiation_decay=0.8,
    satiation_exposure=0.1,
    satiation_click=0.4,
    fatigue=0.3,
    fatigue_decay=0.5,
    drift=0.0,
    leave_base=-3.0,
    leave_bored=2.0,
    leave_unsatisfied=1.0,
).alike()
VECTORS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
QUALITY = torch.tensor([0.1, 0.2, 0.3, 0.4])
TRAITS = ("speed", "variety", "patience", "examination")
HALF = 0.5
"""The uniform number whose normal one is 0."""


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def tiny(config: MarketConfig = TINY) -> tuple[MarketShopper, MarketState]:
    """One shopper of interest (0.6, 0.8) before four items; 0 and 2 are of category 0."""
    shopper = MarketShopper(CPU, 2, config=config)
    shopper.catalog = dataclasses.replace(shopper.catalog, embedding=VECTORS)
    shopper.quality = QUALITY
    assert shopper.catalog.category.tolist() == [0, 1, 0, 1]
    state = shopper.start(torch.full((1, shopper.start_draws), HALF))
    state.interest = torch.tensor([[0.6, 0.8]])
    return shopper, state


def small(config: MarketConfig = MARKET, **changes: Any) -> MarketShopper:
    """Thirty items in five categories, slates of three."""
    size: dict[str, Any] = {"items": 30, "categories": 5, "width": 6, "favourites": 2}
    config = dataclasses.replace(config, **{**size, **changes})
    return MarketShopper(CPU, 3, config=config)


def everyone(shoppers: int, first: int = 0) -> Tensor:
    """(B,) keys of the noise."""
    return noise.episode_key(
        torch.arange(first, first + shoppers), torch.zeros(shoppers, dtype=torch.int64)
    )


def random_slates(keys: Tensor, visit: int, items: int, size: int) -> Tensor:
    """(B, size), each from its shopper's key alone."""
    return noise.uniform(keys, 1000 + visit, items).argsort(dim=1)[:, :size]


def all_shown(slates: Tensor) -> Tensor:
    return torch.ones_like(slates, dtype=torch.bool)


def after_visits(
    shopper: MarketShopper, keys: Tensor, visits: int, *, other: int = 0
) -> MarketState:
    """Shoppers after so many random slates; `other` changes the slates, not the shoppers' noise."""
    state = shopper.start(noise.uniform(keys, 0, shopper.start_draws))
    for visit in range(visits):
        slates = random_slates(keys, visit + 100 * other, len(shopper.catalog), shopper.slate_size)
        shopper.respond(
            state, slates, all_shown(slates), noise.uniform(keys, visit + 1, shopper.visit_draws)
        )
    return state


# --- the formulas ---


@pytest.mark.parametrize(
    ("q", "g", "patience", "e"),
    [(1.0, 1.0, 0.0, 0.5), (2.0, 0.7, 0.4, 0.8)],
    ids=["alike", "own traits"],
)
def test_two_visits_by_hand(q: float, g: float, patience: float, e: float) -> None:
    shopper, state = tiny()
    for name, value in zip(TRAITS, (q, g, patience, e), strict=True):
        if (q, g, patience, e) == (1.0, 1.0, 0.0, 0.5):
            assert getattr(state, name).item() == pytest.approx(value, abs=1e-5)
        setattr(state, name, torch.tensor([value]))

    # items 2 and 0, both of category 0: the first is clicked, the second is not
    draws = torch.tensor([[0.0, 0.999, 0.999, HALF, HALF]])
    slate = torch.tensor([[2, 0]])
    first = shopper.respond(state, slate, all_shown(slate), draws)
    chance = [sigmoid(-1 + 2 * (0.6 * 0.6 + 0.8 * 0.8) + 0.3), e * sigmoid(-1 + 2 * 0.6 + 0.1)]
    assert first.probability[0].tolist() == pytest.approx(chance, abs=1e-6)
    assert first.clicks.tolist() == [[True, False]]
    assert first.leaving is not None
    assert first.leaving.item() == pytest.approx(
        sigmoid(-3 - patience), abs=1e-6
    )  # not bored yet, and one click
    sated = q * (0.1 * (1 + e) + 0.4)
    assert state.satiation[0].tolist() == pytest.approx([sated, 0.0])
    assert state.fatigue[0].tolist() == pytest.approx([e, 0.0, 1.0, 0.0])

    # items 1 and 2: no click
    draws = torch.tensor([[0.999, 0.999, 0.999, HALF, HALF]])
    slate = torch.tensor([[1, 2]])
    second = shopper.respond(state, slate, all_shown(slate), draws)
    tired = 2 * (0.6 * 0.6 + 0.8 * 0.8) + 0.3 - 0.5 * g * sated - 0.3 * 1.0
    assert second.probability[0].tolist() == pytest.approx(
        [sigmoid(-1 + 2 * 0.8 + 0.2), e * sigmoid(-1 + tired)]
    )
    assert not second.clicks.any()
    assert second.leaving is not None
    boredom = (1 * 0.0 + e * sated) / (1 + e)  # of the slate as it was met
    assert second.leaving.item() == pytest.approx(
        sigmoid(-3 - patience + 2 * g * boredom + 1), abs=1e-6
    )
    assert state.satiation[0].tolist() == pytest.approx([0.8 * sated + q * 0.1 * e, q * 0.1 * 1])
    assert state.fatigue[0].tolist() == pytest.approx([0.5 * e, 1.0, 0.5 * 1.0 + e, 0.0])
    assert state.day.item() == 2
    torch.testing.assert_close(state.interest, torch.tensor([[0.6, 0.8]]))  # without drift


def test_the_interest_drifts_by_its_own_draws() -> None:
    shopper, state = tiny(dataclasses.replace(TINY, drift=0.1))
    one_sigma = 0.841344746  # the standard normal distribution function at 1
    slate = torch.tensor([[0, 1]])
    shopper.respond(
        state, slate, all_shown(slate), torch.tensor([[0.9, 0.9, 0.9, one_sigma, HALF]])
    )
    length = math.hypot(0.7, 0.8)
    assert state.interest[0].tolist() == pytest.approx([0.7 / length, 0.8 / length], abs=1e-5)


def test_looking_further_down_takes_the_same_chance_at_every_position() -> None:
    shopper = small()
    state = shopper.start(torch.full((2, shopper.start_draws), 0.3))
    state.examination = torch.tensor([0.5, 0.9])
    assert shopper.examined(state).tolist() == [
        pytest.approx([1, 0.5, 0.25]),
        pytest.approx([1, 0.9, 0.81]),
    ]


def test_what_is_not_shown_changes_nothing() -> None:
    shopper, keys = small(), everyone(8)
    ends = []
    for hidden_item in (3, 17):
        state = after_visits(shopper, keys, 2)
        slates = torch.tensor([[0, hidden_item, 9]]).repeat(8, 1)
        shown = torch.tensor([[True, False, True]]).repeat(8, 1)
        answer = shopper.respond(state, slates, shown, noise.uniform(keys, 3, shopper.visit_draws))
        assert not answer.clicks[:, 1].any()
        assert answer.probability[:, 1].tolist() == [0.0] * 8
        ends.append((vars(answer), vars(state), state.profile.observe()))
    for one, other in zip(*ends, strict=True):
        for name in one:
            if isinstance(one[name], Tensor):
                assert torch.equal(one[name], other[name]), name


def test_an_empty_slate_only_lets_time_pass() -> None:
    shopper, keys = small(drift=0.0), everyone(8)
    before, state = after_visits(shopper, keys, 3), after_visits(shopper, keys, 3)
    slates = torch.zeros(8, 3, dtype=torch.int64)
    answer = shopper.respond(
        state, slates, ~all_shown(slates), noise.uniform(keys, 4, shopper.visit_draws)
    )
    assert torch.equal(state.satiation, MARKET.satiation_decay * before.satiation)
    assert torch.equal(state.fatigue, MARKET.fatigue_decay * before.fatigue)
    expected = torch.sigmoid(MARKET.leave_base - before.patience + MARKET.leave_unsatisfied)
    torch.testing.assert_close(answer.leaving, expected)


# --- who comes ---


def test_shoppers_differ_as_the_configuration_says() -> None:
    shopper = small()
    state = shopper.start(noise.uniform(everyone(20_000), 0, shopper.start_draws))
    odds = math.log(MARKET.examination / (1 - MARKET.examination))
    found = {
        "speed": (state.speed.log(), 0.0, MARKET.speed_spread),
        "variety": (state.variety.log(), 0.0, MARKET.variety_spread),
        "patience": (state.patience, 0.0, MARKET.patience_spread),
        "examination": (state.examination.logit(), odds, MARKET.examination_spread),
    }
    for name, (values, mean, spread) in found.items():
        error = spread / math.sqrt(len(values))
        assert values.mean().item() == pytest.approx(mean, abs=5 * error), name
        assert values.std().item() == pytest.approx(spread, abs=5 * error / math.sqrt(2)), name
    together = torch.stack([values for values, _, _ in found.values()])
    assert (
        float((torch.corrcoef(together) - torch.eye(4)).abs().max()) < 0.03
    )  # traits have nothing to do with another
    for name in ("interest", "declared"):
        torch.testing.assert_close(getattr(state, name).norm(dim=1), torch.ones(20_000))


def test_alike_shoppers_have_the_traits_of_the_median_one_and_their_own_interests() -> None:
    shopper = make_market(CPU, 3, config=MARKET, alike=True)
    state = shopper.start(noise.uniform(everyone(50), 0, shopper.start_draws))
    for name, median in zip(TRAITS, (1.0, 1.0, 0.0, MARKET.examination), strict=True):
        torch.testing.assert_close(getattr(state, name), torch.full((50,), median))
    other = make_market(CPU, 3, config=MARKET).start(
        noise.uniform(everyone(50), 0, shopper.start_draws)
    )
    assert torch.equal(state.interest, other.interest)
    assert len(state.interest.unique(dim=0)) == 50


@pytest.mark.parametrize("examination", [0.0, 1.0])
def test_a_certain_examination_is_everybodys(examination: float) -> None:
    shopper = small(examination=examination)
    state = shopper.start(noise.uniform(everyone(5), 0, shopper.start_draws))
    assert shopper.examined(state).tolist() == [[1.0, examination, examination]] * 5


def test_declared_interest_is_as_near_to_the_true_one_as_its_noise_lets_it() -> None:
    generator = np.random.default_rng(0)
    for length in (0.0, 0.3, 1.5):
        shopper = small(declared_noise=length)
        state = shopper.start(noise.uniform(everyone(8_000), 0, shopper.start_draws))
        cosine = (state.interest * state.declared).sum(dim=1)
        # the first axis along the interest: (1 + n_1, n_2, ..) / length of it, n of standard
        # deviation length / sqrt(6)
        error = generator.normal(0, length / math.sqrt(6), (50_000, 6))
        error[:, 0] += 1
        expected = (error[:, 0] / np.linalg.norm(error, axis=1)).mean()
        assert cosine.mean().item() == pytest.approx(expected, abs=0.01)


def test_a_newcomers_interest_lies_in_its_favourite_categories() -> None:
    shopper = small(favourites=1)
    state = shopper.start(noise.uniform(everyone(500), 0, shopper.start_draws))
    embedding, category = shopper.catalog.embedding, shopper.catalog.category
    centres = torch.stack([embedding[category == c].mean(dim=0) for c in range(5)])
    nearest = (state.interest @ torch.nn.functional.normalize(centres, dim=1).T).max(dim=1)
    assert nearest.values.mean() > 0.9
    assert torch.bincount(nearest.indices, minlength=5).min() > 50  # of 100 expected


def test_a_world_is_its_catalogue() -> None:
    one, same, other = (make_market(CPU, 10, world=world) for world in (3, 3, 4))
    assert torch.equal(one.catalog.embedding, same.catalog.embedding)
    assert torch.equal(one.quality, same.quality)
    assert not torch.equal(one.catalog.embedding, other.catalog.embedding)
    assert not torch.equal(one.quality, other.quality)
    draws = noise.uniform(everyone(2), 0, one.start_draws)
    assert torch.equal(
        one.start(draws).variety, other.start(draws).variety
    )  # the same people in another shop


# --- leaving ---


def test_shoppers_leave_as_often_as_they_are_said_to() -> None:
    shopper, keys = small(), everyone(6_000)
    state = after_visits(shopper, keys, 4)
    slates = random_slates(keys, 4, 30, 3)
    answer = shopper.respond(
        state, slates, all_shown(slates), noise.uniform(keys, 5, shopper.visit_draws)
    )
    chance = answer.leaving
    assert chance is not None
    assert chance.std() > 0.01
    for part in (chance < chance.median(), chance >= chance.median()):
        expected, spread = chance[part].sum(), (chance * (1 - chance))[part].sum().sqrt()
        assert abs(float(answer.left[part].sum() - expected)) < 4 * float(spread)
    expected, spread = (
        answer.probability.sum(),
        (answer.probability * (1 - answer.probability)).sum().sqrt(),
    )
    assert abs(float(answer.clicks.sum() - expected)) < 4 * float(spread)


def test_where_nobody_may_leave_all_else_is_the_same() -> None:
    keys, ends = everyone(400), []
    for never_leave in (False, True):
        shopper = small(leave_base=-1.0)
        shopper = shopper.staying() if never_leave else shopper
        state = after_visits(shopper, keys, 2)
        slates = random_slates(keys, 9, 30, 3)
        answer = shopper.respond(
            state, slates, all_shown(slates), noise.uniform(keys, 3, shopper.visit_draws)
        )
        assert bool(answer.left.any()) is not never_leave
        ends.append({**vars(state), **vars(answer), **state.profile.observe()})
    for name, value in ends[0].items():
        if isinstance(value, Tensor) and name != "left":
            assert torch.equal(value, ends[1][name]), name


def test_bored_and_unserved_shoppers_leave_sooner_and_patient_ones_later() -> None:
    shopper = small()
    state = shopper.start(torch.full((4, shopper.start_draws), HALF))
    state.satiation[1] += 1.0
    state.patience = torch.tensor([0.0, 0.0, 0.0, 1.0])
    slates = torch.tensor([[0, 1, 2]] * 4)
    draws = torch.full((4, shopper.visit_draws), 0.999)
    draws[[0, 1, 3], 0] = 0.0  # one click, but for shopper 2
    leaving = shopper.respond(state, slates, all_shown(slates), draws).leaving
    assert leaving is not None
    assert leaving[1] > leaving[0]
    assert leaving[2] > leaving[0]
    assert leaving[3] < leaving[0]


# --- the control: greed is optimal ---


def test_in_the_control_nothing_shown_changes_anything_later() -> None:
    shopper, keys = small(CONTROL), everyone(30)
    everything = torch.arange(30).expand(30, -1)
    start = shopper.start(noise.uniform(keys, 0, shopper.start_draws))
    one, other = after_visits(shopper, keys, 6), after_visits(shopper, keys, 6, other=1)
    assert not torch.equal(one.profile.shown, other.profile.shown)
    assert torch.equal(shopper.log_odds(one, everything), shopper.log_odds(other, everything))
    assert torch.equal(shopper.examined(one), shopper.examined(other))
    torch.testing.assert_close(
        shopper.log_odds(one, everything), shopper.log_odds(start, everything)
    )
    assert torch.equal(shopper.examined(one), shopper.examined(start))
    slates = random_slates(keys, 0, 30, 3)
    answer = shopper.respond(one, slates, all_shown(slates), torch.zeros(30, shopper.visit_draws))
    assert answer.leaving is not None
    assert answer.leaving.tolist() == [0.0] * 30
    assert not answer.left.any()


def test_in_the_control_no_pair_of_slates_beats_greed() -> None:
    """All 12 ordered slates of 2 out of 4 items at two visits in a row, for twenty shoppers."""
    shopper = MarketShopper(
        CPU, 2, config=dataclasses.replace(CONTROL, items=4, categories=2, width=3, favourites=1)
    )
    every = torch.tensor(list(permutations(range(4), 2)))
    plans = torch.cartesian_prod(torch.arange(12), torch.arange(12))  # (144, 2)
    for key in everyone(20).unsqueeze(1):
        draws = [noise.uniform(key, visit, shopper.visit_draws).expand(144, -1) for visit in (1, 2)]
        state = shopper.start(noise.uniform(key, 0, shopper.start_draws).expand(144, -1))
        greedy = (
            shopper.log_odds(state, torch.arange(4).expand(144, -1))[0].topk(2).indices.tolist()
        )
        clicks = torch.zeros(144)
        for visit in range(2):
            slates = every[plans[:, visit]]
            clicks += shopper.respond(
                state, slates, all_shown(slates), draws[visit]
            ).probability.sum(dim=1)
        found = every.tolist().index(greedy)
        of_greed = clicks[found * 12 + found].item()
        assert of_greed == pytest.approx(clicks.max().item(), abs=1e-6)
        assert (clicks < of_greed - 1e-4).sum() > 100  # and most plans are worse


class Truth:
    """A ranker that looks into the shoppers; `error` of noise on its log-odds."""

    def __init__(self, simulator: SlateSimulator, error: float = 0.0) -> None:
        self._simulator = simulator
        items = len(simulator.catalog)
        self._error = error * torch.randn(items, generator=torch.Generator().manual_seed(1))

    def logits(self, observation: Observation) -> Tensor:
        shopper, state = self._simulator.shopper, self._simulator.hidden
        return shopper.log_odds(state, observation["candidates"]) + self._error  # type: ignore[attr-defined,no-any-return]


class Greedy:
    """What a ranker ranks first."""

    draws = 0

    def __init__(self, ranker: Truth, size: int) -> None:
        self._ranker, self._size = ranker, size

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        return top_slates(self._ranker.logits(observation), observation["candidates"], self._size)


def expected_clicks(
    simulator: SlateSimulator, policy: Policy, shoppers: int, visits: int
) -> Tensor:
    """(B,) over the first visits, by the true chances."""
    keys = everyone(shoppers)
    observation = simulator.reset(torch.arange(shoppers))
    clicks = torch.zeros(shoppers)
    for visit in range(visits):
        slates = policy(observation, noise.uniform(keys, 500 + visit, policy.draws))
        shopper, state = simulator.shopper, simulator.hidden
        assert isinstance(shopper, MarketShopper)
        clicks += (shopper.examined(state) * torch.sigmoid(shopper.log_odds(state, slates))).sum(
            dim=1
        )
        observation = simulator.step(slates).observation
    return clicks


def test_in_the_control_preset_greed_on_the_truth_beats_every_other_ranking_for_every_shopper() -> (
    None
):
    simulator = make_simulator("recsim_env/MarketControl-v0", device="cpu")
    inputs = PolicyInputs(
        simulator.catalog,
        simulator.observation_space,
        simulator.slate_size,
        Truth(simulator),
        per_category=4,
    )
    greedy = expected_clicks(simulator, Greedy(Truth(simulator), 10), 32, 4)
    others = {
        "mmr": POLICIES["mmr"].build(inputs, {"weight": 1.0}),
        "cap": POLICIES["cap"].build(inputs, {"limit": 2}),
        "uniform": POLICIES["uniform"].build(inputs),
        "noisy": Greedy(Truth(simulator, error=0.5), 10),
    }
    for name, policy in others.items():
        clicks = expected_clicks(simulator, policy, 32, 4)
        assert (clicks <= greedy + 1e-5).all(), name
        assert clicks.mean() < 0.99 * greedy.mean(), name


def test_in_the_other_presets_greed_on_the_truth_has_later_effects() -> None:
    """The same slate again is clicked less and less there, and only there."""
    for id, worn in (("Market", True), ("MarketMild", True), ("MarketControl", False)):
        simulator = make_simulator(f"recsim_env/{id}-v0", device="cpu")
        shopper = simulator.shopper
        assert isinstance(shopper, MarketShopper)
        simulator.reset(torch.arange(16))
        slates = shopper.log_odds(simulator.hidden, simulator.candidates).topk(10, dim=1).indices
        before = shopper.log_odds(simulator.hidden, slates).mean()
        for _ in range(3):
            simulator.advance(slates)
        after = shopper.log_odds(simulator.hidden, slates).mean()
        assert bool(after < before - 0.5) is worn


# --- reproducible ---


def test_a_batch_is_its_shoppers_one_by_one() -> None:
    shopper = small()
    together = after_visits(shopper, everyone(5), 4)
    for row in range(5):
        alone = after_visits(shopper, everyone(1, first=row), 4)
        for name, value in vars(alone).items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(
                    getattr(together, name)[row : row + 1], value, rtol=1e-5, atol=1e-6
                )
        assert torch.equal(together.profile.clicked[row : row + 1], alone.profile.clicked)


def test_a_seed_is_an_episode_whatever_stands_beside_it() -> None:
    def play(seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        simulator = make_simulator("recsim_env/Market-v0", device="cpu", horizon_days=15)
        simulator.reset(seeds)
        keys = noise.episode_key(seeds, torch.zeros_like(seeds))
        for visit in range(12):
            outcome = simulator.advance(random_slates(keys, visit, 1000, 10))
        return simulator.episodes.recent_clicks, simulator.hidden.interest, outcome.info["day"]

    one = play(torch.tensor([7, 8, 9]))
    other = play(torch.tensor([9, 100, 7, 101]))
    for here, there in zip(one, other, strict=True):
        torch.testing.assert_close(here[[0, 2]], there[[2, 0]], rtol=1e-5, atol=1e-6)


def test_rows_are_selected_and_replaced_with_all_that_they_are() -> None:
    shopper = small()
    state = after_visits(shopper, everyone(4), 3)
    before = pick(state, torch.arange(4))
    fresh = shopper.start(noise.uniform(everyone(2, first=50), 0, shopper.start_draws))
    picked = pick(state, torch.tensor([2, 0]))
    put(state, torch.tensor([1, 3]), fresh)
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            assert torch.equal(value[[1, 3]], getattr(fresh, name)), name
            assert torch.equal(value[[0, 2]], getattr(before, name)[[0, 2]]), name
            assert torch.equal(getattr(picked, name), getattr(before, name)[[2, 0]]), name
    assert torch.equal(state.profile.shown[[1, 3]], fresh.profile.shown)
    assert torch.equal(picked.profile.shown, before.profile.shown[[2, 0]])
    slates = torch.tensor([[0, 1, 2]] * 2)
    shopper.respond(picked, slates, all_shown(slates), torch.zeros(2, shopper.visit_draws))
    for name, value in vars(state).items():  # a selection is a copy
        if isinstance(value, Tensor):
            assert torch.equal(value[[0, 2]], getattr(before, name)[[0, 2]]), name


def test_what_is_observed_stays_as_it_was_and_lies_in_its_space() -> None:
    shopper = small()
    state = after_visits(shopper, everyone(3), 3)
    seen = shopper.observe(state)
    kept = {name: value.clone() for name, value in seen.items()}
    slates = torch.tensor([[0, 1, 2]] * 3)
    shopper.respond(state, slates, all_shown(slates), torch.zeros(3, shopper.visit_draws))
    spaces = shopper.spaces()
    assert seen.keys() == spaces.keys()
    for name, value in seen.items():
        assert torch.equal(value, kept[name]), name
        assert all(spaces[name].contains(row.numpy()) for row in value), name


def test_no_global_generator_moves() -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", world=2)
    simulator.reset(torch.arange(3))
    simulator.step(torch.arange(10).expand(3, -1).contiguous())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]  # noqa: NPY002


def test_a_shopper_reads_well() -> None:
    shopper, state = tiny()
    state.speed = torch.tensor([2.0])
    slate = torch.tensor([[2, 0]])
    shopper.respond(
        state, slate, all_shown(slate), torch.zeros(1, shopper.visit_draws)
    )  # both clicked
    told = shopper.describe(state, 0)
    assert told["date"] == "visit 2"
    satiation = 2 * (0.1 * 1.5 + 0.4 * 2)
    category = shopper.catalog.categories[0]
    assert told["history"] == [f"2 clicks · {category}"]
    assert told["hidden"] == [
        "speed 2.00, variety 1.00, patience 0.00, examination 0.50",
        f"satiation {satiation:.1f} with {category}",
    ]


# --- the presets, and what is refused ---


def test_the_presets_are_the_markets_they_say() -> None:
    for name, config in (("Market", MARKET), ("MarketMild", MILD), ("MarketControl", CONTROL)):
        simulator = make_simulator(f"recsim_env/{name}-v0", device="cpu", world=1)
        assert simulator.shopper.config == config  # type: ignore[attr-defined]
        assert simulator.horizon_days == 50
    assert PRESETS["recsim_env/MarketControl-v0"].reward.weights == {"clicks": 1.0}  # type: ignore[union-attr]


def test_the_oracle_needs_a_reset() -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    with pytest.raises(Exception, match="needs reset before"):
        _ = simulator.hidden
    simulator.reset(torch.arange(3))
    assert isinstance(simulator.hidden, MarketState)
    assert len(simulator.hidden.day) == 3


def test_whole_episodes_of_the_market_end_by_boredom_or_by_the_horizon() -> None:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", horizon_days=8)
    policy = Greedy(Truth(simulator), 10)
    rows = evaluate(policy, simulator, torch.arange(64), batch=64).rows
    assert rows["visits"].max() == 8
    assert rows.filter(~rows["lapsed"])["visits"].unique().to_list() == [8]
    assert (rows["days"] == rows["visits"]).all()  # one visit a day


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drift": -0.1}, "drift is -0.1, but it must be a finite number from 0.0 to 10000.0."),
        (
            {"declared_noise": -1.0},
            "declared_noise is -1.0, but it must be a finite number from 0.0 to 10000.0.",
        ),
        ({"items": 0}, "items is 0, but it must be a whole number from 1 to 1000000."),
        ({"categories": 0}, "categories is 0, but it must be a whole number from 1 to 1000000."),
        ({"width": -1}, "width is -1, but it must be a whole number from 1 to 4096."),
        ({"favourites": 0}, "favourites is 0, but it must be a whole number from 1 to 1000000."),
        (
            {"examination": 1.5},
            "examination is 1.5, but it must be a finite number from 0.0 to 1.0.",
        ),
        (
            {"satiation_decay": -0.1},
            "satiation_decay is -0.1, but it must be a finite number from 0.0 to 1.0.",
        ),
        (
            {"fatigue_decay": math.nan},
            "fatigue_decay is nan, but it must be a finite number from 0.0 to 1.0.",
        ),
        (
            {"quality_spread": -1.0},
            "quality_spread is -1.0, but it must be a finite number from 0.0 to 10000.0.",
        ),
        (
            {"variety_spread": -1.0},
            "variety_spread is -1.0, but it must be a finite number from 0.0 to 5.0.",
        ),
        (
            {"categories": 2000},
            r"categories is 2000, but it must be from 3 \(favourites\) to 1000 \(items\).",
        ),
        (
            {"favourites": 21},
            r"categories is 20, but it must be from 21 \(favourites\) to 1000 \(items\).",
        ),
    ],
)
def test_a_configuration_out_of_range_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        MarketConfig(**changes)


def test_a_market_that_cannot_be_made_is_refused() -> None:
    for world in (-1, 1.5, True):
        with pytest.raises(
            ValueError, match=f"^world is {world}, but it must be a whole number from 0 to "
        ):
            make_market(CPU, 10, world=world)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"^slate_size is 10, but it must be a whole number from 1 to 8.$"
    ):
        make_market(CPU, 10, config=dataclasses.replace(MARKET, items=8, categories=4))


NO_NUMBERS: list[Any] = [
    None, "3", "1.0", [], {}, (), object(), True, False, np.bool_(True), 1j, 10**400,
    math.nan, np.float32("nan"), torch.tensor(1.0), torch.tensor(1), np.array([1.0]),
]  # fmt: skip
FIELDS = [field.name for field in dataclasses.fields(MarketConfig)]


@pytest.mark.parametrize("name", FIELDS)
def test_every_number_of_a_market_is_one(name: str) -> None:
    """Inputs of a wrong type are named, booleans and tensors among them."""
    wild = [] if name == "leave_base" else [math.inf, -math.inf, 1e308, -1e308]
    for bad in [*NO_NUMBERS, *wild, math.inf, 1e308, 2**70]:
        with pytest.raises(ValueError, match=rf"^{name} is .*, but it must be a"):
            MarketConfig(**{name: bad})


@pytest.mark.parametrize("name", FIELDS)
def test_numbers_of_numpy_are_numbers(name: str) -> None:
    value = getattr(MARKET, name)
    for kind in (np.int64, np.int32) if isinstance(value, int) else (np.float64, np.float32):
        changes: dict[str, Any] = {name: kind(value)}
        config = dataclasses.replace(MARKET, **changes)
        assert type(getattr(config, name)) is type(value)
        assert getattr(config, name) == pytest.approx(value)


@pytest.mark.parametrize(
    "name", [name for name in FIELDS if name not in ("items", "categories", "width", "favourites")]
)
def test_at_the_ends_of_every_range_all_numbers_stay_finite(name: str) -> None:
    """A noise of 1e308 gave observations outside of their space."""
    low, high = market._RANGES.get(name, (-MOST, MOST))
    small: dict[str, Any] = {"items": 12, "categories": 4, "width": 2, "favourites": 2}
    rng = torch.Generator().manual_seed(0)
    for end in (low, high):
        config = MarketConfig(**{**small, name: end})
        simulator = SlateSimulator(make_market(CPU, 4, config=config), Reward(), horizon_days=20.0)
        space = simulator.observation_space
        observation = simulator.reset(torch.arange(8))
        for _ in range(12):
            for row in range(8):
                assert space.contains(
                    {key: value[row].numpy() for key, value in observation.items()}
                )
            step = simulator.step(torch.rand(8, 12, generator=rng).argsort(dim=1)[:, :4])
            observation = (
                simulator.reset_rows(step.ended.nonzero().flatten())
                if step.ended.any()
                else step.observation
            )
            hidden = vars(simulator.hidden)
            assert all(
                bool(value.isfinite().all())
                for value in hidden.values()
                if isinstance(value, Tensor)
            )
            assert bool(step.reward.isfinite().all())


def test_all_extremes_at_once_stay_finite() -> None:
    ends = {name: market._RANGES.get(name, (-MOST, MOST)) for name in FIELDS[4:]}
    for side in (0, 1):
        values: dict[str, float] = {name: span[side] for name, span in ends.items()}
        config = MarketConfig(items=12, categories=4, width=2, favourites=2, **values)
        shopper = make_market(CPU, 4, config=config)
        state = shopper.start(
            torch.rand(16, shopper.start_draws, generator=torch.Generator().manual_seed(0))
        )
        slates, shown = torch.arange(4).expand(16, 4), torch.ones(16, 4, dtype=torch.bool)
        for _ in range(50):
            draws = torch.rand(16, shopper.visit_draws, generator=torch.Generator().manual_seed(1))
            response = shopper.respond(state, slates, shown, draws)
            assert bool((response.probability >= 0).all())
            assert response.leaving is not None
            assert not bool(response.leaving.isnan().any())


def test_what_is_declared_lies_in_its_space_whatever_the_width() -> None:
    for width in (1, 2, 3, 16):
        config = dataclasses.replace(MARKET, items=20, categories=4, width=width)
        shopper = make_market(CPU, 4, config=config)
        draws = torch.rand(5000, shopper.start_draws, generator=torch.Generator().manual_seed(0))
        assert float(shopper.start(draws).declared.abs().max()) <= 1


@pytest.mark.parametrize(
    "config", [None, 3, "market", {"items": 50}, {}, [], object(), MarketConfig]
)
def test_a_market_is_made_of_its_configuration(config: Any) -> None:
    with pytest.raises(ValueError, match=r"^config is .*, but it must be a MarketConfig\."):
        make_market(CPU, 10, config=config)


BAD_ARGUMENTS: dict[str, list[Any]] = {
    "alike": [
        *(value for value in NO_NUMBERS if not isinstance(value, (bool, np.bool_))),
        "no",
        0,
        1,
        1.0,
    ],
    "world": [*NO_NUMBERS, -1, 2**32, 2**63, 2.0],
    "slate_size": [*NO_NUMBERS, 0, -1, 1001, 2.0],
}


@pytest.mark.parametrize(
    ("argument", "bad"),
    [(argument, value) for argument, values in BAD_ARGUMENTS.items() for value in values],
)
def test_what_a_market_is_made_with_is_named(argument: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{argument} is .*, but it must be"):
        make_market(CPU, **{argument: bad})


def test_numpy_numbers_make_a_market() -> None:
    shopper = make_market(CPU, np.int64(5), world=np.int64(3), alike=np.bool_(True))  # type: ignore[arg-type]
    assert (shopper.slate_size, shopper.world, shopper.config.speed_spread) == (5, 3, 0.0)
    assert torch.equal(shopper.catalog.embedding, make_market(CPU, 5, world=3).catalog.embedding)


def test_tables_of_a_market_are_bounded_before_they_are_made() -> None:
    with pytest.raises(
        ValueError, match=r"^width is 101, but it must be from 1 to 100 with 1000000 items"
    ):
        MarketConfig(items=10**6, width=101)


def market_episodes() -> list[Tensor]:
    """All that four shoppers of Market-v0 let be seen in ten visits."""
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    seen = [*simulator.reset(torch.arange(4)).values()]
    for visit in range(10):
        step = simulator.step((torch.arange(10) * 7 + visit).expand(4, 10))
        seen += [*step.observation.values(), *step.info.values(), step.reward]
    return seen


def test_the_default_type_of_torch_changes_nothing() -> None:
    plain = market_episodes()
    torch.set_default_dtype(torch.float64)
    try:
        wide = market_episodes()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(
        one.dtype == other.dtype and torch.equal(one, other)
        for one, other in zip(plain, wide, strict=True)
    )
