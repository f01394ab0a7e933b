"""The knob of a term, turned alike in all states to where a limit on the term just holds.

Positions of the knob are tried on shoppers whom nobody else sees. Where the limit just holds by
straight lines between them is where a policy earns most that keeps it, as far as one knob goes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from agents.base import TrainingSetup
from agents.ppo.agents import LONGER
from agents.ppo.algorithm import SlatePPO
from agents.ppo.constrained_env import constrained_env_of
from agents.ppo.constraint import BATCH, Judged, judged, training_totals
from agents.ppo.polish import CHECK
from policies import POLICIES
from policies.composer import Composer
from policies.gains import knob_of, scale_knobs
from policies.learnable.intents import ComposerPolicy, IntentActor
from recsim_env.types import Policy

STEER = CHECK - 1
"""Generation of `training_seeds` of the shoppers on whom the knob is moved."""
STEERED = {"safest": 3.0, "safer": 1.75, "steered": 1.0}
"""Policies whose knob is turned, and the slack at which each is, in margins of the limit: the
shoppers of the check are others, so that what just holds for the one batch may fail the other."""
START = "safer"
"""The one with which a training starts."""
RESERVE = "safest"
"""The one that is in reserve where training brings nothing."""
FEW = 16
"""Fewest shoppers on whom a knob is moved."""
TRIES = 7
"""Positions of the knob that are tried."""
REACH = 8.0
"""Farthest position of the knob, in fitted units."""
FORGOTTEN = 4.0
"""Position at which nothing is left of the learned intents."""


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
    play = partial(
        training_totals, setup, term=constraint.term, shoppers=shoppers, generation=STEER
    )
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
