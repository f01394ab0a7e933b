"""Options of fitted shoppers: numpy's numbers are numbers, and whatever is wrong is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsim_env.shoppers.household.options import ShopperOptions
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.session.population import load_session, save_session
from recsim_env.shoppers.session.starts import Logged
from tests.recsim_env.shoppers.session.test_model import catalog, model
from tests.recsim_env.shoppers.session.test_population import SAID
from tests.support.fake_log import write_shop
from tests.support.fake_shoppers import member

CPU = torch.device("cpu")
TEN = 10


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journey")
    write_shop(path)
    member(path, 1).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("market")
    save_session(path, catalog(), [model()], Logged.newcomers(SAID))
    return path


NO_FLAGS: tuple[Any, ...] = (None, 2, 0, "no", [])
NO_DAYS: tuple[Any, ...] = (None, 5, "abc", "56", [56], (56, 60, 90), {}, set())
NO_CHANCES: tuple[Any, ...] = (0.5, "abc", {}, True, (0.5,) * 9, np.full((TEN, 1), 0.5))
WRONG: list[tuple[str, Any, str]] = [
    *(
        (name, value, f"{name} is ")
        for name in ("store_promotions", "compiled", "small")
        for value in NO_FLAGS
    ),
    *(("population", value, "population is ") for value in (None, True, 3, "everyone", ["train"])),
    *(("precision", value, "precision is ") for value in (None, 16, "fp8", torch.float32)),
    *(
        ("ensemble", value, "ensemble is ")
        for value in (None, True, 0, -1, 1.0, "1", math.nan, 2, 10**12)
    ),
    *(
        ("pessimism", value, "pessimism is ")
        for value in (None, True, -0.5, "1", math.nan, math.inf, [1.0])
    ),
    *(("start_days", value, "start_days is ") for value in NO_DAYS),
    *(
        ("start_days", (value, 80), "start_days[0] is ")
        for value in (-1, 56.0, True, None, "56", math.nan, 10**12)
    ),
    *(
        ("start_days", (60, value), "start_days[1] is ")
        for value in (59, 80.5, None, "80", math.inf, 10**12)
    ),
    *(("examination", value, "examination ") for value in NO_CHANCES),
    *(
        ("examination", (1.0,) * 9 + (value,), "examination[9] is ")
        for value in (2.0, -1.0, math.nan, None, "1", True, math.inf)
    ),
    *(("slate_size", value, "slate_size ") for value in (None, 0, -1, 2.0, "3", True, 10**6)),
]


def shown(value: Any) -> str:
    return str(value) if isinstance(value, str) else repr(value)[:40]


@pytest.mark.parametrize(("name", "value", "told"), WRONG, ids=shown)
def test_what_is_wrong_is_named(journey: Path, name: str, value: Any, told: str) -> None:
    options: dict[str, Any] = {"population": "all", "start_days": (60, 80), name: value}
    with pytest.raises(ValueError, match="but") as error:
        load_shopper(journey, CPU, **options)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        case
        for case in WRONG
        if case[0] in ("compiled", "precision", "ensemble", "pessimism", "slate_size")
    ],
    ids=shown,
)
def test_what_is_wrong_is_named_by_the_market_too(
    market: Path, name: str, value: Any, told: str
) -> None:
    options: dict[str, Any] = {"slate_size": 3, name: value}
    with pytest.raises(ValueError, match="but") as error:
        load_session(market, CPU, **options)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("folder", [5, True, [], b"here"])
def test_a_folder_is_a_path(folder: Any) -> None:
    with pytest.raises(TypeError, match=r"^folder is .*, but it must be a path\.$"):
        load_shopper(folder, CPU)
    with pytest.raises(TypeError, match=r"^folder is .*, but it must be a path\.$"):
        load_session(folder, CPU)


def test_numbers_and_lists_of_any_kind_are_the_same_options() -> None:
    plain = ShopperOptions("all", True, (60, 80), (0.5,) * TEN, 2, 1.0)
    for days, chances in (([60, 80], [0.5] * TEN), (np.array([60, 80]), np.full(TEN, 0.5))):
        given: list[Any] = ["all", np.bool_(True), days, chances, np.int64(2), np.float32(1)]
        other = ShopperOptions(*given)
        assert other == plain
        assert hash(other) == hash(plain)
    assert [type(day) for day in plain.start_days] == [int, int]


def test_a_shop_is_shared_by_all_that_ask_alike(journey: Path) -> None:
    first = load_shopper(
        journey, CPU, population="all", start_days=(60, 80), examination=(0.5,) * TEN
    )
    days: Any = np.array([60, 80])
    again = load_shopper(str(journey), CPU, population="all", start_days=days, ensemble=np.int64(1))  # type: ignore[arg-type]
    assert again.shop is first.shop
    torch.testing.assert_close(first._examination, torch.full((TEN,), 0.5))
