"""A market that moves: today's market where nothing does, and by hand where something does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from policies.oracles import OracleMyopic, OracleParameters, OracleState
from policies.truth import Told
from recsim_env import make_simulator
from recsim_env.logs.record import record
from recsim_env.rollout import Visit, rollout
from recsim_env.shoppers.drift import DRIFTS, Drift, lives
from recsim_env.shoppers.drifting import DriftingMarket, DriftingState, make_market
from recsim_env.shoppers.market import MARKET, MarketConfig, MarketShopper
from recsim_env.simulator import SlateSimulator
from recsim_env.testing import check_shopper
from recsim_env.trees import leaves
from recsim_env.types import Observation

CPU = torch.device("cpu")
SMALL = dataclasses.replace(MARKET, items=40, categories=5, width=6, favourites=2)
EVERYTHING = Drift(
    interests=0.5,
    popularity=0.6,
    arrivals=1.0,
    season=0.5,
    entering=0.3,
    leaving=0.2,
    item_days=10,
    arrival_days=3,
    days=30,
)


class AnyItems:
    """Random items of the whole catalogue, whether they are there or not."""

    def __init__(self, items: int, size: int) -> None:
        self.draws, self._size = items, size

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        return draws.argsort(dim=1)[:, : self._size]


def played(shopper: MarketShopper, batch: int | None = None, shoppers: int = 12) -> list[Visit]:
    simulator = SlateSimulator(shopper, {"clicks": 1.0}, horizon_days=15)
    policy = AnyItems(len(shopper.catalog), shopper.slate_size)
    return list(rollout(policy, simulator, torch.arange(shoppers), batch=batch))


def by_shopper(visits: list[Visit]) -> dict[tuple[int, int], tuple[Any, ...]]:
    """(shopper, visit) -> what was seen and what happened."""
    found: dict[tuple[int, int], tuple[Any, ...]] = {}
    seen: dict[int, int] = {}
    for visit in visits:
        for row, shopper in enumerate(visit.number.tolist()):
            seen[shopper] = seen.get(shopper, -1) + 1
            response = visit.outcome.response
            found[shopper, seen[shopper]] = (
                visit.shown[row].tolist(),
                visit.observation["candidates"][row].tolist(),
                response.clicks[row].tolist(),
                response.probability[row].tolist(),
                bool(response.left[row]),
            )
    return found


# ---- where nothing moves -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"drift": "none"}, {"new_items": 0.0}, {"first_day": 9}])
def test_without_drift_episodes_are_todays_bit_for_bit(options: dict[str, Any]) -> None:
    plain = make_market(CPU, 3, config=SMALL)
    other = make_market(CPU, 3, config=SMALL, **options)
    assert type(plain) is MarketShopper
    assert type(other) is DriftingMarket
    assert by_shopper(played(plain)) == by_shopper(played(other))
    keys = torch.rand(4, other.start_draws, generator=torch.Generator().manual_seed(0))
    mine, theirs = other.start(keys), plain.start(keys[:, :-1])
    assert isinstance(mine, DriftingState)
    for name, value in vars(theirs).items():
        for (_, one), (_, same) in zip(leaves(value), leaves(getattr(mine, name)), strict=True):
            assert torch.equal(one, same)


def test_no_option_leaves_the_market_as_it_is() -> None:
    for id in ("Market", "MarketMild", "MarketControl", "MarketAlike"):
        assert type(make_simulator(f"recsim_env/{id}-v0", device="cpu").shopper) is MarketShopper


# ---- where something does ------------------------------------------------------------------------


def test_the_promises_of_shoppers_are_kept() -> None:
    check_shopper(make_market(CPU, 3, config=SMALL, drift=EVERYTHING))


def test_the_same_seeds_give_the_same_episodes_in_any_batch() -> None:
    shopper = make_market(CPU, 3, config=SMALL, drift=EVERYTHING, first_day=2)
    whole = by_shopper(played(shopper))
    for batch in (1, 5):
        other = by_shopper(played(shopper, batch=batch))
        assert whole.keys() == other.keys()
        for key, (slate, candidates, clicks, chance, left) in whole.items():
            found = other[key]
            assert (slate, candidates, clicks, left) == (*found[:3], found[4])
            assert chance == pytest.approx(found[3], abs=1e-6)  # sums of another order


def test_a_block_goes_on_where_the_calendar_is() -> None:
    early, late = (
        make_market(CPU, 3, config=SMALL, drift=EVERYTHING, first_day=day) for day in (0, 4)
    )
    assert isinstance(early, DriftingMarket)
    assert isinstance(late, DriftingMarket)
    draws = torch.full((1, early.start_draws), 0.4)
    one, other = early.start(draws), late.start(draws)
    assert (early.calendar_day(one) + 4 == late.calendar_day(other)).all()
    one.day += 4  # the same day of the shop
    other.interest = one.interest
    items = torch.arange(40).unsqueeze(0)
    assert torch.equal(early.log_odds(one, items), late.log_odds(other, items))
    assert torch.equal(early.candidates(one), late.candidates(other))


def test_log_odds_by_hand() -> None:
    shopper = make_market(CPU, 2, config=SMALL, drift=EVERYTHING)
    plain = make_market(CPU, 2, config=SMALL)
    assert isinstance(shopper, DriftingMarket)
    state = shopper.start(torch.full((1, shopper.start_draws), 0.0))  # arrives on day 0
    state.day += 5
    item, calendar = 7, shopper.calendar
    assert calendar.fashion is not None
    assert calendar.popularity is not None
    assert calendar.season is not None
    moved = state.interest[0] + calendar.fashion[5]
    moved = moved / moved.norm()
    category = int(shopper.catalog.category[item])
    by_hand = (
        SMALL.base
        + SMALL.interest * float(moved @ shopper.catalog.embedding[item])
        + float(plain.quality[item])
        + float(calendar.popularity[5, item])
        + float(calendar.season[5, category])
    )
    assert shopper.log_odds(state, torch.tensor([[item]])).item() == pytest.approx(by_hand, 1e-5)


def test_after_the_calendar_everything_stays() -> None:
    drift = dataclasses.replace(EVERYTHING, arrival_days=1, entering=0, leaving=0)
    shopper = make_market(CPU, 2, config=SMALL, drift=drift, first_day=29)
    state = shopper.start(torch.full((1, shopper.start_draws), 0.5))
    items = torch.arange(40).unsqueeze(0)
    last = shopper.log_odds(state, items)
    state.day += 200
    assert torch.equal(shopper.log_odds(state, items), last)


def test_items_that_left_or_are_not_there_yet_are_never_shown() -> None:
    for number, drift in enumerate((EVERYTHING, DRIFTS["items"])):
        shopper = make_market(CPU, 3, config=SMALL, drift=drift, world=number)
        assert isinstance(shopper, DriftingMarket)
        first, gone = lives(drift, number, 40)
        arrived = shopper.start(_draws_of(shopper, 12)).arrived
        shown = 0
        for (who, visit), (slate, candidates, *_) in by_shopper(played(shopper)).items():
            day = int(arrived[who]) + visit
            there = {item for item in range(40) if first[item] <= day < gone[item]}
            assert {item for item in candidates if item >= 0} == there
            assert {item for item in slate if item >= 0} <= there
            shown += sum(item >= 0 for item in slate)
        assert shown > 100


def _draws_of(shopper: DriftingMarket, shoppers: int) -> Tensor:
    from recsim_env import noise

    seeds = torch.arange(shoppers)
    return noise.uniform(noise.episode_key(seeds, torch.zeros_like(seeds)), 0, shopper.start_draws)


def test_strict_slates_refuse_what_left() -> None:
    first, gone = lives(Drift(leaving=0.5, item_days=1), 0, 40)
    left = int(gone.argmin())
    simulator = SlateSimulator(
        make_market(CPU, 1, config=SMALL, drift=Drift(leaving=0.5, item_days=1), first_day=1),
        {"clicks": 1.0},
        strict=True,
    )
    simulator.reset(torch.arange(2))
    with pytest.raises(ValueError, match=f"holds {left} at .* is no candidate"):
        simulator.step(torch.full((2, 1), left))
    assert int(first.max()) == 0


def test_shoppers_arrive_over_days_and_with_other_favourites() -> None:
    drift = Drift(arrivals=3.0, arrival_days=7, days=60, half_life=2.0)
    shopper = make_market(CPU, 2, config=SMALL, drift=drift, first_day=20)
    assert isinstance(shopper, DriftingMarket)
    state = shopper.start(_draws_of(shopper, 4000))
    days = torch.bincount(state.arrived)
    assert days[:20].sum() == 0
    assert len(days) == 27
    assert (days[20:] / 4000 - 1 / 7).abs().max() < 0.03

    # of those of a day, favourites are as likely as the calendar says: with one favourite each, the
    # nearest centre is that favourite
    one = dataclasses.replace(SMALL, favourites=1, interest_noise=0.0)
    shopper = make_market(CPU, 2, config=one, drift=dataclasses.replace(drift, arrival_days=1))
    assert isinstance(shopper, DriftingMarket)
    state = shopper.start(_draws_of(shopper, 4000))
    nearest = (state.interest @ shopper._centres.T).argmax(dim=1)
    found = torch.bincount(nearest, minlength=5) / 4000
    assert shopper.calendar.favourites is not None
    told = torch.diff(shopper.calendar.favourites[0], prepend=torch.zeros(1))
    assert (found - told).abs().max() < 0.03


def test_the_log_tells_the_day_of_the_shop() -> None:
    simulator = make_simulator(
        "recsim_env/MarketControl-v0",
        device="cpu",
        horizon_days=3,
        first_day=30,
        drift=Drift(season=1.0),
    )
    rows, _ = record(simulator, AnyItems(1000, 10), torch.arange(2), policy_name="random")
    assert rows["day"].to_list() == [30, 31, 32, 30, 31, 32]
    assert rows["week"].to_list() == [5, 5, 5, 5, 5, 5]


def test_oracles_and_the_truth_see_only_what_is_there() -> None:
    shopper = make_market(CPU, 3, config=SMALL, drift=EVERYTHING)
    simulator = SlateSimulator(shopper, {"clicks": 1.0}, horizon_days=15, strict=True)
    for oracle in (OracleMyopic(simulator), OracleState(simulator, OracleParameters())):
        visits = list(rollout(oracle, simulator, torch.arange(5)))
        assert all((visit.shown >= 0).all() for visit in visits)
    told = SlateSimulator(Told(shopper), {"clicks": 1.0})
    observation = told.reset(torch.arange(4))
    there = observation["candidates"] >= 0
    hidden = told.hidden
    best = shopper.log_odds(hidden, observation["candidates"].clamp(min=0))
    assert torch.equal(observation["belief_logits"][there], best[there])


def test_rewards_move_where_the_market_does() -> None:
    """With nothing but a season, the oracle's clicks follow it: it is worth knowing the day."""
    earned = []
    for day in (0, 91, 182, 273):
        simulator = make_simulator(
            "recsim_env/MarketControl-v0",
            device="cpu",
            horizon_days=1,
            drift=Drift(season=3.0),
            first_day=day,
        )
        visits = list(rollout(OracleMyopic(simulator), simulator, torch.arange(64)))
        slates = torch.cat([visit.slates for visit in visits])
        earned.append(torch.bincount(simulator.catalog.category[slates].flatten(), minlength=20))
    shares = torch.stack(earned).double()
    shares /= shares.sum(dim=1, keepdim=True)
    assert (shares[0] - shares[2]).abs().sum() > 1  # half of what is shown is of other categories


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"new_items": 1.5}, "new_items is 1.5, but it must be a finite number from 0 to 1"),
        ({"new_items": 1.0}, "new_items is 1.0, but that leaves 0 items on a day"),
        ({"new_items": 0.9, "drift": "items"}, "new_items is 0.9, but it must be from 0 to 0.7"),
        ({"drift": "much"}, "drift is 'much', but it must be one of 'none'"),
        ({"drift": Drift(leaving=1.0)}, "drift is Drift.*, but that leaves 0 items on a day"),
        ({"first_day": -1}, "first_day is -1, but it must be a whole number"),
    ],
)
def test_bad_options_are_told_before_reset(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        gymnasium.make("recsim_env/Market-v0", **options)


def test_both_faces_take_the_options() -> None:
    env: Any = gymnasium.make("recsim_env/Market-v0", drift="all", new_items=0.1, slate_size=4)
    observation, _ = env.reset(seed=0)
    assert (observation["candidates"] >= 0).sum() == 900
    envs: Any = gymnasium.make_vec(
        "recsim_env/MarketControl-v0", num_envs=2, drift="items", first_day=56
    )
    observation, _ = envs.reset(seed=0)
    assert ((observation["candidates"] >= 0).sum(axis=1) == 700).all()  # 300 came, 300 went
    assert np.isfinite(envs.step(observation["candidates"][:, :10])[1]).all()


def test_a_world_decides_what_moves() -> None:
    one, same, other = (
        make_market(CPU, 3, config=MarketConfig(items=40, categories=5), world=world, drift="all")
        for world in (1, 1, 2)
    )
    for shopper in (one, same, other):
        assert isinstance(shopper, DriftingMarket)
        assert shopper.calendar.popularity is not None
    assert torch.equal(one.calendar.popularity, same.calendar.popularity)  # type: ignore[attr-defined]
    assert not torch.equal(one.calendar.popularity, other.calendar.popularity)  # type: ignore[attr-defined]
    assert math.isclose(float(one.calendar.popularity.std()), 0.7, abs_tol=0.1)  # type: ignore[attr-defined]
