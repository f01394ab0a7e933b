"""Every registered update: who serves, what it learns from, and what it must leave alone."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.places.exploring import policy_inputs
from agents.updates import UPDATES, Start, Update, register_update, warm
from agents.updates.base import serve
from policies import POLICIES
from policies.rankers.slate_examples import SlateExamples, examples_at
from policies.rankers.two_tower import TwoTowerConfig, TwoTowerRanker
from policies.rankers.two_tower_fit import fit_examples, go_on, loss_of
from recsim_env.registration import EnvConfig, make_simulator
from recsim_env.rollout import rollout
from recsim_env.shoppers.drift import Drift
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import CONTROL
from recsim_env.simulator import SlateSimulator

MARKET = dataclasses.replace(CONTROL, items=40, categories=4, width=8)
QUICK = TwoTowerConfig(width=4, hidden=8, category_hidden=4, epochs=1, batch_size=64)
SHOPPERS, DAYS = 24, 3
STILL = ("frozen", "ppo")
"""Updates whose ranker stays."""


def simulator(block: int) -> SlateSimulator:
    config = EnvConfig(
        make_market,
        {"clicks": 1.0},
        slate_size=3,
        horizon_days=DAYS,
        shopper_options={"config": MARKET, "drift": Drift(popularity=1.0, leaving=0.2)},
    )
    return make_simulator(config, device="cpu", first_day=block * DAYS)


@pytest.fixture(scope="module")
def start() -> Start:
    before = simulator(0)
    inputs = policy_inputs(before, None)
    visits = rollout(POLICIES["uniform"].build(inputs), before, torch.arange(60))
    log = SlateExamples.join(
        [
            examples_at(one.observation, one.shown, one.outcome.response.clicks, before.catalog)
            for one in visits
        ]
    )
    ranker = fit_examples(log, before.catalog, QUICK)
    return Start(ranker, log, inputs, QUICK, before, SHOPPERS, seed=0)


def weights(ranker: TwoTowerRanker) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in ranker.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def two_blocks(name: str, start: Start) -> tuple[Update, list[Tensor]]:
    update, slates = UPDATES[name](start), []
    for block in (1, 2):
        shoppers = simulator(block)
        visits = serve(update, shoppers, torch.arange(100 * block, 100 * block + SHOPPERS))
        assert len(visits) == DAYS
        slates += [visit.shown for visit in visits]
        update.after_block(shoppers)
    return update, slates


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_serves_learns_and_repeats_itself(name: str, start: Start) -> None:
    first = weights(start.ranker)
    update, slates = two_blocks(name, start)
    assert equal(weights(start.ranker), first)  # everybody starts from it
    assert equal(weights(update.ranker), first) is (name in STILL)
    assert all((slate >= 0).all() for slate in slates)  # only what is there is shown
    again = two_blocks(name, start)[1]
    assert all(torch.equal(one, other) for one, other in zip(slates, again, strict=True))


def test_the_first_day_is_served_alike_by_all_who_rank(start: Start) -> None:
    shown = {}
    for name in UPDATES:
        if name != "ppo":
            visits = serve(UPDATES[name](start), simulator(1), torch.arange(SHOPPERS))
            shown[name] = visits[0].shown
    assert all(torch.equal(slates, shown["frozen"]) for slates in shown.values())


def days_seen(update: Update) -> list[SlateExamples]:
    """Serve two blocks, and return what was handed over for each day."""
    found: list[SlateExamples] = []
    learn = update.after_day

    def noted(day: SlateExamples) -> None:
        found.append(day)
        learn(day)

    update.after_day = noted  # type: ignore[method-assign]
    serve(update, simulator(1), torch.arange(SHOPPERS))
    return found


def test_refit_is_a_fit_to_the_whole_log(start: Start) -> None:
    update = UPDATES["refit"](start)
    days = days_seen(update)
    by_hand = fit_examples(
        SlateExamples.join([start.log, *days]), start.inputs.catalog, start.config
    )
    assert equal(weights(update.ranker), weights(by_hand))


def test_warm_start_goes_on_day_by_day(start: Start) -> None:
    update = UPDATES["warm_start"](start)
    by_hand, told = (
        start.ranker,
        dataclasses.replace(
            QUICK, epochs=warm.EPOCHS, learning_rate=warm.RATE, batch_size=warm.BATCH
        ),
    )
    for day in days_seen(update):
        by_hand = go_on(by_hand, day, told)
    assert equal(weights(update.ranker), weights(by_hand))


def test_a_replay_doubles_each_day_with_what_was_before(start: Start) -> None:
    update: Any = UPDATES["warm_replay"](start)
    day = start.log.take(torch.arange(10))
    both = update._with_others(day)
    assert len(both) == 20
    assert torch.equal(both.slates[:10], day.slates)
    known = {tuple(row) for row in start.log.slates.tolist()}
    assert all(tuple(row) in known for row in both.slates[10:].tolist())
    later = update._with_others(start.log)  # the day before is part of what is replayed
    assert len(later) == 2 * len(start.log)


def test_online_steps_are_those_of_the_optimiser(start: Start) -> None:
    update = UPDATES["online_adam"](start)
    days = days_seen(update)
    model = copy.deepcopy(start.ranker.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    for day in days:  # 24 visits are one step
        optimizer.zero_grad()
        loss_of(model, day, torch.arange(len(day))).backward()
        optimizer.step()
    assert equal(weights(update.ranker), dict(model.state_dict()))


def test_ppo_changes_its_policy_between_blocks_only(start: Start) -> None:
    update = UPDATES["ppo"](start)
    before = update.policy
    shoppers = simulator(1)
    serve(update, shoppers, torch.arange(SHOPPERS))
    assert update.policy is before
    update.after_block(shoppers)
    assert update.policy is not before


def test_a_name_is_given_once() -> None:
    class Other(Update):
        """Somebody else's."""

    with pytest.raises(ValueError, match="a model update of that name is registered already"):
        register_update("frozen")(Other)


def test_an_update_without_a_name_or_a_class_is_refused() -> None:
    known = set(UPDATES)
    with pytest.raises(ValueError, match=r"name is .*, but it must be a text"):
        register_update(Update)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="The model update 'none' is 5, but it must be a function"):
        register_update("none")(5)  # type: ignore[arg-type]
    assert set(UPDATES) == known
