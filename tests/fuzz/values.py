"""Odd values, and ordinary ones of the wrong type: what a user, a data frame or a broken file may
hand over.

A value travels with a label, because some values cannot describe themselves and others are too
large to.
"""

from __future__ import annotations

import datetime
import enum
import fractions
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from recsim_env.shoppers.market import MarketConfig

LONGEST = 90


def label_of(value: object) -> str:
    """A value on one short line, whatever it is."""
    try:
        if isinstance(value, torch.Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            return f"Tensor({dtype}, {tuple(value.shape)}, {value.layout}, {value.device})"
        if isinstance(value, np.ndarray) and value.size > 12:
            return f"array({value.dtype}, {value.shape})"
        text = " ".join(repr(value).split())
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}.."


class Silent:
    """Cannot describe itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


class Contrary:
    """Answers every comparison with an error."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __len__(self) -> int:
        raise RuntimeError("without length")


class Colour(enum.Enum):
    """Has members that are no strings and no numbers."""

    RED = 1


class Bottomless:
    """Is never at its end: an iterator without a length."""

    def __iter__(self) -> Any:
        while True:
            yield 0


def a_function() -> int:
    """A function that nobody asked for."""
    return 3


@dataclass
class ADataclass:
    """A dataclass that nobody asked for."""

    items: int = 3


def _own_in_itself() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def _structured() -> Any:
    return np.zeros(2, dtype=[("a", np.int64), ("b", np.float32)])


Maker = Callable[[], Any]

THINGS: tuple[Maker, ...] = (
    lambda: None,
    lambda: ...,
    lambda: NotImplemented,
    object,
    Silent,
    Contrary,
    Bottomless,
    lambda: Silent,
    lambda: int,
    lambda: a_function,
    lambda: len,
    lambda: lambda: 3,
    lambda: Colour.RED,
    lambda: Colour,
    lambda: math,
    ADataclass,
    lambda: MarketConfig,
    lambda: (n for n in range(3)),
    lambda: iter([1, 2]),
    lambda: range(3),
    lambda: slice(0, 2),
    lambda: ValueError("an error"),
    lambda: Path("nowhere"),
    lambda: datetime.date(2017, 1, 1),
    lambda: datetime.timedelta(days=30),
    lambda: memoryview(b"abc"),
)
"""Objects of no use as an argument."""

CONTAINERS: tuple[Maker, ...] = (
    list,
    tuple,
    dict,
    set,
    lambda: [[]],
    lambda: [1, 2],
    lambda: (1, 2, 3),
    lambda: [[1, 2], [3]],
    lambda: [[0, 1], [2, 3]],
    lambda: ["a", "b"],
    lambda: [None],
    lambda: [float("nan")],
    lambda: {1, 2},
    lambda: frozenset({"a"}),
    lambda: {"a": 1},
    lambda: {1: 2},
    lambda: {None: None},
    lambda: {"clicks": "1"},
    lambda: {"items": 50},
    lambda: OrderedDict(b=2),
    lambda: deque([1, 2]),
    lambda: [object()],
    lambda: [[[[[0]]]]],
    _own_in_itself,
    lambda: list(range(1000)),
    lambda: {"a": {"b": {"c": []}}},
)
"""Empty, nested and mixed containers."""

TEXTS: tuple[Maker, ...] = (
    str,
    lambda: " ",
    lambda: "no",
    lambda: "1",
    lambda: "30",
    lambda: "nan",
    lambda: "inf",
    lambda: "True",
    lambda: "clicks",
    lambda: "None",
    lambda: "a" * 5000,
    lambda: "two\nlines",
    lambda: "zero\0byte",
    lambda: "naïve ☃ 💐",
    lambda: "\ud800",
    lambda: "../../etc/passwd",
    lambda: "{}%s{0}",
    lambda: np.str_("numpy"),
    bytes,
    lambda: b"bytes",
    lambda: bytearray(b"ab"),
    lambda: np.bytes_(b"np"),
)
"""Texts that are no names here, and bytes."""

NUMBERS: tuple[Maker, ...] = (
    lambda: True,
    lambda: False,
    lambda: np.True_,
    lambda: np.False_,
    lambda: 0,
    lambda: -1,
    lambda: 1,
    lambda: 2**31 - 1,
    lambda: 2**31,
    lambda: 2**63 - 1,
    lambda: 2**63,
    lambda: -(2**63),
    lambda: -(2**63) - 1,
    lambda: 2**64,
    lambda: 2**70,
    lambda: 10**12,
    lambda: 10**400,
    lambda: -(10**400),
    lambda: 0.0,
    lambda: -0.0,
    lambda: 0.5,
    lambda: -0.5,
    lambda: 1.5,
    lambda: 3.0,
    lambda: 5e-324,
    lambda: 1e-40,
    lambda: 1e38,
    lambda: 1e39,
    lambda: 1e308,
    lambda: -1e308,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: float("-inf"),
    lambda: 1j,
    lambda: complex(1, 0),
    lambda: Decimal("1.5"),
    lambda: Decimal("NaN"),
    lambda: fractions.Fraction(1, 3),
    lambda: fractions.Fraction(2, 1),
    lambda: np.datetime64("2017-01-01"),
    lambda: np.timedelta64(3, "D"),
    lambda: np.timedelta64("NaT"),
    lambda: np.longdouble(2),
    lambda: np.longdouble("nan"),
    lambda: np.complex64(1),
    lambda: np.float16(0.5),
    lambda: np.float32("inf"),
    lambda: np.int64(-5),
    lambda: np.uint64(2**64 - 1),
    lambda: np.void(b"1"),
)
"""Numbers at the ends of their types, and things that are nearly numbers."""

ARRAYS: tuple[Maker, ...] = (
    lambda: np.array(5),
    lambda: np.array(0.5),
    lambda: np.array(True),
    lambda: np.array([]),
    lambda: np.array([1, 2, 3]),
    lambda: np.array([0.5, float("nan")]),
    lambda: np.array(["a", "b"]),
    lambda: np.array([None, 1], dtype=object),
    lambda: np.array([[1, 2], [3, 4]], dtype=np.uint8),
    lambda: np.zeros((2, 0, 3)),
    lambda: np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
    lambda: np.array(["2017-01-01"], dtype="datetime64[D]"),
    lambda: np.broadcast_to(np.int64(1), (2, 3)),
    _structured,
    lambda: torch.tensor(5),
    lambda: torch.tensor(0.5),
    lambda: torch.tensor(float("nan")),
    lambda: torch.tensor(True),
    lambda: torch.tensor([]),
    lambda: torch.tensor([1, 2, 3]),
    lambda: torch.tensor([1.0, 2.0], requires_grad=True),
    lambda: torch.zeros(2, 3, device="meta"),
    lambda: torch.zeros(4, dtype=torch.int64, device="meta"),
    lambda: torch.tensor(3, device="meta"),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.eye(3).to_sparse_csr(),
    lambda: torch.ones(3, dtype=torch.int64).to_sparse(),
    lambda: torch.zeros(2, dtype=torch.complex64),
    lambda: torch.zeros(2, dtype=torch.bfloat16),
    lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    lambda: torch.nn.Parameter(torch.zeros(2)),
    lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8),
    lambda: torch.device("cpu"),
    lambda: torch.Generator(),
    lambda: torch.float32,
    lambda: torch.Size([2, 3]),
)
"""Arrays and tensors, those without dimensions and those without numbers included."""

SCALARS = (
    np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, np.float32, np.float64, np.longdouble, np.bool_, np.complex128,
)  # fmt: skip
"""Every type of number that numpy has."""


def weighted(*choices: tuple[int, SearchStrategy[Any]]) -> SearchStrategy[Any]:
    """One of some strategies, each as often as its weight says; `one_of` counts the parts of its
    parts."""
    repeated = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.sampled_from(range(len(repeated))).flatmap(lambda at: repeated[at])


def numpy_scalars() -> SearchStrategy[Any]:
    """A number of any of numpy's types."""
    return st.builds(
        lambda kind, number: kind(number), st.sampled_from(SCALARS), st.integers(0, 100)
    )


def odd() -> SearchStrategy[Any]:
    """Any value at all."""
    groups = [
        st.sampled_from(group).map(lambda make: make())
        for group in (THINGS, CONTAINERS, TEXTS, NUMBERS, ARRAYS)
    ]
    return weighted(*((2, group) for group in groups), (1, plain()))


def plain() -> SearchStrategy[Any]:
    """A number or a text of Python's or numpy's, of any size."""
    return weighted(
        (2, st.sampled_from(NUMBERS).map(lambda make: make())),
        (1, st.integers()),
        (1, st.integers(-3, 20)),
        (2, st.floats()),
        (2, numpy_scalars()),
        (1, st.text(max_size=8)),
        (1, st.binary(max_size=4)),
    )
