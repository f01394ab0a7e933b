"""SlateQ in a market: it starts as greedy CTR and explores by a softmax; bad settings are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.base import AGENTS, TrainedAgent, TrainingSetup
from agents.slateq.agent import SlateQPolicy
from agents.slateq.choices import (
    PositionBased,
)
from agents.slateq.config import SlateQConfig
from agents.slateq.memory import ReplayMemory
from agents.slateq.values import FactorisedValues, Visits
from policies import POLICIES
from recsim_env import make_simulator
from recsim_env.types import Policy
from tests.support.policy_toys import toy_inputs
from tests.support.single_choice import SingleChoice

SMALL = {
    "warm_up": 96,
    "batch_size": 64,
    "memory": 320,
    "hidden": 16,
    "item_hidden": 8,
    "pool": 24,
    "updates": 2,
}


def learn(
    seed: int = 0, steps: int = 480, watched: list[int] | None = None, name: str = "slateq"
) -> TrainedAgent:
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", world=0)

    def watch(at: int, policy: Policy) -> None:
        if watched is not None:
            watched.append(at)

    setup = TrainingSetup(
        simulator, toy_inputs(simulator), seed=seed, steps=steps, shoppers=32, watch=watch
    )
    return AGENTS[name].learn(setup, SMALL)


def weights(policy: Policy) -> Tensor:
    assert isinstance(policy, SlateQPolicy)
    return torch.cat([value.flatten() for value in policy.network.state_dict().values()])


@pytest.mark.parametrize("name", ["slateq", "slateq_chances"])
def test_it_learns_in_the_market_from_greedy_ctr(name: str) -> None:
    watched: list[int] = []
    trained = learn(watched=watched, name=name)
    assert trained.steps == 480
    assert (watched[0], watched[-1]) == (0, 480)
    assert watched == sorted(watched)
    assert trained.facts["updates"] == 2 * (480 - 96 + 32) / 32
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", world=0)
    observation = simulator.reset(torch.arange(50))
    ctr = POLICIES["greedy_ctr"].build(toy_inputs(simulator))
    nothing = torch.zeros(50, 0)
    assert torch.equal(trained.untrained(observation, nothing), ctr(observation, nothing))
    assert not torch.equal(weights(trained.untrained), weights(trained.policy))
    assert trained.sampled is not None
    draws = torch.rand(50, trained.sampled.draws, generator=torch.Generator().manual_seed(0))
    for policy in (trained.policy, trained.sampled):
        simulator.check(policy(observation, draws))
    noisy = trained.sampled(observation, draws)
    assert (noisy.sort(dim=1).values.diff(dim=1) > 0).all()  # distinct items
    assert not torch.equal(noisy, trained.sampled(observation, 1 - draws))


def test_exploration_samples_from_the_softmax_of_the_logits() -> None:
    """With one position and equal gains, at temperature 2: chances exp(logit / 2)."""
    network = FactorisedValues(1, 1, SlateQConfig(), torch.Generator().manual_seed(0))
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, -1)
    visits = Visits(
        torch.zeros(20_000, 1),
        torch.zeros(20_000, 3, 1),
        logits,
        torch.arange(3).expand(20_000, -1),
    )
    policy = SlateQPolicy(
        lambda seen: visits, network, PositionBased(1), 1, pool=3, temperature=2.0
    )
    places = policy.choose(
        visits, torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    )
    shares = torch.bincount(places.flatten(), minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.softmax(logits[0] / 2, dim=0), atol=0.015, rtol=0)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"gamma is 1\.0"):
        SlateQConfig(gamma=1.0)
    with pytest.raises(ValueError, match="updates is 0"):
        SlateQConfig(updates=0)
    with pytest.raises(ValueError, match="attribution is 'views'"):
        SlateQConfig(attribution="views")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none is 0"):
        SingleChoice(0.0)
    with pytest.raises(ValueError, match="steps is 0"):
        learn(steps=0)
    with pytest.raises(ValueError, match="memory holds no visit"):
        ReplayMemory(2).draw(1, torch.Generator())
