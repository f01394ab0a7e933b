"""Checks accept what they say and refuse the rest in one sentence that names the argument."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsim_env import checks


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_a_whole_number_of_numpy_is_one(value: Any) -> None:
    found = checks.whole("count", value, 1, 3)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.bool_(True),
        3.0,
        "3",
        None,
        math.nan,
        torch.tensor(3),
        np.array([3]),
        4,
        0,
        np.timedelta64(3, "D"),
    ],
)
def test_what_is_no_whole_number_in_bounds_is_refused(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^count is .*, but it must be a whole number from 1 to 3\.$"
    ):
        checks.whole("count", value, 1, 3)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), Fraction(1, 2)])
def test_a_number_is_a_float(value: Any) -> None:
    found = checks.number("share", value, 0, 1)
    assert found == 0.5
    assert type(found) is float


@pytest.mark.parametrize(
    "value", [True, "0.5", None, math.nan, math.inf, -0.1, 1.1, 10**400, torch.tensor(0.5), [0.5]]
)
def test_what_is_no_number_in_bounds_is_refused(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^share is .*, but it must be a finite number from 0 to 1\.$"
    ):
        checks.number("share", value, 0, 1)


def test_an_open_bound_and_infinity_are_said() -> None:
    assert checks.number("days", math.inf, 0, above=True, infinite=True) == math.inf
    with pytest.raises(ValueError, match=r"^days is 0, but it must be a number above 0\.$"):
        checks.number("days", 0, 0, above=True, infinite=True)


@pytest.mark.parametrize("value", ["no", 0, 1, None, "True", torch.tensor(True)])
def test_only_booleans_are_flags(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^strict is .*, but it must be True or False\.$"):
        checks.flag("strict", value)
    assert checks.flag("strict", np.bool_(False)) is False


def test_choices_texts_paths_and_mappings() -> None:
    assert checks.choice("part", "b", ("a", "b")) == "b"
    assert checks.path("folder", "a/b") == Path("a/b")
    assert checks.mapping("options", {"a": 1}) == {"a": 1}
    wrong: Any
    for wrong in (["a"], {"a"}, "c", None):
        with pytest.raises(ValueError, match=r"^part is .*, but it must be one of 'a', 'b'\.$"):
            checks.choice("part", wrong, ("a", "b"))
    for wrong in ("", 5, None, b"x"):
        with pytest.raises(ValueError, match=r"^id is .*, but it must be a text\.$"):
            checks.text("id", wrong)
    for wrong in (5, None, b"x", ["a"]):
        with pytest.raises(TypeError, match=r"^folder is .*, but it must be a path\.$"):
            checks.path("folder", wrong)
    for wrong in ("", "a\0b", "x" * 256, f"a/{'ä' * 200}"):
        with pytest.raises(
            ValueError, match=r"^folder is .*, but it must be a path that a file can have\.$"
        ):
            checks.path("folder", wrong)
    for wrong in ({1: 2}, [("a", 1)], "a"):
        with pytest.raises(
            TypeError, match=r"^options is .*, but it must be a mapping with strings as keys\.$"
        ):
            checks.mapping("options", wrong)


def test_tensors_are_held_against_type_shape_and_finiteness() -> None:
    good = torch.zeros(4, 3)
    assert checks.tensor("vectors", good, ("N", 3), torch.float32) is good
    expected = r"but it must be a float32 tensor of shape \(N, 3\)\."
    with pytest.raises(
        TypeError, match=rf"^vectors is a float64 tensor of shape \(4, 3\), {expected}$"
    ):
        checks.tensor("vectors", good.double(), ("N", 3), torch.float32)
    for wrong in (torch.zeros(4, 2), torch.zeros(4), torch.zeros(4, 3, 1)):
        with pytest.raises(
            ValueError, match=rf"^vectors is a float32 tensor of shape .*, {expected}$"
        ):
            checks.tensor("vectors", wrong, ("N", 3), torch.float32)
    with pytest.raises(
        ValueError, match=r"^vectors holds nan at \[1, 2\], but every number must be finite\.$"
    ):
        checks.tensor(
            "vectors",
            good.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(math.nan)),
            ("N", 3),
            torch.float32,
        )


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1000, 1000),
        np.zeros((1000, 1000)),
        "x" * 10**6,
        list(range(10**6)),
        Mute(),
        10**3000,
        int,
    ],
)
def test_a_message_shows_any_value_in_one_short_line(value: Any) -> None:
    shown = checks.told(value)
    assert len(shown) <= checks.LONGEST
    assert not re.search(r"\n", shown)


@pytest.mark.parametrize("value", [[1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2])])
def test_several_are_a_list(value: Any) -> None:
    assert checks.several("days", value, 2) == checks.several("days", value) == [1, 2]


@pytest.mark.parametrize(
    "value", [None, 5, "ab", b"ab", {1, 2}, {"a": 1}, (1,), (1, 2, 3), np.array([[1, 2]]), range(2)]
)
def test_what_is_no_list_of_so_many_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^days is .*, but it must be a list of 2 values\.$"):
        checks.several("days", value, 2)
