"""Units of intent: how far each number has to go to cost as much as any other.

The log-odds that a registered knob moves per unit of intent are a guess that no environment has
seen. What they do to a slate depends on the spread of the cue among the candidates and on the gaps
between the candidates' scores, which differ from shop to shop by orders of magnitude. A Gaussian
over intents explores all numbers alike and learns them at one rate, so it needs units that are
alike: in those of `fitted_units`, one unit of any number of an intent gives away the same share of the
reward that the ranker expects of the greedy slate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.composer import Composer, View

COST = 0.05
"""Share of the expected reward of a visit that one unit of intent gives away, on average over
visits and both signs."""
MOST = 0.75
"""Share of the most that a number can ever cost. Beyond it the slate hardly changes any more, so
one unit goes no further, whatever it costs."""
TRIED = tuple(2.0**step for step in range(-6, 7))
"""Units that are tried, ascending, in those of the composer."""


@torch.no_grad()
def fitted_units(composer: Composer, view: View, cost: float = COST) -> Tensor:
    """Units of the numbers of an intent (A,), in those of the composer, from some visits.

    A number that changes nothing at any of these visits has the unit 1.

    Args:
        composer: composes the slates
        view: the visits, as this composer saw them
        cost: share of the expected reward that one unit is to give away
    """
    size = composer.intent_size
    greedy = composer.worth(view, composer.compose_view(view, intents_at(view, size, 0, 0.0)))
    costs = torch.zeros(len(TRIED), size, dtype=torch.float64, device=greedy.device)
    for row, unit in enumerate(TRIED):
        for at in range(size):
            for value in (unit, -unit):
                slates = composer.compose_view(view, intents_at(view, size, at, value))
                lost = (greedy - composer.worth(view, slates)).double().mean()
                costs[row, at] += 0.5 * lost / greedy.double().mean()
    return crossing(costs, cost)


def intents_at(view: View, size: int, at: int, value: float) -> Tensor:
    """Intents (B, A) that are 0 but for the number `at`."""
    intents = torch.zeros(len(view.features), size, device=view.features.device)
    intents[:, at] = value
    return intents


def crossing(costs: Tensor, cost: float) -> Tensor:
    """The unit at which each number first costs as much, between two by its logarithm.

    Shapes: costs (S, A), by the S units of `TRIED`; returns (A,) float32, which is 1 where nothing
    ever costs anything.
    """
    logs = torch.tensor(TRIED, dtype=torch.float64, device=costs.device).log()
    aim = (MOST * costs.amax(dim=0)).clamp(max=cost)
    after = (costs >= aim).int().argmax(dim=0)
    before = (after - 1).clamp(min=0)
    low, high = costs.gather(0, before.unsqueeze(0))[0], costs.gather(0, after.unsqueeze(0))[0]
    way = ((aim - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    found = logs[before] + way * (logs[after] - logs[before])
    return found.exp().where(aim > 0, 1.0).float()
