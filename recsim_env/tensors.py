"""Small tensor functions that simulator, shoppers and policies share."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


def looked_up(table: Tensor, ids: Tensor) -> Tensor:
    """Return `table[ids]`, which takes a fifth of the time on a CPU.

    Args:
        table: (N, ..).
        ids: (..) int64, 0 or more.
    """
    return table.index_select(0, ids.flatten()).view(*ids.shape, *table.shape[1:])


def filled_up(rows: Tensor, size: int) -> Tensor:
    """Pad rows (B, K) with zeros to `size` columns; rows of as many come back as they are."""
    missing = size - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, missing)) if missing else rows


def widest(device: torch.device) -> torch.dtype:
    """Return the widest floating-point type of a device, float64 on CPUs and CUDA GPUs."""
    return torch.float32 if device.type in ("mps", "xpu") else torch.float64


def widened(values: Tensor) -> Tensor:
    """Convert values to the widest floating-point type of their device."""
    return values.double() if values.is_cpu or values.is_cuda else values.to(widest(values.device))


def shared(rows: Tensor) -> bool:
    """Tell whether rows (B, ..) are one row for everybody: expanded memory, not a row each."""
    return len(rows) == 1 or (len(rows) > 1 and rows.stride(0) == 0)


def places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns (P,) int64 where a mask (B, L) holds.

    On a GPU they are all rows and columns: counting those that hold would force a synchronisation.
    """
    if mask.device.type == "cpu":
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    rows = torch.arange(mask.shape[0], device=mask.device).repeat_interleave(mask.shape[1])
    return rows, torch.arange(mask.shape[1], device=mask.device).repeat(mask.shape[0])


def repeated(items: Tensor) -> Tensor:
    """Tell which items (..., L) stand further to the front already: (..., L) bool.

    Padding counts as an item.
    """
    length = items.shape[-1]
    before = torch.ones(length, length, dtype=torch.bool, device=items.device).tril(-1)
    return ((items.unsqueeze(-1) == items.unsqueeze(-2)) & before).any(dim=-1)


def first_places(slates: Tensor) -> Tensor:
    """Tell which positions (..., K) can be shown: (..., K) bool.

    A position is False at -1 and where its item stands above already.
    """
    return ~repeated(slates) & (slates >= 0)


def among(items: Tensor, others: Tensor, n_items: int) -> Tensor:
    """Tell which items of a row are among others of the same row: (B, L) bool.

    The others are marked in a row of all items: L x M comparisons would take several times as long.
    Padding, -1, counts as an item.

    Args:
        items: (B, L) int64 from -1 to n_items - 1.
        others: (B, M) int64 from -1 to n_items - 1.
        n_items: N.
    """
    marked = torch.zeros(len(items), n_items + 1, dtype=torch.bool, device=items.device)
    return marked.scatter_(1, others + 1, True).gather(1, items + 1)


def large_zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return zeros of a shape, float32.

    On a CPU the system hands out zeroed memory when it is first written to, which takes half the
    time of writing tens of megabytes of zeros.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, dtype=np.float32))
    return torch.zeros(shape, dtype=torch.float32, device=device)


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return numbers as a tensor of the type and on the device of `like`.

    It is shared and must not be written into. It is made once: a tensor that a step makes of
    Python's numbers must be sent to a GPU, which takes a synchronisation.
    """
    return _constant(values, like.dtype, like.device)


@functools.cache
@torch.inference_mode(False)  # whoever asks first, others may learn with it
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
