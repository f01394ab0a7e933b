"""Checks of arguments: each names the argument, the value found and what was expected.

A check returns the value as the plain Python type that the rest of the code works with, so that
numpy's numbers are accepted wherever Python's are. A boolean is no number, and a number is no
boolean.
"""

from __future__ import annotations

import math
import numbers
import os
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LONGEST = 120
"""Characters of a value that a message shows at most."""
LARGEST_SEED = 2**32 - 1
"""Largest seed of a generator. Torch's generators on a CPU keep 32 bits of a seed, so that larger
ones repeat smaller ones, and numpy's oldest takes no more."""
LONGEST_NAME = 255
"""Bytes in the name of a file or folder at most."""


def told(value: object) -> str:
    """Show a value as a message does: on one line, with at most `LONGEST` characters."""
    if isinstance(value, Tensor) and not value.is_nested:
        layout = (
            "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        )
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {layout}{dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return f"a {value.dtype} array of shape {value.shape}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        text = " ".join(
            (repr(value) if isinstance(value, numbers.Number) else _SHORT.repr(value)).split()
        )
    except Exception:  # a message must not fail because a value cannot describe itself
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = LONGEST


def whole(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """Check a whole number of Python's or numpy's.

    Args:
        name: What messages call the argument.
        value: The value.
        low: The least number that is accepted; None means no bound.
        high: The greatest number that is accepted; None means no bound.

    Raises:
        ValueError: If it is anything else, such as a boolean or a number with a fraction.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.timedelta64)):
        count = int(value)
        if (low is None or count >= low) and (high is None or count <= high):
            return count
    raise ValueError(
        f"{name} is {told(value)}, but it must be a whole number{_between(low, high)}."
    )


def number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    infinite: bool = False,
) -> float:
    """Check a real number of Python's or numpy's.

    Args:
        name: What messages call the argument.
        value: The value.
        low: The lower bound.
        high: The upper bound, included.
        above: Whether `low` itself is refused.
        infinite: Whether an infinite number within the bounds is accepted.

    Raises:
        ValueError: If it is anything else: a boolean, NaN, or an infinite number unless `infinite`.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.timedelta64)):
        try:
            real = float(value)
        except OverflowError:
            real = math.nan
        inside = low < real <= high if above else low <= real <= high
        if inside and (infinite or math.isfinite(real)):
            return real
    finite = "a number" if infinite else "a finite number"
    bounds = _between(
        None if low == -math.inf else low, None if high == math.inf else high, above=above
    )
    raise ValueError(f"{name} is {told(value)}, but it must be {finite}{bounds}.")


def flag(name: str, value: object) -> bool:
    """Check that a value is True or False, Python's or numpy's.

    Raises:
        ValueError: If it is anything else, such as "no", 0 or None, which Python would take for one
            of the two.
    """
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ValueError(f"{name} is {told(value)}, but it must be True or False.")


def choice(name: str, value: object, known: Collection[str]) -> str:
    """Check that a value is one of some strings.

    Raises:
        ValueError: If it is anything else; the message lists all that are known.
    """
    if isinstance(value, str) and value in known:
        return value
    raise ValueError(
        f"{name} is {told(value)}, but it must be one of {', '.join(map(repr, known))}."
    )


def several(name: str, value: object, length: int | None = None) -> list[Any]:
    """Return the members of a list, a tuple or a one-dimensional array.

    Args:
        name: What messages call the argument.
        value: The value.
        length: How many members there must be; None accepts any number.

    Raises:
        ValueError: If it is anything else, such as a string.
    """
    if isinstance(value, (np.ndarray, Tensor)) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, (list, tuple)) and (length is None or len(value) == length):
        return list(value)
    number = "" if length is None else f" of {length} values"
    raise ValueError(f"{name} is {told(value)}, but it must be a list{number}.")


def text(name: str, value: object) -> str:
    """Check that a value is a string that is not empty.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"{name} is {told(value)}, but it must be a text.")


def path(name: str, value: object) -> Path:
    """Return a path, from a string or anything that stands for one.

    Raises:
        TypeError: If it is anything else.
        ValueError: If it is empty, holds a null character, or has a name that is too long for a
            file.
    """
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise TypeError(f"{name} is {told(value)}, but it must be a path.")
    if (
        not text
        or "\0" in text
        or any(len(part.encode(errors="replace")) > LONGEST_NAME for part in text.split(os.sep))
    ):
        raise ValueError(f"{name} is {told(value)}, but it must be a path that a file can have.")
    return Path(text)


def mapping(name: str, value: object) -> dict[str, Any]:
    """Return a copy of a mapping whose keys are strings.

    Raises:
        TypeError: If it is anything else.
    """
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise TypeError(f"{name} is {told(value)}, but it must be a mapping with strings as keys.")


def instance(name: str, value: object, kind: type) -> None:
    """Check that `value` is of the class `kind`.

    Raises:
        TypeError: If it is of another one.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {told(value)}, but it must be a {kind.__name__}.")


def tensor(
    name: str,
    value: object,
    shape: tuple[int | str, ...],
    dtype: torch.dtype,
    *,
    finite: bool = True,
) -> Tensor:
    """Check the type and the shape of a tensor.

    Args:
        name: What messages call the argument.
        value: The value.
        shape: The shape; a length given as a letter may be any.
        dtype: The type of its numbers.
        finite: Whether NaN and infinite numbers are refused.

    Raises:
        TypeError: If it is no tensor, or one of another type.
        ValueError: If it has another shape, or if a number in it is not finite.
    """
    expected = (
        f"a {str(dtype).removeprefix('torch.')} tensor of shape ({', '.join(map(str, shape))})"
    )
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.dtype != dtype:
        raise TypeError(f"{name} is {told(value)}, but it must be {expected}.")
    same = all(
        isinstance(want, str) or want == have
        for want, have in zip(shape, value.shape, strict=False)
    )
    if value.ndim != len(shape) or not same:
        raise ValueError(f"{name} is {told(value)}, but it must be {expected}.")
    if finite and dtype.is_floating_point and value.device.type != "meta":
        wrong = ~torch.isfinite(value)
        if bool(wrong.any()):
            at = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{name} holds {value[tuple(at)].item()} at {at}, but every number must be finite."
            )
    return value


def _between(low: float | None, high: float | None, *, above: bool = False) -> str:
    if low is not None and high is not None:
        return f" above {low} and up to {high}" if above else f" from {low} to {high}"
    if low is not None:
        return f" above {low}" if above else f" of {low} or more"
    return "" if high is None else f" of {high} or less"
