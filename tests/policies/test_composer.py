"""The composer at intent 0 is greedy; its knobs and its state are as described."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from policies import POLICIES
from policies.composer import Composer, ComposerConfig, Form, View
from policies.cues import CUES
from policies.features import Recent, principal
from policies.learnable.intents import ComposerPolicy, IntentActor
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation
from tests.support.policy_toys import TOY_FACTS, toy_inputs
from tests.support.toys import toy_catalog, toy_simulator

NO_DRAWS = torch.zeros(1, 0)


def some_visits(simulator: SlateSimulator, shoppers: int = 24, visits: int = 5) -> Observation:
    """What is known of shoppers who have seen some slates; ended episodes start again."""
    seen = simulator.reset(torch.arange(shoppers))
    uniform = POLICIES["uniform"].build(toy_inputs(simulator))
    generator = torch.Generator().manual_seed(5)
    for _ in range(visits):
        outcome = simulator.advance(
            uniform(seen, torch.rand(shoppers, uniform.draws, generator=generator))
        )
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        seen = simulator.observe()
    return seen


GREEDY: list[tuple[Form, str]] = [("reward", "reward_greedy"), ("log_odds", "greedy_ctr")]
"""Each form of the score, and the policy that intent 0 is."""


@pytest.mark.parametrize(("form", "policy"), GREEDY)
def test_intent_zero_is_greedy_exactly(form: Form, policy: str) -> None:
    simulator = toy_simulator(items=120, slate_size=6)
    inputs = toy_inputs(simulator)
    composer = Composer(inputs, ComposerConfig(form=form))
    seen = some_visits(simulator)
    slates = composer.compose(seen, torch.zeros(24, composer.intent_size))
    assert torch.equal(slates, POLICIES[policy].build(inputs)(seen, NO_DRAWS))


def test_where_clicks_alone_are_paid_for_both_forms_begin_with_the_greedy_ranker() -> None:
    simulator = toy_simulator(items=120, slate_size=6)
    inputs = dataclasses.replace(
        toy_inputs(simulator), reward={"clicks": 0.5, "category_coverage": 0}
    )
    composer = Composer(inputs)
    assert composer.knobs == Composer(inputs, ComposerConfig(form="log_odds")).knobs
    seen = some_visits(simulator)
    slates = composer.compose(seen, torch.zeros(24, composer.intent_size))
    assert torch.equal(slates, POLICIES["greedy_ctr"].build(inputs)(seen, NO_DRAWS))


@pytest.mark.parametrize(("form", "policy"), GREEDY)
def test_an_untrained_actor_is_greedy_too(form: Form, policy: str) -> None:
    simulator = toy_simulator(items=120, slate_size=6)
    inputs = toy_inputs(simulator)
    composer = Composer(inputs, ComposerConfig(form=form))
    seen = some_visits(simulator)
    width = composer.features(seen).shape[1]
    actor = IntentActor(width, composer.intent_size, (8,), -0.5, torch.Generator().manual_seed(0))
    slates = ComposerPolicy(composer, actor)(seen, NO_DRAWS)
    assert torch.equal(slates, POLICIES[policy].build(inputs)(seen, NO_DRAWS))


def test_clicks_have_a_worth_where_the_reward_does_not_always_pay_for_them() -> None:
    """Who is paid for diversity alone still has to see who comes back."""
    simulator = toy_simulator(items=120, slate_size=6)
    seen, inputs = some_visits(simulator), toy_inputs(simulator)
    diverse = dataclasses.replace(inputs, reward={"intra_list_distance": 1.0})
    assert "worth" not in Composer(inputs).knobs
    assert "worth" not in Composer(diverse, ComposerConfig(form="log_odds")).knobs
    assert "worth" in Composer(inputs, goals=("clicks", "intra_list_distance")).knobs

    composer = Composer(diverse)

    def composed(**knobs: float) -> Tensor:
        return composer.compose(seen, composer.intent(knobs).expand(24, -1))

    greedy = POLICIES["greedy_ctr"].build(inputs)(seen, NO_DRAWS)
    assert torch.equal(composed(worth=1e4), greedy)
    assert torch.equal(composed(), POLICIES["reward_greedy"].build(diverse)(seen, NO_DRAWS))
    assert not torch.equal(composed(), greedy)
    # cues move log-odds, which count by their worth
    assert torch.equal(composed(count=-3.0), composed())
    assert not torch.equal(composed(worth=1e4, count=-3.0), composed(worth=1e4))


def test_similarity_alone_is_mmr() -> None:
    simulator = toy_simulator(items=120, slate_size=6)
    inputs = toy_inputs(simulator)
    seen = some_visits(simulator)
    zero = dict.fromkeys(POLICIES["constant_log_odds"].search(), 0.0)
    constant = POLICIES["constant_log_odds"].build(inputs, {**zero, "similarity": -1.7})
    mmr = POLICIES["mmr"].build(inputs, {"weight": 1.7})
    assert torch.equal(constant(seen, NO_DRAWS), mmr(seen, NO_DRAWS))


def written_budget(
    composer: Composer,
    view: View,
    seen: Observation,
    intent: Tensor,
    row: int,
    slate: list[int],
    item: int,
) -> float:
    """The formula of `policies.budget` in plain Python, for a ranker that knows no looks."""
    first = composer.knobs.index("budget")
    values = (intent[first : first + 4] * composer.units[first : first + 4]).tolist()
    height, place, slope, window = values[0], *(math.exp(value) for value in values[1:])
    category = toy_category(composer)
    clicks = 0.0
    for age, shown in enumerate(seen["recent_slates"][row].tolist(), start=1):
        counted = min(max(2.0 * window - age, 0.0), 1.0)
        for position, other in enumerate(shown):
            if other >= 0 and category[other] == category[item]:
                clicks += counted * float(seen["recent_clicks"][row, age - 1, position])
    for other in slate:
        if category[other] == category[item]:
            at = view.pool.items[row].tolist().index(other)
            clicks += 1 / (1 + math.exp(-float(view.pool.logits[row, at])))
    return float(height / (1 + math.exp(-4.0 * slope * (clicks / (2.0 * place) - 1))))


def toy_category(composer: Composer) -> list[int]:
    """The category of each item that a composer knows."""
    return composer._inputs.catalog.category.tolist()


@pytest.mark.parametrize("form", get_args(Form))
def test_a_slate_is_the_argmax_of_the_written_score(form: Form) -> None:
    """The docstring's formula, item by item in plain Python, against the batched composer."""
    simulator = toy_simulator(items=60, slate_size=5)
    inputs = dataclasses.replace(
        toy_inputs(simulator), reward={"intra_list_distance": 0.7, "clicks": 2.0}
    )
    composer = Composer(inputs, ComposerConfig(form=form, pool=16, offset_dims=3, budget=True))
    first_cue = composer.knobs.index(next(iter(composer.cues)))
    scale = composer.knobs.index("scale_intra_list_distance") if form == "reward" else -1
    seen = some_visits(simulator, shoppers=6)
    intent = torch.randn(6, composer.intent_size, generator=torch.Generator().manual_seed(2))
    slates = composer.compose(seen, intent)
    view = composer.view(seen)
    embedding, category = simulator.catalog.embedding, simulator.catalog.category
    for row in range(6):
        slate: list[int] = []
        for _ in range(5):
            best, best_score = -1, -float("inf")
            for place, item in enumerate(view.pool.items[row].tolist()):
                if item in slate:
                    continue
                cues = [
                    float(
                        2 * intent[row, 0] * sum(int(category[j] == category[item]) for j in slate)
                    )
                ]
                cosines = [float(embedding[j] @ embedding[item]) for j in slate]
                cues.append(float(intent[row, 1]) * max([0.0, *cosines]))
                cues.append(
                    float(view.cues[row, place] @ intent[row, first_cue : len(composer.knobs)])
                )
                cues.append(float(view.vectors[row, place] @ intent[row, len(composer.knobs) :]))
                cues.append(written_budget(composer, view, seen, intent[row], row, slate, item))
                score = float(view.pool.logits[row, place]) + sum(cues)
                if form == "reward":
                    chance = 1 / (1 + math.exp(-score))
                    distance = sum(1 - max(cosine, 0.0) for cosine in cosines) / 10
                    score = 2.0 * chance + 0.7 * math.exp(float(intent[row, scale])) * distance
                if score > best_score:
                    best, best_score = item, score
            slate.append(best)
        assert slates[row].tolist() == slate


def test_cues_of_a_small_history() -> None:
    catalog = toy_catalog(items=6, categories=3)  # item i is of category i % 3
    observation = {
        "recent_slates": torch.tensor([[[0, 1], [3, 4]]]),
        "recent_clicks": torch.tensor([[[1, 0], [1, 1]]], dtype=torch.int8),
    }
    recent = Recent.of(observation, decay=0.5)
    by_category = recent.by_group(catalog.category, 3, recent.clicked)
    assert by_category.tolist() == [
        [1 + 0.5, 0.5, 0.0]
    ]  # 0 and 3 are of category 0, 4 of category 1
    assert recent.by_group(catalog.category, 3, recent.shown).tolist() == [[1.5, 1.5, 0.0]]
    items = torch.tensor([[0, 4, 5, -1]])
    for catalogue in (6, 10_000):  # a table of all items, and all pairs
        assert recent.of_items(items, recent.shown, catalogue).tolist() == [[1.0, 0.5, 0.0, 0.0]]


def test_purchases_reach_the_cues() -> None:
    simulator = toy_simulator(items=30, slate_size=4)
    composer = Composer(toy_inputs(simulator))
    seen = some_visits(simulator)
    view = composer.view(seen)
    habit = view.cues[:, :, list(composer.cues).index("habit")]
    for row in range(24):
        bought = dict(
            zip(
                seen["bought_items"][row].tolist(), seen["bought_counts"][row].tolist(), strict=True
            )
        )
        expected = [
            bought.get(item, 0.0) if item >= 0 else 0.0 for item in view.pool.items[row].tolist()
        ]
        torch.testing.assert_close(
            habit[row], torch.log1p(torch.tensor(expected)) * CUES["habit"].unit
        )


def test_the_composer_works_where_only_the_generic_keys_are() -> None:
    simulator = toy_simulator(items=40, slate_size=4)
    inputs = toy_inputs(simulator)
    generic = {"recent_slates", "recent_clicks", "recent_days", "candidates"}
    spaces = {name: space for name, space in inputs.observation_space.items() if name in generic}
    inputs = dataclasses.replace(inputs, observation_space=type(inputs.observation_space)(spaces))
    composer = Composer(inputs)
    assert composer.knobs == (
        "count",
        "similarity",
        "scale_intra_list_distance",
        "clicked",
        "shown",
        "repeated",
    )
    seen = {name: value for name, value in some_visits(simulator).items() if name in generic}
    features = composer.features(seen)
    assert features.dtype == torch.float32
    assert bool(features.isfinite().all())


def test_features_are_finite_and_of_the_order_of_one() -> None:
    simulator = toy_simulator(items=120, slate_size=6)
    composer = Composer(toy_inputs(simulator))
    for visits in (0, 1, 12):
        features = composer.features(some_visits(simulator, visits=visits))
        assert bool(features.isfinite().all())
        assert float(features.abs().max()) < 20


def test_principal_components_have_unit_mean_square_and_do_not_overlap() -> None:
    vectors = principal(toy_catalog(items=200, width=12).embedding, 5)
    gram = vectors.T @ vectors / len(vectors)
    torch.testing.assert_close(gram, torch.eye(5), atol=1e-5, rtol=0)


def test_the_judged_density_of_an_intent_is_the_normal_one() -> None:
    actor = IntentActor(3, 2, (4,), -0.3, torch.Generator().manual_seed(0))
    features, intent = torch.randn(5, 3), torch.randn(5, 2)
    expected = torch.distributions.Normal(actor.mean(features), actor.log_std.exp())
    log_probability, entropy = actor.judge({"features": features}, intent)
    torch.testing.assert_close(log_probability, expected.log_prob(intent).sum(1))
    torch.testing.assert_close(entropy, expected.entropy().sum(1))


def test_the_smallest_and_largest_draws_make_finite_intents() -> None:
    actor = IntentActor(3, 2, (4,), 0.0, torch.Generator().manual_seed(0))
    edges = torch.tensor([[0.0, 1 - 2**-24]])
    assert bool(actor.act({"features": torch.zeros(1, 3)}, edges).isfinite().all())
    many = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0))
    sample = actor.act({"features": torch.zeros(200_000, 3)}, many)
    torch.testing.assert_close(sample.mean(0), torch.zeros(2), atol=0.01, rtol=0)
    torch.testing.assert_close(sample.std(0), torch.ones(2), atol=0.01, rtol=0)


def test_promotions_count_the_display_and_the_mailer() -> None:
    simulator = toy_simulator(items=30, slate_size=4)
    inputs = toy_inputs(simulator)
    placement = gymnasium.spaces.Box(
        0,
        math.prod(TOY_FACTS.placements) - 1,
        inputs.observation_space["placement"].shape,
        np.int64,
    )
    space = gymnasium.spaces.Dict({**inputs.observation_space.spaces, "placement": placement})
    composer = Composer(dataclasses.replace(inputs, observation_space=space))
    seen = some_visits(simulator)
    seen["placement"] = (
        torch.tensor([0, 3, 2 * 5, 2 * 5 + 4])  # five mailer codes
        .repeat(5)[: seen["placement"].shape[1]]
        .expand(24, -1)
    )
    view = composer.view(seen)
    promoted = view.cues[:, :, list(composer.cues).index("promoted")]
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0])[view.pool.columns % 4] * CUES["promoted"].unit
    torch.testing.assert_close(promoted, expected)
