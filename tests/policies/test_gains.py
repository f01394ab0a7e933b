"""Gains are what the reward itself would say, and slates are greedy in them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.cosines import Cosines
from policies.filling import SlateSoFar
from policies.gains import GAINS, Gains, gain, gain_of_term, scale_knobs
from policies.inputs import PolicyInputs, looks_of
from policies.pool import Pool
from policies.rankers.two_tower import TwoTower, TwoTowerConfig, TwoTowerRanker
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs, reward_term
from recsim_env.types import Observation
from tests.policies.test_composer import some_visits
from tests.support.policy_toys import TableRanker, toy_inputs
from tests.support.toys import toy_catalog, toy_simulator

NO_DRAWS = torch.zeros(1, 0)


class LooksDown(TableRanker):
    """Knows how far down a slate is looked at."""

    def __init__(self, table: Tensor, looks: list[float]) -> None:
        super().__init__(table)
        self._looks = torch.tensor([looks])

    def looks(self, observation: Observation) -> Tensor:
        return self._looks


@pytest.fixture
def margin() -> Iterator[str]:
    """A reward term: what is clicked earns its number, registered while a test runs."""
    before, sources = dict(REWARD_TERMS), dict(REWARD_TERMS._sources)

    @reward_term("margin")
    def earned(inputs: RewardInputs) -> Tensor:
        """The sum of a margin over clicked items."""
        return (inputs.clicks * (inputs.slates % 7 + 1)).sum(dim=1).float()

    yield "margin"
    REWARD_TERMS.clear()
    REWARD_TERMS.update(before)
    REWARD_TERMS._sources = sources


def half_filled(filled: int = 3) -> SlateSoFar:
    """Slates of six positions, some of them filled, and a pool of twenty items."""
    catalog = toy_catalog(items=40, categories=5)
    catalog = dataclasses.replace(catalog, popularity=1 / (2 + torch.arange(40.0)))
    generator = torch.Generator().manual_seed(0)
    items = torch.stack([torch.randperm(40, generator=generator)[:20] for _ in range(4)])
    pool = Pool(items, torch.randn(4, 20, generator=generator), items.clone())
    slate = SlateSoFar(pool, catalog, Cosines(catalog), 6)
    for place in range(filled):
        slate.add(torch.tensor([place, place + 1, 2 * place, 5 - place]))
    return slate


@pytest.mark.parametrize("filled", [0, 1, 3, 5])
@pytest.mark.parametrize("term", sorted(GAINS))
def test_a_registered_gain_is_what_the_term_itself_says(term: str, filled: int) -> None:
    slate = half_filled(filled)
    chance = torch.rand(4, 20, generator=torch.Generator().manual_seed(1))
    own, asked = GAINS[term].gain(slate, chance), gain_of_term(term)(slate, chance)
    if term == "outside_reward":  # taken to be in proportion to clicks; the term itself is not told
        asked = gain_of_term("clicks")(slate, chance)
    there = torch.ones(4, 20, dtype=torch.bool)
    for chosen in slate.chosen:  # what is on the slate already is no candidate
        there &= slate.pool.ids != chosen.unsqueeze(1)
    torch.testing.assert_close(own[there], asked[there], atol=1e-6, rtol=1e-5)


def test_a_term_of_ones_own_gains_by_the_chance_of_a_click(margin: str) -> None:
    slate = half_filled()
    chance = torch.rand(4, 20, generator=torch.Generator().manual_seed(1))
    gained = Gains(Reward({margin: 0.5})).of(slate, chance, torch.zeros(4, 1))
    torch.testing.assert_close(gained, 0.5 * chance * (slate.pool.ids % 7 + 1))


def test_a_term_of_ones_own_has_a_knob_and_is_composed_for(margin: str) -> None:
    assert f"scale_{margin}" in scale_knobs()
    simulator = toy_simulator(items=40, slate_size=4)
    flat = TableRanker(torch.zeros(40))
    inputs = dataclasses.replace(toy_inputs(simulator, flat), reward={margin: 1.0})
    composer = Composer(inputs, ComposerConfig(offset_dims=0))
    assert f"scale_{margin}" in composer.knobs
    seen = some_visits(simulator)
    slates = composer.compose(seen, torch.zeros(24, composer.intent_size))
    there = torch.where(seen["candidates"] >= 0, seen["candidates"] % 7, -1)
    assert torch.equal(slates % 7, there.topk(4, dim=1).values)


def test_reward_greedy_is_greedy_in_the_expected_reward() -> None:
    """Position by position the item with which the expected reward of the slate is largest."""
    simulator = toy_simulator(items=30, slate_size=5)
    looks = [1.0, 0.8, 0.5, 0.3, 0.1]
    ranker = LooksDown(torch.randn(30, generator=torch.Generator().manual_seed(4)), looks)
    weights = {"clicks": 1.5, "intra_list_distance": 2.0, "category_coverage": 0.5}
    inputs = dataclasses.replace(toy_inputs(simulator, ranker), reward=weights)
    seen = some_visits(simulator, shoppers=3)
    slates = POLICIES["reward_greedy"].build(inputs)(seen, NO_DRAWS)
    for row in range(3):
        slate: list[int] = []
        offered = [item for item in seen["candidates"][row].tolist() if item >= 0]
        for _ in range(5):
            left = [item for item in offered if item not in slate]
            values = [expected_reward([*slate, item], weights, ranker, inputs) for item in left]
            slate.append(left[values.index(max(values))])
        assert slates[row].tolist() == slate


def expected_reward(
    slate: list[int], weights: dict[str, float], ranker: LooksDown, inputs: PolicyInputs
) -> float:
    """Sum of the chances of a click, and the terms on the set, of a slate that is not yet full."""
    size = inputs.slate_size
    looks = ranker._looks[0].tolist()
    clicks: float = sum(
        look / (1 + math.exp(-float(ranker.table[item])))
        for look, item in zip(looks, slate, strict=False)
    )
    padded = torch.tensor([slate + [0] * (size - len(slate))])
    shown = torch.tensor([[place < len(slate) for place in range(size)]])
    told = RewardInputs(
        padded,
        shown,
        torch.zeros_like(shown),
        inputs.catalog.embedding,
        inputs.catalog.category,
    )
    of_set = sum(
        weights[name] * float(REWARD_TERMS[name](told))
        for name in ("intra_list_distance", "category_coverage")
    )
    return weights["clicks"] * clicks + of_set


def test_a_factor_on_diversity_changes_the_slate_toward_it() -> None:
    simulator = toy_simulator(items=60, slate_size=5)
    inputs, seen = toy_inputs(simulator), some_visits(simulator)
    distances = []
    for factor in (1e-6, 1.0, 8.0, 1e6):
        slates = POLICIES["reward_greedy"].build(inputs, {"factor": factor})(seen, NO_DRAWS)
        shown = torch.ones_like(slates, dtype=torch.bool)
        told = RewardInputs(
            slates, shown, ~shown, simulator.catalog.embedding, simulator.catalog.category
        )
        distances.append(float(REWARD_TERMS["intra_list_distance"](told).mean()))
    assert distances == sorted(distances)
    assert distances[0] < distances[1] < distances[3]


def test_what_has_no_number_comes_last_however_diverse() -> None:
    simulator = toy_simulator(items=12, slate_size=6)
    table = torch.full((12,), math.nan)
    table[[1, 4, 7, 10]] = -20.0  # all of one category
    inputs = dataclasses.replace(
        toy_inputs(simulator, TableRanker(table)), reward={"clicks": 1.0, "intra_list_distance": 9}
    )
    seen = simulator.reset(torch.arange(4))
    policy = POLICIES["reward_greedy"].build(inputs)
    with pytest.warns(UserWarning, match="gave NaN or inf"):
        slates = policy(seen, NO_DRAWS)
    for row in range(4):
        ranked = set(seen["candidates"][row].tolist()) & {1, 4, 7, 10}
        assert len(ranked) > 1
        assert set(slates[row, : len(ranked)].tolist()) == ranked


def test_looks_are_the_rankers_as_far_as_it_knows_them() -> None:
    observation = {"candidates": torch.zeros(2, 3, dtype=torch.int64)}
    assert looks_of(TableRanker(torch.zeros(3)), observation, 4).tolist() == [[1.0] * 4]
    knows = LooksDown(torch.zeros(3), [1.0, 0.5, 0.25])
    assert looks_of(knows, observation, 2).tolist() == [[1.0, 0.5]]
    assert looks_of(knows, observation, 5).tolist() == [[1.0, 0.5, 0.25, 0.25, 0.25]]
    model = TwoTower(
        torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 4, 2, 3, TwoTowerConfig()
    )
    looks = looks_of(TwoTowerRanker(model), observation, 3)
    torch.testing.assert_close(looks, torch.tensor([[1.0, *[1 / (1 + math.exp(-2.0))] * 2]]))


@pytest.fixture
def bought_first() -> Iterator[str]:
    """A reward term on purchases beside a large constant, registered while a test runs."""
    before, sources = dict(REWARD_TERMS), dict(REWARD_TERMS._sources)

    @reward_term("bought_first")
    def bought(inputs: RewardInputs) -> Tensor:
        """1e8 and the purchases at the first two positions."""
        assert inputs.purchases is not None
        return 1e8 + inputs.purchases[:, :2].sum(dim=1).double()

    yield "bought_first"
    REWARD_TERMS.clear()
    REWARD_TERMS.update(before)
    REWARD_TERMS._sources = sources


def test_a_term_on_purchases_takes_clicks_for_them_and_keeps_its_digits(bought_first: str) -> None:
    chance = torch.rand(4, 20, generator=torch.Generator().manual_seed(1))
    for filled, counts in ((1, 1.0), (2, 0.0)):
        gained = gain_of_term(bought_first)(half_filled(filled), chance)
        torch.testing.assert_close(gained, counts * chance)


def test_knobs_mean_the_same_however_the_reward_is_written_down() -> None:
    one = {"clicks": 1.0, "intra_list_distance": 2.0, "category_coverage": 0.5}
    other = dict(reversed(one.items()))
    assert Gains(Reward(one)).knobs == Gains(Reward(other)).knobs


def test_a_gain_of_no_reward_term_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^term is 'no_such_term', but"):
        gain("no_such_term")


def test_looks_of_another_shape_are_refused() -> None:
    ranker = LooksDown(torch.zeros(3), [1.0])
    ranker._looks = torch.ones(3)
    with pytest.raises(ValueError, match=r"^ranker\.looks\(observation\) is a float32 tensor"):
        looks_of(ranker, {"candidates": torch.zeros(2, 3, dtype=torch.int64)}, 4)


def test_a_ranker_that_answers_on_another_device_is_refused() -> None:
    simulator = toy_simulator(items=12, slate_size=3)

    class Elsewhere(TableRanker):
        def logits(self, observation: Observation) -> Tensor:
            return super().logits(observation).to("meta")

    inputs = toy_inputs(simulator, Elsewhere(torch.zeros(12)))
    for name in ("mmr", "reward_greedy"):
        with pytest.raises(ValueError, match=r"^ranker\.logits\(observation\) is on meta, but"):
            POLICIES[name].build(inputs)(simulator.reset(torch.arange(2)), NO_DRAWS)
