"""Click models of SlateQ, and the best slate under each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

BELIEVED_CLICKS = 10.0
"""Weight, in expected clicks per position, of the prior that every position is examined."""
TINY = 1e-30
"""Lower bound of a denominator, so that a pool without items divides nothing by 0."""


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


def greedy(appeal: Tensor, gains: Tensor, none: float, size: int) -> Tensor:
    """Repeatedly adds the item that maximises the value of the slate (Ie et al. 2019, section 5).

    The value of a slate is sum(appeal * gain) / (none + sum(appeal)), the gain that is expected
    from a single choice.

    Args:
        appeal: as in `top_k`
        gains: as in `top_k`
        none: appeal of clicking nothing
        size: number of items

    Shapes: as in `top_k`.
    """
    weighted, taken = appeal * gains, appeal <= 0
    value, mass = torch.zeros_like(appeal[:, :1]), torch.full_like(appeal[:, :1], none)
    places = []
    for _ in range(min(size, appeal.shape[1])):
        worth = (value + weighted) / (mass + appeal).clamp(min=TINY)
        chosen = worth.masked_fill(taken, -torch.inf).argmax(dim=1, keepdim=True)
        value, mass = value + weighted.gather(1, chosen), mass + appeal.gather(1, chosen)
        taken = taken.scatter(1, chosen, True)
        places.append(chosen)
    return torch.cat(places, dim=1)


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


class SingleChoice:
    """The conditional logit model, in which a shopper clicks one item or none.

        P(i | A) = exp(logit_i) / (none + sum over A of exp(logit))

    Args:
        none: appeal of clicking nothing
        quick: find slates by `top_k` instead of `greedy`

    Raises:
        ValueError: If `none` is not above 0.
    """

    def __init__(self, none: float, *, quick: bool = False) -> None:
        if not none > 0:
            raise ValueError(
                f"none is {none!r}, but the appeal of clicking nothing must be above 0."
            )
        self.none = none
        self.quick = quick

    def chances(self, logits: Tensor) -> Tensor:
        """Click probability (B, K) of each position."""
        appeal = logits.exp()
        return appeal / (self.none + appeal.sum(dim=1, keepdim=True))

    def best(self, logits: Tensor, gains: Tensor, size: int) -> Tensor:
        """Pool indices (B, min(size, P)) of a nearly optimal slate."""
        appeal = logits.exp()
        return top_k(appeal, gains, size) if self.quick else greedy(appeal, gains, self.none, size)

    def learn(self, logits: Tensor, clicks: Tensor, shown: Tensor) -> None:
        """Do nothing: the model has no parameter to learn."""

    def state(self) -> dict[str, Tensor]:
        """An empty dictionary, since nothing is learned."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing: there is nothing to restore."""


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
