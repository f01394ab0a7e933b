"""Uniform is uniform over the candidates, and popular goes by popularity."""

from __future__ import annotations

import torch

from policies.heuristics import Popular, Uniform
from policies.slates import filled, top_slates
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator


def test_uniform_shows_every_candidate_equally_often() -> None:
    policy = Uniform(items=7, candidates=5, slate_size=2)
    shoppers = 20_000
    observation = {"candidates": torch.tensor([[1, 2, 4, 6, -1]]).repeat(shoppers, 1)}
    draws = torch.rand(shoppers, policy.draws, generator=torch.Generator().manual_seed(0))
    slates = policy(observation, draws)
    shares = torch.bincount(slates[:, 0], minlength=7) / shoppers
    expected = torch.tensor([0, 0.25, 0.25, 0, 0.25, 0, 0.25])
    torch.testing.assert_close(shares, expected, atol=4 * (0.25 * 0.75 / shoppers) ** 0.5, rtol=0)
    assert bool((slates[:, 0] != slates[:, 1]).all())


def test_popular_goes_by_the_observation_and_else_by_the_log() -> None:
    candidates = torch.tensor([[3, 0, 2, -1]])
    popularity = torch.tensor([[0.1, 0.3, 0.2, 9.0]])  # padding must not win
    policy = Popular(items=4, slate_size=2, popularity=torch.tensor([5.0, 0.0, 1.0, 7.0]))
    none = torch.zeros(1, 0)
    assert policy({"candidates": candidates, "popularity": popularity}, none).tolist() == [[0, 2]]
    assert policy({"candidates": candidates}, none).tolist() == [[3, 0]]


def test_without_candidates_the_whole_catalogue_is_for_sale() -> None:
    observation = {"recent_days": torch.zeros(2, 1)}
    policy = Popular(items=4, slate_size=3, popularity=torch.tensor([0.0, 3.0, 1.0, 2.0]))
    assert policy(observation, torch.zeros(2, 0)).tolist() == [[1, 3, 2]] * 2


def test_a_slate_that_cannot_be_filled_repeats_its_first_item() -> None:
    scores, candidates = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[8, 5, -1]])
    assert top_slates(scores, candidates, 4).tolist() == [[5, 8, 5, 5]]
    assert filled(torch.tensor([[-1, -1]]), 3).tolist() == [[0, 0, 0]]


def test_uniform_takes_as_many_draws_as_there_may_be_candidates() -> None:
    simulator = toy_simulator(items=30)
    from policies import POLICIES

    assert (
        POLICIES["uniform"].build(toy_inputs(simulator)).draws
        == simulator.shopper.max_candidates
        == 20
    )
