"""Policies of bundles: the lift of a log by hand, the pair it leads to, the composer's knobs, and
the oracle against every bundle there is."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from agents.evaluate import evaluate
from agents.ppo.vec_env import expected_reward
from agents.statistics import paired_difference
from policies import POLICIES, PolicyInputs
from policies.bundle_oracle import OracleBundle, bundle_oracle_spec
from policies.composer import Composer, ComposerConfig
from policies.lift import OWN, PRIOR, category_lift
from policies.oracles import OracleMyopic
from policies.together import AtLevel, at_level
from recsim_env import make_simulator
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.bundles.complements import pairs_of
from recsim_env.shoppers.bundles.config import BUNDLES, BUNDLES_CONTROL, BundleConfig
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_policy
from recsim_env.types import Observation
from tests.support.policy_toys import made_up_ranker, toy_inputs
from tests.support.toys import toy_catalog, toy_simulator

NO_DRAWS = torch.zeros(1, 0)
SMALL = BundleConfig(market=dataclasses.replace(BUNDLES.market, items=24, categories=8, width=4))


def small_market(config: BundleConfig = SMALL, *, size: int = 3) -> SlateSimulator:
    return make_simulator(
        "recsim_env/Bundle-v0", device="cpu", config=config, slate_size=size, horizon_days=20
    )


def log_of(slates: Tensor, bought: Tensor) -> Sessions:
    """A log of episodes that all have T steps: slates and purchases (S, T, K)."""
    count, steps = slates.shape[:2]
    return Sessions(
        slates=slates,
        clicks=bought,
        length=torch.full((count,), steps),
        left=torch.zeros(count, dtype=torch.bool),
        propensity=torch.full((count, steps), torch.nan),
        policy=torch.full((count, steps), -1),
        declared=torch.zeros(count, 0),
        policies=(),
    )


# ---- lift ----


def test_the_lift_of_one_shopper_is_that_worked_out_by_hand() -> None:
    catalog = toy_catalog(items=3, categories=3)  # item i is of category i
    slates = torch.tensor([[[0, 1], [0, 1], [0, 2]]])
    bought = torch.tensor([[[1, 1], [0, 0], [1, 0]]]).bool()
    lift = category_lift(log_of(slates, bought), catalog)
    mean = 3 / 6
    share = [(2 + OWN * mean) / (3 + OWN), (1 + OWN * mean) / (2 + OWN), OWN * mean / (1 + OWN)]
    seen, sold = [3, 2, 1], [2, 1, 0]
    chance = [
        share[i] * (sold[i] + OWN * mean) / (seen[i] * share[i] + OWN * mean) for i in range(3)
    ]
    expected = math.log((1 + PRIOR) / (2 * chance[0] * chance[1] + PRIOR))
    assert lift[0, 1].item() == pytest.approx(expected, rel=1e-5)
    assert lift[0, 2].item() == pytest.approx(
        math.log(PRIOR / (chance[0] * chance[2] + PRIOR)), rel=1e-5
    )
    assert lift[1, 2].item() == 0  # never shown together
    assert torch.equal(lift, lift.T)


def test_the_lift_finds_what_goes_together_and_nothing_in_the_control() -> None:
    sizes = {"items": 60, "categories": 20, "width": 8}
    found = []
    for config in (BUNDLES, BUNDLES_CONTROL):
        market = dataclasses.replace(config.market, **sizes)
        simulator = small_market(dataclasses.replace(config, market=market), size=4)
        simulator.reset(torch.arange(600), staying=True)
        generator = torch.Generator().manual_seed(0)
        slates = torch.rand(600, 20, 60, generator=generator).argsort(dim=2)[:, :, :4]
        bought = torch.stack(
            [simulator.advance(slates[:, step]).response.clicks for step in range(20)], dim=1
        )
        lift = category_lift(log_of(slates, bought), simulator.catalog)
        together = pairs_of(BUNDLES, 20, world=0) > 0
        apart = ~together & ~torch.eye(20, dtype=torch.bool)
        found.append(float(lift[together].mean() - lift[apart].mean()))
    assert found[0] > 0.5
    assert abs(found[1]) < 0.1


# ---- the best pair ----


def test_the_bundle_begins_with_the_pair_of_largest_value() -> None:
    simulator = toy_simulator(items=40, slate_size=4)
    inputs = dataclasses.replace(
        toy_inputs(simulator), reward={"clicks": 1.0}, pool=40, per_category=0
    )
    seen = simulator.reset(torch.arange(6))
    slates = POLICIES["lift_pair"].build(inputs)(seen, NO_DRAWS)
    chance = made_up_ranker(40).table.sigmoid()
    category, lift = simulator.catalog.category, inputs.lift
    assert lift is not None
    for row in range(6):
        there = [item for item in seen["candidates"][row].tolist() if item >= 0]
        value = {
            pair: float(
                chance[list(pair)].prod() * lift[category[pair[0]], category[pair[1]]].exp()
            )
            for pair in itertools.combinations(there, 2)
        }
        best = max(value, key=value.__getitem__)
        assert set(slates[row, :2].tolist()) == set(best)
        rest = sorted(set(there) - set(best), key=lambda item: -float(chance[item]))
        assert slates[row, 2:].tolist() == rest[:2]


def test_without_lift_the_best_pair_is_an_error_and_left_out() -> None:
    inputs = dataclasses.replace(toy_inputs(toy_simulator()), lift=None)
    assert POLICIES["lift_pair"].lacking(inputs) == "the lift of categories in a log of bundles"
    with pytest.raises(ValueError, match=r"PolicyInputs\.lift is None"):
        POLICIES["lift_pair"].build(inputs)


# ---- the composer ----


def bundle_inputs(simulator: SlateSimulator) -> PolicyInputs:
    return dataclasses.replace(
        toy_inputs(simulator), reward=simulator.reward, levels=len(simulator.discounts)
    )


def test_intent_zero_is_the_best_single_items_without_a_discount() -> None:
    simulator = small_market()
    inputs = bundle_inputs(simulator)
    composer = Composer(inputs, ComposerConfig(offset_dims=0))
    assert composer.knobs[2:4] == ("together", "discount")
    seen = simulator.reset(torch.arange(12))
    slates = composer.compose(seen, torch.zeros(12, composer.intent_size))
    singles = POLICIES["reward_greedy"].build(inputs)
    assert torch.equal(slates, singles(seen, NO_DRAWS))
    assert slates[:, 3].tolist() == [0] * 12
    check_policy(singles, simulator)


def test_the_knobs_put_together_and_choose_the_level() -> None:
    simulator = small_market()
    inputs = bundle_inputs(simulator)
    composer = Composer(inputs, ComposerConfig(form="log_odds", offset_dims=0))
    seen = simulator.reset(torch.arange(12))
    strong = composer.intent({"together": 1000.0, "discount": 2.9}).expand(12, -1)
    slates = composer.compose(seen, strong)
    assert slates[:, 3].tolist() == [2] * 12
    lift, category = inputs.lift, simulator.catalog.category
    assert lift is not None
    pool = composer.view(seen).pool.ids
    for row in range(12):
        first, second = slates[row, :2].tolist()
        others = [item for item in pool[row].tolist() if item != first]
        best = max(float(lift[category[first], category[item]]) for item in others)
        assert float(lift[category[first], category[second]]) == best


def test_levels_are_whole_and_within_their_range() -> None:
    level = torch.tensor([-1.0, 0.99, 1.0, 3.5, 99.0, torch.nan, torch.inf])
    slates = torch.zeros(7, 2, dtype=torch.int64)
    assert at_level(slates, level, 4)[:, 2].tolist() == [0, 0, 1, 3, 3, 0, 3]


def test_elsewhere_the_composer_has_no_knob_for_bundles() -> None:
    composer = Composer(toy_inputs(toy_simulator()))
    assert not {"together", "discount"} & set(composer.knobs)


def test_a_policy_offered_at_one_level_keeps_its_promises() -> None:
    simulator = small_market()
    inputs = bundle_inputs(simulator)
    for name in ("reward_greedy", "lift_pair"):
        policy = AtLevel(POLICIES[name].build(inputs), inputs, 2)
        check_policy(policy, simulator)
        seen = simulator.reset(torch.arange(4))
        assert policy(seen, NO_DRAWS)[:, 3].tolist() == [2] * 4
    with pytest.raises(ValueError, match="level is 4, but it must be a whole number from 0 to 3"):
        AtLevel(policy, inputs, 4)


# ---- learning from expectations ----


def test_rewards_at_the_chances_have_the_mean_of_those_that_were_drawn() -> None:
    simulator = small_market()
    simulator.reset(torch.arange(4000))
    slates = torch.tensor([[1, 2, 11, 3]]).expand(4000, -1)
    outcome = simulator.advance(slates)
    expected = expected_reward(simulator, outcome)
    gap = paired_difference(outcome.reward.numpy(), expected.numpy())
    assert gap.low < 0 < gap.high
    assert float(expected.std()) < 0.8 * float(outcome.reward.std())
    alone = small_market()
    alone.reset(torch.arange(1))
    value = OracleBundle(alone).value(slates[:1, :3], torch.ones(1, 3, dtype=torch.bool), 3)
    assert value.item() == pytest.approx(expected[0].item(), rel=1e-4)


# ---- the oracle ----


def test_the_oracle_finds_nearly_the_best_of_all_bundles() -> None:
    market = dataclasses.replace(SMALL.market, items=12, categories=6)
    simulator = small_market(dataclasses.replace(SMALL, market=market, partners=0.3))
    seen = simulator.reset(torch.arange(8))
    oracle = OracleBundle(simulator)
    chosen = oracle(seen, NO_DRAWS)
    shown = torch.ones(8, 3, dtype=torch.bool)
    best = torch.full((8,), -1.0)
    for level in range(4):
        for bundle in itertools.combinations(range(12), 3):
            slates = torch.tensor([bundle]).expand(8, -1)
            best = torch.maximum(best, oracle.value(slates, shown, level))
    found = torch.stack(
        [
            oracle.value(chosen[row : row + 1, :3].expand(8, -1), shown, int(chosen[row, 3]))[row]
            for row in range(8)
        ]
    )
    assert bool((found <= best * (1 + 1e-5)).all())
    assert float((found / best).mean()) > 0.97


class TrueSingles:
    """The best single items by the true utilities, without a discount."""

    draws = 0

    def __init__(self, simulator: SlateSimulator) -> None:
        self._simulator = simulator

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        simulator = self._simulator
        utility = simulator.shopper.utilities(simulator.hidden, simulator.candidates)  # type: ignore[attr-defined]
        value = utility.sigmoid() * simulator.catalog.price
        best: Tensor = value.topk(simulator.slate_size, dim=1).indices
        return best


def test_the_oracle_beats_the_best_singles_and_ties_in_the_control() -> None:
    market = dataclasses.replace(BUNDLES_CONTROL.market, items=24, categories=8, width=4)
    control = dataclasses.replace(BUNDLES_CONTROL, market=market)
    gains = []
    for config in (SMALL, control):
        simulator = small_market(config)
        who = torch.arange(48)
        played = [
            evaluate(policy, simulator, who).rows["return"]
            for policy in (OracleBundle(simulator), TrueSingles(simulator))
        ]
        gains.append(paired_difference(*played))
    assert gains[0].low > 0
    assert gains[1].value == pytest.approx(0, abs=1e-3)


def test_the_oracle_reads_shoppers_of_bundles_alone() -> None:
    with pytest.raises(ValueError, match="the oracle of bundles reads a BundleShopper"):
        OracleBundle(toy_simulator())
    with pytest.raises(ValueError, match=r"levels is \(7,\), but the levels of discount are"):
        OracleBundle(small_market(), (7,))
    for oracle in (OracleBundle, OracleMyopic):
        with pytest.raises(TypeError, match="simulator is 'market', but it must be a SlateSimul"):
            oracle("market")  # type: ignore[arg-type]
    simulator = small_market()
    spec = bundle_oracle_spec(simulator)
    inputs = toy_inputs(simulator)
    assert spec.lacking(inputs, toy_simulator().shopper) is not None
    assert spec.lacking(inputs, simulator.shopper) is None
    seen = simulator.reset(torch.arange(2))
    assert spec.build(inputs)(seen, NO_DRAWS).shape == (2, 4)
