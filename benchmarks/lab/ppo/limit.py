"""A limit on the mean of a term as options of a command."""

from __future__ import annotations

from dataclasses import dataclass

from agents.ppo.constrained import ConstrainedConfig
from agents.ppo.constraint import Constraint, Direction
from recsim_env.settings import settle

NEEDED = ("term", "direction", "limit")
"""Options without which there is no limit."""


@dataclass(frozen=True)
class LimitOptions:
    """A limit on the mean of a reward term per visit; either nothing of it is told, or all of it.

    Nothing is at least 0.95 times the clicks of greedy CTR.
    """

    term: str | None = None
    """Name of the reward term. It needs a direction and a limit beside it."""
    direction: Direction | None = None
    """Whether the mean has to be at least or at most the limit."""
    limit: float | None = None
    """The limit, in the unit of the term for one visit; with `relative`, as a multiple of the mean
    of greedy CTR."""
    relative: bool = False
    """Whether the limit is a multiple of what greedy CTR reaches on the same shoppers. Without it
    the limit is in the unit of the term."""

    def __post_init__(self) -> None:
        """Check every option, and that none is missing where another one is told.

        Raises:
            ValueError: If an option is not as said, or is missing.
        """
        settle(self)
        missing = [name for name in NEEDED if getattr(self, name) is None]
        if self.told and missing:
            raise ValueError(
                f"constraint.{missing[0]} is missing beside constraint.{self.told[0]}, but a limit "
                "must be told whole, by term, direction and limit, or not at all."
            )

    @property
    def told(self) -> list[str]:
        """The names of the options that are told."""
        found = [name for name in NEEDED if getattr(self, name) is not None]
        return found + (["relative"] if self.relative else [])

    @property
    def constraint(self) -> Constraint:
        """The limit as it is told, or the agent's own where none is."""
        if self.term is None or self.direction is None or self.limit is None:
            return ConstrainedConfig().constraint
        return Constraint(self.term, self.direction, self.limit, self.relative)
