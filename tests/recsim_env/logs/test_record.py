"""A recorded log holds what was shown, and is a log as `recsim_env.logs.schema` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsim_env import noise
from recsim_env.logs import schema
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.types import Observation
from tests.support.toys import FunctionPolicy, toy_simulator

ITEMS, SIZE, DRAWS = 31, 4, 31
Choose = Callable[[Observation, Tensor], Tensor]


def candidates_first(observation: Observation, draws: Tensor) -> Tensor:
    return observation["candidates"][:, :SIZE]


def one_item(observation: Observation, draws: Tensor) -> Tensor:
    return observation["candidates"][:, :1].expand(-1, SIZE)


def nothing_on_offer(observation: Observation, draws: Tensor) -> Tensor:
    """Four items that are no candidates."""
    offered = torch.zeros(len(draws), ITEMS + 1, dtype=torch.bool).scatter_(
        1, observation["candidates"] + 1, True
    )
    return offered[:, 1:].long().argsort(dim=1, stable=True)[:, :SIZE]


def anything(observation: Observation, draws: Tensor) -> Tensor:
    """Any items, some twice and some no candidates."""
    return (draws[:, :SIZE] * ITEMS).long()


def half_chance(observation: Observation, slates: Tensor) -> Tensor:
    return torch.full((len(slates),), -0.5)


def recorded(policy: Choose, seeds: int = 5, **options: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    asked = FunctionPolicy(policy, DRAWS)
    return record(toy_simulator(horizon_days=30), asked, torch.arange(seeds), **options)


@pytest.mark.parametrize("policy", [candidates_first, one_item, anything])
def test_a_log_is_written_and_read_as_it_is(policy: Choose, tmp_path: Path) -> None:
    impressions, baskets = recorded(policy, propensity=half_chance)
    schema.write_impressions(impressions, tmp_path / "impressions.parquet", ITEMS)
    schema.write_baskets(baskets, tmp_path / "baskets.parquet", ITEMS)
    assert schema.read_impressions(tmp_path / "impressions.parquet", ITEMS).equals(impressions)
    assert schema.read_baskets(tmp_path / "baskets.parquet", ITEMS, 5).equals(baskets)


def test_an_item_in_all_places_was_shown_once() -> None:
    """840 exposures were logged where 84 happened."""
    impressions, baskets = recorded(one_item, propensity=half_chance)
    assert impressions["slate"].list.len().to_list() == [1] * len(baskets)
    assert impressions["purchase"].list.len().to_list() == [1] * len(baskets)
    assert impressions["propensity"].to_list() == [None] * len(
        baskets
    )  # of another slate than the one shown


def test_a_visit_to_which_nothing_was_shown_has_a_basket_and_no_slate() -> None:
    impressions, baskets = recorded(nothing_on_offer)
    assert len(impressions) == 0
    assert len(baskets) >= 5
    assert baskets["items"].list.len().sum() == 0


def test_whole_slates_keep_their_propensity_and_their_places() -> None:
    impressions, _ = recorded(candidates_first, propensity=half_chance)
    assert impressions["slate"].list.len().unique().to_list() == [SIZE]
    assert impressions["propensity"].unique().to_list() == [-0.5]
    assert len(Sessions.of(impressions)) == 5


@settings(max_examples=20, deadline=None, derandomize=True)
@given(first=st.integers(-(2**62), 2**62), batch=st.integers(1, 4))
def test_what_is_logged_is_what_the_simulator_showed(first: int, batch: int) -> None:
    """Held against a loop over the simulator that looks at what is shown and answered by itself."""
    seeds = first + torch.arange(batch)
    impressions, baskets = record(
        toy_simulator(horizon_days=20), FunctionPolicy(anything, DRAWS), seeds
    )
    shown: list[tuple[int, list[int], list[bool]]] = []
    for shopper, seed in enumerate(seeds):
        simulator = toy_simulator(horizon_days=20)
        observation = simulator.reset(seed.view(1))
        key = noise.episode_key(
            seed.view(1), torch.zeros(1, dtype=torch.int64), stream=noise.Stream.POLICY
        )
        for visit in range(1000):
            slate = anything(observation, noise.uniform(key, visit, DRAWS))
            offered, items = set(observation["candidates"][0].tolist()), slate[0].tolist()
            step = simulator.step(slate)
            clicks = step.response.clicks[0].tolist()
            places = [
                at for at, item in enumerate(items) if item in offered and item not in items[:at]
            ]
            shown.append((shopper, [items[at] for at in places], [clicks[at] for at in places]))
            observation = step.observation
            if step.ended.item():
                break
    assert baskets["shopper"].to_list() == [shopper for shopper, _, _ in shown]
    assert baskets["items"].to_list() == [
        [item for item, click in zip(items, clicks, strict=True) if click]
        for _, items, clicks in shown
    ]
    logged = list(impressions.select("shopper", "slate", "purchase").iter_rows())
    assert logged == [row for row in shown if row[1]]


BAD_DRAWS: list[Any] = [None, "3", -1, 2.5, True, 2**70]
BAD: dict[str, list[Any]] = {
    "simulator": [None, 3, "recsim_env/Market-v0"],
    "policy": [None, 3, "uniform", anything],
    "policy.draws": [FunctionPolicy(anything, draws) for draws in BAD_DRAWS],
    "seeds": [
        None,
        3,
        [1, 2],
        torch.arange(3).float(),
        torch.zeros(2, 2, dtype=torch.int64),
        range(3),
    ],
    "propensity": [3, "chance"],
    "scenario": [None, 3, ""],
    "policy_name": [3, ""],
    "split": [None, 3, "dev", []],
    "progress": [None, 3],
}


@pytest.mark.parametrize(
    ("argument", "bad"), [(argument, value) for argument, values in BAD.items() for value in values]
)
def test_a_bad_argument_is_named(argument: str, bad: Any) -> None:
    good: dict[str, Any] = {"simulator": toy_simulator(), "seeds": torch.arange(2)}
    good["policy"] = FunctionPolicy(anything, DRAWS)
    with pytest.raises((TypeError, ValueError), match=rf"^{argument} is .*, but it must be"):
        record(**{**good, argument.partition(".")[0]: bad})


@pytest.mark.parametrize(
    "slates", [None, [[0] * SIZE] * 2, torch.zeros(2, SIZE), torch.full((2, SIZE), ITEMS)]
)
def test_slates_that_cannot_be_shown_are_named(slates: Any) -> None:
    simulator = toy_simulator()
    with pytest.raises((TypeError, ValueError), match=r"^policy\(observation, draws\) "):
        record(simulator, FunctionPolicy(lambda observation, draws: slates), torch.arange(2))


@pytest.mark.parametrize(
    "chance", [None, 0.5, torch.zeros(3), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)]
)
def test_a_propensity_is_a_number_a_slate(chance: Any) -> None:
    with pytest.raises(
        ValueError, match=r"propensity\(\) is .*, but it must be a float tensor of shape \(2,\)"
    ):
        record(
            toy_simulator(),
            FunctionPolicy(anything, DRAWS),
            torch.arange(2),
            propensity=lambda observation, slates: chance,
        )
