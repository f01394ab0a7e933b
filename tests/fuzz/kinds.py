"""What an argument may be given: one class for each kind of argument, which says of any value what
must come of it.

The answers are worked out here and not by `recsim_env.checks`: the net must not agree with what it
tests by sharing it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from recsim_env.rewards import REWARD_TERMS, Reward
from tests.fuzz.judge import ACCEPT, EITHER, REFUSE
from tests.fuzz.values import numpy_scalars, odd, plain, weighted


@dataclass(frozen=True)
class Right:
    """What must come of a value: accepted, refused, or either of the two."""

    outcome: str
    """ACCEPT, REFUSE or EITHER."""
    value: Any = None
    """What it means where it is accepted; None where that is not said."""


REFUSED = Right(REFUSE)
UNSURE = Right(EITHER)


class Kind:
    """A kind of argument."""

    def right(self, value: Any) -> Right:
        """What must come of a value."""
        raise NotImplementedError

    def good(self) -> SearchStrategy[Any]:
        """Ordinary good values."""
        raise NotImplementedError

    def near(self) -> SearchStrategy[Any]:
        """Values of the right type at and beyond the bounds."""
        return plain()

    def any(self) -> SearchStrategy[Any]:
        """Any value: good ones, near misses and odd ones."""
        return weighted((2, self.good()), (3, self.near()), (4, odd()))


def _number_of(value: Any) -> Any:
    """The number that a value plainly is, booleans and times excluded; None where it is none."""
    if isinstance(value, (bool, np.bool_, np.timedelta64, np.datetime64)):
        return None
    return value if isinstance(value, (int, float, np.integer, np.floating)) else None


def _nearly(value: Any) -> Any:
    """The number that something without dimensions, a fraction or a decimal stands for; None where
    there is none."""
    if (
        isinstance(value, (numbers.Rational, np.ndarray, torch.Tensor))
        or type(value).__name__ == "Decimal"
    ):
        try:
            one = (
                value.item()
                if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 0
                else value
            )
            return None if isinstance(one, (bool, np.ndarray, torch.Tensor)) else float(one)
        except Exception:
            return None
    return None


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from `low` to `high`; what lies above `sure` may be refused as too large."""

    low: int | None = None
    high: int | None = None
    sure: int = 50

    def right(self, value: Any) -> Right:
        number = _number_of(value)
        if number is None:
            near = _nearly(value)
            return (
                REFUSED
                if near is None or near != near or not self._inside(near)
                else Right(EITHER, near)
            )
        if not isinstance(number, (int, np.integer)):
            whole = math.isfinite(number) and number == int(number) and self._inside(number)
            return Right(EITHER, float(number)) if whole else REFUSED  # 3.0 for 3
        if not self._inside(number):
            return REFUSED
        return Right(ACCEPT if int(number) <= self.sure else EITHER, int(number))

    def _inside(self, number: Any) -> bool:
        return (self.low is None or number >= self.low) and (
            self.high is None or number <= self.high
        )

    def good(self) -> SearchStrategy[Any]:
        low = 0 if self.low is None else self.low
        high = max(min(self.sure, low + 20, self.sure if self.high is None else self.high), low)
        number = st.integers(low, high)
        return st.one_of(
            number,
            st.builds(lambda kind, n: kind(n), st.sampled_from((np.int16, np.int64)), number),
        )

    def near(self) -> SearchStrategy[Any]:
        low, high = (
            0 if self.low is None else self.low,
            self.sure if self.high is None else self.high,
        )
        edges = [
            low - 1,
            low,
            low + 1,
            high,
            high + 1,
            -low - 5,
            10**9,
            10**12,
            2**63,
            -1,
            0,
            float(low),
            low + 0.5,
        ]
        return st.one_of(st.sampled_from(edges), numpy_scalars())


@dataclass(frozen=True)
class Number(Kind):
    """A finite number from `low` to `high`, or above `low`; what lies outside of `sure` may be
    refused too."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    infinite: bool = False
    sure: tuple[float, float] = (-100.0, 100.0)

    def right(self, value: Any) -> Right:
        number = _number_of(value)
        sure = number is not None
        if number is None:
            number = _nearly(value)
        if number is None:
            return REFUSED
        try:
            real = float(number)
        except OverflowError:
            return UNSURE if self.infinite and number > 0 else REFUSED
        if not self._inside(real):
            return REFUSED
        return Right(ACCEPT if sure and self._sure(real) else EITHER, real)

    def _inside(self, real: float) -> bool:
        if math.isnan(real) or (math.isinf(real) and not self.infinite):
            return False
        return (self.low < real if self.above else self.low <= real) and real <= self.high

    def _sure(self, real: float) -> bool:
        return self.sure[0] <= real <= self.sure[1] and (real == 0 or abs(real) > 1e-6)

    def good(self) -> SearchStrategy[Any]:
        low, high = max(self.low, self.sure[0]), min(self.high, self.sure[1])
        number = st.floats(low, high, exclude_min=self.above, allow_subnormal=False)
        return st.one_of(
            number,
            number.map(np.float64),
            st.integers(math.ceil(low) + self.above, max(int(high), 1)),
        )

    def near(self) -> SearchStrategy[Any]:
        edges = [
            self.low,
            self.high,
            self.low - 1,
            self.high + 1,
            math.nan,
            math.inf,
            -math.inf,
            1e308,
            -1e308,
            0.0,
        ]
        edges += [
            -0.0,
            np.nextafter(self.low, -math.inf),
            np.nextafter(self.high, math.inf),
            5e-324,
        ]
        return st.one_of(st.sampled_from(edges), st.floats())


class Flag(Kind):
    """True or False."""

    def right(self, value: Any) -> Right:
        if isinstance(value, (bool, np.bool_)):
            return Right(ACCEPT, bool(value))
        without_dimensions = isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 0
        return UNSURE if without_dimensions and str(value.dtype).endswith("bool") else REFUSED

    def good(self) -> SearchStrategy[Any]:
        return st.sampled_from([True, False, np.True_, np.False_])

    def near(self) -> SearchStrategy[Any]:
        return st.sampled_from(
            ["no", "yes", "False", "True", "", 0, 1, 0.0, 1.0, None, [], [True], np.int8(1)]
        )


@dataclass(frozen=True)
class Choice(Kind):
    """One of some strings, or of some other values."""

    known: Collection[Any]

    def right(self, value: Any) -> Right:
        if any(value is known for known in self.known):
            return Right(ACCEPT, value)
        return (
            Right(ACCEPT, str(value))
            if isinstance(value, str) and value in self._texts()
            else REFUSED
        )

    def _texts(self) -> list[str]:
        return [known for known in self.known if isinstance(known, str)]

    def good(self) -> SearchStrategy[Any]:
        return st.sampled_from(list(self.known))

    def near(self) -> SearchStrategy[Any]:
        texts = self._texts() or ["x"]
        wrong = (
            [text.upper() + "x" for text in texts]
            + [f" {text}" for text in texts]
            + [text.encode() for text in texts]
        )
        return st.one_of(st.sampled_from([*wrong, [texts[0]], "", None, 0]), st.text())


@dataclass(frozen=True)
class Nullable(Kind):
    """None, or what another kind takes."""

    inner: Kind

    def right(self, value: Any) -> Right:
        return Right(ACCEPT) if value is None else self.inner.right(value)

    def good(self) -> SearchStrategy[Any]:
        return st.one_of(st.none(), self.inner.good())

    def near(self) -> SearchStrategy[Any]:
        return self.inner.near()


class Mode(Kind):
    """An `AutoresetMode`, or its value."""

    def right(self, value: Any) -> Right:
        if isinstance(value, AutoresetMode):
            return Right(ACCEPT, value)
        known = [mode.value for mode in AutoresetMode]
        return (
            Right(ACCEPT, AutoresetMode(value))
            if isinstance(value, str) and value in known
            else REFUSED
        )

    def good(self) -> SearchStrategy[Any]:
        return st.sampled_from([*AutoresetMode, *(mode.value for mode in AutoresetMode)])

    def near(self) -> SearchStrategy[Any]:
        return st.sampled_from(["next_step", "NEXT_STEP", "NextStep ", AutoresetMode, 0, None])


class Device(Kind):
    """A device that is there and that the numbers of this project can live on."""

    def right(self, value: Any) -> Right:
        if value is None:
            return Right(ACCEPT)
        if isinstance(value, torch.device):
            value = str(value)
        if not isinstance(value, str):
            return UNSURE if isinstance(value, int) and torch.cuda.is_available() else REFUSED
        if value == "cpu":
            return Right(ACCEPT)
        return (
            UNSURE
            if value.startswith("cpu:") or (value.startswith("cuda") and torch.cuda.is_available())
            else REFUSED
        )

    def good(self) -> SearchStrategy[Any]:
        return st.sampled_from([None, "cpu", torch.device("cpu")])

    def near(self) -> SearchStrategy[Any]:
        known = [
            "mps",
            "xpu",
            "meta",
            "hpu",
            "vulkan",
            "privateuseone",
            "cuda:99",
            "cpu:0",
            "CPU",
            "gpu",
            0,
            5,
            "",
        ]
        return st.sampled_from([*known, torch.device("meta"), torch.device("mps")])


class RewardWeights(Kind):
    """A `Reward`, or the weight of each registered term by its name; None for the default where
    that is allowed."""

    def __init__(self, *, nullable: bool = True) -> None:
        self.nullable = nullable

    def right(self, value: Any) -> Right:
        if value is None:
            return Right(ACCEPT, dict(Reward().weights)) if self.nullable else REFUSED
        if isinstance(value, Reward):
            return Right(ACCEPT, dict(value.weights))
        if not isinstance(value, Mapping) or len(value) == 0:
            return REFUSED
        weight = Number(sure=(-1e6, 1e6))
        found = [weight.right(number) for number in value.values()]
        if any(type(name) is not str or name not in REWARD_TERMS for name in value):
            return REFUSED
        if any(right.outcome == REFUSE for right in found):
            return REFUSED
        meant = {name: right.value for name, right in zip(value, found, strict=True)}
        sure = all(right.outcome == ACCEPT for right in found)
        # Of the shoppers that are played with none tells purchases, none is an outsider's, and no
        # catalogue has popularity.
        sure &= not {"purchases", "outside_reward", "novelty"} & value.keys()
        return Right(ACCEPT if sure else EITHER, meant)

    def good(self) -> SearchStrategy[Any]:
        weights = st.dictionaries(
            st.sampled_from(
                sorted(REWARD_TERMS.keys() - {"purchases", "outside_reward", "novelty"})
            ),
            st.floats(-10, 10),
            min_size=1,
        )
        return st.one_of(weights, weights.map(Reward))

    def near(self) -> SearchStrategy[Any]:
        names = st.one_of(
            st.sampled_from(sorted(REWARD_TERMS)), st.text(max_size=5), st.integers(), st.none()
        )
        mixed = st.dictionaries(names, st.one_of(st.floats(), odd()), max_size=3)
        others = [
            "clicks",
            ["clicks"],
            ("clicks", 1.0),
            {"clicks"},
            lambda inputs: 1.0,
            [("clicks", 1.0)],
            5,
            Reward,
        ]
        return st.one_of(
            mixed, st.sampled_from(others), st.floats().map(lambda weight: {"clicks": weight})
        )


@dataclass(frozen=True)
class Chances(Kind):
    """None, or a chance for each of so many positions."""

    size: int

    def right(self, value: Any) -> Right:
        if value is None:
            return Right(ACCEPT)
        if not isinstance(value, (Sequence, np.ndarray, torch.Tensor)) or isinstance(
            value, (str, bytes)
        ):
            return REFUSED
        try:
            held = list(value)
        except Exception:
            return REFUSED
        chance = Number(0, 1, sure=(0, 1))
        found = [chance.right(number) for number in held]
        if len(held) != self.size or any(right.outcome == REFUSE for right in found):
            return REFUSED
        sure = isinstance(value, (tuple, list)) and all(right.outcome == ACCEPT for right in found)
        return Right(ACCEPT if sure else EITHER)

    def good(self) -> SearchStrategy[Any]:
        return st.one_of(
            st.none(),
            st.lists(st.floats(0.01, 1), min_size=self.size, max_size=self.size).map(tuple),
        )

    def near(self) -> SearchStrategy[Any]:
        number = st.one_of(
            st.floats(), st.sampled_from([2.0, -1.0, math.nan, True, "1", None]), st.floats(0, 1)
        )
        several = st.lists(number, min_size=0, max_size=self.size + 1).map(tuple)
        same = st.builds(lambda one: (one,) * self.size, number)
        return st.one_of(
            several,
            same,
            st.sampled_from([0.5, np.full(self.size, 0.5), torch.full((self.size,), 0.5)]),
        )


@dataclass(frozen=True)
class Days(Kind):
    """A first and a last day, in order; `sure` are pairs at which somebody starts."""

    sure: tuple[tuple[int, int], ...]

    def right(self, value: Any) -> Right:
        if not isinstance(value, (Sequence, np.ndarray, torch.Tensor)) or isinstance(
            value, (str, bytes)
        ):
            return REFUSED
        try:
            held = list(value)
        except Exception:
            return REFUSED
        day = Whole(0)
        if len(held) != 2 or any(day.right(number).outcome == REFUSE for number in held):
            return REFUSED
        low, high = (float(number) for number in held)
        if not low <= high or high > 1e6:
            return REFUSED
        return Right(ACCEPT if tuple(held) in self.sure and isinstance(value, tuple) else EITHER)

    def good(self) -> SearchStrategy[Any]:
        return st.sampled_from(self.sure)

    def near(self) -> SearchStrategy[Any]:
        number = st.sampled_from([-1, 0, 56, 182, 10**12, 2**63, 56.5, math.nan, "56", None, True])
        listed: list[Any] = [
            (182, 56),
            (56,),
            (),
            (56, 57, 58),
            5,
            (56, 10**12),
            {56, 182},
            (-5, 182),
            "ab",
        ]
        pairs = st.tuples(number, number).filter(
            lambda pair: pair not in ((0, 56), (0, 182), (56, 182))
        )
        return st.one_of(st.sampled_from(listed), pairs)


class Folder(Kind):
    """A folder that is there; `good_ones` are."""

    def __init__(self, *good_ones: Any, nullable: bool = False) -> None:
        self.good_ones, self.nullable = good_ones, nullable

    def right(self, value: Any) -> Right:
        if value is None:
            return Right(ACCEPT) if self.nullable else REFUSED
        if any(value is one for one in self.good_ones):
            return Right(ACCEPT)
        return (
            REFUSED if not isinstance(value, (str, os.PathLike)) or not _is_dir(value) else UNSURE
        )

    def good(self) -> SearchStrategy[Any]:
        return st.sampled_from([*self.good_ones, *((None,) if self.nullable else ())])

    def near(self) -> SearchStrategy[Any]:
        return st.sampled_from(
            ["", "nowhere", ".", "/dev/null", "\0", "a" * 300, 5, b"x", ["nowhere"]]
        )


def _is_dir(value: Any) -> bool:
    try:
        return os.path.isdir(value)
    except ValueError:
        return False


@dataclass(frozen=True)
class Instance(Kind):
    """An object of a class; `makers` make good ones."""

    kind: type[Any]
    examples: tuple[Any, ...] = ()

    def right(self, value: Any) -> Right:
        return UNSURE if isinstance(value, self.kind) else REFUSED

    def good(self) -> SearchStrategy[Any]:
        return st.sampled_from(self.examples)

    def near(self) -> SearchStrategy[Any]:
        return st.sampled_from([{}, {"items": 50}, self.kind, "x", None])


class Text(Kind):
    """A string that is not empty."""

    def right(self, value: Any) -> Right:
        return Right(EITHER, str(value)) if isinstance(value, str) and value else REFUSED

    def good(self) -> SearchStrategy[Any]:
        return st.text(min_size=1, max_size=8)


@dataclass(frozen=True)
class Numbers(Kind):
    """A tuple of whole numbers above 0, such as widths of layers."""

    def right(self, value: Any) -> Right:
        if not isinstance(value, (tuple, list)):
            return (
                REFUSED if not isinstance(value, (Sequence, np.ndarray, torch.Tensor)) else UNSURE
            )
        wrong = any(Whole(1).right(number).outcome == REFUSE for number in value)
        return REFUSED if wrong else UNSURE

    def good(self) -> SearchStrategy[Any]:
        return st.lists(st.integers(1, 8), min_size=1, max_size=3).map(tuple)

    def near(self) -> SearchStrategy[Any]:
        return st.sampled_from([(0,), (-1, 4), (2.5,), ("4",), 8, (True,), (None,)])


def of_type(annotation: Any, *, low: float | None = None) -> Kind | None:
    """The kind that a type stands for where nothing else is known; None where it says too little.

    Whole numbers have no upper bound that is known, so what is large may be refused.
    """
    named = {
        int: Whole(None if low is None else int(low), sure=0),
        float: Number(-math.inf if low is None else low, infinite=False, sure=(1e9, 1e9)),
        bool: Flag(),
        str: Text(),
    }
    if annotation in named:
        return named[annotation]
    arguments = typing.get_args(annotation)
    if type(None) in arguments and len(arguments) == 2:
        inner = of_type(next(one for one in arguments if one is not type(None)), low=low)
        return None if inner is None else Nullable(inner)
    if typing.get_origin(annotation) is tuple and arguments[0] is int:
        return Numbers()
    return None


def fields_of(config: type[Any]) -> dict[str, Kind]:
    """The kind of each field of a dataclass whose type says one.

    A field that is tuned is told more of: every number in its range is good.
    """
    hints = typing.get_type_hints(config)
    found: dict[str, Kind] = {}
    for field in dataclasses.fields(config):
        allowed = field.metadata.get("range")
        kind = of_type(hints[field.name])
        if allowed is not None and allowed.integer:
            kind = Whole(min(int(allowed.low), 1), sure=int(allowed.high))
        elif allowed is not None:
            least = 0.0 if allowed.low >= 0 else -math.inf
            kind = Number(least, sure=(allowed.low, allowed.high))
        if kind is not None:
            found[field.name] = kind
    return found
