"""A step for every few visits as they come, and none of them twice.

AdaGrad: Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for online learning and
stochastic optimization", as McMahan et al. 2013, "Ad click prediction: a view from the trenches",
use it for clicks. Adam: Kingma & Ba 2015. The optimiser remembers its gradients from day to day.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import nn

from agents.updates.base import Start, Update, register_update
from policies.rankers.slate_examples import SlateExamples
from policies.rankers.two_tower import TwoTowerRanker
from policies.rankers.two_tower_fit import loss_of

VISITS = 32
"""Visits of a step: one at a time would take ten times as long and is noisier."""
ADAGRAD_RATE, ADAM_RATE = 0.01, 5e-4
"""Learning rates, which do not fall: a stream has no end."""

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Online(Update):
    """Takes one step for each `VISITS` visits, in the order in which they were served."""

    def __init__(self, start: Start, make: MakeOptimizer) -> None:
        """Begin with a copy of the ranker.

        Args:
            start: What the update starts from.
            make: Makes the optimiser of the parameters.
        """
        super().__init__(start)
        self._model = copy.deepcopy(start.ranker.model)
        self._optimizer = make(self._model.parameters())

    def after_day(self, day: SlateExamples) -> None:
        """Learn from the visits of the day, once."""
        for rows in torch.arange(len(day), device=day.slates.device).split(VISITS):
            self._optimizer.zero_grad()
            loss_of(self._model, day, rows).backward()
            self._optimizer.step()
        self.ranker = TwoTowerRanker(copy.deepcopy(self._model))


@register_update("online_adagrad")
def online_adagrad(start: Start) -> Update:
    """Learn visit by visit with AdaGrad."""
    return Online(start, lambda weights: torch.optim.Adagrad(weights, lr=ADAGRAD_RATE))


@register_update("online_adam")
def online_adam(start: Start) -> Update:
    """Learn visit by visit with Adam."""
    return Online(start, lambda weights: torch.optim.Adam(weights, lr=ADAM_RATE))
