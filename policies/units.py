"""Units of intent: how far each number has to go to cost as much as any other.

The log-odds that a registered knob moves per unit of intent are a guess that no environment has
seen. What they do to a slate depends on the spread of the cue among the candidates and on the gaps
between the candidates' scores, which differ from shop to shop by orders of magnitude. A Gaussian
over intents explores all numbers alike and learns them at one rate, so it needs units that are
alike: in those of `fitted_units`, one unit of any number of an intent gives away the same share of
the reward that the ranker expects of the greedy slate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.budget import Remembered
from policies.composer import Composer, View
from policies.pool import Pool

COST = 0.05
"""Share of the expected reward of a visit that one unit of intent gives away, on average over
visits and both signs."""
MOST = 0.75
"""Share of the most that a number can ever cost. Beyond it the slate hardly changes any more, so
one unit goes no further, whatever it costs."""
NOTHING = 1e-6
"""Cost that counts as none."""
TRIED = tuple(4.0**step for step in range(-3, 4))
"""Units that are tried, ascending, in those of the composer."""


@torch.no_grad()
def fitted_units(composer: Composer, view: View, cost: float = COST) -> Tensor:
    """Units of the numbers of an intent (A,), in those of the composer, from some visits.

    A number that changes nothing at any of these visits has the unit 1. Visits at which intents
    move no slate do not count.

    Args:
        composer: composes the slates
        view: the visits, as this composer saw them
        cost: share of the expected reward that one unit is to give away
    """
    if view.moved is not None and bool(view.moved.any()):
        view = view.rows(view.moved)
    size, visits = composer.intent_size, len(view.features)
    nothing = torch.zeros(visits, size, device=view.features.device)
    greedy = composer.worth(view, composer.compose_view(view, nothing)).double().mean()

    # every number at both signs together, one size after the other
    several = repeated(view, 2 * size)
    signs = torch.eye(size, device=nothing.device).repeat(2, 1)  # (2 A, A)
    signs[size:] *= -1
    costs = []
    for unit in TRIED:
        slates = composer.compose_view(several, (unit * signs).repeat_interleave(visits, dim=0))
        left = composer.worth(several, slates).double().view(2, size, visits).mean(dim=(0, 2))
        costs.append(1 - left / greedy)
    return crossing(torch.stack(costs), cost)


def repeated(view: View, times: int) -> View:
    """The same visits several times below each other."""

    def rows(value: Tensor) -> Tensor:
        return value.repeat(times, *[1] * (value.ndim - 1))

    pool = Pool(rows(view.pool.items), rows(view.pool.logits), rows(view.pool.columns))
    looks = view.looks if len(view.looks) == 1 else rows(view.looks)
    known = view.remembered
    remembered = None if known is None else Remembered(rows(known.category), rows(known.clicks))
    weights = None if view.weights is None else rows(view.weights)
    moved = None if view.moved is None else rows(view.moved)
    seen = (rows(view.cues), rows(view.vectors), looks, rows(view.features))
    return View(pool, *seen, remembered, weights, moved)


def crossing(costs: Tensor, cost: float) -> Tensor:
    """The unit at which each number first costs as much, between two by their logarithms.

    Shapes: costs (S, A), by the S units of `TRIED`; returns (A,) float32, which is 1 where nothing
    ever costs anything.
    """
    logs = torch.tensor(TRIED, dtype=torch.float64, device=costs.device).log()
    aim = (MOST * costs.amax(dim=0)).clamp(max=cost)
    after = (costs >= aim).int().argmax(dim=0)
    before = (after - 1).clamp(min=0)
    grown = costs.clamp(min=NOTHING).log()
    low, high = grown.gather(0, before.unsqueeze(0))[0], grown.gather(0, after.unsqueeze(0))[0]
    way = ((aim.clamp(min=NOTHING).log() - low) / (high - low).clamp(min=NOTHING)).clamp(0, 1)
    found = logs[before] + way * (logs[after] - logs[before])
    return found.exp().where(aim > NOTHING, 1.0).float()
