"""What goes into and comes out of a batched visit.

Dimensions used everywhere: B shoppers, K slate positions, C candidates (padded with -1), N catalogue items,
H remembered slates, E item-embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Observation = dict[str, Tensor]
"""What the shop knows about B shoppers: one tensor a key, the first dimension is B."""

MAX_DAYS = 36_500.0
"""Upper bound of every number of days in an observation space: a hundred years."""


@dataclass(frozen=True)
class Outcome:
    """What one visit of each shopper led to. Shapes: B shoppers."""

    reward: Tensor
    """(B,) float32, the weighted sum of the reward terms."""
    terminated: Tensor
    """(B,) bool, the shopper lapsed: there is no next visit."""
    truncated: Tensor
    """(B,) bool, the next visit falls after the horizon, and the shopper did not lapse."""
    info: dict[str, Tensor]
    """(B,) each: `clicks` int64 responses in the slate, `reward_terms/<name>` float32 each term before its weight,
    `invalid_items` int64 positions repeated or holding no candidate, `gap_days` float32 days until the next visit,
    `elsewhere` float32 items bought in the visit outside the slate, `day` float32 days since the episode began."""

    @property
    def ended(self) -> Tensor:
        """(B,) bool, the episode is over, for either reason."""
        return self.terminated | self.truncated


@dataclass(frozen=True)
class Step(Outcome):
    """An outcome together with what the shop knows at the next visit."""

    observation: Observation
    """What the shop knows at the next visit, `SlateSimulator.observation_space` with a first dimension of B."""


def best_device(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, or the best there is where none is asked for.

    Errors: ValueError where the device is unknown, or is a GPU that is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}, but it must be a torch device such as 'cpu' or 'cuda'.") from error
    if asked.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no GPU here; use 'cpu', or None for the best there is.")
    return asked


def to_numpy(tensor: Tensor) -> Any:
    """A numpy copy of a tensor: never its memory."""
    return tensor.detach().cpu().numpy().copy()
