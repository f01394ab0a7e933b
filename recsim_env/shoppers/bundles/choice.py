"""What is taken of a bundle: the multivariate logit model of a basket.

A shopper takes the basket S, any subset of the items shown, with chance

    P(S) = exp(V(S)) / sum over all subsets S' of exp(V(S'))
    V(S) = sum over i in S of u_i + sum over pairs {i, j} in S of c_ij + [S is whole] r

where u_i is the utility of an item on its own at its own price, c_ij that of the pair, and r the
response to the discount, which holds for the whole alone. Russell & Petersen 2000, "Analysis of
cross category dependence in market basket selection", equation 5, who derive it from the condition
that each item is taken by a logit model given the others; as an auto-logistic model: Cox 1972, "The
analysis of multivariate binary data". Without pairs and discount the items are taken independently,
each with the chance sigmoid(u_i). All 2^K subsets are counted, so that every chance is exact.

Sums over items and pairs are taken one by one, so that a shopper's chances are the same in every
batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.shoppers.base import is_bundle

MOST_ITEMS = 8
"""Largest bundle, of which 256 subsets are counted."""


@functools.cache
@torch.inference_mode(False)  # whoever asks first, others may learn with it
def subsets(size: int, device: torch.device) -> Tensor:
    """Return every subset of a bundle: (2^K, K) bool; item j is in subset n with the bit j."""
    numbers = torch.arange(2**size, device=device).unsqueeze(1)
    return (numbers >> torch.arange(size, device=device)) % 2 == 1


@dataclass(frozen=True)
class Chances:
    """The chances of every answer to a bundle. Shapes: B shoppers, K items, S = 2^K subsets."""

    subset: Tensor
    """(B, S) float32, of each subset, in the order of `subsets`; the first takes nothing."""
    item: Tensor
    """(B, K) float32, of each item, in whatever basket."""
    whole: Tensor
    """(B,) float32, that all items shown are taken; 0 where fewer than two are shown."""

    @property
    def none(self) -> Tensor:
        """(B,) float32, that nothing is taken."""
        return self.subset[:, 0]

    @property
    def part(self) -> Tensor:
        """(B,) float32, that some items are taken and others are not."""
        return (1 - self.none - self.whole).clamp(min=0)


def chances(single: Tensor, pair: Tensor, response: Tensor, shown: Tensor) -> Chances:
    """Return the chance of every answer to a bundle.

    Args:
        single: (B, K) float32, the utility of each item.
        pair: (B, K, K) float32, that of each pair; what stands above the diagonal is read.
        response: (B,) float32, what the discount adds to the whole.
        shown: (B, K) bool; what is not shown cannot be taken.
    """
    size = shown.shape[1]
    taken = subsets(size, shown.device)
    number = whole_number(shown).unsqueeze(1)

    # the utility of every subset
    value = torch.zeros(len(shown), len(taken), dtype=torch.float32, device=shown.device)
    for i in range(size):
        value += single[:, i : i + 1] * taken[:, i]
        for j in range(i + 1, size):
            value += pair[:, i, j].unsqueeze(1) * (taken[:, i] & taken[:, j])
    bundle = is_bundle(shown)
    value.scatter_add_(1, number, (response * bundle).unsqueeze(1))  # none for a single item

    # subsets with what is not shown have no chance
    absent = (taken & ~shown.unsqueeze(1)).any(dim=2)
    subset = torch.softmax(value.masked_fill(absent, -torch.inf), dim=1)
    item = torch.stack([(subset * taken[:, i]).sum(dim=1) for i in range(size)], dim=1)
    whole = subset.gather(1, number).squeeze(1) * bundle
    return Chances(subset, item.clamp(max=1), whole.clamp(max=1))


def drawn(found: Chances, draws: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Draw what is taken.

    Args:
        found: The chances.
        draws: (B,) float32, uniform in [0, 1).
        shown: (B, K) bool.

    Returns:
        (B, K) bool, what is taken, and (B,) bool, whether that is the whole of a bundle.
    """
    upto = found.subset.cumsum(dim=1)
    number = (upto <= draws.unsqueeze(1) * upto[:, -1:]).sum(dim=1)
    taken = subsets(shown.shape[1], shown.device)
    clicks = taken[number.clamp(max=len(taken) - 1)] & shown
    return clicks, (clicks == shown).all(dim=1) & is_bundle(shown)


def whole_number(shown: Tensor) -> Tensor:
    """Return the number (B,) int64 of the subset that holds all that is shown."""
    bits = 2 ** torch.arange(shown.shape[1], device=shown.device)
    return (shown * bits).sum(dim=1)
