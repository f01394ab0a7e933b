"""The curve of a training, as its monitor logged it for TensorBoard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RETURN = "evaluation/return"
"""The tag of the mean return of an evaluation, at the policy's most likely action."""


@dataclass(frozen=True)
class Curve:
    """Evaluations of a training.

    Shapes: T evaluations.
        visits:  (T,) visits so far
        returns: (T,) mean return of an episode
    """

    visits: np.ndarray
    returns: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> Curve:
        """Read the events in the folder of a training seed."""
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        points = events.Scalars(RETURN)
        return cls(
            np.array([point.step for point in points]),
            np.array([point.value for point in points]),
        )

    def passed(self, level: float) -> int | None:
        """The first evaluation from which on the return stays above a level, or None."""
        below = np.flatnonzero(self.returns <= level)
        first = int(below[-1]) + 1 if len(below) else 0
        return first if first < len(self.returns) else None
