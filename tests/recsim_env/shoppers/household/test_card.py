"""What the model reads, rebuilt from a loyalty card: exact where the card tells it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsim_env.shoppers.household import card
from recsim_env.shoppers.household.features import visit_context
from recsim_env.shoppers.household.memory import (
    COUNT,
    INTERVAL,
    RECENT,
    RECENT_DAYS,
    SINCE,
    Keys,
    Memory,
    Rhythm,
    loyalty_card,
)
from recsim_env.types import Observation
from tests.recsim_env.shoppers.household.test_model import small_model

ITEMS = 20
KIND, CATEGORY = torch.arange(ITEMS) // 2, torch.arange(ITEMS) // 5
KEYS = Keys.of(KIND, CATEGORY)
EVERY = torch.arange(ITEMS).unsqueeze(0)
Visits = list[tuple[float, list[int]]]
ONCE: Visits = [(3.0, [0, 5, 7]), (8.0, [1]), (8.0 + 11, [12, 2]), (25.0, [19])]
"""Visits with items that were bought once."""


def shown(visits: Visits, today: float) -> tuple[Observation, Memory]:
    """The card of a shopper after some visits, and the memory behind it."""
    memory, rows = Memory.empty(KEYS, 1, 16), torch.tensor([0])
    for day, items in visits:
        memory.record(rows, torch.tensor([items]), torch.tensor([day]))
    now = torch.tensor([today])
    since = now - visits[-1][0]
    week = torch.tensor([2])
    seen = loyalty_card(memory, slice(None), memory.tally(now), now, since, week, 52)
    return seen, memory


def true_stats(memory: Memory, today: float) -> Tensor:
    return memory.stats(torch.zeros_like(EVERY), EVERY, torch.full(EVERY.shape, today))


@pytest.mark.parametrize("today", [25.0, 31.0, 40.0])
def test_counters_of_what_was_bought_once_are_exact(today: float) -> None:
    seen, memory = shown(ONCE, today)
    found, true = card.stats_of(seen, KEYS, EVERY), true_stats(memory, today)
    for column in (COUNT, RECENT, SINCE):
        torch.testing.assert_close(found[..., column], true[..., column], rtol=1e-4, atol=1e-5)
    padded = card.stats_of(seen, KEYS, torch.tensor([[3, -1]]))
    assert padded.shape == (1, 2, 3, 4)


def test_what_is_bought_every_week_comes_every_week() -> None:
    today, weekly = 73.0, [(3.0 + 7 * week, [4]) for week in range(10)]
    seen, memory = shown(weekly, today)
    found, true = card.stats_of(seen, KEYS, EVERY)[0, 4], true_stats(memory, today)[0, 4]
    assert found[0, COUNT] == true[0, COUNT] == 10
    assert found[0, SINCE] == true[0, SINCE] == today - 66
    assert true[0, INTERVAL] == 7
    torch.testing.assert_close(found[0, INTERVAL], torch.tensor(7.0), rtol=1e-3, atol=0)
    even = torch.exp(-(7 + 6.3 * torch.arange(10)) / RECENT_DAYS).sum()  # 63 days, ten purchases
    torch.testing.assert_close(found[0, RECENT], even, rtol=1e-3, atol=0)
    assert abs(found[0, RECENT] - true[0, RECENT]) < 0.1 * true[0, RECENT]


def test_the_weekday_is_todays_and_the_rhythm_that_of_the_card() -> None:
    for today in range(25, 39):
        seen, memory = shown(ONCE, float(today))
        assert card.weekday_of(seen).item() == today % 7
        found, true = card.rhythm_of(seen), memory.tally(torch.tensor([float(today)]))
        told = slice(Rhythm.VISITS, Rhythm.USUAL_LOG_GAP)
        torch.testing.assert_close(found[:, told], true[:, told])
        days = slice(Rhythm.WEEKDAYS, None)
        torch.testing.assert_close(found[:, days], true[:, days], rtol=1e-4, atol=1e-5)


def test_the_encoder_sees_the_visits_on_which_things_were_bought_last() -> None:
    """With weights that do not read the circumstances of a visit, baskets and days are all."""
    model, today = small_model(window=64), 31.0
    with torch.no_grad():
        model.of_context.weight.zero_()
        seen, _ = shown(ONCE, today)
        state = card.state_of(seen, model, model.items())
        longest = max(len(items) for _, items in ONCE)
        padded = [[*items, *[-1] * (longest - len(items))] for _, items in ONCE]
        days = torch.tensor([[day for day, _ in ONCE]])
        nothing = visit_context(torch.zeros(1, 4, 12), days, days)
        token = model.token(model.items(), torch.tensor([padded]), nothing)
        expected = model.encode(token, days)[:, -1]
        width = expected.shape[1]
        torch.testing.assert_close(state[:, :width], expected, rtol=1e-4, atol=1e-5)

        # An item that was bought again stands in its last visit alone.
        again, _ = shown([*ONCE[:-1], (25.0, [19, 0])], today)
        other = card.state_of(again, model, model.items())
        assert not torch.allclose(other[:, :width], expected, atol=1e-3)


def test_who_bought_nothing_is_a_newcomer() -> None:
    model = small_model()
    seen, _ = shown([(25.0, [-1])], 31.0)
    with torch.no_grad():
        state = card.state_of(seen, model, model.items())
        torch.testing.assert_close(state[:, :16], model.newcomers(1))
    assert (card.stats_of(seen, KEYS, EVERY)[..., COUNT] == 0).all()
