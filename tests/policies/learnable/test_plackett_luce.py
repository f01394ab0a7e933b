"""Plackett-Luce probabilities and entropies against every slate written out."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from policies.composer import Composer, ComposerConfig
from policies.learnable.plackett_luce import (
    PlackettLuceActor,
    PlackettLuceConfig,
    PlackettLucePolicy,
    judge,
    places_of,
    sample,
    slate_observation,
)
from policies.rankers.networks import Standardizer
from tests.policies.test_composer import some_visits
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

SCORES = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)  # N = 4


def by_hand(scores: Tensor, size: int) -> dict[tuple[int, ...], float]:
    """The probability of every slate of `size` = K items."""
    weights = scores.exp().tolist()
    slates = {}
    for slate in itertools.permutations(range(len(weights)), size):
        probability, left = 1.0, sum(weights)
        for item in slate:
            probability *= weights[item] / left
            left -= weights[item]
        slates[slate] = probability
    return slates


def test_log_probability_and_entropy_equal_brute_force() -> None:
    slates = by_hand(SCORES, 2)
    assert abs(sum(slates.values()) - 1) < 1e-12
    places = torch.tensor(list(slates))
    expected = torch.tensor([math.log(p) for p in slates.values()], dtype=torch.float64)
    log_probability, along = judge(SCORES.expand(len(places), -1), places)
    torch.testing.assert_close(log_probability, expected, atol=1e-6, rtol=0)
    exact = -sum(p * math.log(p) for p in slates.values())
    assert abs(float((expected.exp() * along).sum()) - exact) < 1e-6  # the chain rule


def test_a_whole_permutation_has_probability_and_entropy_too() -> None:
    slates = by_hand(SCORES, 4)
    places = torch.tensor(list(slates))
    log_probability, along = judge(SCORES.expand(len(places), -1), places)
    torch.testing.assert_close(
        log_probability.exp().sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-6, rtol=0
    )
    exact = -sum(p * math.log(p) for p in slates.values())
    assert abs(float((log_probability.exp() * along).sum()) - exact) < 1e-6


def test_samples_come_as_often_as_their_probability() -> None:
    many = 200_000
    draws = torch.rand(many, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = sample(SCORES.expand(many, -1), draws, 2) @ torch.tensor([4, 1])
    shares = torch.bincount(codes, minlength=16) / many
    for slate, probability in by_hand(SCORES, 2).items():
        tolerance = 4 * math.sqrt(probability * (1 - probability) / many)
        assert abs(float(shares[slate[0] * 4 + slate[1]]) - probability) < tolerance


def test_absent_items_and_short_pools_count_for_nothing() -> None:
    scores = torch.tensor([[0.5, -math.inf, 1.0]], dtype=torch.float64)
    draws = torch.rand(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = sample(scores, draws, 3)
    assert set(places[0, :2].tolist()) == {0, 2}
    assert int(places[0, 2]) == -1
    log_probability, entropy = judge(scores, places)
    first = (
        1 / (1 + math.exp(1.0 - 0.5)) if int(places[0, 0]) == 0 else 1 / (1 + math.exp(0.5 - 1.0))
    )
    assert (
        abs(float(log_probability) - math.log(first)) < 1e-9
    )  # the second pick is certain, the third is none
    of_two = [1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5))]
    assert abs(float(entropy) + sum(p * math.log(p) for p in of_two)) < 1e-9


def test_places_are_found_again_and_fillers_are_not() -> None:
    pool = torch.tensor([[7, 3, 9, -1]])
    assert places_of(pool, torch.tensor([[9, 7, 9, 9]])).tolist() == [[2, 0, -1, -1]]


def make_actor(composer: Composer, width: int, cues: int, slate_size: int) -> PlackettLuceActor:
    generator = torch.Generator().manual_seed(0)
    return PlackettLuceActor(
        width, cues, composer.offset_vectors, slate_size, (8,), PlackettLuceConfig(2.0), generator
    )


def test_the_actor_judges_the_slates_that_it_draws() -> None:
    simulator = toy_simulator(items=30, slate_size=3)
    composer = Composer(toy_inputs(simulator), ComposerConfig(pool=8))
    seen = slate_observation(composer.view(some_visits(simulator)))
    actor = make_actor(composer, seen["features"].shape[1], seen["cues"].shape[2], 3)
    assert isinstance(actor.standardize, Standardizer)
    slates = actor.act(seen, torch.rand(24, 8, generator=torch.Generator().manual_seed(1)))
    log_probability = actor.judge(seen, slates)[0].detach()
    for row in range(24):
        scores = (2.0 * seen["logits"][row]).double()
        place = {item: at for at, item in enumerate(seen["pool"][row].tolist())}
        expected = by_hand(scores, 3)[tuple(place[item] for item in slates[row].tolist())]
        assert abs(float(log_probability[row]) - math.log(expected)) < 1e-5


def test_untrained_and_deterministic_it_is_the_greedy_ranker() -> None:
    simulator = toy_simulator(items=30, slate_size=3)
    composer = Composer(toy_inputs(simulator), ComposerConfig(form="log_odds", pool=8))
    seen = some_visits(simulator)
    compact = slate_observation(composer.view(seen))
    actor = make_actor(composer, compact["features"].shape[1], compact["cues"].shape[2], 3)
    policy = PlackettLucePolicy(composer, actor, deterministic=True)
    greedy = composer.compose(seen, torch.zeros(24, composer.intent_size))
    assert torch.equal(policy(seen, torch.zeros(24, 0)), greedy)
    assert PlackettLucePolicy(composer, actor, deterministic=False).draws == 8
