"""PPO over intents under a constraint: as much reward as a limit on the mean of a term allows.

It is PPO over intents (`agents.ppo.agents`) with a Lagrange multiplier (`agents.ppo.constraint`),
which follows the mean of the term on every rollout of PPO, and on every round of the search after
it. It starts near the limit, and hits it at the end, neither more nor less: the knob of the
composer that scales the term is turned alike in all states, before the training and after it, on
shoppers who tell where the limit just holds (`agents.ppo.steering`). At the end the contenders are
compared on a fresh batch of shoppers, whom neither PPO nor the search saw, and the one that earns
most is kept of those that keep the limit with its interval (`agents.ppo.choosing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from agents.base import TrainedAgent, TrainingSetup, register_agent
from agents.ppo.agents import (
    LONGER,
    SCALING_VISITS,
    PPOComposerConfig,
    frozen_pair,
    learn_updates,
    untrained_model,
)
from agents.ppo.algorithm import SlatePPO, make_ppo
from agents.ppo.choosing import chosen
from agents.ppo.constrained_env import ConstrainedVecEnv, Reference, constrained_env_of
from agents.ppo.constraint import (
    BATCH,
    LEAST,
    MOST,
    Constraint,
    Judged,
    Limit,
    Multiplier,
    training_totals,
)
from agents.ppo.polish import polish
from agents.ppo.steering import RESERVE, STEERED, start_within, steered
from policies import POLICIES
from policies.inputs import PolicyInputs
from policies.learnable.intents import IntentConfig
from recsim_env.rewards import Reward, as_reward
from recsim_env.settings import SHARE, Within, settle

CONTENDERS = 3 + len(STEERED)
"""Policies that are compared at the end: start, reserve, trained or polished, and steered ones."""
FEW = 16
"""Shoppers of greedy CTR who tell how long an episode is."""


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
    greedy = training_totals(setup, policy, constraint.term, FEW)
    each = config.checked * setup.steps / (CONTENDERS + 1)
    shoppers = min(int(each / (LONGER * greedy.visits.mean())), BATCH)
    if shoppers > FEW:
        greedy = greedy.joined(training_totals(setup, policy, constraint.term, shoppers, first=FEW))
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


# ---- the agent -----------------------------------------------------------------------------------


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
    env.forget()  # the visits since the last rollout are none

    def after_round() -> None:
        """Move the multiplier after a round."""
        env.after_rollout()

    return polish(setup, model, most, env.paid, after_round)


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
