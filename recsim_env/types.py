"""What goes into and comes out of a batched visit.

Dimensions used everywhere: B shoppers, K slate positions, C candidates (padded with -1), N
catalogue items, H remembered slates, E item-embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from recsim_env.checks import told

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
    """(B,) each: `clicks` int64 responses in the slate, `reward_terms/<name>` float32 each term
    before its weight, `invalid_items` int64 positions repeated or holding no candidate, `gap_days`
    float32 days until the next visit, `elsewhere` float32 items bought in the visit outside the
    slate, `day` float32 days since the episode began."""

    @property
    def ended(self) -> Tensor:
        """(B,) bool, the episode is over, for either reason."""
        return self.terminated | self.truncated


@dataclass(frozen=True)
class Step(Outcome):
    """An outcome together with what the shop knows at the next visit."""

    observation: Observation
    """What the shop knows at the next visit, `SlateSimulator.observation_space` with a first
    dimension of B."""


class Policy(Protocol):
    """Turns what the shop knows about B shoppers into a slate for each."""

    @property
    def draws(self) -> int:
        """How many uniform numbers a slate takes; 0 = deterministic."""

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) int64, top position first; draws (B, draws) uniform in [0, 1).

        Distinct candidates wherever there are K of them; else the first one again at the positions
        left over.
        """


def best_device(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, or the best there is where none is asked for.

    Raises:
        ValueError: If the device is unknown, is neither a CPU nor a CUDA GPU, or is a GPU that is
            not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = "it must be 'cpu', 'cuda' or 'cuda:0', 'cuda:1', .., or None for the best there is."
    try:
        asked = torch.device(device) if isinstance(device, (str, torch.device)) else None
    except RuntimeError as error:
        raise ValueError(f"device is {told(device)}, but {expected}") from error
    if asked is None or asked.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {told(device)}, but {expected}")
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {told(device)}, but torch sees {torch.cuda.device_count()} GPUs here; {expected}"
        )
    return asked


def to_numpy(tensor: Tensor) -> Any:
    """A numpy copy of a tensor: never its memory."""
    return tensor.detach().cpu().numpy().copy()
