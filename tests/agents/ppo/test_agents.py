"""The three PPO agents solve a problem in which greed loses, and keep to their steps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from agents import AGENTS, TrainedAgent, TrainingSetup
from agents.evaluate import evaluate
from agents.ppo.agents import PPOComposerConfig, _compared
from agents.ppo.config import PPOConfig
from agents.ppo.vec_env import TrainingReward
from policies.composer import ComposerConfig
from policies.learnable.autoregressive import AutoregressiveConfig
from policies.learnable.intents import ComposerPolicy
from policies.learnable.plackett_luce import PlackettLuceConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.catalog import Catalog
from recsim_env.rewards import Reward
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy, Response
from tests.support.policy_toys import TableRanker, toy_inputs
from tests.support.toys import toy_simulator

PPO_AGENTS = ("ppo_composer", "ppo_plackett_luce", "ppo_autoregressive")
agents = pytest.mark.parametrize("name", PPO_AGENTS)

# ---- two visits ----------------------------------------------------------------------------------

SWEET, PLAIN, SPOILT = 0.8, 0.6, 0.1


@dataclass
class Appetite:
    """B shoppers."""

    visit: Tensor  # (B,) float32, 0 or 1
    sweets: Tensor  # (B,) float32, how many stood in the first slate


class TwoVisits(Shopper[Appetite]):
    """Comes twice, sees two items each time. Items of category 0 are sweet, the others plain.

    First visit: a sweet item is bought with probability .8, a plain one with .6. Second visit: the
    same, less .35 for each sweet item of the first slate, but nothing is less likely than .1. So,
    expected purchases:

        sweet, sweet, then anything: 2 * .8 + (.1 + .1)           = 1.8   greedy
        sweet, plain, then sweet:    .8 + .6 + 2 * (.8 - .35)     = 2.3
        plain, plain, then plain:    2 * .6 + 2 * .6              = 2.4   best without looking
        plain, plain, then sweet:    2 * .6 + 2 * .8              = 2.8   optimal
    """

    def __init__(self) -> None:
        catalog = Catalog.synthetic(8, 2, 4, torch.Generator().manual_seed(0))
        super().__init__(catalog, 2, device=torch.device("cpu"))
        self.sweet = self.catalog.category == 0

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        return {"appetite": spaces.Box(0, 2, (2,), np.float32)}

    def start(self, draws: Tensor) -> Appetite:
        return Appetite(torch.zeros(len(draws)), torch.zeros(len(draws)))

    def observe(self, state: Appetite) -> dict[str, Tensor]:
        return {"appetite": torch.stack([state.visit, state.sweets], dim=1)}

    def respond(self, state: Appetite, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        sweet = self.sweet[slates]
        lost = 0.35 * (state.sweets * state.visit).unsqueeze(1)
        probability = (torch.where(sweet, SWEET, PLAIN) - lost).clamp(min=SPOILT) * shown
        left = state.visit == 1
        state.sweets = (sweet & shown).sum(dim=1).float()
        state.visit = state.visit + 1
        nothing = torch.zeros_like(state.visit)
        return Response(draws < probability, probability, left, days=nothing + 1, elsewhere=nothing)


def two_visits() -> SlateSimulator:
    return SlateSimulator(TwoVisits(), Reward({"clicks": 1.0}), history=2)


def two_visit_setup(steps: int) -> TrainingSetup:
    """With a ranker that knows the first visit's probabilities: that is greed."""
    simulator = two_visits()
    chance = torch.where(simulator.catalog.category == 0, SWEET, PLAIN) + torch.linspace(0, 0.01, 8)
    inputs = toy_inputs(simulator, TableRanker(torch.logit(chance)))
    inputs = replace(inputs, reward=simulator.reward)
    return TrainingSetup(simulator, inputs, seed=0, steps=steps, shoppers=64)


QUICK = PPOConfig(
    learning_rate=1e-2, n_steps=8, batch_size=256, n_epochs=6, gamma=1.0, gae_lambda=0.95
)
SHARED = {
    "ppo": QUICK,
    "network": NetworkConfig((16,), (16,), log_std=0.0),
    "composer": ComposerConfig(offset_unit=1.0),
    "reward": TrainingReward(scale=1.0),
    "checked": 0.0,
}
OWN: dict[str, dict[str, Any]] = {
    "ppo_composer": {},
    "ppo_plackett_luce": {"start": PlackettLuceConfig(1.0)},
    "ppo_autoregressive": {"start": AutoregressiveConfig(1.0)},
}


def first_and_second(policy: Policy) -> tuple[list[int], list[int]]:
    """How many sweet items a policy shows at each of the two visits, for four shoppers."""
    simulator = two_visits()
    sweet, none = simulator.catalog.category == 0, torch.zeros(4, 0)
    first = policy(simulator.reset(torch.arange(4)), none)
    simulator.advance(first)
    second = policy(simulator.observe(), none)
    return sweet[first].sum(dim=1).tolist(), sweet[second].sum(dim=1).tolist()


def mean_return(policy: Policy) -> float:
    return float(
        evaluate(policy, two_visits(), torch.arange(2000)).rows["return"].to_numpy().mean()
    )


@pytest.mark.slow
@agents
def test_greed_loses_and_the_agent_finds_out(name: str) -> None:
    trained = AGENTS[name].learn(two_visit_setup(64 * (10 + 8 * 60)), SHARED | OWN[name])
    assert first_and_second(trained.untrained)[0] == [2] * 4
    assert first_and_second(trained.policy) == ([0] * 4, [2] * 4)
    assert (
        abs(mean_return(trained.untrained) - (2 * SWEET + 2 * SPOILT)) < 0.08
    )  # 4 standard errors of 2000 episodes
    assert abs(mean_return(trained.policy) - (2 * PLAIN + 2 * SWEET)) < 0.08


# ---- what any agent keeps to ---------------------------------------------------------------------


def learn(
    name: str,
    steps: int = 16 * (10 + 4 * 3),
    polished: float = 0.0,
    checked: float = 0.0,
    batch_size: int = 32,
    **options: Any,
) -> TrainedAgent:
    simulator = toy_simulator(items=40)
    parameters = {
        "ppo": PPOConfig(learning_rate=1e-2, n_steps=4, batch_size=batch_size, n_epochs=2),
        "network": NetworkConfig((16,), (16,)),
        "composer": ComposerConfig(pool=12),
        "checked": checked,
        "watch_every": 1,
        **({"polished": polished} if name == "ppo_composer" else {}),
    }
    setup = {"seed": 0, **options}
    return AGENTS[name].learn(
        TrainingSetup(simulator, toy_inputs(simulator), steps=steps, shoppers=16, **setup),
        parameters,
    )


def shown(policy: Policy) -> Tensor:
    simulator = toy_simulator(items=40)
    draws = torch.rand(20, policy.draws, generator=torch.Generator().manual_seed(0))
    return policy(simulator.reset(torch.arange(20)), draws)


@agents
def test_the_steps_are_kept_to_and_watched(name: str) -> None:
    seen: list[tuple[int, Tensor]] = []
    trained = learn(
        name,
        16 * (10 + 4 * 3) + 63,
        watch=lambda steps, policy: seen.append((steps, shown(policy))),
    )
    assert trained.steps == 16 * (10 + 4 * 3)
    assert [steps for steps, _ in seen] == [0, 16 * 14, 16 * 18, 16 * 22]
    assert torch.equal(seen[0][1], shown(trained.untrained))
    assert torch.equal(seen[-1][1], shown(trained.policy))
    assert trained.facts["minutes"] > 0
    assert trained.facts["explained_variance"] <= 1


@agents
def test_a_rollout_smaller_than_a_minibatch_is_trained_on_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained = learn(name, 16 * 14, batch_size=5_120)
    assert trained.steps == 16 * 14


@agents
def test_too_few_steps_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"^steps is 223, but PPO needs 160 to scale the features, 64 for each update .*: 224 or",
    ):
        learn(name, 16 * 14 - 1)


@pytest.mark.parametrize("means", [(3.0, 2.0, 1.0), (2.0, 3.0, 1.0), (1.0, 2.0, 3.0)])
def test_the_best_of_untrained_trained_and_polished_is_kept(
    means: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Policy] = []

    def told(setup: object, policies: list[Policy], shoppers: int) -> Any:
        compared.extend(policies)
        return torch.tensor(means).unsqueeze(1).expand(-1, 4), 5

    monkeypatch.setattr("agents.ppo.polish.returns_of", told)
    trained = learn("ppo_composer", 16 * 80, polished=0.5, checked=0.2)
    assert trained.policy is compared[means.index(3.0)]
    assert [trained.untrained, trained.unpolished] == compared[:2]
    assert trained.facts["return_untrained"] == means[0]
    assert trained.facts["return_trained"] == means[1]
    assert trained.facts["return_polished"] == means[2]


def test_means_are_of_the_same_shoppers() -> None:
    setup = two_visit_setup(64 * 100)
    short = replace(setup, steps=64 * 20)
    chosen = AGENTS["ppo_composer"].learn(short, SHARED | {"polished": 0.0})
    config = PPOComposerConfig(checked=0.1)
    both = (chosen.untrained, chosen.untrained)
    kept, earned, steps = _compared(setup, config, {"untrained": both, "trained": both}, 2.0)
    # 640 steps are 320 for each policy, and so 123 shoppers who come twice, 1.3 times allowed for
    assert steps == 2 * 2 * 123
    assert earned["untrained"] == earned["trained"] > 0
    assert kept == "untrained"  # no better is not better
    few = _compared(setup, config, {"untrained": both, "trained": both}, 200.0)
    assert few == ("trained", {}, 0)


# ---- the search that follows ---------------------------------------------------------------------


def test_the_search_moves_all_intents_alike() -> None:
    steps, seen = 64 * (10 + 8 * 12), []
    setup = replace(two_visit_setup(steps), watch=lambda at, policy: seen.append(at))
    still = {"ppo": replace(QUICK, learning_rate=1e-12), "polished": 0.7}
    trained = AGENTS["ppo_composer"].learn(setup, SHARED | still)
    # PPO learned nothing, and one rule is the best in both states: categories shown count less
    assert first_and_second(trained.untrained) == ([2] * 4, [2] * 4)
    assert trained.unpolished is not None
    assert first_and_second(trained.unpolished) == ([2] * 4, [2] * 4)
    assert first_and_second(trained.policy) == ([0] * 4, [2] * 4)
    assert steps - 64 * 20 < trained.steps <= steps
    assert seen == sorted(seen)


@pytest.mark.slow
def test_what_ppo_tells_apart_stays_apart() -> None:
    setup = two_visit_setup(64 * (10 + 8 * 80))
    trained = AGENTS["ppo_composer"].learn(setup, SHARED | {"polished": 0.25})
    assert first_and_second(trained.policy) == ([0] * 4, [2] * 4)


def test_a_search_that_gets_no_round_changes_nothing() -> None:
    steps = 16 * (10 + 4 * 3)
    trained = learn("ppo_composer", steps + 40, polished=0.1)
    assert trained.unpolished is None
    assert torch.equal(shown(trained.policy), shown(learn("ppo_composer", steps).policy))


@pytest.mark.parametrize(("narrowed", "told"), [(1.0, (0.0, -0.5, -1.0)), (0.0, (0.0, 0.0, 0.0))])
def test_exploration_narrows_linearly_to_its_last_width(
    narrowed: float, told: tuple[float, float, float]
) -> None:
    widths: list[float] = []

    def watch(steps: int, policy: Policy) -> None:
        assert isinstance(policy, ComposerPolicy)
        widths.append(float(policy.actor.log_std.detach().mean()))

    still = replace(QUICK, learning_rate=0.0)  # so that nothing but the schedule moves the width
    setup = replace(two_visit_setup(64 * (10 + 3 * 8)), watch=watch)
    settings = SHARED | {"ppo": still, "narrowed": narrowed, "polished": 0.0, "watch_every": 1}
    trained = AGENTS["ppo_composer"].learn(setup, settings)
    assert widths[0] == 0.0  # the untrained policy
    assert widths[1:4] == pytest.approx(told)
    assert isinstance(trained.sampled, ComposerPolicy)
    assert float(trained.sampled.actor.log_std.detach().mean()) == pytest.approx(told[-1])
