"""Examples of slates: those of a log are those of its visits, and parts make the whole."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest
import torch

from policies.rankers.slate_examples import SlateExamples, examples_at, examples_of
from recsim_env.logs.record import record
from recsim_env.logs.sessions import Sessions
from recsim_env.rollout import rollout
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import CONTROL
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

SMALL = dataclasses.replace(CONTROL, items=30, categories=5, width=6)


class AnyItems:
    """Random items."""

    draws = 30

    def __call__(self, observation: Observation, draws: torch.Tensor) -> torch.Tensor:
        return draws.argsort(dim=1)[:, :3]


def simulator() -> SlateSimulator:
    market = make_market(torch.device("cpu"), 3, config=SMALL)
    return SlateSimulator(market, {"clicks": 1.0}, horizon_days=4)


def of_visits(shoppers: int = 7) -> SlateExamples:
    shop = simulator()
    return SlateExamples.join(
        [
            examples_at(one.observation, one.shown, one.outcome.response.clicks, shop.catalog)
            for one in rollout(AnyItems(), shop, torch.arange(shoppers))
        ]
    )


def same(one: SlateExamples, other: SlateExamples) -> bool:
    rows = torch.arange(len(one))
    inputs = zip(one.inputs(rows), other.inputs(rows), strict=True)
    return (
        torch.equal(one.slates, other.slates)
        and torch.equal(one.clicks, other.clicks)
        and torch.equal(one.fatigue, other.fatigue)
        and all(torch.allclose(a.float(), b.float(), atol=1e-3) for a, b in inputs)
    )


def test_visits_as_they_happen_are_what_their_log_tells() -> None:
    shop = simulator()
    rows, _ = record(shop, AnyItems(), torch.arange(7))
    said = shop.reset(torch.arange(7))["declared"]
    declared = pl.DataFrame({"shopper": range(7), "declared": said.tolist()})
    from_log = examples_of(Sessions.of(rows, declared), shop.catalog)
    assert same(from_log, of_visits())


def test_parts_make_the_whole() -> None:
    whole = of_visits()
    rows = torch.arange(len(whole))
    assert same(SlateExamples.join([whole.take(rows[:5]), whole.take(rows[5:])]), whole)
    mixed = torch.tensor([9, 3, 3, 20])
    taken = whole.take(mixed)
    assert torch.equal(taken.slates, whole.slates[mixed])
    for one, other in zip(taken.inputs(torch.arange(4)), whole.inputs(mixed), strict=True):
        assert torch.equal(one, other)


def test_no_part_is_no_log() -> None:
    with pytest.raises(ValueError, match="parts is empty"):
        SlateExamples.join([])
