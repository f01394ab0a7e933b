"""A policy for any weights of goals: how weights are told, and that rows are served alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.composer import Composer, ComposerConfig
from policies.goals import WEIGHTS
from policies.learnable.conditioned import ConditionedConfig, ConditionedPolicy
from policies.learnable.kinds import LEARNABLE, ActorInputs
from recsim_env.types import Observation
from tests.support.agent_toys import small_market
from tests.support.policy_toys import toy_inputs

GOALS = ("clicks", "intra_list_distance", "kept")
SHOPPERS = 12
NONE = torch.zeros(SHOPPERS, 0)


def observed() -> Observation:
    simulator = small_market()
    seen = simulator.reset(torch.arange(SHOPPERS))
    for _ in range(2):
        simulator.advance(seen["candidates"][:, :10])
        seen = simulator.observe()
    return seen


def random_policy(goals: tuple[str, ...] = GOALS, **options: Any) -> ConditionedPolicy:
    """A policy whose network is random, so that its slates depend on everything it sees."""
    simulator, start = small_market(), ConditionedConfig(goals=goals)
    kind = LEARNABLE["conditioned"]
    composer = kind.composer_for(toy_inputs(simulator), ComposerConfig(pool=20), start)
    width = composer.view(
        {**simulator.reset(torch.arange(1)), WEIGHTS: torch.ones(1, len(goals))}
    ).features.shape[1]
    generator = torch.Generator().manual_seed(1)
    actor: Any = kind.actor(ActorInputs(composer, simulator.catalog, width, (8,), generator), start)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
        actor.goal_units.copy_(torch.tensor([0.7, 0.5, 1.0])[: len(goals)])
    policy = kind.policy(composer, actor, **options)
    assert isinstance(policy, ConditionedPolicy)
    return policy


def random_rows() -> Tensor:
    return torch.rand(SHOPPERS, len(GOALS), generator=torch.Generator().manual_seed(2))


def test_rows_of_weights_are_one_call_for_each_row() -> None:
    policy, seen, rows = random_policy(), observed(), random_rows()
    together = policy.at(rows)(seen, NONE)
    for row in range(SHOPPERS):
        alone = {name: value[row : row + 1] for name, value in seen.items()}
        assert torch.equal(policy.at(rows[row])(alone, NONE[:1])[0], together[row])
        assert torch.equal(policy.at(rows[row : row + 1])(alone, NONE[:1])[0], together[row])
    assert not torch.equal(policy(seen, NONE), together)
    sampled = random_policy(deterministic=False).at(rows)
    draws = torch.rand(SHOPPERS, sampled.draws, generator=torch.Generator().manual_seed(3))
    drawn = sampled(seen, draws)
    alone = {name: value[4:5] for name, value in seen.items()}
    assert torch.equal(sampled.at(rows[4:5])(alone, draws[4:5])[0], drawn[4])


def test_weights_may_be_told_in_several_ways_and_only_their_ratios_count() -> None:
    policy, seen = random_policy(), observed()
    expected = policy.at((0.5, 0.5, 0.0))(seen, NONE)
    same: list[Any] = [
        {"clicks": 3.0, "intra_list_distance": 3.0},
        [2, 2, 0],
        np.array([0.25, 0.25, 0.0]),
        torch.tensor([1.0, 1.0, 0.0]),
        torch.tensor([[1e-3, 1e-3, 0.0]]).expand(SHOPPERS, 3),
        lambda observation: torch.ones(len(observation["candidates"]), 3) * torch.tensor([1, 1, 0]),
    ]
    for weights in same:
        assert torch.equal(policy.at(weights)(seen, NONE), expected), weights
    assert policy.goals == GOALS
    # without a word they are those of the reward: clicks and distance alike, and nothing for kept
    assert torch.equal(policy(seen, NONE), expected)
    assert random_policy(("kept", "exposure")).weights.tolist() == [1.0, 1.0]  # type: ignore[union-attr]


def test_weights_may_be_a_function_of_the_shopper() -> None:
    policy, seen = random_policy(), observed()

    def by_last_clicks(observation: Observation) -> Tensor:
        clicked = observation["recent_clicks"][:, 0].sum(dim=1) > 0
        return torch.where(
            clicked.unsqueeze(1), torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
        )

    rows = by_last_clicks(seen)
    assert 0 < int(rows[:, 0].sum()) < SHOPPERS
    assert torch.equal(policy.at(by_last_clicks)(seen, NONE), policy.at(rows)(seen, NONE))
    for whole in (rows.long(), rows.long().numpy()):  # whole numbers are numbers
        assert torch.equal(policy.at(whole)(seen, NONE), policy.at(rows.floor())(seen, NONE))


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ((1.0, 2.0), r"^weights has 2 numbers, but it must be one number for each of \['clicks', "),
        ((0, 0, 0), r"^weights holds \[0\.0, 0\.0, 0\.0\], but weights must be from 0 to"),
        ((1.0, -1.0, 0), r"^weights\[1\] is -1\.0, but it must be a finite number from 0 to"),
        ((1.0, math.nan, 0), r"^weights\[1\] is nan, but it must be a finite number"),
        ((1.0, math.inf, 0), r"^weights\[1\] is inf, but it must be a finite number"),
        ({"clicks": 0.0}, r"^weights holds \[0\.0, 0\.0, 0\.0\], but weights must be"),
        ({"fame": 1.0}, r"^a goal of weights is 'fame', but it must be "),
        (torch.tensor([1.0, math.nan, 0]), r"^weights holds \[1\.0, nan, 0\.0\], but weights must"),
        (torch.tensor([[1.0, 0, 0], [0, -1, 0]]), r"^weights holds \[0\.0, -1\.0, 0\.0\], but"),
        (torch.ones(2, 2, 3), r"^weights is a float32 tensor of shape \(2, 2, 3\), but it must be"),
        (torch.ones(3, dtype=torch.bool), r"^weights is a bool tensor of shape \(3,\), but"),
        (
            torch.tensor([2e9, 1, 0]),
            r"^weights holds \[2000000000\.0, 1\.0, 0\.0\], but .* to 1e\+09",
        ),
        ({"clicks": -1}, r"^weights\['clicks'\] is -1, but it must be a finite number from 0 to"),
        ("clicks", r"^weights is 'clicks', but it must be a list"),
        (5, r"^weights is 5, but it must be a list"),
    ],
)
def test_weights_that_cannot_be_are_refused_at_once(weights: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        random_policy().at(weights)


def test_weights_of_other_shoppers_are_refused() -> None:
    policy, seen = random_policy(), observed()
    with pytest.raises(ValueError, match=r"^weights has 5 rows, but observation has 12 shoppers"):
        policy.at(torch.ones(5, 3))(seen, NONE)
    for bad, match in (
        (torch.ones(SHOPPERS, 2), r"^weights\(observation\) is a float32 tensor of shape \(12, 2"),
        (torch.zeros(SHOPPERS, 3), r"^weights\(observation\) holds \[0\.0, 0\.0, 0\.0\], but"),
    ):
        with pytest.raises(ValueError, match=match):
            policy.at(lambda observation, bad=bad: bad)(seen, NONE)  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"^weights\(observation\) is 5, but it must be a float32"):
        policy.at(lambda observation: 5)(seen, NONE)  # type: ignore[arg-type,return-value]


def test_a_composer_of_goals_needs_weights_and_an_actor_of_goals_needs_a_composer_of_them() -> None:
    simulator, seen = small_market(), observed()
    inputs = toy_inputs(simulator)
    composer = Composer(inputs, ComposerConfig(pool=20), GOALS)
    with pytest.raises(ValueError, match=r"^observation\['goal_weights'\] is None, but it must be"):
        composer.view(seen)
    for wrong in (torch.ones(SHOPPERS, 2), torch.ones(SHOPPERS)):
        with pytest.raises(ValueError, match=r"^observation\['goal_weights'\] is a float32 tensor"):
            composer.view({**seen, WEIGHTS: wrong})
    plain = ActorInputs(Composer(inputs), simulator.catalog, 9, (4,), torch.Generator())
    with pytest.raises(ValueError, match=r"^composer has no goals, but an actor of kind"):
        LEARNABLE["conditioned"].actor(plain, ConditionedConfig())
    with pytest.raises(ValueError, match=r"^goals has 'clicks' twice"):
        ConditionedConfig(goals=("clicks", "clicks"))
