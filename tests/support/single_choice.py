"""The click model of the SlateQ paper, with its search for slates: what the agents are held against.

Shoppers of the simulator may click several positions, so no agent uses it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from agents.slateq.choices import top_k

TINY = 1e-30
"""Lower bound of a denominator, so that a pool without items divides nothing by 0."""


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
