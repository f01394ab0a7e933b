"""What an explanation says: the strongest cause first, in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsim_env.explaining import Cause, Explanation
from recsim_env.explaining.explanation import times

EXPLAINED = Explanation(
    slates=torch.tensor([[4, 7, 7]]),
    shown=torch.tensor([[True, True, False]]),
    probability=torch.tensor([[0.3, 0.2, 0.0]]),
    clicks=torch.tensor([[True, False, False]]),
    rows=torch.tensor([0, 0, 0]),
    causes=(Cause("item", 4), Cause("promotion", 4), Cause("position", 0)),
    without_probability=torch.tensor([[0.5, 0.2, 0.0], [0.1, 0.9, 0.0], [0.3, 0.25, 0.0]]),
    without_clicks=torch.tensor([[True, False, False], [False, True, False], [True, False, False]]),
    speaks=torch.tensor([[True, True, False], [True, False, False], [True, True, False]]),
    names=("bought 3 days ago", "on the front page", "at position {position}"),
    about=("milk", "milk", ""),
    titles=(("milk", "bread", "bread"),),
)


def test_a_person_reads_the_strongest_cause_first() -> None:
    assert str(EXPLAINED).splitlines() == [
        "shopper 0",
        "   1. milk: yes, chance 0.300",
        "        on the front page: x3.0; it decided",
        "        bought 3 days ago: x0.6",
        "   2. bread: no, chance 0.200",
        "        at position 2: x0.8",
        "   3. bread: not shown",
    ]


def test_reasons_have_the_factor_of_the_chance() -> None:
    strongest, next_one = EXPLAINED.reasons(0, 0)
    assert strongest.cause == Cause("promotion", 4)
    assert strongest.factor == pytest.approx(0.3 / 0.1)
    assert strongest.probability == pytest.approx(0.1)
    assert not strongest.clicked
    assert next_one.factor == pytest.approx(0.3 / 0.5)
    assert EXPLAINED.reasons(0, 0, most=1) == [strongest]
    assert EXPLAINED.reasons(0, 2) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((1, 0), r"row is 1, but it must be a whole number from 0 to 0\."),
        ((-1, 0), r"row is -1, but it must be a whole number from 0 to 0\."),
        (("0", 0), r"row is '0', but it must be a whole number from 0 to 0\."),
        ((0, 3), r"position is 3, but it must be a whole number from 0 to 2\."),
        ((0, -1), r"position is -1, but it must be a whole number from 0 to 2\."),
        ((0, 0, -1), r"most is -1, but it must be a whole number of 0 or more\."),
    ],
)
def test_reasons_of_what_was_not_explained_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EXPLAINED.reasons(*wrong)


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (0.6, "x0.6"),
        (1.42, "x1.4"),
        (12.3, "x12"),
        (0.034, "x0.03"),
        (1e-6, "x0.00"),
        (1e8, "x1000 or more"),
    ],
)
def test_factors_are_short(factor: float, told: str) -> None:
    assert times(factor) == told
