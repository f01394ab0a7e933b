"""The best of many scores, best first, and the earlier place first among equals.

A score and its place are one number, a *key*: sorting the keys sorts both, the same on every device
and for every size. On a CPU NumPy partitions and sorts them, which takes a tenth of the time of
`torch.topk` there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_PLACES = 2**32


def best_of(scores: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The `size` largest scores of each row and their places, best first.

    Shapes: scores (B, S) float32 without NaN; returns two tensors (B, size), float32 and int64.
    """
    keys = smallest(keys_of(scores, torch.arange(scores.shape[1], device=scores.device)), size)
    return scores_of(keys), places_of(keys)


def keys_of(scores: Tensor, places: Tensor) -> Tensor:
    """Keys (B, S) int64 of scores (B, S) float32 at places (B, S) or (S,) int64, best = smallest.

    Floats are ordered as their bits are, but for the sign; 0 and -0 are one.
    """
    bits = (scores + 0.0).view(torch.int32)
    falling = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits).bitwise_not_()
    return falling.long().mul_(_PLACES).add_(places)


def places_of(keys: Tensor) -> Tensor:
    """The places at which keys were made."""
    return keys & (_PLACES - 1)


def scores_of(keys: Tensor) -> Tensor:
    """The scores of which keys were made."""
    rising = (keys >> 32).int().bitwise_not_()
    return (rising ^ ((rising >> 31) & 0x7FFFFFFF)).view(torch.float32)


NOTHING = int(keys_of(torch.tensor([-math.inf]), torch.tensor([0])))
"""The key of a score of -inf at the first place."""


def smallest(keys: Tensor, size: int) -> Tensor:
    """The `size` smallest keys of each row (B, S), sorted; keys may be changed."""
    if keys.device.type != "cpu":
        return keys.topk(size, dim=1, largest=False).values
    array = keys.numpy()
    if size < array.shape[1]:
        array.partition(size - 1, axis=1)
        array = array[:, :size]
    return torch.from_numpy(np.sort(array, axis=1))


def first_largest(scores: Tensor) -> Tensor:
    """The place of the largest score of each row, the first one among equals.

    On a CPU NumPy takes a fifth of the time of `torch.max`.

    Shapes: scores (B, S) without NaN; returns (B,) int64.
    """
    if scores.device.type != "cpu":
        return scores.max(dim=1).indices
    return torch.from_numpy(scores.detach().numpy().argmax(axis=1).astype(np.int64, copy=False))
