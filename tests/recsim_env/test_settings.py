"""Configurations are checked by the types of their fields."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
import torch

from recsim_env import checks
from recsim_env.settings import ONE_OR_MORE, POSITIVE, SEED, SHARE, Within, settle


@dataclass(frozen=True)
class Inner:
    width: int = 1


@dataclass(frozen=True)
class Config:
    epochs: int = 2
    skipped: int = 0
    rate: float = 0.1
    dropout: float = 0.0
    shift: float = 0.0
    patience: float = 1.0
    int8: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    hidden: tuple[int, ...] = (8,)
    pool: int | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        settle(
            self,
            epochs=ONE_OR_MORE,
            rate=POSITIVE,
            dropout=SHARE,
            hidden=Within(1, 64),
            pool=ONE_OR_MORE,
            patience=Within(0, math.inf, infinite=True),
        )


def test_numbers_of_numpy_and_lists_become_plain_values() -> None:
    numbers: dict[str, Any] = {"rate": np.float32(0.5), "dropout": 1, "hidden": [4, np.int8(2)]}
    config: Any = Config(np.int64(3), int8=np.bool_(True), **numbers)  # type: ignore[arg-type]
    assert (config.epochs, config.rate, config.dropout, config.int8, config.hidden) == (
        3,
        0.5,
        1.0,
        True,
        (4, 2),
    )
    assert [type(value) for value in (config.epochs, config.rate, config.dropout, config.int8)] == [
        int,
        float,
        float,
        bool,
    ]
    assert Config(pool=5, patience=math.inf).pool == 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0, but it must be a whole number from 1 to 1000000000."),
        ({"epochs": True}, "epochs is True, but it must be a whole number from 1 to 1000000000."),
        ({"skipped": -1}, "skipped is -1, but it must be a whole number from 0 to 1000000000."),
        ({"rate": 0}, "rate is 0, but it must be a finite number above 0 and up to 1000000.0."),
        (
            {"rate": math.nan},
            "rate is nan, but it must be a finite number above 0 and up to 1000000.0.",
        ),
        ({"dropout": 1.5}, "dropout is 1.5, but it must be a finite number from 0 to 1."),
        (
            {"shift": math.inf},
            "shift is inf, but it must be a finite number from -1000000.0 to 1000000.0.",
        ),
        ({"int8": "no"}, "int8 is 'no', but it must be True or False."),
        ({"precision": "fp16"}, "precision is 'fp16', but it must be one of 'fp32', 'bf16'."),
        ({"hidden": (8, 65)}, "hidden[1] is 65, but it must be a whole number from 1 to 64."),
        ({"hidden": 8}, "hidden is 8, but it must be a list."),
        ({"pool": 0}, "pool is 0, but it must be a whole number from 1 to 1000000000."),
    ],
)
def test_a_field_is_refused_by_its_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as found:  # noqa: PT011 - the whole message is compared
        Config(**wrong)
    assert str(found.value) == message


def test_a_part_of_another_class_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^inner is \{\}, but it must be a Inner\.$"):
        Config(inner={})  # type: ignore[arg-type]


def test_a_seed_is_no_larger_than_generators_keep_apart() -> None:
    draws = [
        torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
        for seed in (0, 2**32, checks.LARGEST_SEED)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert SEED.high == checks.LARGEST_SEED == 2**32 - 1
    np.random.RandomState(checks.LARGEST_SEED)
