"""Portraits: who has one, when it is hidden, and that it changes nothing that happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from policies.features import STATE_FEATURES, Recent, StateInputs, Summary
from policies.pool import Pool
from recsim_env.registration import EnvConfig, make_simulator
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.household.portraits import (
    FILE,
    LEVELS,
    PORTRAIT,
    make_portraits,
    read_portraits,
    write_portraits,
)
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper
from tests.support.fake_log import SHOPPERS, write_shop
from tests.support.fake_shoppers import member

CPU = torch.device("cpu")
KNOWN = range(0, SHOPPERS, 2)


def portraits() -> pl.DataFrame:
    """Every other shopper is known."""
    levels = {name: [who % len(one) for who in KNOWN] for name, one in LEVELS.items()}
    return pl.DataFrame({"shopper": list(KNOWN), **levels})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop")
    write_shop(path)
    member(path, 1).save_pretrained(path)
    write_portraits(path, portraits())
    return path


def make(folder: Path, population: str, **options: Any) -> SlateSimulator:
    told = {"population": population, "start_days": (60, 80)}
    return make_simulator(
        EnvConfig(folder, {"clicks": 1.0}, 5, shopper_options=told), device="cpu", **options
    )


def test_levels_are_numbered_from_the_lowest() -> None:
    demographics = pl.DataFrame(
        {
            "household_id": [7, 3, 99],
            "age": ["65+", "19-24", "25-34"],
            "income": ["Under 15K", "250K+", "15-24K"],
            "household_size": ["1", "5+", "2"],
            "kids_count": ["0", "3+", "1"],
        }
    )
    shoppers = pl.DataFrame({"shopper": [0, 1, 2], "household_id": [3, 5, 7]})
    assert make_portraits(demographics, shoppers).rows() == [(0, 0, 11, 4, 3), (2, 5, 0, 0, 0)]


def test_a_portrait_is_zeros_where_nothing_is_known(tmp_path: Path) -> None:
    write_portraits(
        tmp_path,
        pl.DataFrame(
            {"shopper": [1], "age": [5], "income": [0], "household_size": [2], "kids_count": [1]}
        ),
    )
    found = read_portraits(tmp_path, 3)
    assert found.tolist() == [[0.0] * 5, [1.0, 1.0, 0.0, 0.5, pytest.approx(1 / 3)], [0.0] * 5]


@pytest.mark.parametrize(
    ("column", "value"), [("age", 6), ("age", -1), ("kids_count", 4), ("shopper", 3)]
)
def test_a_number_out_of_its_range_is_refused(tmp_path: Path, column: str, value: int) -> None:
    frame = pl.DataFrame({"shopper": [0], **{name: [0] for name in LEVELS}})
    write_portraits(tmp_path, frame.with_columns(pl.lit(value).alias(column)))
    with pytest.raises(ValueError, match=rf"{FILE}: found a shopper twice or a number out of"):
        read_portraits(tmp_path, 3)


def test_other_columns_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^portrait is True, but .* holds no portraits.parquet"):
        read_portraits(tmp_path, 3)
    write_portraits(tmp_path, pl.DataFrame({"shopper": [0], "age": ["old"]}))
    with pytest.raises(ValueError, match=r"portraits.parquet: found the columns"):
        read_portraits(tmp_path, 3)


@pytest.mark.parametrize("value", [None, "yes", 1, 0.5])
def test_it_is_asked_for_by_a_flag(folder: Path, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^portrait is .*, but it must be True or False"):
        make(folder, "all", portrait=value)


def test_it_is_told_of_those_who_are_known_and_changes_nothing_that_happens(folder: Path) -> None:
    plain, told = make(folder, "all"), make(folder, "all", portrait=True)
    seeds = torch.arange(64)
    without, seen = plain.reset(seeds), told.reset(seeds)
    assert set(seen) - set(without) == {"portrait"}
    who = told.shopper.shop.starts.shopper[told.hidden.who]  # type: ignore[attr-defined]
    assert torch.equal(seen["portrait"], read_portraits(folder, SHOPPERS)[who])
    assert seen["portrait"][:, 0].tolist() == [float(one % 2 == 0) for one in who.tolist()]
    for _ in range(3):
        slates = plain.candidates[:, :5].clamp(min=0)
        first, second = plain.step(slates), told.step(slates)
        assert torch.equal(first.response.clicks, second.response.clicks)
        assert torch.equal(first.response.days, second.response.days)
        for simulator, step in ((plain, first), (told, second)):
            simulator.restart(step.ended.nonzero().squeeze(1))


def test_of_training_shoppers_half_are_hidden_by_episode(folder: Path) -> None:
    simulator = make(folder, "train", portrait=True)
    seeds = torch.arange(2000)
    seen = simulator.reset(seeds)["portrait"]
    who = simulator.shopper.shop.starts.shopper[simulator.hidden.who]  # type: ignore[attr-defined]
    whole = read_portraits(folder, SHOPPERS)[who]
    shown = seen[:, 0] > 0
    assert torch.equal(seen[shown], whole[shown])
    assert not bool(seen[~shown].any())
    known = whole[:, 0] > 0
    assert float(shown[known].float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 900**0.5)
    of_one = who == who[known][0]  # told in some episodes, and not in others
    assert 0 < int(shown[of_one].sum()) < int(of_one.sum())
    evaluation = make(folder, "evaluation", portrait=True)
    told = evaluation.reset(seeds)["portrait"]
    judged = evaluation.shopper.shop.starts.shopper[evaluation.hidden.who]  # type: ignore[attr-defined]
    assert torch.equal(told, read_portraits(folder, SHOPPERS)[judged])


def test_a_newcomer_has_a_portrait(folder: Path) -> None:
    simulator = make(folder, "all", portrait=True, newcomers=1.0)
    seen = simulator.reset(torch.arange(64))
    assert 0 < int(seen["portrait"][:, 0].sum()) < 64
    check_shopper(
        load_shopper(folder, CPU, 5, population="all", start_days=(60, 80), portrait=True)
    )


def test_the_feature_stands_in_the_middle_where_nothing_is_known(folder: Path) -> None:
    simulator = make(folder, "all", portrait=True)
    space = simulator.observation_space
    summary = Summary(simulator.catalog, space, 5, 4)
    assert "portrait" in summary.state_features
    assert "portrait" not in summary.small
    observation = dict(simulator.reset(torch.arange(2)))
    observation["portrait"] = torch.tensor([[0.0] * 5, [1.0, 1.0, 0.0, 0.5, 1.0]])
    nothing: Tensor = torch.zeros(2, 5)
    pool = Pool(nothing.long(), nothing, nothing.long())
    inputs = StateInputs(
        observation, Recent.of(observation), pool, summary.vectors, summary.category, 5
    )
    found = STATE_FEATURES["portrait"].values(inputs)
    assert found.tolist() == [[0.0] * 5, [1.0, 1.0, -1.0, 0.0, 1.0]]
    assert found.shape[1] == len(PORTRAIT)
