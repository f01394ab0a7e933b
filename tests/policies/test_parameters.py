"""A parameter that is tuned has a range that can be searched, or is refused where it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from policies.parameters import Range, ranges, tunable


@dataclass(frozen=True)
class Parameters:
    """One parameter that is tuned, and one that is not."""

    weight: float = tunable(1.0, 0.0, 4.0, least=0.0)
    fixed: float = 2.0


def test_a_field_tells_its_range() -> None:
    assert ranges(Parameters()) == {"weight": Range(0.0, 4.0)}


@pytest.mark.parametrize(
    ("told", "options", "message"),
    [
        ((1.0, 4.0, 0.0), {}, r"high is 0\.0, but it must be a finite number from 4\.0 to"),
        ((1.0, "0", 4.0), {}, r"low is '0', but it must be a finite number"),
        ((1.0, 0.0, float("inf")), {}, r"high is inf, but it must be a finite number"),
        ((1.0, 0.0, 4.0), {"log": True}, r"low is 0\.0, but it must be a finite number above 0"),
        ((1.0, 0.1, 4.0), {"log": "yes"}, r"log is 'yes', but it must be True or False"),
        (("1", 0.0, 4.0), {}, r"default is '1', but it must be a finite number"),
        (
            (-1.0, 0.0, 4.0),
            {"least": 0.0},
            r"default is -1\.0, but it must be a finite number from 0",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(told: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tunable(*told, **options)
