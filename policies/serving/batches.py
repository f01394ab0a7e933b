"""What is known of one shopper or several, as a shop tells it: checked, and made a batch.

A shop hands in arrays, lists or tensors, of one shopper or of B shoppers; policies and beliefs take
tensors (B, ...) of the types of the space.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policies.observations import dtype_of
from recsim_env import checks
from recsim_env.catalog import Catalog


def as_batch(
    observation: Any, space: spaces.Dict, catalog: Catalog, unasked: Collection[str] = ()
) -> tuple[dict[str, Tensor], bool]:
    """Make an observation tensors (B, ...) of the types of the space.

    Args:
        observation: The keys of the space, as arrays, lists or tensors: of the shapes of the space
            for one shopper, or (B, ...) for B shoppers. `candidates` may be left out where every
            item is one.
        space: Space of the observation of one shopper.
        catalog: The items, on the device of the tensors.
        unasked: Keys of the space that are not read.

    Returns:
        The tensors, and whether they are of a single shopper.

    Raises:
        TypeError: If the observation is no mapping or a value is of another type.
        ValueError: If a key is missing or a shape is another one.
    """
    seen = checks.mapping("observation", observation)
    found: dict[str, Tensor] = {}
    first: tuple[str, int | None] | None = None
    for name, of_key in space.items():
        shape = tuple(of_key.shape or ())
        left_out = name not in seen and name == "candidates" and shape == (len(catalog),)
        if name in unasked or left_out:
            continue
        if name not in seen:
            raise ValueError(
                f"observation has the keys {sorted(seen)}, but it must have {name!r} too."
            )

        # One shopper, or rows of several: all keys must agree.
        told = f"observation[{name!r}]"
        value, rows = of_shoppers(told, seen[name], shape, dtype_of(of_key), catalog.device)
        if first is None:
            first = (name, rows)
        elif first[1] != rows:
            raise ValueError(
                f"{told} is of {_shoppers(rows)}, but {first[0]!r} is of {_shoppers(first[1])}."
            )
        found[name] = value
    assert first is not None
    return found, first[1] is None


def of_shoppers(
    name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, int | None]:
    """Make a value of one shopper or of several a tensor (B, ...).

    Args:
        name: What messages call the value.
        value: An array, a list, a number or a tensor.
        shape: Its shape for one shopper.
        dtype: The type of its numbers.
        device: Where the tensor goes.

    Returns:
        The tensor, and the number B of shoppers, which is None where the value is of one.

    Raises:
        TypeError: If its numbers are of another kind.
        ValueError: If it has another shape.
    """
    found = _tensor(name, value, dtype, device)
    if tuple(found.shape) == shape:
        return found.unsqueeze(0), None
    if tuple(found.shape[1:]) == shape and found.ndim == len(shape) + 1 and len(found):
        return found, len(found)
    several = ", ".join(["B", *map(str, shape)])
    raise ValueError(
        f"{name} has the shape {tuple(found.shape)}, but it must be {shape} for one shopper, or "
        f"({several}) for B shoppers."
    )


def _shoppers(rows: int | None) -> str:
    return "one shopper" if rows is None else f"{rows} shoppers in a batch"


def _tensor(name: str, value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A value as a tensor of a type.

    Raises:
        TypeError: If its numbers are of another kind.
    """
    try:
        given = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError):
        given = None
    whole = given is not None and not given.is_floating_point() and not given.is_complex()
    if given is None or given.is_complex() or (not whole and not dtype.is_floating_point):
        raise TypeError(f"{name} is {checks.told(value)}, but it must hold numbers of {dtype}.")
    return given.to(device=device, dtype=dtype)
