"""The pool holds the best candidates, and on request the best of each category."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.cues import CUES
from policies.features import STATE_FEATURES, Recent, StateInputs
from policies.observations import candidates_of
from policies.pool import Pool, Pooling
from policies.slates import top_slates
from recsim_env import make_simulator
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import MarketConfig
from recsim_env.shoppers.profile import DECAYS
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation
from tests.support.policy_toys import made_up_ranker
from tests.support.toys import toy_simulator

NO_DRAWS = torch.zeros(1, 0)
ITEMS, GROUPS, SIZE = 40, 5, 4


def market(visits: int = 3, shoppers: int = 6) -> tuple[SlateSimulator, Observation]:
    """A small market after some visits."""
    config = MarketConfig(items=ITEMS, categories=GROUPS, width=4, favourites=2)
    simulator = SlateSimulator(
        make_market(torch.device("cpu"), SIZE, config=config), horizon_days=50
    )
    observation = simulator.reset(torch.arange(shoppers))
    generator = torch.Generator().manual_seed(2)
    for _ in range(visits):
        slates = torch.rand(shoppers, ITEMS, generator=generator).argsort(dim=1)[:, :SIZE]
        simulator.advance(slates)
        observation = simulator.observe()
    return simulator, observation


def inputs_of(simulator: SlateSimulator, per_category: int) -> PolicyInputs:
    return PolicyInputs(
        catalog=simulator.catalog,
        observation_space=simulator.observation_space,
        slate_size=simulator.slate_size,
        ranker=made_up_ranker(len(simulator.catalog)),
        per_category=per_category,
    )


def some_candidates(rows: int = 8, most: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Different candidates for every row, some padded; no two logits are equal."""
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.rand(rows, ITEMS, generator=generator).argsort(dim=1)[:, :most]
    present = torch.tensor([most, most, 20, 15, 10, 6, 2, 1])[:rows]
    candidates = candidates.where(torch.arange(most) < present.unsqueeze(1), -1)
    logits = torch.randn(rows, most, generator=generator)
    return logits.masked_fill(candidates < 0, -torch.inf), candidates


def narrow_space(inputs: PolicyInputs, most: int) -> PolicyInputs:
    """The inputs where a visit has at most so many candidates."""
    space = inputs.observation_space
    candidates = gymnasium.spaces.Box(-1, ITEMS - 1, (most,), np.int64)
    spaces = gymnasium.spaces.Dict({**space.spaces, "candidates": candidates})
    return dataclasses.replace(inputs, observation_space=spaces)


def expected_pool(
    logits: Tensor, candidates: Tensor, category: Tensor, per_category: int
) -> list[int]:
    """Of one row in plain Python: the K best and the best of each category, best first."""
    ranked = [
        item
        for _, item in sorted(zip((-logits).tolist(), candidates.tolist(), strict=True))
        if item >= 0
    ]
    chosen = set(ranked[:SIZE])
    for group in range(GROUPS):
        chosen |= set([item for item in ranked if int(category[item]) == group][:per_category])
    return [item for item in ranked if item in chosen]


def test_without_categories_it_is_the_best() -> None:
    simulator, _ = market()
    logits, candidates = some_candidates()
    for best, size in ((9, 9), (2, SIZE), (100, 24)):  # at least a slate, at most all candidates
        pooling = Pooling(narrow_space(inputs_of(simulator, 0), 24), best)
        pool, expected = pooling(logits, candidates), Pool.best(logits, candidates, size)
        assert pooling.size == size
        for name, value in vars(expected).items():
            assert torch.equal(getattr(pool, name), value), name


@pytest.mark.parametrize("per_category", [1, 2, 3, 50])
def test_the_pool_is_what_a_plain_loop_finds(per_category: int) -> None:
    simulator, _ = market()
    category = simulator.catalog.category
    pooling = Pooling(narrow_space(inputs_of(simulator, per_category), 24), 7)
    logits, candidates = some_candidates()
    pool = pooling(logits, candidates)
    assert pool.items.shape == pool.logits.shape == pool.columns.shape == (8, pooling.size)
    for row in range(8):
        expected = expected_pool(logits[row], candidates[row], category, per_category)
        found = pool.items[row]
        assert (
            found[found >= 0].tolist() == expected
        )  # so without repeats, and the K best are there
        assert (found[len(expected) :] == -1).all()
        assert (pool.logits[row, len(expected) :] == -torch.inf).all()
        columns = pool.columns[row, : len(expected)]
        assert candidates[row, columns].tolist() == expected
        assert torch.equal(logits[row, columns], pool.logits[row, : len(expected)])
    assert pool.columns.min() >= 0


def test_a_whole_catalogue_fills_the_pool_with_the_same_of_each_category() -> None:
    simulator, observation = market()
    inputs = inputs_of(simulator, 2)
    pooling = Pooling(inputs, 64)
    assert pooling.size == GROUPS * 2 + SIZE
    assert inputs.ranker is not None
    pool = pooling(inputs.ranker.logits(observation), observation["candidates"])
    counts = torch.bincount(
        simulator.catalog.category[pool.items[0][pool.items[0] >= 0]], minlength=GROUPS
    )
    assert (counts >= 2).all()
    assert torch.equal(pool.items[:, :SIZE], top_slates(pool.logits, pool.items, SIZE))


def test_a_category_with_fewer_items_than_asked_for_brings_them_all() -> None:
    simulator = toy_simulator(
        items=11, categories=5, slate_size=2
    )  # two items a category, but three of category 0
    inputs = inputs_of(simulator, 3)
    observation = simulator.reset(torch.arange(3))
    assert inputs.ranker is not None
    pool = Pooling(inputs, 2)(inputs.ranker.logits(observation), observation["candidates"])
    for row in range(3):
        present = observation["candidates"][row]
        assert sorted(item for item in pool.items[row].tolist() if item >= 0) == sorted(
            present[present >= 0].tolist()
        )


def test_a_number_below_zero_is_refused() -> None:
    simulator, _ = market()
    with pytest.raises(
        ValueError, match=r"^per_category is -1, but it must be a whole number from 0 "
    ):
        inputs_of(simulator, -1)
    with pytest.raises(ValueError, match=r"^pool is -1, but it must be a whole number from 1 "):
        dataclasses.replace(inputs_of(simulator, 0), pool=-1)


@pytest.mark.parametrize("per_category", [0, 1, 4])
def test_re_rankers_that_change_nothing_are_greedy(per_category: int) -> None:
    simulator, observation = market()
    inputs = inputs_of(simulator, per_category)
    greedy = POLICIES["greedy_ctr"].build(inputs)(observation, NO_DRAWS)
    assert inputs.ranker is not None
    logits = inputs.ranker.logits(observation)
    assert torch.equal(greedy, top_slates(logits, candidates_of(observation, ITEMS), SIZE))
    zero = dict.fromkeys(POLICIES["constant_log_odds"].search(), 0.0)
    for name, parameters in (
        ("constant_log_odds", zero),
        ("mmr", {"weight": 0.0}),
        ("cap", {"limit": SIZE}),
    ):
        assert torch.equal(
            POLICIES[name].build(inputs, parameters)(observation, NO_DRAWS), greedy
        ), name


def test_the_pool_gives_a_re_ranker_the_variety_that_the_best_alone_lack() -> None:
    """The best 64 all lie in category 0: only the pool by category holds anything else."""
    simulator = make_simulator("recsim_env/Market-v0", device="cpu")
    observation = simulator.reset(torch.arange(2))
    category = simulator.catalog.category
    for per_category, groups in ((0, 2), (4, 10)):
        inputs = inputs_of(simulator, per_category)
        inputs = dataclasses.replace(inputs, ranker=made_up_ranker(1000))
        assert inputs.ranker is not None
        inputs.ranker.table += 20.0 * (category < 2)  # type: ignore[attr-defined]
        slates = POLICIES["cap"].build(inputs, {"limit": 1})(observation, NO_DRAWS)
        assert len(category[slates[0]].unique()) == groups


# --- the cues and the part of the summary that look at the profile ---


def test_the_cues_of_the_profile_by_hand() -> None:
    simulator, observation = market(visits=5)
    composer = Composer(inputs_of(simulator, 1), ComposerConfig(offset_dims=0))
    assert {"sated", "flooded", "loyal"} <= set(composer.cues)
    view, category = composer.view(observation), simulator.catalog.category
    lately, ever = DECAYS.index(0.9), DECAYS.index(1.0)
    clicked, shown = observation["category_clicked"], observation["category_shown"]
    assert clicked.any()
    for row in range(len(clicked)):
        for place, item in enumerate(view.pool.ids[row].tolist()):
            group = int(category[item])
            expected = {
                "sated": clicked[row, group, lately],
                "flooded": shown[row, group, lately] / SIZE,
                "loyal": torch.log1p(clicked[row, group, ever]),
            }
            for name, value in expected.items():
                cue = view.cues[row, place, list(composer.cues).index(name)]
                torch.testing.assert_close(cue, CUES[name].unit * value)


def test_a_shoppers_behaviour_by_hand() -> None:
    """One shopper of five categories who saw 20 positions at 5 visits."""
    category = torch.arange(ITEMS) % GROUPS
    clicked = torch.zeros(1, GROUPS, 3)
    clicked[0, 0], clicked[0, 1] = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0.5, 1.0, 1.0])
    shown = torch.full((1, GROUPS, 3), 2.0)
    shown[0, 0, 1] = 6.0
    observation = {
        "category_clicked": clicked,
        "category_shown": shown,
        "familiarity": torch.tensor([[8.0, 4.0, 12.0, 1.0]]),
        "position_clicks": torch.tensor([[3.0, 1.0, 0.0, 1.0]]),
        "visits": torch.tensor([[5.0]]),
        "recent_slates": torch.full((1, 2, SIZE), -1),
        "recent_clicks": torch.zeros(1, 2, SIZE, dtype=torch.int8),
    }
    items = torch.tensor(
        [[0, 5, 1, 2, 3]]
    )  # of the best four: two of category 0, one each of 1 and 2
    pool = Pool(items, torch.zeros(1, 5), torch.arange(5).unsqueeze(0))
    seen = StateInputs(
        observation, Recent.of(observation), pool, torch.zeros(ITEMS, 2), category, SIZE
    )
    familiar, other = (4 + 1) / (8 + 10), (1 + 1) / (12 + 10)
    expected = torch.tensor(
        [
            familiar,
            other,
            torch.log(torch.tensor(familiar / other)),
            5 / 5,  # responses a visit
            (1 * 1 + 3 * 1 + 2)
            / (5 + 1)
            / SIZE,  # one at position 1, one at 3, and one made up at 2
            4 / 5,  # of all responses in category 0
            torch.log1p(torch.tensor((3.0 + 3.0 + 1.0 + 0.0) / 4)),
            (6.0 + 6.0 + 2.0 + 2.0) / 4 / SIZE,
        ]
    )
    torch.testing.assert_close(STATE_FEATURES["behaviour"].values(seen), expected.unsqueeze(0))


def test_a_newcomers_features_are_finite() -> None:
    simulator, observation = market(visits=0)
    features = Composer(inputs_of(simulator, 2)).features(observation)
    assert bool(features.isfinite().all())
