"""Small tensor functions that simulator, shoppers and policies share."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


def looked_up(table: Tensor, ids: Tensor) -> Tensor:
    """`table[ids]`, on a CPU in a fifth of the time: table (N, ..), ids (..) int64 >= 0."""
    return table.index_select(0, ids.flatten()).view(*ids.shape, *table.shape[1:])


def widest(device: torch.device) -> torch.dtype:
    """The widest floating-point type that a device computes with: float64, but for Apple's and Intel's GPUs."""
    return torch.float32 if device.type in ("mps", "xpu") else torch.float64


def widened(values: Tensor) -> Tensor:
    """In the widest floating-point type of their device: float64 wherever there is one."""
    return values.double() if values.is_cpu or values.is_cuda else values.to(widest(values.device))


def shared(rows: Tensor) -> bool:
    """Whether rows (B, ..) are one and the same for everybody, as the memory tells: expanded, not a row each."""
    return len(rows) == 1 or (len(rows) > 1 and rows.stride(0) == 0)


def places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (P,) int64 where a mask (B, L) holds; all of them where to know it is to wait for the device."""
    if mask.device.type == "cpu":
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    rows = torch.arange(mask.shape[0], device=mask.device).repeat_interleave(mask.shape[1])
    return rows, torch.arange(mask.shape[1], device=mask.device).repeat(mask.shape[0])


def repeated(items: Tensor) -> Tensor:
    """Which items (..., L) stand further to the front already: (..., L) bool; padding is an item like any."""
    length = items.shape[-1]
    before = torch.ones(length, length, dtype=torch.bool, device=items.device).tril(-1)
    return ((items.unsqueeze(-1) == items.unsqueeze(-2)) & before).any(dim=-1)


def first_places(slates: Tensor) -> Tensor:
    """(..., K) bool: False at -1 and where the item stands above already; only these positions are shown."""
    return ~repeated(slates) & (slates >= 0)


def among(items: Tensor, others: Tensor, n_items: int) -> Tensor:
    """Which items of a row are among others of the same row; padding, -1, is an item like any.

    The others are marked in a row of all items: L x M comparisons would take several times as long.

    Shapes: items (B, L) and others (B, M) int64 from -1 to n_items - 1; returns (B, L) bool.
    """
    marked = torch.zeros(len(items), n_items + 1, dtype=torch.bool, device=items.device)
    return marked.scatter_(1, others + 1, True).gather(1, items + 1)


def large_zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Zeros (shape) float32. On a CPU the system hands out their memory, zeros already, when it is
    first written to: that takes half the time of writing zeros, of tens of megabytes.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, dtype=np.float32))
    return torch.zeros(shape, dtype=torch.float32, device=device)


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """These numbers as a tensor of the type and on the device of `like`; shared, not to be written into.

    Made once: what a step makes anew out of Python's numbers, it waits for a GPU to receive.
    """
    return _constant(values, like.dtype, like.device)


@functools.cache
@torch.inference_mode(False)  # whoever asks first, others may learn with it
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
