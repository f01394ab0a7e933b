"""The weights of yesterday, trained further on today: alone, or with a replay of what was before.

Replay: Rolnick et al. 2019, "Experience replay for continual learning".
"""

from __future__ import annotations

from dataclasses import replace

import torch

from agents.updates.base import Start, Update, register_update
from policies.rankers.slate_examples import SlateExamples
from policies.rankers.two_tower_fit import go_on

EPOCHS, RATE, BATCH = 2, 1e-3, 256
"""Passes over a day, initial learning rate, and slates of a step: a day is small, and the weights
are good already."""


@register_update("warm_start")
class WarmStart(Update):
    """Trains the ranker further on each day."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._config = replace(start.config, epochs=EPOCHS, learning_rate=RATE, batch_size=BATCH)

    def after_day(self, day: SlateExamples) -> None:
        """Train on the day."""
        self.ranker = go_on(self.ranker, self._with_others(day), self._config)

    def _with_others(self, day: SlateExamples) -> SlateExamples:
        """Return what is trained on after a day."""
        return day


@register_update("warm_replay")
class WarmReplay(WarmStart):
    """Trains on each day and on as many slates from all the days before."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._before = [start.log]
        self._generator = torch.Generator().manual_seed(start.seed)

    def _with_others(self, day: SlateExamples) -> SlateExamples:
        before = SlateExamples.join(self._before)
        rows = torch.randperm(len(before), generator=self._generator)[: len(day)]
        self._before.append(day)
        return SlateExamples.join([day, before.take(rows.to(day.slates.device))])
