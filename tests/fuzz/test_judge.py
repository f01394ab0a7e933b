"""The judge tells every verdict apart, on calls whose outcome is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsim_env import checks
from tests.fuzz import judge as judging
from tests.fuzz.judge import ACCEPT, EITHER, REFUSE, Case, judge
from tests.fuzz.kinds import Flag, Number, Whole


def accident() -> None:
    """Names the argument, but nobody meant to say so."""
    raise_nothing: Any = None
    raise_nothing.count("horizon")


def endless() -> None:
    while True:
        pass


def wrong(result: object) -> None:
    raise AssertionError("another value")


CASES = {
    "clear": Case("", lambda: checks.whole("horizon", "x"), REFUSE, ("horizon",)),
    "right": Case("", lambda: checks.whole("horizon", 3), ACCEPT, ("horizon",)),
    "silent": Case("", lambda: 3, REFUSE, ("horizon",)),
    "refused good": Case("", lambda: checks.whole("horizon", 3.0), ACCEPT, ("horizon",)),
    "alloc": Case("", lambda: np.ones(10**12), EITHER, ("horizon",)),
    "hang": Case("", endless, EITHER, ("horizon",)),
}


@pytest.mark.parametrize("verdict", list(CASES))
def test_each_verdict(verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PATIENCE", 0.5)
    assert judge(CASES[verdict]).verdict == verdict


def test_a_wrong_result_is_silent() -> None:
    assert judge(Case("", lambda: 3, ACCEPT, sound=wrong)).verdict == "silent"


def test_accidents_and_other_names_are_unclear() -> None:
    assert judge(Case("", accident, REFUSE, ("horizon",))).verdict == "unclear"
    assert (
        judge(Case("", lambda: checks.whole("history", "x"), REFUSE, ("horizon",))).verdict
        == "unclear"
    )
    accidental = Case("", lambda: {"horizon": 1}["horizon day"], REFUSE, ("horizon",))
    assert judge(accidental).message.endswith("not raised on purpose by the project")


def test_a_refusal_that_leaves_a_trace_is_told() -> None:
    held: list[int] = []

    def call() -> None:
        held.append(1)
        checks.whole("horizon", "x")

    assert (
        judge(Case("", call, REFUSE, ("horizon",), state=lambda: list(held))).verdict == "changed"
    )


def test_kinds_say_what_is_right() -> None:
    assert Whole(1, 9).right(np.int8(3)).value == 3
    assert [Whole(1, 9).right(value).outcome for value in (0, 10, True, "3", None)] == [REFUSE] * 5
    assert Whole(1, 9).right(3.0).outcome == EITHER
    assert [Number(0, 1).right(value).outcome for value in (float("nan"), -0.1, 2, True, 1j)] == [
        REFUSE
    ] * 5
    assert Number(0, above=True, infinite=True).right(float("inf")).outcome != REFUSE
    assert [Flag().right(value).outcome for value in (True, np.False_, 1, "no")] == [
        ACCEPT,
        ACCEPT,
        REFUSE,
        REFUSE,
    ]
