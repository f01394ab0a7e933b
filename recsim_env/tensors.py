"""Small tensor functions that simulator, shoppers and policies share."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NARROW = 32
"""Numbers of a row, at most, that `looked_up` takes one by one on a GPU."""
ROOM = 2048
"""Places that a list of fixed length has beyond the usual ones, see `places`."""


def looked_up(table: Tensor, ids: Tensor) -> Tensor:
    """Return `table[ids]`, which takes a fifth of the time on a CPU.

    Args:
        table: (N, ..), contiguous.
        ids: (..) int64, 0 or more.
    """
    if table.is_cuda and table.ndim > 1 and table.shape[1:].numel() <= NARROW:
        return looked_up_by_number(table, ids)
    return table.index_select(0, ids.flatten()).view(*ids.shape, *table.shape[1:])


def looked_up_by_number(table: Tensor, ids: Tensor) -> Tensor:
    """Return `table[ids]`, number by number: torch's kernels on a GPU take a block for each row."""
    width = table.shape[1:].numel()
    columns = torch.arange(width, device=table.device)
    at = ids.flatten().unsqueeze(1) * width + columns
    return table.view(-1).take(at).view(*ids.shape, *table.shape[1:])


def filled_up(rows: Tensor, size: int) -> Tensor:
    """Pad rows (B, K) with zeros to `size` columns; rows of as many come back as they are."""
    missing = size - rows.shape[1]
    return F.pad(rows, (0, missing)) if missing else rows


def widest(device: torch.device) -> torch.dtype:
    """Return the widest floating-point type of a device, float64 on CPUs and CUDA GPUs."""
    return torch.float32 if device.type in ("mps", "xpu") else torch.float64


def widened(values: Tensor) -> Tensor:
    """Convert values to the widest floating-point type of their device."""
    return values.double() if values.is_cpu or values.is_cuda else values.to(widest(values.device))


def running_sums(rows: Tensor) -> Tensor:
    """Return `rows.cumsum(-1)` of short rows (..., K) of finite numbers.

    On a GPU it is a product with a triangle of ones, which takes a fifth of the time.
    """
    return rows.cumsum(dim=-1) if rows.is_cpu else summed_by_product(rows)


def summed_by_product(rows: Tensor) -> Tensor:
    """Return `rows.cumsum(-1)` by a product of matrices."""
    size = rows.shape[-1]
    return rows @ torch.ones(size, size, dtype=rows.dtype, device=rows.device).triu()


def shared(rows: Tensor) -> bool:
    """Tell whether rows (B, ..) are one row for everybody: expanded memory, not a row each."""
    if rows.ndim == 0:
        return False
    return len(rows) == 1 or (len(rows) > 1 and rows.stride(0) == 0)


def copied(rows: Tensor) -> Tensor:
    """Copy rows (B, ..); one row for everybody stays one row."""
    return rows[:1].clone().expand(rows.shape) if shared(rows) else rows.clone()


def copy_into(rows: Tensor, fresh: Tensor) -> None:
    """Copy rows (B, ..) into others, in place; one row for everybody is written once."""
    if shared(rows) and shared(fresh):
        rows, fresh = rows[:1], fresh[:1]
    rows.copy_(fresh)


class Places(NamedTuple):
    """Places of a mask (B, L) where it holds, P of them."""

    rows: Tensor
    """(P,) int64, ascending but for what fills the list up."""
    columns: Tensor
    """(P,) int64, in each row from left to right."""
    held: Tensor | None
    """(P,) bool, False where a place only fills the list up; None where all are real."""


def places(mask: Tensor, usual: int | None = None) -> Places:
    """Return where a mask (B, L) holds, row by row.

    On a GPU the list has a fixed length, for counting what holds would force a synchronisation, and
    steps of one shape alone can be captured in a CUDA graph.

    Args:
        mask: (B, L) bool.
        usual: How many places of a row hold at most, on average over the rows. The list then has
            that many a row, and `ROOM` beyond; if more hold, the device raises an error, which
            torch reports at a later call. None means all L. On a CPU it changes nothing.
    """
    batch, length = mask.shape
    if mask.device.type == "cpu":
        held_rows, held_columns = mask.nonzero(as_tuple=True)
        return Places(held_rows, held_columns, None)
    room = batch * length if usual is None else min(batch * usual + ROOM, batch * length)
    if room == batch * length:
        rows = torch.arange(batch, device=mask.device).repeat_interleave(length)
        columns = torch.arange(length, device=mask.device).repeat(batch)
        return Places(rows, columns, mask.flatten())
    found = listed(mask, room)
    torch._assert_async(found.fits, f"more than {usual} places of a row hold on average")
    return found.places


class Listed(NamedTuple):
    """A list of places of fixed length."""

    places: Places
    fits: Tensor
    """() bool, whether all places that hold are on the list."""


def listed(mask: Tensor, room: int) -> Listed:
    """Return the first `room` places where a mask (B, L) holds.

    The list is filled up with places of many rows: what is then done at a place of all of them at
    once would have to wait for each other.
    """
    holds = mask.flatten()
    room = min(room, len(holds))
    number = holds.cumsum(0)
    order = torch.arange(len(holds), device=mask.device)
    at = order[: room + 1].clone() if room < len(holds) else F.pad(order, (0, 1))
    at = at.scatter_(0, (number - 1).where(holds, room).clamp(max=room), order)[:room]
    length = mask.shape[1]
    found = Places(at // length, at % length, order[:room] < number[-1])
    return Listed(found, number[-1] <= room)


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


@functools.cache
@torch.inference_mode(False)
def numbered(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Return whole numbers as an int64 tensor on a device, shared and made once as `constant`."""
    return torch.tensor(values, dtype=torch.int64, device=device)


def is_dense(value: Any, dtype: torch.dtype | None = None) -> bool:
    """Tell whether a value is a dense tensor, of a type where one is given."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    return dense and (dtype is None or value.dtype == dtype)
