"""PPO over intents under a constraint: as much reward as a limit on the mean of a term allows.

It is PPO over intents (`agents.ppo.agents`) with a Lagrange multiplier (`agents.ppo.constraint`),
which follows the mean of the term on every rollout of PPO, and on every round of the search after
it. It starts near the limit, and hits it at the end, neither more nor less: the knob of the
composer that scales the term is turned alike in all states, before the training and after it, on
shoppers who tell where the limit just holds (`steered`). At the end the contenders are compared on
a fresh batch of shoppers, whom neither PPO nor the search saw, and the one that earns most is kept
of those that keep the limit with its interval.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from agents.base import TrainedAgent, TrainingSetup, register_agent, training_seeds
from agents.ppo.agents import (
    LONGER,
    SCALING_VISITS,
    PPOComposerConfig,
    frozen_pair,
    learn_updates,
    untrained_model,
)
from agents.ppo.algorithm import SlatePPO, environment_of, make_ppo
from agents.ppo.constraint import (
    BATCH,
    LEAST,
    MOST,
    Constraint,
    Judged,
    Limit,
    Multiplier,
    Totals,
    expected_term,
    judged,
    totals_of,
)
from agents.ppo.polish import CHECK, polish
from agents.ppo.vec_env import IntentVecEnv, TrainingReward, expected_reward
from policies import POLICIES
from policies.composer import Composer
from policies.gains import knob_of, scale_knobs
from policies.inputs import PolicyInputs
from policies.learnable.intents import ComposerPolicy, IntentActor, IntentConfig
from recsim_env.rewards import Reward, as_reward
from recsim_env.settings import SHARE, Within, settle
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Outcome, Policy

STEER = CHECK - 1
"""Generation of `training_seeds` of the shoppers on whom the knob is moved."""
STEERED = {"safest": 3.0, "safer": 1.75, "steered": 1.0}
"""Policies whose knob is turned, and the slack at which each is, in margins of the limit: the
shoppers of the check are others, so that what just holds for the one batch may fail the other."""
START = "safer"
"""The one with which a training starts."""
RESERVE = "safest"
"""The one that is in reserve where training brings nothing."""
CONTENDERS = 3 + len(STEERED)
"""Policies that are compared at the end: start, reserve, trained or polished, and steered ones."""
FEW = 16
"""Shoppers of greedy CTR who tell how long an episode is, and fewest on whom a knob is moved."""
TRIES = 7
"""Positions of the knob that are tried."""
REACH = 8.0
"""Farthest position of the knob, in fitted units."""
FORGOTTEN = 4.0
"""Position at which nothing is left of the learned intents."""


@dataclass(frozen=True)
class ConstrainedConfig(PPOComposerConfig):
    """Options of PPO over intents under a constraint."""

    constraint: Constraint = field(
        default_factory=lambda: Constraint("clicks", "at_least", 0.95, relative=True)
    )
    """What has to hold on average over all visits. By default the reward costs at most 5 % of the
    clicks of greedy CTR."""
    multiplier: float = 0.3
    """Where the Lagrange multiplier starts: what a relative change of the term is worth in relative
    changes of the reward."""
    pace: float = 20.0
    """By how much the logarithm of the multiplier rises after a rollout that breaks the limit by
    the whole size of the term; it moves by 1 at most."""
    polished: float = 0.2
    """Share of the steps after the last update with which CMA-ES searches for what to add to the
    intents of all states. 0 leaves them as PPO learned them."""
    steered: float = 0.1
    """Share of the steps with which the knob of the term is turned until the limit just holds,
    before the training and again after it. 0 leaves it."""
    checked: float = 0.3
    """Share of the steps that measure greedy CTR before the training and compare the contenders at
    the end, with at most 1,024 shoppers each; what they do not need is left to PPO. 0 keeps the
    last contender."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        super().__post_init__()
        settle(
            self,
            steered=SHARE,
            polished=SHARE,
            checked=SHARE,
            annealed=SHARE,
            multiplier=Within(LEAST, MOST),
            pace=Within(0, MOST),
        )


# ---- the environment -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What greedy CTR reaches, and the limit that follows."""

    limit: Limit
    """The limit as a number."""
    greedy: Totals
    """Totals of greedy CTR with the shoppers of the check."""

    @property
    def length(self) -> float:
        """Mean number of visits of an episode."""
        return float(self.greedy.visits.mean())


class ConstrainedVecEnv(IntentVecEnv):
    """Intents whose visits are worth the Lagrangian; it keeps the multiplier, and moves it.

    Args:
        simulator: the shoppers; it is reset here, and nothing else may use it
        composer: observes visits and composes slates
        num_envs: B, shoppers served at once
        seed: seed of all episodes
        reward: how the reward becomes the one that the agent learns from
        reference: the limit at which the mean of a term is held, and what greedy CTR reaches
        multiplier: the weight of the term
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        composer: Composer,
        num_envs: int,
        seed: int = 0,
        reward: TrainingReward | None = None,
        *,
        reference: Reference,
        multiplier: Multiplier,
    ) -> None:
        self.reference, self.limit, self.multiplier = reference, reference.limit, multiplier
        self._slack, self._weight = torch.zeros(2, dtype=torch.float64, device=simulator.device)
        super().__init__(simulator, composer, num_envs, seed, reward)

    def paid(self, outcome: Outcome, weight: Tensor | None = None) -> Tensor:
        """What a visit is worth: (B,), the Lagrangian at the multiplier as it stands.

        The slack counts for the next `after_rollout`.

        Args:
            outcome: of the visit
            weight: (B,), of each shopper; None means 1
        """
        slack = self.limit.slack(expected_term(self.limit.constraint.term, outcome)).double()
        weight = torch.ones_like(slack) if weight is None else weight
        self._slack = self._slack + (slack * weight).sum()
        self._weight = self._weight + weight.sum()
        reward = outcome.reward
        if self._reward.expected_clicks:
            reward = expected_reward(self.simulator, outcome)
        return self.limit.paid(reward, slack, self.multiplier.value)

    def after_rollout(self) -> dict[str, float]:
        """Move the multiplier by the visits since the last call; return what to log, by name."""
        slack = float(self._slack / self._weight)
        self._clear()
        self.multiplier.update(slack)
        limit = self.limit
        return {
            "constraint/multiplier": self.multiplier.value,
            "constraint/mean": limit.value + limit.constraint.sign * slack * limit.size,
            "constraint/limit": limit.value,
        }

    def _worth(self, outcome: Outcome) -> Tensor:
        return self.paid(outcome, self._survival)

    def _begin(self, *, learning: bool) -> Any:
        self._clear()
        return super()._begin(learning=learning)

    def _clear(self) -> None:
        self._slack = torch.zeros_like(self._slack)
        self._weight = torch.zeros_like(self._weight)

    def _own_state(self) -> dict[str, Any]:
        return super()._own_state() | {
            "multiplier": self.multiplier.value,
            "slack": self._slack,
            "weight": self._weight,
        }

    def _take_own_state(self, found: Mapping[str, Any]) -> None:
        super()._take_own_state(found)
        self.multiplier.value = found["multiplier"]
        self._slack, self._weight = found["slack"], found["weight"]


def constrained_env_of(model: SlatePPO) -> ConstrainedVecEnv:
    """The environment in which a model is trained under a constraint."""
    env = environment_of(model)
    assert isinstance(env, ConstrainedVecEnv)
    return env


# ---- before the training -------------------------------------------------------------------------


def reference_of(setup: TrainingSetup, config: ConstrainedConfig) -> Reference:
    """Check the constraint, and play greedy CTR before the shoppers of the check.

    Raises:
        ValueError: If these shoppers cannot serve the term, or it cannot take the limit.
    """
    constraint, simulator = config.constraint, setup.simulator
    constraint.check(simulator)
    policy = POLICIES["greedy_ctr"].build(setup.inputs)

    # a few shoppers tell how many the steps allow for
    greedy = _played(setup, policy, constraint.term, FEW)
    each = config.checked * setup.steps / (CONTENDERS + 1)
    shoppers = min(int(each / (LONGER * greedy.visits.mean())), BATCH)
    if shoppers > FEW:
        greedy = greedy.joined(_played(setup, policy, constraint.term, shoppers, first=FEW))
    return Reference(Limit.of(constraint, greedy, simulator.slate_size), greedy)


def planned_for(inputs: PolicyInputs, limit: Limit, multiplier: float) -> PolicyInputs:
    """Inputs whose composer plans for the term as well, which gives it a knob of its own.

    A term that is in the reward is planned for already.
    """
    weights = dict(as_reward(inputs.reward).weights)
    if not weights.get(limit.constraint.term):
        weight = limit.constraint.sign * multiplier * limit.reward / limit.size
        weights[limit.constraint.term] = weight
    return replace(inputs, reward=Reward(weights))


def untrained(setup: TrainingSetup, config: ConstrainedConfig, reference: Reference) -> SlatePPO:
    """PPO under the constraint before its first update; the scales of its features are fixed."""
    planned = replace(setup, inputs=planned_for(setup.inputs, reference.limit, config.multiplier))
    start, face = IntentConfig(config.network.log_std), face_of(config, reference)
    return untrained_model("composer", planned, config, start, make_ppo, face)


def face_of(config: ConstrainedConfig, reference: Reference) -> Callable[..., ConstrainedVecEnv]:
    """What makes the environment of a training."""
    multiplier = Multiplier(config.multiplier, config.pace)
    return partial(ConstrainedVecEnv, reference=reference, multiplier=multiplier)


# ---- after PPO -----------------------------------------------------------------------------------


def polish_within(setup: TrainingSetup, model: SlatePPO, most: int) -> tuple[bool, int]:
    """Search for what to add to the intents of all states, while the multiplier goes on.

    Args:
        setup: what the agent learned from
        model: PPO under the constraint; its actor is changed
        most: steps that must not be exceeded

    Returns:
        As `polish`.
    """
    env = constrained_env_of(model)
    env._clear()  # the visits since the last rollout are none

    def after_round() -> None:
        """Move the multiplier after a round."""
        env.after_rollout()

    return polish(setup, model, most, env.paid, after_round)


def steering(composer: Composer, term: str) -> Tensor | None:
    """The direction (A,) of intents, in units of any kind, along which a term weighs more.

    Clicks and what follows them have no knob that scales them: instead, all others weigh less. None
    where there is no such knob either.
    """
    own = knob_of(term)
    knobs = {own} if own in composer.knobs else scale_knobs().keys() & set(composer.knobs)
    if not knobs:
        return None
    direction = torch.zeros(composer.intent_size)
    for knob in knobs:
        direction[composer.knobs.index(knob)] = 1.0 if knob == own else -1.0
    return direction


def moved(model: SlatePPO, position: float, direction: Tensor) -> tuple[Policy, Policy]:
    """Copies of the policy with the knob of the term at a position in all states.

    While the knob is turned up, what was learned is taken back, in equal parts until nothing is
    left of it: other knobs may have learned to work against this one.

    Args:
        model: PPO under the constraint
        position: of the knob, in fitted units; 0 is where it was learned
        direction: (A,) of the intents along which the knob is turned

    Returns:
        The policy at its most likely action, and as it explores.
    """
    actor = copy.deepcopy(model.policy.actor)
    assert isinstance(actor, IntentActor)
    actor.requires_grad_(False).scale(1 - min(max(position / FORGOTTEN, 0.0), 1.0))
    actor.move(position * direction)
    first, second = (
        model.policy.in_use(deterministic=deterministic, actor=cast(Any, actor))
        for deterministic in (True, False)
    )
    return first, second


def steered(
    setup: TrainingSetup, model: SlatePPO, most: int, length: float
) -> tuple[dict[str, tuple[Policy, Policy]], int]:
    """Turn the knob of the term to where the limit just holds, and to where it holds safely.

    It just holds where the check at the end would find that it holds with its interval. The
    shoppers are the same for all positions of the knob, and nobody else sees them. Where the term
    moves the other way with its knob, the knob is turned the other way.

    Args:
        setup: what the agent learned from
        model: PPO under the constraint
        most: steps that must not be exceeded
        length: mean number of visits of an episode, as far as it is known

    Returns:
        The policies by their names in `STEERED`, as `moved` returns them, and the steps that were
        taken. There is none where no knob moves the term, or the steps do not suffice.
    """
    env = constrained_env_of(model)
    limit, constraint = env.limit, env.limit.constraint
    direction = steering(env.composer, constraint.term)
    shoppers = min(int(most / ((TRIES + constraint.relative) * LONGER * length)), BATCH)
    if direction is None or shoppers < FEW:
        return {}, 0
    play = partial(_played, setup, term=constraint.term, shoppers=shoppers, generation=STEER)
    greedy, steps = None, 0
    if constraint.relative:
        greedy = play(POLICIES["greedy_ctr"].build(setup.inputs))
        steps += greedy.steps

    # the side to which the knob has to be turned
    direction = direction.to(setup.simulator.device)
    tried: dict[float, Judged] = {}
    at = 0.0
    while len(tried) < TRIES and at not in tried and abs(at) <= REACH:
        found = play(moved(model, at, direction)[0])
        steps += found.steps
        tried[at] = judged(limit, found, greedy, shoppers=len(env.reference.greedy))
        if len(tried) == 2 and tried[at].slack < tried[0.0].slack:
            direction = -direction
            tried = {-position: one for position, one in tried.items()}
        at = next_try({position: one.kept for position, one in tried.items()})

    # between positions, slack and margin are taken as straight lines
    places = sorted(tried)
    found_at = {
        name: crossing(places, [tried[one].slack - times * tried[one].margin for one in places])
        for name, times in STEERED.items()
    }
    return {name: moved(model, one, direction) for name, one in found_at.items()}, steps


def start_within(
    setup: TrainingSetup, model: SlatePPO, most: int
) -> tuple[dict[str, tuple[Policy, Policy]], int]:
    """Turn the knob of the term before the first update, to where the limit holds.

    Args:
        setup: what the agent learns from
        model: PPO under the constraint, untrained; its actor is changed
        most: steps that must not be exceeded

    Returns:
        As `steered`.
    """
    found, steps = steered(setup, model, most, constrained_env_of(model).reference.length)
    if found:
        policy, actor = found[START][0], model.policy.actor
        assert isinstance(policy, ComposerPolicy)
        assert isinstance(actor, IntentActor)
        actor.load_state_dict(policy.actor.state_dict())
    return found, steps


def next_try(kept: Mapping[float, bool]) -> float:
    """The next position of a knob, given whether the limit was kept at those before.

    Positions 0 and 1 come first. The limit is kept more easily farther up: while it is kept or
    broken everywhere, the next one is twice as far; then intervals are halved.
    """
    if len(kept) < 2:
        return 1.0
    if not any(kept.values()):
        return 2 * max(*kept, 0.5)
    holds = min(at for at, one in kept.items() if one)
    below = [at for at in kept if at < holds]
    return (max(below) + holds) / 2 if below else holds - max(abs(holds), 1.0)


def crossing(places: list[float], values: list[float]) -> float:
    """The lowest place at which values are 0 or more from there on, by straight lines.

    It is the first place where all are, and one unit beyond the last one where that is below 0.
    """
    below = [at for at, value in enumerate(values) if value < 0]
    if not below:
        return places[0]
    last = below[-1]
    if last + 1 == len(places):
        return places[-1] + 1.0
    share = -values[last] / (values[last + 1] - values[last])
    return places[last] + share * (places[last + 1] - places[last])


# ---- the choice ----------------------------------------------------------------------------------


def chosen(
    setup: TrainingSetup,
    contenders: Mapping[str, Policy],
    reference: Reference,
    most: int,
    length: float,
) -> tuple[str, dict[str, Judged], int]:
    """The contender that earns most of those that keep the limit with its interval.

    Where none keeps it, it is the one that comes closest, and a line on stderr says so.

    Args:
        setup: what the agent learned from
        contenders: policies by name
        reference: what greedy CTR reached with the shoppers of the check
        most: steps that must not be exceeded
        length: mean number of visits of an episode, as far as it is known

    Returns:
        The name, what was found of each, and the steps that were taken. Where they do not suffice
        for two shoppers, the last one counts as the best.
    """
    limit, names = reference.limit, list(contenders)
    shoppers = min(int(most / (len(names) * LONGER * length)), len(reference.greedy))
    if shoppers < 2:
        return names[-1], {}, 0
    greedy, term = reference.greedy.first(shoppers), limit.constraint.term
    played = {name: _played(setup, one, term, shoppers) for name, one in contenders.items()}
    found = {name: judged(limit, totals, greedy) for name, totals in played.items()}
    steps = sum(totals.steps for totals in played.values())
    kept = [name for name in names if found[name].kept]
    if kept:
        return max(kept, key=lambda name: found[name].earned), found, steps
    best = max(names, key=lambda name: found[name].slack - found[name].margin)
    print(unkept(limit, found[best], shoppers), file=sys.stderr)
    return best, found, steps


def unkept(limit: Limit, found: Judged, shoppers: int) -> str:
    """The sentence on a limit that nobody keeps with its interval."""
    side = limit.constraint.direction.replace("_", " ")
    return (
        f"No policy keeps the limit with its interval on {shoppers:,} fresh shoppers; the closest "
        f"one is kept, whose mean of {limit.constraint.term} is {found.mean:.4g} a visit where it "
        f"has to be {side} {limit.value:.4g}."
    )


def _played(
    setup: TrainingSetup,
    policy: Policy,
    term: str,
    shoppers: int,
    first: int = 0,
    generation: int = CHECK,
) -> Totals:
    """Totals of a policy with some training shoppers whom no update sees."""
    who = training_seeds(setup.seed, shoppers, generation)[first:].to(setup.simulator.device)
    return totals_of(policy, setup.simulator, who, term, setup.shoppers)


# ---- the agent -----------------------------------------------------------------------------------


@register_agent("ppo_constrained", ConstrainedConfig)
def ppo_constrained(setup: TrainingSetup, config: ConstrainedConfig) -> TrainedAgent:
    """Learn the intents that earn most while the mean of a term keeps a limit.

    Raises:
        ValueError: If the shoppers cannot serve the term, it cannot take the limit, or
            `setup.steps` does not allow one update.
    """
    looked, rollout = SCALING_VISITS * setup.shoppers, config.ppo.n_steps * setup.shoppers
    shares = config.polished + 2 * config.steered + config.checked
    config.constraint.check(setup.simulator)
    if setup.steps < looked + rollout or setup.steps < 1:
        raise too_few(setup, looked + rollout, shares)

    # the limit, and how many updates remain for PPO
    began = time.perf_counter()
    reference = reference_of(setup, config)
    steps, length = reference.greedy.steps, reference.length
    polished, turned = (round(one * setup.steps) for one in (config.polished, config.steered))
    most = CONTENDERS * LONGER * length * len(reference.greedy)
    kept_back = round(min(max(config.checked * setup.steps - steps, 0), most))
    updates = (setup.steps - steps - looked - polished - 2 * turned - kept_back) // rollout
    if updates < 1:
        raise too_few(setup, looked + rollout + steps, shares)

    # the model before its first update, or as an interrupted training left it
    model = untrained(setup, config, reference)
    env = constrained_env_of(model)
    on_limit, taken = start_within(setup, model, turned)
    steps += looked + taken
    start = frozen_pair(model)
    kept_safe = {"start": start} | ({"reserve": on_limit[RESERVE]} if on_limit else {})
    about = ("constrained", config)
    facts, watched = learn_updates(setup, config, model, about, updates, steps)
    steps += updates * rollout
    length = model.statistics.get("visits", length)

    # intents are moved alike in all states: by a search, and to the limit
    contenders = kept_safe | {"trained": frozen_pair(model)}
    unpolished = contenders["trained"][0]
    if polished:
        better, taken = polish_within(setup, model, polished)
        steps += taken
        if better:
            contenders = kept_safe | {"polished": frozen_pair(model)}
    on_limit, taken = steered(setup, model, min(turned, setup.steps - steps), length)
    steps += taken
    contenders |= on_limit
    facts["minutes"] = (time.perf_counter() - began - watched) / 60

    # the best that keeps the limit
    policies = {name: policy for name, (policy, _) in contenders.items()}
    left = setup.steps - steps if config.checked else 0
    best, found, taken = chosen(setup, policies, reference, left, length)
    facts |= facts_of(reference.limit, env.multiplier, found.get(best))
    facts |= {f"return_{name}": one.earned for name, one in found.items()}
    policy, sampled = contenders[best]
    setup.watch(steps + taken, policy)
    return TrainedAgent(
        policy,
        sampled,
        *start,
        steps + taken,
        facts,
        unpolished=None if best in ("start", "reserve", "trained") else unpolished,
    )


def facts_of(limit: Limit, multiplier: Multiplier, found: Judged | None) -> dict[str, float]:
    """What a report may show of a constraint."""
    facts = {"multiplier": multiplier.value, "limit": limit.value}
    if found is None:
        return facts
    return facts | {
        "mean": found.mean,
        "slack": found.slack,
        "margin": found.margin,
        "kept": float(found.kept),
    }


def too_few(setup: TrainingSetup, needed: int, shares: float) -> ValueError:
    """The error that the steps do not suffice for one update."""
    return ValueError(
        f"steps is {setup.steps}, but ppo_constrained needs {needed} for greedy CTR, the scales of "
        f"the features and an update, and a share of {shares:g} for what follows."
    )
