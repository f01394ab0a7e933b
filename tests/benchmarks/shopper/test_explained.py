"""The deletion test: which causes are chosen, and the report on a small run."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.shopper.explained import Config, chosen, measure, report
from recsim_env.explaining import Cause, Explanation

CAUSES = tuple(Cause("item", key) for key in range(4))


def explained(without: list[float]) -> Explanation:
    """One response of chance 0.2, and its chance without each of four causes."""
    return Explanation(
        slates=torch.tensor([[5]]),
        shown=torch.tensor([[True]]),
        probability=torch.tensor([[0.2]]),
        clicks=torch.tensor([[True]]),
        rows=torch.zeros(4, dtype=torch.int64),
        causes=CAUSES,
        without_probability=torch.tensor([[chance] for chance in without]),
        without_clicks=torch.zeros(4, 1, dtype=torch.bool),
        speaks=torch.ones(4, 1, dtype=torch.bool),
        names=("",) * 4,
        about=("",) * 4,
        titles=(("milk",),),
    )


def test_the_causes_that_raised_the_chance_most_are_named() -> None:
    plan = chosen(explained([0.1, 0.4, 0.02, 0.2]), 0, 0, 2, np.random.default_rng(0))
    assert plan is not None
    assert plan["named"] == [CAUSES[2], CAUSES[0]]
    assert len(set(plan["random"])) == len(set(plan["shuffled"])) == 2


def test_random_and_shuffled_causes_are_each_as_often_any() -> None:
    counts = {way: dict.fromkeys(CAUSES, 0) for way in ("random", "shuffled")}
    for seed in range(400):
        plan = chosen(explained([0.1, 0.4, 0.02, 0.19]), 0, 0, 1, np.random.default_rng(seed))
        assert plan is not None
        for way, found in counts.items():
            found[plan[way][0]] += 1
    for found in counts.values():
        assert all(70 <= count <= 130 for count in found.values()), (
            found
        )  # 100, give or take 3.5 sd


def test_a_response_without_enough_causes_is_left_out() -> None:
    assert chosen(explained([0.1, 0.4, 0.3, 0.3]), 0, 0, 2, np.random.default_rng(0)) is None
    assert chosen(explained([0.1, 0.1, 0.1, 0.1]), 0, 0, 4, np.random.default_rng(0)) is None


def test_differences_are_paired_by_shopper() -> None:
    one = {"env": "recsim_env/Market-v0", "kind": "interest", "removed": 1, "causes": 9}
    ways = {"named": (0.1, 0.2), "random": (0.3, 0.5), "shuffled": (0.3, 0.5)}
    rows = pl.DataFrame(
        [
            {**one, "shopper": at, "chance": 0.5, "response": 1}
            | {f"chance_{way}": chances[at] for way, chances in ways.items()}
            | {f"response_{way}": 0 for way in ways}
            for at in (0, 1)
        ]
    )
    found = report(rows)
    assert found.summary["Market-v0/interest_1/named"].value == pytest.approx(-0.25)
    assert found.summary["Market-v0/interest_1/shuffled"].value == 0
    assert found.figure is not None


def test_a_small_market_is_measured_twice_alike() -> None:
    config = Config(envs=("recsim_env/Market-v0",), shoppers=12, batch=5, visits=1, removed=(1, 2))
    rows = measure(config)
    assert rows.equals(measure(config))
    assert rows["shopper"].n_unique() == 12
    lowered = rows["chance"] - rows["chance_named"]
    assert (lowered > 0).all()
    single = rows.filter(pl.col("removed") == 1)
    assert (single["chance_named"] <= single["chance_random"] + 1e-7).all()
