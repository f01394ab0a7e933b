"""What a calendar brings: processes of variance 1, seasons of a year, lives of items by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from recsim_env.shoppers.drift import (
    DRIFTS,
    Drift,
    calendar_of,
    checked_new_items,
    drift_of,
    lives,
    moving,
)
from recsim_env.types import MAX_DAYS

NEVER = int(MAX_DAYS)


def test_what_moves_keeps_its_variance_and_forgets_by_half_in_a_half_life() -> None:
    found = moving(Drift(half_life=5.0, days=40), world=0, part=0, size=40_000)
    assert found.shape == (40, 40_000)
    assert torch.allclose(found.var(dim=1), torch.ones(40), atol=0.04)
    assert torch.allclose(found.mean(dim=1), torch.zeros(40), atol=0.03)
    for lag in (1, 5, 10):
        correlation = (found[lag:] * found[:-lag]).mean()
        assert correlation.item() == pytest.approx(2 ** (-lag / 5), abs=0.01)


def test_a_step_is_the_last_day_times_rho_and_fresh_noise() -> None:
    fresh = moving(Drift(half_life=1e-6, days=3), world=3, part=1, size=4)  # rho = 0
    found = moving(Drift(half_life=1.0, days=3), world=3, part=1, size=4)  # rho = 1/2
    assert torch.equal(found[0], fresh[0])
    for day in (1, 2):
        by_hand = 0.5 * found[day - 1] + math.sqrt(0.75) * fresh[day]
        assert torch.allclose(found[day], by_hand, atol=1e-6)


def test_a_longer_calendar_begins_as_a_shorter_one() -> None:
    short, long = (moving(Drift(days=days), 7, 0, 900) for days in (20, 1300))  # drawn in 1 and 2
    assert torch.equal(long[:20], short)


def test_worlds_and_parts_move_independently() -> None:
    base = moving(Drift(days=2), 0, 0, 5000)[0]
    for world, part in ((1, 0), (0, 1)):
        other = moving(Drift(days=2), world, part, 5000)[0]
        assert abs(float((base * other).mean())) < 0.06


def test_a_season_returns_after_a_year_and_is_opposite_after_half() -> None:
    sizes: dict[str, Any] = {"items": 6, "width": 2, "categories": 3}
    season = calendar_of(Drift(season=0.8), 0, **sizes).season
    assert season is not None
    assert torch.allclose(season[:365], season[365:], atol=1e-4)
    assert torch.allclose(season[10] + season[192], -season[11] - season[193], atol=0.02)
    assert season.abs().max().item() == pytest.approx(0.8, abs=1e-3)  # every height is reached


def test_favourites_are_cumulated_chances() -> None:
    chances = calendar_of(Drift(arrivals=1.0, days=9), 0, items=6, width=2, categories=4).favourites
    assert chances is not None
    assert torch.allclose(chances[:, -1], torch.ones(9), atol=1e-6)
    each = torch.diff(chances, dim=1, prepend=torch.zeros(9, 1))
    moved = moving(Drift(days=9), 0, 2, 4)
    assert torch.allclose(each, moved.softmax(dim=1), atol=1e-6)


def test_nothing_moves_by_default() -> None:
    calendar = calendar_of(Drift(), 0, items=6, width=2, categories=3)
    assert all(part is None for part in vars(calendar).values())


def test_items_enter_and_leave_evenly() -> None:
    first, gone = lives(Drift(entering=0.4, leaving=0.2, item_days=8), world=5, items=10)
    assert sorted(first.tolist()) == [0] * 6 + [1, 3, 5, 7]  # four in eight days
    assert sorted(gone.tolist()) == [1, 5] + [NEVER] * 8  # two
    assert not ((first > 0) & (gone < NEVER)).any()  # none does both
    other = lives(Drift(entering=0.4, item_days=8), world=6, items=10)[0]
    assert first.tolist() != other.tolist()  # another world has other new items


def test_a_schedule_names_the_days() -> None:
    first, gone = lives(Drift(), 0, 10, {3: 0.2, 9: 0.1})
    assert sorted(first.tolist()) == [0] * 7 + [3, 3, 9]
    assert (gone == NEVER).all()


def test_everything_may_leave_or_enter_together() -> None:
    first, gone = lives(Drift(entering=0.5, leaving=0.5), 0, 7)
    assert ((first > 0) | (gone < NEVER)).sum() == 7  # 3.5 of each: rounding takes none twice


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"entering": 1.5}, "entering is 1.5, but it must be a finite number from 0 to 1"),
        ({"leaving": -0.1}, "leaving is -0.1, but"),
        ({"entering": 0.7, "leaving": 0.4}, "leaving is 0.4, but it must be from 0 to 0.3"),
        ({"half_life": 0}, "half_life is 0, but"),
        ({"days": 0}, "days is 0, but"),
        ({"popularity": math.nan}, "popularity is nan, but"),
        ({"arrival_days": 0}, "arrival_days is 0, but"),
    ],
)
def test_numbers_out_of_range_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Drift(**options)


def test_a_calendar_too_large_for_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"days is 730, but with 1000000 items .* 200 or less"):
        calendar_of(Drift(popularity=1.0), 0, items=10**6, width=2, categories=2)


def test_a_drift_is_told_by_name() -> None:
    assert drift_of("drift", None) == Drift() == DRIFTS["none"]
    assert drift_of("drift", "season") is DRIFTS["season"]
    for bad in ("much", 3, True, {"season": 1.0}):
        with pytest.raises(ValueError, match=r"^drift is .*, but it must be"):
            drift_of("drift", bad)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1.5, "new_items is 1.5, but it must be a finite number from 0 to 1"),
        (-0.1, "new_items is -0.1, but"),
        ("x", "new_items is 'x', but"),
        (True, "new_items is True, but"),
        ({0: 0.1}, "a day of new_items is 0, but it must be a whole number from 1"),
        ({3: 2.0}, r"new_items\[3\] is 2.0, but"),
        ({3: 0.6, 4: 0.6}, "its shares must be 1 or less together"),
    ],
)
def test_shares_out_of_range_are_named(value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        checked_new_items("new_items", value)


def test_shares_of_many_days_add_up_though_each_is_less_than_an_item() -> None:
    drift = Drift()
    for share, days in ((0.0004, 1000), (0.0006, 500)):
        first, _ = lives(drift, 0, 1000, dict.fromkeys(range(1, days + 1), share))
        assert int((first > 0).sum()) == round(share * days * 1000)
