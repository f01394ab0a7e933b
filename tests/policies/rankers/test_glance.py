"""Two stages rank what one stage ranks, with the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from policies.inputs import TwoStageRanker
from policies.pool import Pooling
from policies.rankers import ctr
from policies.rankers.ctr import CTRModel, CTRRanker, config_for
from policies.rankers.glance import Glance
from policies.rankers.pair_features import RankerCatalog
from policies.registry import POLICIES
from recsim_env import make_simulator
from recsim_env.types import Observation


@pytest.fixture(scope="module")
def shipped() -> tuple[CTRRanker, Observation, object]:
    """The ranker of the Complete Journey, and an observation of its shoppers after a visit."""
    from agents.places import open_place

    site = open_place("recsim_env/CompleteJourney-v0", device="cpu")
    simulator = site.training()
    observation = simulator.reset(torch.arange(24))
    slates = POLICIES["greedy_ctr"].build(site.inputs)(observation, torch.zeros(24, 0))
    simulator.advance(slates)
    ranker = site.inputs.ranker
    assert isinstance(ranker, CTRRanker)
    return ranker, simulator.observe(), site.inputs


def test_both_stages_give_the_logits_of_one(shipped: tuple[CTRRanker, Observation, object]) -> None:
    ranker, observation, _ = shipped
    assert isinstance(ranker, TwoStageRanker)
    logits, columns = ranker.leading(observation, 64)
    assert columns is not None
    assert columns.shape == (24, 64 + ctr.SPARE)
    assert all(len(set(row)) == len(row) for row in columns.tolist())
    torch.testing.assert_close(logits, ranker.logits(observation).gather(1, columns))


def test_hardly_one_of_the_best_is_missed(shipped: tuple[CTRRanker, Observation, object]) -> None:
    ranker, observation, _ = shipped
    logits = ranker.logits(observation)
    _, columns = ranker.leading(observation, 64)
    assert columns is not None
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, columns, True)
    assert seen.gather(1, logits.topk(10, dim=1).indices).float().mean() >= 0.99
    assert seen.gather(1, logits.topk(64, dim=1).indices).float().mean() >= 0.95


def test_a_pool_of_two_stages_is_that_of_one_where_nothing_is_missed(
    shipped: tuple[CTRRanker, Observation, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker, observation, inputs = shipped
    quick = Pooling(inputs, 32).of(ranker, observation)  # type: ignore[arg-type]
    monkeypatch.setattr(ranker, "_glance", None)
    whole = Pooling(inputs, 32).of(ranker, observation)  # type: ignore[arg-type]
    same = (quick.items == whole.items).all(dim=1)
    assert same.float().mean() > 0.7
    assert torch.equal(quick.items[:, :5], whole.items[:, :5])
    torch.testing.assert_close(quick.logits[same], whole.logits[same])
    assert torch.equal(observation["candidates"].gather(1, quick.columns), quick.items)


def test_what_was_bought_comes_first_and_padding_is_left_out(
    shipped: tuple[CTRRanker, Observation, object],
) -> None:
    ranker, observation, _ = shipped
    glance = ranker._glance
    assert glance is not None
    columns = glance.columns(observation, 100)
    chosen = observation["candidates"].gather(1, columns)
    assert ((chosen >= 0).sum(1) == (observation["candidates"] >= 0).sum(1).clamp(max=100)).all()
    for row in range(8):
        bought = set(observation["bought_items"][row].tolist()) - {-1}
        offered = bought & set(observation["candidates"][row].tolist())
        assert set(chosen[row, : len(offered)].tolist()) == offered


def test_a_model_that_sees_what_a_glance_cannot_is_asked_about_everything() -> None:
    catalog = make_simulator("recsim_env/CompleteJourney-v0", device="cpu").catalog
    items = RankerCatalog.of(catalog)
    config = config_for(items, ("recent",), ("item",), 5)
    assert not Glance.understands(CTRModel(config))
    known = config_for(items, ("category", "popularity"), ("item",), 8)
    assert Glance.understands(CTRModel(known))
    assert not Glance.understands(CTRModel(replace(known, scale=-1.0)))
    assert math.isclose(Glance(CTRModel(known), items)._slope, 0.0, abs_tol=10.0)
