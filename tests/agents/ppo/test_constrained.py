"""PPO under a constraint: the multiplier by hand, a market where greed breaks the limit, errors."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from agents import AGENTS, TrainedAgent, TrainingSetup
from agents.keeper import Keeper
from agents.ppo.algorithm import frozen_policy_of
from agents.ppo.checkpoints import load, load_policy, save
from agents.ppo.choosing import chosen
from agents.ppo.config import PPOConfig
from agents.ppo.constrained import ConstrainedConfig, reference_of, untrained
from agents.ppo.constrained_env import constrained_env_of
from agents.ppo.constraint import (
    LEAST,
    MOST,
    Constraint,
    Limit,
    Multiplier,
    Totals,
    expected_term,
    judged,
    totals_of,
)
from agents.ppo.steering import crossing, moved, next_try, steering
from agents.ppo.vec_env import TrainingReward
from policies import POLICIES
from policies.composer import Composer, ComposerConfig
from policies.inputs import PolicyInputs
from policies.learnable.sb3 import NetworkConfig
from recsim_env.catalog import Catalog
from recsim_env.rewards import REWARD_TERMS, Reward, reward_term, share_of, zero_to_one
from recsim_env.shoppers.base import Shopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy, Response
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

RICH, PLAIN, VISITS, K = 0, 1, 3, 4
LIMIT = 1 / 3


# ---- a market where greed breaks the limit -------------------------------------------------------


@dataclass
class Taste:
    """B shoppers."""

    taste: Tensor  # (B,) float32 in [0, 1)
    visit: Tensor  # (B,) int64


class Shelves(Shopper[Taste]):
    """Comes thrice. Rich items are clicked with .2 + .6 taste, plain ones with .4; taste is told.

    Expected clicks of a visit, by who is shown four rich items:

        taste > 1/3 (best)   4 (.4 + .3 * 8/9 - .2 * 2/3) = 2.133   share of rich items 2/3
        taste > 2/3          4 (.4 + .3 * 5/9 - .2 * 1/3) = 2       share of rich items 1/3
        a third, at random   4 (.4 + .1 / 3)              = 1.733   share of rich items 1/3
        nobody               4 * .4                       = 1.6     share of rich items 0
    """

    def __init__(self) -> None:
        catalog = Catalog.synthetic(12, 2, 4, torch.Generator().manual_seed(0))
        super().__init__(catalog, K, device=torch.device("cpu"))

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        return {"taste": spaces.Box(0, 1, (1,), np.float32)}

    def start(self, draws: Tensor) -> Taste:
        return Taste(draws[:, 0], torch.zeros(len(draws), dtype=torch.int64))

    def observe(self, state: Taste) -> dict[str, Tensor]:
        return {"taste": state.taste.unsqueeze(1).clone()}

    def respond(self, state: Taste, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        chance = chances(state.taste.unsqueeze(1), self.catalog)
        probability = chance.gather(1, slates) * shown
        state.visit = state.visit + 1
        nothing = torch.zeros_like(state.taste)
        left = state.visit == VISITS
        return Response(draws < probability, probability, left, days=nothing + 1, elsewhere=nothing)


def chances(taste: Tensor, catalog: Catalog) -> Tensor:
    """(B, N), of a click on every item, given taste (B, 1)."""
    rich = catalog.category == RICH
    return torch.where(rich, 0.2 + 0.6 * taste, torch.full_like(taste, 0.4))


class KnowsTaste:
    """The true log-odds of a click."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def logits(self, observation: Observation) -> Tensor:
        return torch.logit(chances(observation["taste"], self.catalog)).gather(
            1, observation["candidates"]
        )


def shelves() -> SlateSimulator:
    return SlateSimulator(Shelves(), Reward({"clicks": 1.0}), history=2)


def inputs_of(simulator: SlateSimulator) -> PolicyInputs:
    inputs = toy_inputs(simulator, KnowsTaste(simulator.catalog))
    return replace(inputs, reward=simulator.reward)


@pytest.fixture(autouse=True)
def rich_term() -> Iterator[None]:
    """Registers the share of rich items."""
    catalog = shelves().catalog
    names = [catalog.categories[RICH]]
    reward_term("rich", bounds=zero_to_one)(share_of(catalog, names))
    yield
    del REWARD_TERMS["rich"]


QUICK: dict[str, Any] = {
    "ppo": PPOConfig(learning_rate=5e-3, n_steps=6, batch_size=256, n_epochs=3, gamma=1.0),
    "network": NetworkConfig((16,), (16,), log_std=-1.0),
    "composer": ComposerConfig(offset_dims=0),
    "reward": TrainingReward(scale=1.0),
    "polished": 0.1,
    "steered": 0.2,
    "checked": 0.4,
}
FREE = {name: value for name, value in QUICK.items() if name != "steered"} | {"checked": 0.1}


def setup_of(steps: int = 64 * 400, **options: Any) -> TrainingSetup:
    simulator = shelves()
    options = {"seed": 0, "shoppers": 64} | options
    return TrainingSetup(simulator, inputs_of(simulator), steps=steps, **options)


def reached(policy: Policy, first: int = 1_000_000) -> Totals:
    """On 2,000 fresh shoppers."""
    return totals_of(policy, shelves(), torch.arange(first, first + 2000), "rich", 2000)


@functools.cache
def learnt(direction: str, limit: float, relative: bool = False) -> TrainedAgent:
    constraint = Constraint("rich", direction, limit, relative)  # type: ignore[arg-type]
    return AGENTS["ppo_constrained"].learn(setup_of(), QUICK | {"constraint": constraint})


def test_what_greed_does_here() -> None:
    greedy = reached(POLICIES["greedy_ctr"].build(inputs_of(shelves())))
    assert greedy.mean == pytest.approx(2 / 3, abs=0.04)
    assert greedy.returns.mean() / VISITS == pytest.approx(2.133, abs=0.06)


def test_the_limit_is_kept_and_costs_no_more_than_it_has_to() -> None:
    agent = learnt("at_most", LIMIT)
    found = reached(agent.policy)
    assert 0.1 < found.mean <= LIMIT
    # between what a third of rich items at random earns and what the best third earns
    assert 1.75 < found.returns.mean() / VISITS < 2.06
    assert agent.facts["kept"] == 1.0
    assert agent.facts["limit"] == pytest.approx(LIMIT)
    nobody = moved_up(agent)
    assert nobody.mean < 0.05
    assert found.returns.mean() > nobody.returns.mean() + 0.3


def moved_up(agent: TrainedAgent) -> Totals:
    """What the same agent reaches with its knob turned on: it over-satisfies the limit."""
    policy: Any = agent.policy
    knob = policy.composer.knobs.index("scale_rich")
    intent = torch.zeros(policy.composer.intent_size)
    intent[knob] = 50.0 / policy.actor.units[knob]
    other = type(policy)(policy.composer, copy.deepcopy(policy.actor))
    other.actor.move(intent)
    return reached(other)


def test_a_limit_from_below_is_kept() -> None:
    agent = learnt("at_least", 0.8)
    found = reached(agent.policy)
    assert 0.8 <= found.mean < 0.95
    assert found.returns.mean() / VISITS > 1.95  # rich items for everybody are 4 * .5 = 2


def test_a_relative_limit_is_a_share_of_what_greedy_reaches() -> None:
    agent = learnt("at_most", 0.5, relative=True)
    assert agent.facts["limit"] == pytest.approx(1 / 3, abs=0.06)
    greedy = reached(POLICIES["greedy_ctr"].build(inputs_of(shelves())))
    found = reached(agent.policy)
    assert 0.1 < found.mean <= 0.5 * greedy.mean
    assert found.returns.mean() / VISITS > 1.75


def test_a_slack_limit_costs_nothing() -> None:
    agent = learnt("at_most", 0.95)
    free = AGENTS["ppo_composer"].learn(setup_of(), FREE)
    assert agent.facts["multiplier"] == LEAST
    found = reached(agent.policy).returns.mean() / VISITS
    assert found > reached(free.policy).returns.mean() / VISITS - 0.02
    assert agent.facts["kept"] == 1.0


def test_where_nobody_keeps_the_limit_the_closest_is_kept_and_it_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup = setup_of()
    config = ConstrainedConfig(**QUICK, constraint=Constraint("clicks", "at_least", 3.9))
    reference = reference_of(setup, config)
    inputs = setup.inputs
    contenders = {name: POLICIES[name].build(inputs) for name in ("uniform", "greedy_ctr")}
    best, found, steps = chosen(setup, contenders, reference, 10**6, VISITS)
    assert best == "greedy_ctr"
    assert steps == 2 * VISITS * len(reference.greedy)
    assert not any(one.kept for one in found.values())
    told = capsys.readouterr().err
    assert "No policy keeps the limit" in told
    assert "mean of clicks" in told
    assert "at least 3.9" in told


# ---- the multiplier and the Lagrangian by hand ---------------------------------------------------


def test_the_multiplier_climbs_while_the_limit_is_broken() -> None:
    multiplier = Multiplier(0.1, 10.0)
    multiplier.update(-0.05)  # 5 % short: log rises by .5
    assert multiplier.value == pytest.approx(0.1 * math.exp(0.5))
    multiplier.update(0.02)
    assert multiplier.value == pytest.approx(0.1 * math.exp(0.3))
    multiplier.update(-7.0)  # never by more than 1
    assert multiplier.value == pytest.approx(0.1 * math.exp(1.3))
    for _ in range(50):
        multiplier.update(1.0)
    assert multiplier.value == LEAST
    for _ in range(50):
        multiplier.update(-1.0)
    assert multiplier.value == MOST


def test_what_a_visit_is_worth() -> None:
    greedy = Totals(np.array([8.0, 4.0]), np.array([2.0, 1.0]), np.array([4.0, 2.0]))
    limit = Limit.of(Constraint("rich", "at_most", 0.25), greedy, K)
    assert (limit.value, limit.reward, limit.size) == (0.25, 2.0, 0.5)  # a visit of greedy CTR
    slack = limit.slack(torch.tensor([0.0, 0.5]))
    assert slack.tolist() == [0.5, -0.5]
    # (reward + 3 * 2 * slack) / 4
    paid = limit.paid(torch.tensor([1.0, 3.0]), slack, 3.0)
    assert paid.tolist() == [1.0, 0.0]
    relative = Limit.of(Constraint("rich", "at_least", 1.5, relative=True), greedy, K)
    assert relative.value == pytest.approx(0.75)


def test_the_environment_pays_the_lagrangian_and_moves_its_multiplier() -> None:
    setup = setup_of()
    config = ConstrainedConfig(**QUICK, constraint=Constraint("rich", "at_most", LIMIT))
    reference = reference_of(setup, config)
    limit = reference.limit
    env = constrained_env_of(untrained(setup, config, reference))
    env.reset_tensors()
    slacks = []
    for _ in range(2):
        actions = torch.zeros(64, env.composer.intent_size)
        seen: list[Any] = []
        advance = env.simulator.advance

        def watched(slates: Tensor, advance: Any = advance, seen: Any = seen) -> Any:
            seen.append(advance(slates))
            return seen[-1]

        env.simulator.advance = watched  # type: ignore[method-assign]
        step = env.step_tensors(actions)
        env.simulator.advance = advance  # type: ignore[method-assign]
        outcome = seen[0]
        share = expected_term("rich", outcome).double()
        slack = (LIMIT - share) / limit.size
        reward = outcome.response.probability.sum(dim=1)
        paid = (reward + 0.3 * limit.reward * slack) / 1.3
        torch.testing.assert_close(step.rewards, paid.float())
        slacks.append(slack)
    told = env.after_rollout()
    mean = float(torch.cat(slacks).mean())
    assert told["constraint/limit"] == LIMIT
    assert told["constraint/mean"] == pytest.approx(LIMIT - mean * limit.size)
    rise = min(max(-20 * mean, -1), 1)
    assert told["constraint/multiplier"] == pytest.approx(0.3 * math.exp(rise))


def test_a_verdict_by_hand() -> None:
    limit = Limit(Constraint("rich", "at_most", 0.3), 0.3, 1.0, 1.0)
    found = Totals(np.array([1.0, 2.0, 3.0]), np.array([0.2, 0.6, 0.4]), np.array([2.0, 2.0, 2.0]))
    one = judged(limit, found)
    assert one.mean == pytest.approx(0.2)
    assert one.slack == pytest.approx(0.1)
    # standard deviation .1 of the shoppers' means, t of 2 degrees of freedom 2.92
    assert one.margin == pytest.approx(2.91999 * 0.1 * math.sqrt(1 / 3 + 1 / 1024), rel=1e-4)
    assert not one.kept
    more = judged(limit, found, shoppers=1024)
    assert more.margin == pytest.approx(1.64635 * 0.1 * math.sqrt(2 / 1024), rel=1e-4)
    # greedy CTR with the same shoppers moves the limit, and takes their spread away
    greedy = Totals(found.returns, 2 * found.sums, found.visits)
    paired = Limit(Constraint("rich", "at_most", 0.6, relative=True), 0.24, 1.0, 1.0)
    same = judged(paired, found, greedy)
    assert same.slack == pytest.approx(0.6 * 0.4 - 0.2)
    assert same.margin == pytest.approx(0.2 * judged(paired, found).margin)
    assert same.kept


def test_the_mean_is_that_of_all_visits() -> None:
    found = Totals(np.zeros(2), np.array([1.0, 6.0]), np.array([2.0, 4.0]))
    assert found.mean == pytest.approx(7 / 6)
    assert found.influence.sum() == pytest.approx(0.0)
    assert found.first(1).mean == 0.5
    assert found.joined(found).mean == pytest.approx(found.mean)
    assert found.steps == 6


# ---- where the knob is turned --------------------------------------------------------------------


def test_the_next_position_of_a_knob() -> None:
    assert next_try({0.0: False}) == 1.0
    assert next_try({0.0: False, 1.0: False}) == 2.0
    assert next_try({0.0: False, 1.0: False, 2.0: True}) == 1.5
    assert next_try({0.0: False, 1.0: True}) == 0.5
    assert next_try({0.0: True, 1.0: True}) == -1.0
    assert next_try({0.0: True, 1.0: True, -1.0: True}) == -2.0
    assert next_try({0.0: True, 1.0: True, -1.0: False}) == -0.5


def test_where_a_line_crosses_zero() -> None:
    assert crossing([0.0, 1.0, 2.0], [-1.0, 3.0, 4.0]) == 0.25
    assert crossing([0.0, 1.0, 2.0], [1.0, -1.0, 1.0]) == 1.5  # from there on
    assert crossing([0.0, 1.0], [1.0, 2.0]) == 0.0
    assert crossing([0.0, 1.0], [-2.0, -1.0]) == 2.0


def test_what_has_no_knob_is_moved_by_those_of_the_others() -> None:
    simulator = toy_simulator(items=40)
    inputs = replace(toy_inputs(simulator), reward=Reward({"clicks": 1.0, "category_coverage": 1}))
    composer = Composer(inputs, ComposerConfig(pool=12, offset_dims=0))
    at = composer.knobs.index("scale_category_coverage")
    own, others = steering(composer, "category_coverage"), steering(composer, "clicks")
    assert own is not None
    assert others is not None
    assert own.nonzero().flatten().tolist() == others.nonzero().flatten().tolist() == [at]
    assert (float(own[at]), float(others[at])) == (1.0, -1.0)
    bare = Composer(replace(inputs, reward=Reward({"clicks": 1.0})), composer.config)
    assert steering(bare, "clicks") is None


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "match"),
    [
        (("surprise", "at_least", 0.5), r"^constraint\.term is 'surprise', but it must be one of"),
        (("purchases", "at_least", 0.5), r"^constraint has the term 'purchases', but Shelves does"),
        (("novelty", "at_least", 0.5), r"^constraint has the term 'novelty', but the catalogue of"),
        (("clicks", "at_least", 4.5), r"^constraint\.limit is 4\.5 but .* from 0 to 4 in slates"),
        (("rich", "at_most", -0.1), r"^constraint\.limit is -0\.1 but .* from 0 to 1 in slates of"),
    ],
)
def test_what_cannot_be_held_is_refused_before_anything_runs(
    constraint: tuple[Any, ...], match: str
) -> None:
    setup = setup_of()
    with pytest.raises(ValueError, match=match):
        AGENTS["ppo_constrained"].learn(setup, QUICK | {"constraint": Constraint(*constraint)})
    assert setup.simulator.num_envs == 0


@pytest.mark.parametrize("limit", [math.nan, math.inf, -math.inf, True, "0.5", None])
def test_a_limit_is_a_finite_number(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"^limit is .*, but it must be a finite number"):
        Constraint("clicks", "at_least", limit)


@pytest.mark.parametrize("direction", [None, "", "above", 1])
def test_a_direction_is_needed(direction: Any) -> None:
    with pytest.raises(ValueError, match=r"^direction is .* must be one of 'at_least', 'at_most'"):
        Constraint("clicks", direction, 1.0)


def test_a_relative_limit_has_to_lie_within_reach() -> None:
    constraint = Constraint("rich", "at_least", 2.0, relative=True)
    with pytest.raises(ValueError, match=r"2 of greedy CTR's, but the term 'rich' is from 0 to 1"):
        AGENTS["ppo_constrained"].learn(setup_of(), QUICK | {"constraint": constraint})


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^steps is 900, but ppo_constrained needs 1024 for"):
        AGENTS["ppo_constrained"].learn(setup_of(900), QUICK)


# ---- kept and taken up ---------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a SIGKILL."""


class KilledAt(Keeper):
    """Is killed right after it kept a state for the n-th time."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(path, share=1.0)
        self._left = number

    def keep(self, state: Any) -> None:
        super().keep(state)
        self._left -= 1
        if self._left == 0:
            raise Killed


def test_a_killed_training_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    steps, options = 64 * 80, QUICK | {"constraint": Constraint("rich", "at_most", LIMIT)}
    options |= {"steered": 0.0, "checked": 0.1}
    whole = AGENTS["ppo_constrained"].learn(setup_of(steps), options)
    path = tmp_path / "kept.safetensors"
    with pytest.raises(Killed):
        AGENTS["ppo_constrained"].learn(setup_of(steps, keeper=KilledAt(path, 2)), options)
    again = AGENTS["ppo_constrained"].learn(setup_of(steps, keeper=Keeper(path)), options)
    without = [{k: v for k, v in one.facts.items() if k != "minutes"} for one in (whole, again)]
    assert without[0] == without[1]


def test_a_checkpoint_holds_policy_and_multiplier(tmp_path: Path) -> None:
    setup = setup_of()
    config = ConstrainedConfig(**QUICK, constraint=Constraint("rich", "at_most", LIMIT))
    reference = reference_of(setup, config)
    model = untrained(setup, config, reference)
    model.learn(config.ppo.n_steps * 64)
    value = constrained_env_of(model).multiplier.value
    assert value != 0.3
    save(model, tmp_path / "checkpoint.safetensors")
    fresh = untrained(setup_of(), config, reference)
    load(fresh, tmp_path / "checkpoint.safetensors")
    assert constrained_env_of(fresh).multiplier.value == value
    loaded = load_policy(tmp_path / "checkpoint.safetensors", setup.inputs)
    observation, none = shelves().reset(torch.arange(50)), torch.zeros(50, 0)
    slates = frozen_policy_of(model)(observation, none)
    assert torch.equal(loaded(observation, none), slates)


def test_a_knob_that_is_turned_up_takes_back_what_was_learned() -> None:
    setup = setup_of()
    config = ConstrainedConfig(**QUICK, constraint=Constraint("rich", "at_most", LIMIT))
    model = untrained(setup, config, reference_of(setup, config))
    direction = steering(constrained_env_of(model).composer, "rich")
    assert direction is not None
    actor: Any = model.policy.actor
    torch.nn.init.normal_(actor.tower[-1].weight)
    features = torch.randn(5, len(actor.standardize.mean))
    learned = actor.mean(features)
    assert not torch.allclose(learned, torch.zeros_like(learned))
    for position, left in ((-2.0, 1.0), (0.0, 1.0), (1.0, 0.75), (4.0, 0.0), (8.0, 0.0)):
        turned: Any = moved(model, position, direction)[0]
        mean = turned.actor.mean(features)
        torch.testing.assert_close(mean, left * learned + position * direction)
    assert torch.equal(actor.mean(features), learned)  # the model itself stays
