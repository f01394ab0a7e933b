"""Everything that is found about a fitted simulator, as plain data for files and reports."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from recsim_env.verdicts.closed_loop import ClosedLoop
from recsim_env.verdicts.counterfactual import Counterfactual
from recsim_env.verdicts.ratios import Ratio
from recsim_env.verdicts.scores import Score
from recsim_env.verdicts.spread import Spread
from recsim_env.verdicts.verdict import Verdict


@dataclass(frozen=True)
class ShownItem:
    """An item of a sampled slate."""

    title: str
    """Title of the item."""
    category: str
    """Name of its category."""
    clicked: bool
    """Whether it was clicked."""
    chance: float
    """The click chance that the model predicted."""


@dataclass(frozen=True)
class SampledVisit:
    """A held-out slate as it was shown, top first."""

    user: int
    """Number of the held-out episode."""
    visit: int
    """Number of the slate, from 0."""
    policy: str
    """Name of the logging policy, or `unknown`."""
    items: tuple[ShownItem, ...]
    """What was shown."""


@dataclass(frozen=True)
class Findings:
    """Everything that is found about a fitted simulator."""

    model: str
    """Name of the judged model in scores and tables."""
    counts: dict[str, int]
    """Users, slates, rows and clicks of both parts of the log, by name."""
    verdicts: list[Verdict]
    """One for each question."""
    clicks: list[Score]
    """Scores of clicks, of the model and of its baselines."""
    leaving: list[Score] = field(default_factory=list)
    """Scores of leaving, likewise."""
    leaving_by_visit: list[Ratio] = field(default_factory=list)
    """Predicted over observed leavings by number of the slate, shrunk; see `ratios.by_visit`."""
    ratios: dict[str, list[Ratio]] = field(default_factory=dict)
    """Title -> predicted over observed clicks by group."""
    closed_loop: list[ClosedLoop] = field(default_factory=list)
    """Logging policies played again in the simulator."""
    counterfactual: list[Counterfactual] = field(default_factory=list)
    """Policies that were hidden from a fit."""
    spread: list[Spread] = field(default_factory=list)
    """Disagreement of the members of an ensemble."""
    notes: list[str] = field(default_factory=list)
    """What was left out and why, one sentence each."""
    visits: list[SampledVisit] = field(default_factory=list)
    """Some held-out slates."""

    def verdict(self, topic: str) -> Verdict:
        """Look a verdict up by its topic.

        Raises:
            KeyError: If there is none.
        """
        for one in self.verdicts:
            if one.topic == topic:
                return one
        raise KeyError(f"topic is {topic!r}, but the verdicts are on {self.topics}.")

    @property
    def topics(self) -> list[str]:
        """Topics of the verdicts."""
        return [one.topic for one in self.verdicts]

    def plain(self) -> dict[str, Any]:
        """Give everything as JSON values; numbers that are not defined become None."""
        found: dict[str, Any] = _plain(dataclasses.asdict(self))
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
