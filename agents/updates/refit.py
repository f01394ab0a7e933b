"""A fit from new weights to everything that was logged, every day."""

from __future__ import annotations

from agents.updates.base import Start, Update, register_update
from policies.rankers.slate_examples import SlateExamples
from policies.rankers.two_tower_fit import fit_examples


@register_update("refit")
class Refit(Update):
    """Forgets its weights and keeps its data: as slow as the log is long."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._days = [start.log]

    def after_day(self, day: SlateExamples) -> None:
        """Fit to all days so far."""
        self._days.append(day)
        log, catalog = SlateExamples.join(self._days), self.start.inputs.catalog
        self.ranker = fit_examples(log, catalog, self.start.config)
