"""The choice at the end of a training under a constraint: who earns most of those that keep it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from agents.base import TrainingSetup
from agents.ppo.agents import LONGER
from agents.ppo.constrained_env import Reference
from agents.ppo.constraint import Judged, Limit, judged, training_totals
from recsim_env.types import Policy


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
    played = {name: training_totals(setup, one, term, shoppers) for name, one in contenders.items()}
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
