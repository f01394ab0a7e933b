"""The shopper's memory: counters by hand, and a list of items that forgets the stalest."""

import math

import torch

from recsim_env.shoppers.household.memory import (
    COUNT,
    FEW_GAPS,
    GAP_DECAY,
    GAP_EDGES,
    GAP_SHARE,
    HABIT,
    INTERVAL,
    NEVER,
    RECENT,
    RECENT_DAYS,
    SINCE,
    WEEKDAY_DAYS,
    Keys,
    Memory,
    packed,
)

# six items: kinds (0, 0, 1, 1, 2, 2), categories (0, 0, 0, 1, 1, 1)
KEYS = Keys.of(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 1]))
ROW = torch.tensor([0])


def bought(*visits: tuple[float, list[int]], remembered: int = 4) -> Memory:
    memory = Memory.empty(KEYS, 1, remembered)
    for day, items in visits:
        memory.record(ROW, torch.tensor([[*items, -1]]), torch.tensor([day]))
    return memory


def stats_of(memory: Memory, item: int, day: float) -> torch.Tensor:
    return memory.stats(ROW, torch.tensor([item]), torch.tensor([day]))[0]


def test_counts_of_item_kind_and_category_by_hand() -> None:
    memory = bought((2.0, [0, 2]), (9.0, [0, 1]), (16.0, [0]))
    item, kind, category = stats_of(memory, 0, 20.0)
    assert item[COUNT] == 3
    assert kind[COUNT] == 4  # items 0 (three times) and 1 (once)
    assert category[COUNT] == 5  # and item 2
    assert item[SINCE] == kind[SINCE] == category[SINCE] == 4
    assert item[INTERVAL] == (16 - 2) / 2
    expected = sum(math.exp(-(20 - day) / RECENT_DAYS) for day in (2, 9, 16))
    torch.testing.assert_close(item[RECENT], torch.tensor(expected), rtol=1e-5, atol=1e-6)
    both = expected + math.exp(-(20 - 9) / RECENT_DAYS)
    torch.testing.assert_close(kind[RECENT], torch.tensor(both), rtol=1e-5, atol=1e-6)


def test_purchases_and_last_days_of_what_is_remembered() -> None:
    memory = bought((2.0, [0, 2]), (9.0, [0, 1]), (16.0, [0]))
    told = dict(
        zip(
            memory.items[0].tolist(),
            zip(memory.purchases()[0], memory.last_days()[0], strict=True),
            strict=True,
        )
    )
    assert told == {0: (3, 16), 2: (1, 2), 1: (1, 9), -1: (0, -NEVER)}


def test_what_was_never_bought_has_no_past() -> None:
    memory = bought((2.0, [0]))
    assert stats_of(memory, 4, 9.0).tolist() == [[0, 0, NEVER, 0]] * 3
    assert (
        memory.stats(ROW, torch.tensor([-1]), torch.tensor([9.0]))[0].tolist()
        == [[0, 0, NEVER, 0]] * 3
    )


def test_the_stalest_item_is_forgotten_first_and_returns_when_bought_again() -> None:
    memory = bought((1.0, [0]), (2.0, [1]), (3.0, [0]), remembered=2)
    assert sorted(memory.items[0].tolist()) == [0, 1]
    memory.record(ROW, torch.tensor([[3]]), torch.tensor([4.0]))
    assert sorted(memory.items[0].tolist()) == [0, 3]  # 1 was bought longest ago
    memory.record(ROW, torch.tensor([[1, 0]]), torch.tensor([5.0]))
    assert sorted(memory.items[0].tolist()) == [0, 1]  # 0 is bought now, so 3 gives way
    assert stats_of(memory, 3, 6.0)[0, COUNT] == 1  # its counter stays


def test_an_empty_visit_counts_as_a_visit_only() -> None:
    memory = bought((1.0, []), (8.0, [5]))
    assert memory.tallies[0, 0] == 2
    assert stats_of(memory, 5, 8.0)[0, COUNT] == 1
    assert float(memory.table[0, :-1, 0].sum()) == 3


def test_shoppers_do_not_touch_each_other() -> None:
    memory = Memory.empty(KEYS, 3, 4)
    memory.record(torch.tensor([2, 0]), torch.tensor([[1, -1], [4, 5]]), torch.tensor([3.0, 7.0]))
    assert memory.table[1].abs().sum() == 0
    assert sorted(memory.items[0].tolist()) == [-1, -1, 4, 5]
    assert memory.stats(torch.tensor([2]), torch.tensor([1]), torch.tensor([4.0]))[0, 0, SINCE] == 1


def test_rhythm_by_hand() -> None:
    memory = bought((0.0, [0, 1]), (7.0, [0]), (10.0, []))
    rhythm = memory.tally(torch.tensor([14.0]))[0]
    recent = sum(math.exp(-(14 - day) / RECENT_DAYS) for day in (0, 7, 10))
    size = (2 * math.exp(-10 / RECENT_DAYS) + math.exp(-3 / RECENT_DAYS)) / (
        math.exp(-10 / RECENT_DAYS) + math.exp(-3 / RECENT_DAYS) + 1
    )
    usual = math.log(8) + GAP_SHARE * (math.log(4) - math.log(8))
    expected = [math.log(4), math.log1p(recent), math.log1p(size), math.log1p(3 / 2), usual]
    torch.testing.assert_close(rhythm[:5], torch.tensor(expected), rtol=1e-5, atol=1e-6)
    weekday = [
        math.exp(-10 / WEEKDAY_DAYS) + math.exp(-3 / WEEKDAY_DAYS),
        0,
        0,
        1,
        0,
        0,
        0,
    ]  # days 0 and 7, and 10
    torch.testing.assert_close(
        rhythm[5:], torch.tensor(weekday) / sum(weekday), rtol=1e-5, atol=1e-6
    )
    ahead = memory.tally(torch.tensor([17.0]))[0, 5:]  # the weekday of day 10 is today
    assert ahead.argmax() == 4  # four days later it is that of days 0 and 7


def test_habits_in_coming_back_by_hand() -> None:
    """Gaps of 7, 7 and 2 days: the first visit has none, and decays count back from the last."""
    habit = bought((2.0, [0]), (9.0, [1]), (16.0, []), (18.0, [0])).habit()[0]
    ever, lately = habit.split(HABIT // 2)
    week, two = GAP_EDGES.index(7), GAP_EDGES.index(2)
    shares = torch.zeros(len(GAP_EDGES))
    shares[week], shares[two] = 2 / (3 + FEW_GAPS), 1 / (3 + FEW_GAPS)
    torch.testing.assert_close(ever[:-1], shares)
    torch.testing.assert_close(ever[-1], torch.tensor(math.log1p(3)))
    weeks, number = GAP_DECAY + GAP_DECAY**2, 1 + GAP_DECAY + GAP_DECAY**2
    torch.testing.assert_close(lately[week], torch.tensor(weeks / (number + FEW_GAPS)))
    torch.testing.assert_close(lately[-1], torch.tensor(math.log1p(number)))


def test_who_came_once_has_no_habits() -> None:
    assert not bought((2.0, [0])).habit().any()


def test_packed_items_are_the_same_without_the_gaps() -> None:
    items = torch.tensor([[-1, 4, -1, 2], [-1, -1, -1, -1], [7, -1, -1, -1]])
    assert packed(items).tolist() == [[4, 2], [-1, -1], [7, -1]]
    assert packed(items[1:2]).tolist() == [[-1]]


def test_stats_of_nothing_are_none() -> None:
    memory = Memory.empty(KEYS, 2, 4)
    nothing = torch.zeros(0, dtype=torch.int64)
    assert memory.stats(nothing, nothing, torch.zeros(0)).shape == (0, 3, 4)


def test_what_is_held_side_by_side_is_what_the_counters_say() -> None:
    """Also of items that were forgotten, and bought again since."""
    generator = torch.Generator().manual_seed(0)
    shoppers, remembered = 5, 4
    memory = Memory.empty(KEYS, shoppers, remembered)
    for day in range(0, 300, 3):
        items = torch.stack(
            [torch.randperm(KEYS.n_items, generator=generator)[:3] for _ in range(shoppers)]
        )
        items = items.where(torch.rand(items.shape, generator=generator) < 0.6, -1)
        rows = torch.randperm(shoppers, generator=generator)[: 1 + day % shoppers]
        memory.record(rows, items[: len(rows)], torch.full((len(rows),), float(day)))
        rows, slots = (memory.items >= 0).nonzero(as_tuple=True)
        items = memory.items[rows, slots]
        assert torch.equal(memory.purchases()[rows, slots], memory.table[rows, items, COUNT])
        assert torch.equal(memory.last_days()[rows, slots], memory.table[rows, items, 3])
        expected = torch.full((shoppers, KEYS.n_items + 1), remembered)
        expected[rows, items] = slots
        everything = torch.arange(-1, KEYS.n_items).roll(-1).expand(shoppers, -1)
        assert torch.equal(memory.slots_of(torch.arange(shoppers), everything), expected)
    assert (memory.table[:, : KEYS.n_items, COUNT] > 0).sum(1).min() > remembered
