"""The rows of a policy's visits: who is served, before the visit, and what the visit led to."""

from __future__ import annotations

import polars as pl
import torch

from agents.evaluate import evaluate
from benchmarks.agents.behaviour import KNOBS, MOMENT, TRAITS, visits
from policies import POLICIES
from policies.composer import Composer
from recsim_env.registration import make_simulator
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy
from tests.support.policy_toys import toy_inputs

SEEDS = torch.arange(12) * 5


def market() -> SlateSimulator:
    """A market that measures diversity."""
    reward = {"clicks": 1.0, "intra_list_distance": 0.3}
    return make_simulator("recsim_env/Market-v0", device="cpu", reward=reward)


def watched() -> tuple[pl.DataFrame, Policy]:
    simulator = market()
    inputs = toy_inputs(simulator)
    greedy = POLICIES["greedy_ctr"].build(inputs)
    return visits("greedy", greedy, simulator, Composer(inputs), SEEDS), greedy


def test_rows_add_up_to_the_episodes_of_an_evaluation() -> None:
    rows, greedy = watched()
    expected = evaluate(greedy, market(), SEEDS).rows.sort("seed")
    found = (
        rows.group_by("shopper")
        .agg(
            pl.len().alias("visits"),
            pl.col("clicks").sum(),
            pl.col("reward").cast(pl.Float64).sum(),
        )
        .sort("shopper")
    )
    assert found["shopper"].to_list() == expected["seed"].to_list()
    assert found["visits"].to_list() == expected["visits"].to_list()
    assert found["clicks"].to_list() == expected["clicks"].to_list()
    torch.testing.assert_close(found["reward"].to_torch(), expected["return"].to_torch())


def test_shoppers_are_looked_at_before_the_visit() -> None:
    rows, _ = watched()
    simulator = market()
    simulator.reset(SEEDS)
    first = rows.filter(pl.col("visit") == 0)
    assert first["shopper"].to_list() == SEEDS.tolist()
    assert set(first[MOMENT].to_list()) == {0.0}  # nobody is sated yet
    assert rows.filter(pl.col("visit") > 0)[MOMENT].max() > 0  # type: ignore[operator]
    for trait in TRAITS:
        assert first[trait].to_list() == getattr(simulator.hidden, trait).tolist()
    assert rows.select(pl.col(KNOBS).is_null().all()).row(0) == (True,) * len(KNOBS)
