"""The click model of SlateQ, and the best slate under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

BELIEVED_CLICKS = 10.0
"""Weight, in expected clicks per position, of the prior that every position is examined."""


def top_k(appeal: Tensor, gains: Tensor, size: int) -> Tensor:
    """The items with the largest appeal * gain, best first.

    This is the heuristic of Ie et al. 2019, section 5, there with `Q(s, none)` = 0.

    Shapes:
        appeal:  (B, P) not negative; 0 means that there is no item
        gains:   (B, P)
        returns: (B, min(size, P)) int64 pool indices
    """
    scores = (appeal * gains).masked_fill(appeal <= 0, -torch.inf)
    return scores.topk(min(size, scores.shape[1]), dim=1).indices


class Choice(Protocol):
    """A model of how shoppers click in a slate."""

    def chances(self, logits: Tensor) -> Tensor:
        """Click probability (B, K) of each position, from the logits (B, K) of a slate."""

    def best(self, logits: Tensor, gains: Tensor, size: int) -> Tensor:
        """The slate with the largest expected gain.

        Shapes:
            logits:  (B, P)
            gains:   (B, P)
            returns: (B, min(size, P)) int64 pool indices, top position first
        """

    def learn(self, logits: Tensor, clicks: Tensor, shown: Tensor) -> None:
        """Update the model from B slates: logits (B, K), clicks (B, K) bool, shown (B, K) bool."""

    def state(self) -> dict[str, Tensor]:
        """What the model has learned, for `restore`."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of `state`."""


class PositionBased:
    """The position-based model, in which every position is clicked independently of the others.

        P(i at position j) = e_j sigmoid(logit_i)

    Independence is what makes `top_k` exact. The examination probabilities e_j are estimated as
    clicks at a position divided by the clicks that the logits predicted there, so they also absorb
    a bias of the logits. They affect the value of a slate and, as long as they decrease with the
    position, not which slate is best.

    Args:
        size: K, number of positions
        device: where the counts are kept
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self._clicks = torch.full((size,), BELIEVED_CLICKS, dtype=torch.float64, device=device)
        self._promised = self._clicks.clone()

    @property
    def examination(self) -> Tensor:
        """(K,) float32, the estimated probability e_j that a position is examined."""
        return (self._clicks / self._promised).float()

    def chances(self, logits: Tensor) -> Tensor:
        """Click probability (B, K) of each position."""
        return (torch.sigmoid(logits) * self.examination[: logits.shape[1]]).clamp(max=1)

    def best(self, logits: Tensor, gains: Tensor, size: int) -> Tensor:
        """Pool indices (B, min(size, P)) of the best slate."""
        return top_k(torch.sigmoid(logits), gains, size)

    def learn(self, logits: Tensor, clicks: Tensor, shown: Tensor) -> None:
        """Add up the clicks, and the clicks that the logits predicted, of each position."""
        width = logits.shape[1]
        self._clicks[:width] += (clicks & shown).double().sum(dim=0)
        self._promised[:width] += (torch.sigmoid(logits) * shown).double().sum(dim=0)

    def state(self) -> dict[str, Tensor]:
        """The clicks and the predicted clicks of each position."""
        return {"clicks": self._clicks, "promised": self._promised}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue with the counts of `state`."""
        self._clicks, self._promised = state["clicks"], state["promised"]
