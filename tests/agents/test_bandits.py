"""Posterior, bonus and samples by hand; a linear problem is solved; both bandits serve a market."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.bandits import (
    BanditConfig,
    BanditPolicy,
    Contexts,
    Evidence,
    Exploit,
    Explorer,
    Optimism,
    PoolContexts,
    Posterior,
    Sampling,
)
from agents.base import AGENTS, TrainingSetup
from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.pool import Pool
from recsim_env.registration import make_simulator
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

KNOWN = float("inf")
NO_DRAWS = torch.zeros(1, 0)


def some_evidence(
    examination: Tensor, ridge: float, prior_mean: Tensor
) -> tuple[Evidence, Tensor, Tensor, Tensor]:
    """Evidence of 3 batches, with its contexts (S, K, W), clicks (S, K) and shown (S, K)."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, 5, len(examination))
    contexts = torch.randn(*shape, len(prior_mean), generator=generator)
    clicks, shown = (
        torch.rand(shape, generator=generator) < 0.4,
        torch.rand(shape, generator=generator) < 0.8,
    )
    evidence = Evidence(prior_mean, ridge, examination, KNOWN)
    for batch in range(3):
        evidence.add(contexts[batch], clicks[batch], shown[batch])
    return evidence, contexts.flatten(0, 1), clicks.flatten(0, 1), shown.flatten(0, 1)


def test_the_posterior_is_the_ridge_regression_on_all_rows() -> None:
    """Minimise sum of e_j (click / e_j - theta . x)^2 + ridge |theta - m|^2, row by row."""
    examination, prior_mean, ridge = (
        torch.tensor([1.0, 0.5, 0.2]),
        torch.tensor([0.3, -1.0, 0.0, 2.0]),
        1.7,
    )
    evidence, contexts, clicks, shown = some_evidence(examination, ridge, prior_mean)
    precision, moment = ridge * torch.eye(4, dtype=torch.float64), ridge * prior_mean.double()
    for row in range(15):
        for position in range(3):
            if shown[row, position]:
                x, chance = contexts[row, position].double(), float(examination[position])
                precision += chance * x.outer(x)
                moment += chance * (float(clicks[row, position]) / chance) * x
    posterior = evidence.posterior()
    expected = (precision.inverse() @ moment).float()
    torch.testing.assert_close(posterior.mean, expected, atol=1e-5, rtol=1e-5)
    covariance = posterior.inverse_root.T @ posterior.inverse_root
    torch.testing.assert_close(covariance, precision.inverse().float(), atol=1e-5, rtol=1e-5)


def test_one_hot_contexts_without_a_prior_are_the_estimator_of_pbm_ucb() -> None:
    """Clicks of an item over its examinations: item 0 stood 3 times at the top and once below."""
    evidence = Evidence(torch.zeros(2), 1e-9, torch.tensor([1.0, 0.5]), KNOWN)
    items = torch.tensor([[0, 1], [0, 1], [0, 1], [1, 0]])
    clicks = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=torch.bool)
    evidence.add(
        torch.nn.functional.one_hot(items, 2).float(), clicks, torch.ones(4, 2, dtype=torch.bool)
    )
    expected = torch.tensor([(1 + 1 + 1) / (3 * 1.0 + 0.5), 1 / (3 * 0.5 + 1.0)])
    torch.testing.assert_close(evidence.posterior().mean, expected, atol=1e-6, rtol=0)


def test_the_bonus_of_linucb_by_hand() -> None:
    """A = [[2, 1], [1, 2]], A^-1 = [[2, -1], [-1, 2]] / 3, b = (3, 0): the mean is (2, -1)."""
    posterior = Posterior.of(
        torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64),
        torch.tensor([3.0, 0.0], dtype=torch.float64),
    )
    torch.testing.assert_close(posterior.mean, torch.tensor([2.0, -1.0]))
    contexts = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [1.0, -1.0]]])
    bonus = torch.tensor(
        [[math.sqrt(2 / 3), math.sqrt((2 - 1 - 1 + 2) / 3), math.sqrt((2 + 1 + 1 + 2) / 3)]]
    )
    torch.testing.assert_close(posterior.spread(contexts), bonus)
    scores = Optimism(alpha=0.5).scores(posterior, contexts, NO_DRAWS)
    torch.testing.assert_close(scores, torch.tensor([[2.0, 2.0 - 1.0, 2.0 + 1.0]]) + 0.5 * bonus)


def test_thompson_samples_have_the_mean_and_covariance_of_the_posterior() -> None:
    evidence, *_ = some_evidence(
        torch.tensor([1.0, 0.5, 0.2]), 1.7, torch.tensor([0.3, -1.0, 0.0, 2.0])
    )
    posterior = evidence.posterior()
    draws = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(2))
    thetas = posterior.sample(draws, scale=0.5)
    covariance = posterior.inverse_root.T @ posterior.inverse_root
    torch.testing.assert_close(thetas.mean(dim=0), posterior.mean, atol=3e-3, rtol=0)
    torch.testing.assert_close(thetas.T.cov(), 0.25 * covariance, atol=2e-3, rtol=0)
    one = Sampling(0.5).scores(
        posterior, torch.eye(4).expand(7, 4, 4), draws[:7]
    )  # the score of unit vector w
    torch.testing.assert_close(one, thetas[:7])


# ---- a linear problem ----------------------------------------------------------------------------

THETA = torch.tensor(
    [0.1, 0.4, -0.3, 0.2]
)  # with contexts (1, U, U, U) every chance is from 0 to 0.7, once clamped
LOOKS = 0.7 ** torch.arange(3)


def serve(
    explorer: Explorer, evidence: Evidence, rounds: int, *, shoppers: int = 20
) -> list[float]:
    """Regret of each round in expected clicks per slate; 12 items, new contexts a visit, K = 3."""
    generator = torch.Generator().manual_seed(3)
    regret, posterior = [], evidence.posterior()
    for _ in range(rounds):
        contexts = torch.rand(shoppers, 12, 4, generator=generator)
        contexts[:, :, 0] = 1.0
        chance = (contexts @ THETA).clamp(0, 1)
        draws = torch.rand(shoppers, explorer.draws(4), generator=generator)
        places = explorer.scores(posterior, contexts, draws).topk(3, dim=1).indices
        looked = chance.gather(1, places) * LOOKS
        best = (chance.topk(3, dim=1).values * LOOKS).sum(dim=1)
        regret.append(float((best - looked.sum(dim=1)).mean()))
        clicks = torch.rand(shoppers, 3, generator=generator) < looked
        shown = contexts.gather(1, places.unsqueeze(2).expand(-1, -1, 4))
        evidence.add(shown, clicks, torch.ones_like(clicks))
        posterior = evidence.update()
    return regret


@pytest.mark.parametrize("explorer", [Optimism(0.5), Sampling(0.3)])
def test_regret_falls_and_the_best_items_are_found_from_a_wrong_prior(explorer: Explorer) -> None:
    evidence = Evidence(-5 * THETA, 1.0, 0.9 ** torch.arange(3), 20.0)
    regret = serve(explorer, evidence, 300)
    assert regret[0] > 0.1
    assert sum(regret[-50:]) / 50 < 0.1 * regret[0]


def test_examination_is_found_from_the_clicks() -> None:
    """Whatever was believed, and it is what makes theta right."""
    evidence = Evidence(torch.zeros(4), 1.0, torch.ones(3), 20.0)
    serve(Sampling(1.0), evidence, 400, shoppers=100)
    torch.testing.assert_close(evidence.examination.float(), LOOKS, atol=0.03, rtol=0)
    torch.testing.assert_close(evidence.posterior().mean, THETA, atol=0.05, rtol=0)


def test_known_examination_stays() -> None:
    evidence = Evidence(torch.zeros(4), 1.0, torch.tensor([1.0, 0.6, 0.1]), KNOWN)
    serve(Sampling(1.0), evidence, 20)
    assert evidence.examination.float().tolist() == torch.tensor([1.0, 0.6, 0.1]).tolist()


# ---- in a shop -----------------------------------------------------------------------------------


def test_nothing_seen_is_greedy_ctr() -> None:
    simulator = toy_simulator(items=120, slate_size=6)
    inputs = toy_inputs(simulator)
    contexts = Contexts(Composer(inputs))
    posterior = BanditConfig().evidence(contexts.prior_mean(), 6).posterior()
    seen = simulator.reset(torch.arange(24))
    slates = BanditPolicy(contexts, posterior, Exploit())(seen, NO_DRAWS)
    assert torch.equal(slates, POLICIES["greedy_ctr"].build(inputs)(seen, NO_DRAWS))


def test_contexts_are_as_wide_as_they_say_and_zero_at_padding() -> None:
    simulator = toy_simulator(items=10, slate_size=4)
    contexts = Contexts(Composer(toy_inputs(simulator), ComposerConfig(pool=64)))
    seen = contexts(simulator.reset(torch.arange(5)))
    assert seen.contexts.shape[2] == contexts.width == len(contexts.prior_mean())
    assert seen.contexts.isfinite().all()
    absent = seen.pool.items < 0
    assert bool(absent.any())
    assert bool((seen.contexts[absent] == 0).all())
    torch.testing.assert_close(seen.contexts[..., 0][~absent], seen.pool.logits[~absent].sigmoid())


def test_a_pool_that_is_too_small_fills_the_slate_with_its_first_item() -> None:
    pool = Pool(
        torch.tensor([[7, 3, -1]]),
        torch.tensor([[1.0, 0.0, -math.inf]]),
        torch.arange(3).unsqueeze(0),
    )
    seen = PoolContexts(pool, torch.zeros(1, 3, 2))
    assert seen.slates(torch.tensor([[1, 0, -1]]), 4).tolist() == [[3, 7, 3, 3]]


def market(
    shoppers: int = 64, steps: int = 640, seed: int = 0
) -> tuple[SlateSimulator, TrainingSetup]:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", world=0)
    return simulator, TrainingSetup(simulator, toy_inputs(simulator), seed, steps, shoppers)


def slates_of(policy: Policy, simulator: SlateSimulator) -> Tensor:
    seen = simulator.reset(torch.arange(9))
    return policy(seen, torch.rand(9, policy.draws, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", ["linucb", "thompson"])
def test_a_bandit_learns_in_a_market(name: str) -> None:
    watched: list[int] = []
    simulator, setup = market()
    setup = TrainingSetup(
        simulator, setup.inputs, 0, 640, 64, watch=lambda steps, policy: watched.append(steps)
    )
    before = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    trained = AGENTS[name].learn(setup)
    assert before == (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())  # noqa: NPY002
    assert trained.steps == 640
    assert watched == [64 * at for at in range(11)]
    greedy = POLICIES["greedy_ctr"].build(setup.inputs)
    assert torch.equal(slates_of(trained.untrained, simulator), slates_of(greedy, simulator))
    for policy in (trained.policy, trained.sampled, trained.untrained_sampled):
        assert policy is not None
        slates = slates_of(policy, simulator)
        assert all(len(set(slate)) == simulator.slate_size for slate in slates.tolist())
    assert isinstance(trained.policy, BanditPolicy)
    assert isinstance(trained.untrained, BanditPolicy)
    assert bool((trained.policy.posterior.mean != trained.untrained.posterior.mean).all())
    assert trained.facts["examination/0"] == 1.0
    assert 0.0 < trained.facts["examination/9"] < 0.6


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"ridge is 0\.0, but it must be a finite number above 0"):
        AGENTS["linucb"].learn(market()[1], {"ridge": 0.0})
    with pytest.raises(ValueError, match=r"looks_on is 1\.2"):
        AGENTS["thompson"].learn(market()[1], {"looks_on": 1.2})
    with pytest.raises(ValueError, match="steps is 0, but a bandit learns from at least one"):
        AGENTS["linucb"].learn(market(steps=0)[1])
