"""Fitted models that answer together: their mean chance, less or more for what they do not agree on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsim_env import checks


def mean(parts: Sequence[Tensor]) -> Tensor:
    """Mean over the members: tensors of one shape, one a member; that of a single member is handed through."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).mean(dim=0)


def agreed(chances: Sequence[Tensor], deviations: Tensor | float) -> Tensor:
    """Mean of the members' chances plus so many standard deviations of them, within 0 and 1.

    Yu et al. 2020, "MOPO: Model-based offline policy optimization", equations 5 and 6, put on the
    chances themselves so that every reward term feels the penalty. A single member's chances are
    handed through: it agrees with itself.

    Shapes: chances (...) float32, one a member; deviations a number, or a tensor that broadcasts to
    (...).
    """
    if len(chances) == 1:
        return chances[0]
    every = torch.stack(list(chances))
    return (every.mean(dim=0) + deviations * every.std(dim=0, correction=0)).clamp(0, 1)


def check_ensemble(ensemble: object) -> int:
    """How many members answer together.

    Raises:
        ValueError: If it is no whole number above 0.
    """
    return checks.whole("ensemble", ensemble, 1)


def check_pessimism(pessimism: object) -> float:
    """Standard deviations of doubt.

    Raises:
        ValueError: If they are negative or not finite.
    """
    return checks.number("pessimism", pessimism, 0)
