"""What must hold of a visit: who answers, what ends an episode, what the shop remembers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from torch import Tensor

from recsim_env import make_simulator, noise, registration
from recsim_env.rewards import Reward
from recsim_env.shoppers import market
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Response, Step
from tests.support.toys import LAPSE, ToyShopper, toy_simulator


def slates_for(simulator: SlateSimulator, step: int, valid: bool = False) -> Tensor:
    """Slates (B, K) from the seeds and the step alone; `valid`: distinct candidates."""
    key = noise.episode_key(
        simulator.episodes.seed, torch.full_like(simulator.episodes.seed, step), stream=9
    )
    if valid:
        order = noise.uniform(key, 0, simulator.candidates.shape[1]).masked_fill(
            simulator.candidates < 0, 2
        )
        return simulator.candidates.gather(1, order.argsort(dim=1)[:, : simulator.slate_size])
    return (noise.uniform(key, 0, simulator.slate_size) * len(simulator.catalog)).long()


def play(simulator: SlateSimulator, seeds: Tensor, steps: int) -> Iterator[Step]:
    """Steps with slates from `slates_for`; a row that ended starts again."""
    simulator.reset(seeds)
    for number in range(steps):
        step = simulator.step(slates_for(simulator, number))
        if step.ended.any():
            simulator.reset_rows(step.ended.nonzero()[:, 0])
        yield step


def last_response(simulator: SlateSimulator) -> Response:
    assert isinstance(simulator.shopper, ToyShopper)
    return simulator.shopper.responses[-1]


def assert_same(left: Observation, right: Observation) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value, right[name]), name


# --- one visit ---


def test_a_visit_worked_out_from_its_noise() -> None:
    simulator = toy_simulator(
        slate_size=3, reward=Reward({"clicks": 1.0, "category_coverage": 0.5})
    )
    simulator.reset(torch.tensor([7]))
    key = noise.episode_key(torch.tensor([7]), torch.tensor([0]))
    favourite = int(float(noise.uniform(key, 0, 1)) * 5)  # start_draws: 1, visit 0
    draws = noise.uniform(key, 1, 3 + 3)[
        0
    ].tolist()  # visit 1: one number a position, then lapse, gap, elsewhere
    items = [1, 2, 4]  # (item + 0) % 3 != 0: all are candidates of the first visit
    categories = simulator.catalog.category[items].tolist()
    chance = [
        (0.6 if category == favourite else 0.1) * 0.9**place
        for place, category in enumerate(categories)
    ]
    bought = [draw < p for draw, p in zip(draws, chance, strict=False)]
    days = 1 + int(draws[4] * 13)

    step = simulator.step(torch.tensor([items]))

    assert step.observation["recent_clicks"][0, 0].tolist() == [int(yes) for yes in bought]
    assert step.reward.item() == pytest.approx(sum(bought) + 0.5 * (3 - 1) / (3 - 1))
    assert step.terminated.item() == (not any(bought) and draws[3] < 0.2)
    assert {name: value.item() for name, value in step.info.items()} == {
        "clicks": sum(bought),
        "reward_terms/clicks": sum(bought),
        "reward_terms/category_coverage": 1.0,
        "invalid_items": 0,
        "gap_days": days,
        "elsewhere": int(draws[5] * 4),
        "day": days,
    }


def test_repeated_items_and_strangers_get_no_response_and_no_credit_and_are_counted() -> None:
    simulator = toy_simulator(slate_size=4, reward=Reward({"intra_list_distance": 1.0}))
    simulator.reset(torch.arange(200))
    step = simulator.step(
        torch.tensor([[1, 1, 3, 2]]).expand(200, 4)
    )  # 3 is no candidate of visit 0
    assert (step.info["invalid_items"] == 2).all()
    assert torch.equal(
        step.observation["recent_slates"][:, 0], torch.tensor([1, -1, -1, 2]).expand(200, 4)
    )
    assert (last_response(simulator).probability[:, 1:3] == 0).all()
    assert not last_response(simulator).clicks[:, 1:3].any()
    catalog = simulator.catalog
    distance = 1 - max(float(catalog.embedding[1] @ catalog.embedding[2]), 0.0)
    assert step.reward.tolist() == pytest.approx(
        [distance / 6] * 200, abs=1e-6
    )  # one pair of 4 * 3 / 2


def test_the_candidates_are_those_of_the_visit() -> None:
    simulator = toy_simulator(lapse=0.0)
    simulator.reset(torch.arange(3))
    for visit in range(4):
        offered = [item for item in range(31) if (item + visit) % 3 != 0]
        padded = offered + [-1] * (21 - len(offered))
        assert simulator.observe()["candidates"].tolist() == [padded] * 3
        step = simulator.step(torch.tensor([offered[:4]] * 3))
        assert (step.info["invalid_items"] == 0).all()


def test_a_trusted_caller_may_leave_a_position_empty_with_minus_1() -> None:
    simulator = toy_simulator()
    simulator.reset(torch.arange(3))
    assert (simulator.candidates == -1).any()
    outcome = simulator.advance(torch.tensor([[-1, 1, 2, 4]] * 3))
    assert (outcome.info["invalid_items"] == 1).all()


def test_purchases_come_as_often_as_their_probabilities_say() -> None:
    simulator = toy_simulator()
    list(play(simulator, torch.arange(800), 6))
    assert isinstance(simulator.shopper, ToyShopper)
    responses = simulator.shopper.responses
    chance = torch.cat([response.probability for response in responses]).double()
    bought = torch.cat([response.clicks for response in responses]).double()
    spread = float((chance * (1 - chance)).sum().sqrt())
    assert abs(float((bought - chance).sum())) < 4.5 * spread


def test_lapses_come_as_often_as_the_shopper_says() -> None:
    simulator = toy_simulator()
    steps = list(play(simulator, torch.arange(800), 5))
    nothing = sum(int((step.info["clicks"] == 0).sum()) for step in steps)
    lapsed = sum(int(step.terminated.sum()) for step in steps)
    assert abs(lapsed - LAPSE * nothing) < 4.5 * (nothing * LAPSE * (1 - LAPSE)) ** 0.5


# --- ends ---


def test_the_horizon_truncates_and_lapsing_terminates_and_never_both() -> None:
    steps = list(play(toy_simulator(horizon_days=20), torch.arange(200), 10))
    for step in steps:
        assert not (step.terminated & step.truncated).any()
        assert torch.equal(step.truncated, (step.info["day"] >= 20) & ~step.terminated)
    assert sum(int(step.terminated.sum()) for step in steps) > 0
    assert any((step.terminated & (step.info["day"] >= 20)).any() for step in steps)
    assert sum(int(step.truncated.sum()) for step in steps) > 0


def test_without_lapses_every_episode_reaches_the_horizon() -> None:
    simulator = toy_simulator(lapse=0.0, horizon_days=30)
    simulator.reset(torch.arange(50))
    over = torch.zeros(50, dtype=torch.bool)
    for number in range(30):  # at least one day passes a visit
        step = simulator.step(slates_for(simulator, number), validate=False)
        over |= step.truncated
        assert not step.terminated.any()
    assert over.all()


def test_a_step_after_the_end_raises_until_the_row_is_reset() -> None:
    simulator = toy_simulator(lapse=0.0, horizon_days=1)
    simulator.reset(torch.arange(3))
    assert simulator.step(slates_for(simulator, 0)).truncated.all()
    with pytest.raises(ResetNeeded, match="The episode of row 0 is over"):
        simulator.step(slates_for(simulator, 1))
    simulator.reset_rows(torch.tensor([0, 2]))
    with pytest.raises(ResetNeeded, match="The episode of row 1 is over"):
        simulator.step(slates_for(simulator, 1))


def test_an_ended_row_may_be_moved_once_more_without_a_trace() -> None:
    left, right = toy_simulator(horizon_days=10), toy_simulator(horizon_days=10)
    seeds = torch.arange(64)
    left.reset(seeds)
    right.reset(seeds)
    waiting = torch.zeros(64, dtype=torch.bool)
    for number in range(12):
        slates = slates_for(left, number)
        one = left.advance(slates)
        two = right.advance(slates)
        for name, value in one.info.items():
            assert torch.equal(value[~waiting], two.info[name][~waiting])
        rows = waiting.nonzero()[:, 0]
        left.restart(rows)  # moved once more, then restarted
        right.restart(rows)
        waiting = one.ended & ~waiting
    assert torch.equal(left.episodes.number, right.episodes.number)
    assert left.episodes.number.max() >= 2


# --- batches, seeds and noise ---


def test_a_batch_equals_as_many_batches_of_one() -> None:
    seeds, steps = torch.tensor([5, 0, 123456789, 7]), 24
    whole = list(play(toy_simulator(horizon_days=25), seeds, steps))
    for row, seed in enumerate(seeds):
        alone = play(toy_simulator(horizon_days=25), seed.unsqueeze(0), steps)
        for together, single in zip(whole, alone, strict=True):
            assert_same(
                {k: v[row : row + 1] for k, v in together.observation.items()}, single.observation
            )
            assert_same({k: v[row : row + 1] for k, v in together.info.items()}, single.info)
            for name in ("reward", "terminated", "truncated"):
                assert torch.equal(getattr(together, name)[row : row + 1], getattr(single, name))
    assert sum(int(step.ended[0]) for step in whole) >= 2


def test_equal_seeds_give_equal_episodes_and_others_do_not() -> None:
    first, again, other = (
        list(play(toy_simulator(), torch.arange(8) + start, 8)) for start in (0, 0, 8)
    )
    assert all(torch.equal(a.reward, b.reward) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.reward, b.reward) for a, b in zip(first, other, strict=True))


def test_the_next_episode_is_another_one_and_a_seed_fixes_them_all() -> None:
    simulator = toy_simulator()
    first = simulator.reset(torch.arange(50))
    shopper = simulator._shoppers.favourite.clone()
    simulator.reset_rows(torch.arange(50))
    assert not torch.equal(shopper, simulator._shoppers.favourite)
    assert simulator.episodes.number.tolist() == [1] * 50
    assert_same(first, simulator.reset_rows(torch.arange(50), seeds=torch.arange(50)))
    assert torch.equal(shopper, simulator._shoppers.favourite)
    assert simulator.episodes.number.tolist() == [0] * 50


def test_resetting_rows_leaves_the_others_as_they_were() -> None:
    simulator = toy_simulator()
    list(play(simulator, torch.arange(6), 3))
    before = simulator.observe()
    after = simulator.reset_rows(torch.tensor([4, 1]))
    rest = torch.tensor([0, 2, 3, 5])
    assert_same({k: v[rest] for k, v in before.items()}, {k: v[rest] for k, v in after.items()})
    assert (after["recent_slates"][[1, 4]] == -1).all()
    assert (after["recent_days"][[1, 4]] == 0).all()


def test_no_global_generator_moves() -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    list(play(toy_simulator(horizon_days=20), torch.arange(8), 10))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]  # noqa: NPY002


# --- what the shop knows ---


def test_the_history_holds_the_last_slates_newest_first() -> None:
    simulator = toy_simulator(history=3, lapse=0.0, horizon_days=1e6)
    simulator.reset(torch.arange(5))
    slates: list[Tensor] = []
    clicks: list[Tensor] = []
    gaps: list[Tensor] = []
    for number in range(5):
        slate = slates_for(simulator, number, valid=True)
        step = simulator.step(slate)
        slates.insert(0, slate)
        clicks.insert(0, last_response(simulator).clicks)
        gaps.insert(0, step.info["gap_days"])
        seen, kept = step.observation, min(number + 1, 3)
        assert torch.equal(seen["recent_slates"][:, :kept], torch.stack(slates[:3], dim=1))
        assert torch.equal(
            seen["recent_clicks"][:, :kept], torch.stack(clicks[:3], dim=1).to(torch.int8)
        )
        assert torch.equal(
            seen["recent_days"][:, :kept], torch.stack(gaps, dim=1).cumsum(dim=1)[:, :3]
        )
        assert (seen["recent_slates"][:, kept:] == -1).all()
        assert (seen["recent_days"][:, kept:] == 0).all()


def test_observations_lie_in_the_declared_space() -> None:
    simulator = toy_simulator()
    for step in play(simulator, torch.arange(4), 12):
        assert list(step.observation) == list(simulator.observe())
        for row in range(4):
            single = {name: value[row].numpy() for name, value in step.observation.items()}
            assert simulator.observation_space.contains(single)


def test_the_hidden_state_is_not_observed() -> None:
    simulator = toy_simulator()
    seen = simulator.reset(torch.arange(50))
    assert (
        len(simulator._shoppers.favourite.unique()) == 5
    )  # unlike shoppers, of whom the shop knows nothing yet:
    for name, value in seen.items():
        assert (value == value[:1]).all(), name


def test_what_was_handed_out_stays_and_is_the_callers_to_change() -> None:
    simulator, twin = toy_simulator(), toy_simulator()
    given = simulator.reset(torch.arange(6))
    twin.reset(torch.arange(6))
    for number in range(6):
        copies = {name: value.clone() for name, value in given.items()}
        slates = slates_for(simulator, number)
        kept = slates.clone()
        step, expected = simulator.step(slates, validate=False), twin.step(slates, validate=False)
        assert_same(given, copies)
        assert torch.equal(slates, kept)
        assert_same(step.observation, expected.observation)
        for value in [
            *given.values(),
            *step.info.values(),
            step.reward,
            step.terminated,
            step.truncated,
            slates,
        ]:
            value.zero_()
        given = step.observation


def test_tensors_that_a_module_learns_from_can_be_learned_from() -> None:
    simulator = toy_simulator()
    seen = simulator.reset(torch.arange(3))["context"]
    torch.nn.Linear(8, 1)(seen).sum().backward()  # inference tensors would raise here
    assert not seen.requires_grad


def test_the_reset_seeds_are_copied() -> None:
    simulator, seeds = toy_simulator(), torch.arange(3)
    simulator.reset(seeds)
    seeds.zero_()
    assert simulator.episodes.seed.tolist() == [0, 1, 2]


def test_keep_goes_on_with_the_named_rows() -> None:
    simulator, twin = (
        toy_simulator(lapse=0.0, horizon_days=1e6),
        toy_simulator(lapse=0.0, horizon_days=1e6),
    )
    list(play(simulator, torch.arange(6), 3))
    list(play(twin, torch.arange(6), 3))
    rows = torch.tensor([4, 1])
    simulator.keep(rows)
    assert simulator.num_envs == 2
    slates = slates_for(twin, 3)
    assert_same(
        {name: value[rows] for name, value in twin.step(slates).observation.items()},
        simulator.step(slates[rows]).observation,
    )


def test_no_rows_may_start_again_and_none_may_be_kept() -> None:
    simulator, twin, none = toy_simulator(), toy_simulator(), torch.zeros(0, dtype=torch.int64)
    list(play(simulator, torch.arange(4), 2))
    list(play(twin, torch.arange(4), 2))
    assert_same(simulator.reset_rows(none), twin.observe())
    simulator.restart(none, none)
    assert_same(
        simulator.step(slates_for(twin, 5)).observation, twin.step(slates_for(twin, 5)).observation
    )
    simulator.keep(none)
    assert simulator.num_envs == 0
    with pytest.raises(ResetNeeded, match="no shoppers left"):
        simulator.step(torch.zeros(0, 4, dtype=torch.int64))


def test_episodes_that_are_ended_from_outside_wait_for_a_restart() -> None:
    simulator = toy_simulator(lapse=0.0)
    simulator.reset(torch.arange(3))
    simulator.end(torch.tensor([False, True, False]))
    with pytest.raises(ResetNeeded, match="The episode of row 1 is over"):
        simulator.step(slates_for(simulator, 0))
    simulator.restart(torch.tensor([1]))
    simulator.step(slates_for(simulator, 0))


def test_the_default_type_of_torch_changes_no_type_of_an_episode() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        simulator = toy_simulator()
        episodes = simulator._new_episodes(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {
        name: value.dtype for name, value in vars(episodes).items() if value.is_floating_point()
    } == {
        "day": torch.float32,
        "recent_days": torch.float32,
    }


# --- errors ---


@pytest.mark.parametrize(
    ("slates", "error", "message"),
    [
        (
            [[1, 2, 4, 5]],
            TypeError,
            r"slates is \[\[1, 2, 4, 5\]\], but it must be an int64 tensor",
        ),
        (
            torch.zeros(2, 4),
            TypeError,
            r"slates is torch.float32 on cpu, but it must be an int64 tensor",
        ),
        (torch.full((2, 4), float("nan")), TypeError, "slates is torch.float32"),
        (
            torch.zeros(4, dtype=torch.int64),
            ValueError,
            r"slates has the shape \(4,\), but it must be \(2, 4\)",
        ),
        (
            torch.zeros(3, 4, dtype=torch.int64),
            ValueError,
            r"slates has the shape \(3, 4\), but it must be \(2, 4\)",
        ),
        (
            torch.tensor([[0, 1, 2, 4], [0, 1, 31, 3]]),
            ValueError,
            r"slates holds 31 at \[1, 2\].*from 0 to 30",
        ),
        (
            torch.tensor([[0, -1, 2, 4], [0, 1, 2, 3]]),
            ValueError,
            r"slates holds -1 at \[0, 1\].*from 0 to 30",
        ),
    ],
)
def test_a_bad_slate_raises_before_anything_changes(
    slates: Tensor, error: type[Exception], message: str
) -> None:
    simulator, twin = toy_simulator(), toy_simulator()
    simulator.reset(torch.arange(2))
    twin.reset(torch.arange(2))
    with pytest.raises(error, match=message):
        simulator.step(slates)
    good = torch.tensor([[1, 2, 4, 5], [7, 8, 1, 2]])
    assert_same(simulator.step(good).observation, twin.step(good).observation)


@pytest.mark.parametrize("bad", [[1, 2, 3, 4], [1, 2, 2, 4]], ids=["no candidate", "repeated"])
def test_strict_raises_before_anything_changes(bad: list[int]) -> None:
    simulator, twin = toy_simulator(strict=True), toy_simulator()
    simulator.reset(torch.arange(1))
    twin.reset(torch.arange(1))
    with pytest.raises(
        ValueError,
        match=rf"slates holds {bad[2]} at \[0, 2\].*with strict=True.*distinct candidates",
    ):
        simulator.step(torch.tensor([bad]))
    good = torch.tensor([[1, 2, 4, 5]])
    assert_same(simulator.step(good).observation, twin.step(good).observation)


@pytest.mark.parametrize(
    "call",
    ["step", "observe", "restart", "describe", "episodes", "keep", "candidates", "hidden", "end"],
)
def test_nothing_works_before_reset(call: str) -> None:
    simulator, slate = toy_simulator(), torch.tensor([[1, 2, 4, 5]])
    calls: dict[str, Callable[[], object]] = {
        "step": lambda: simulator.step(slate),
        "observe": lambda: simulator.observe(),
        "restart": lambda: simulator.restart(torch.tensor([0])),
        "describe": lambda: simulator.describe(0),
        "episodes": lambda: simulator.episodes,
        "keep": lambda: simulator.keep(torch.tensor([0])),
        "candidates": lambda: simulator.candidates,
        "hidden": lambda: simulator.hidden,
        "end": lambda: simulator.end(torch.tensor([True])),
    }
    assert simulator.num_envs == 0
    with pytest.raises(ResetNeeded, match="was not reset"):
        calls[call]()


@pytest.mark.parametrize(
    "seeds",
    [3, [1, 2], torch.zeros(0, dtype=torch.int64), torch.zeros(2), torch.zeros(2, 2).long()],
)
def test_bad_seeds_raise(seeds: Tensor) -> None:
    with pytest.raises(
        ValueError,
        match=r"seeds is .* it must be an int64 tensor of shape \(B,\), one seed a shopper",
    ):
        toy_simulator().reset(seeds)


def test_bad_settings_raise() -> None:
    with pytest.raises(ValueError, match="horizon_days is 0, but it must be"):
        toy_simulator(horizon_days=0)
    with pytest.raises(ValueError, match="horizon_days is nan"):
        toy_simulator(horizon_days=float("nan"))
    with pytest.raises(ValueError, match="history is 0, but"):
        toy_simulator(history=0)
    simulator = toy_simulator()
    simulator.reset(torch.arange(2))
    with pytest.raises(IndexError, match="row is 2, but the simulator has the rows 0 to 1"):
        simulator.describe(2)


def test_a_shopper_cannot_take_the_simulators_keys() -> None:
    class Clash(ToyShopper):
        def spaces(self):  # type: ignore[no-untyped-def]
            return {"candidates": super().spaces()["context"]}

    with pytest.raises(
        ValueError, match=r"the keys \['candidates'\], but those are the simulator's own"
    ):
        SlateSimulator(Clash())


# --- who stays ---


def test_nobody_leaves_where_they_stay_and_the_shopper_that_was_lent_is_as_it_was() -> None:
    simulator, twin = toy_simulator(lapse=1.0), toy_simulator(lapse=1.0)
    shopper, seeds = simulator.shopper, torch.arange(64)
    observation = simulator.reset(seeds, staying=True)
    assert_same(observation, twin.reset(seeds))
    slates = observation["candidates"][:, :4]
    step, other = simulator.step(slates), twin.step(slates)
    assert bool(other.terminated.any())
    assert not bool(step.terminated.any())
    assert torch.equal(step.info["clicks"], other.info["clicks"])
    assert simulator.shopper is shopper
    assert shopper.never_leave is False
    simulator.reset_rows(torch.tensor([3, 5]))
    assert not bool(simulator.step(slates, validate=False).terminated.any())
    simulator.reset(seeds)
    assert torch.equal(simulator.step(slates).terminated, other.terminated)


def test_a_state_carries_whether_they_stay() -> None:
    simulator, again = toy_simulator(lapse=1.0), toy_simulator(lapse=1.0)
    seeds, slates = torch.arange(64), torch.tensor([[1, 2, 4, 5]]).expand(64, 4)
    for staying in (True, False):
        simulator.reset(seeds, staying=staying)
        again.reset(seeds, staying=not staying)
        again.restore(simulator.state())
        assert bool(again.step(slates).terminated.any()) is not staying


@pytest.mark.parametrize("staying", [None, 1, "no"])
def test_whether_they_stay_is_a_flag(staying: Any) -> None:
    with pytest.raises(ValueError, match=r"^staying is .*, but it must be True or False"):
        toy_simulator().reset(torch.arange(2), staying=staying)


def test_a_shopper_cannot_be_exchanged() -> None:
    simulator = toy_simulator()
    with pytest.raises(AttributeError):
        simulator.shopper = ToyShopper()  # type: ignore[misc]


# --- the GPU ---

FAST = {"precision": "bf16", "compiled": True}
LEARNED = ("CompleteJourney-v0", "LearnedMarket-v0")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Market-v0", {}),
        ("MarketVisit-v0", {}),
        ("LearnedMarket-v0", {}),
        ("CompleteJourney-v0", {}),
        ("CompleteJourney-v0", {"ensemble": 2, "pessimism": 0.5}),
    ],
)
def test_a_step_asks_no_tensor_for_its_numbers(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    """On `meta`, where tensors have no numbers, whatever would wait for a GPU fails."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a step sends numbers to the device")

    def assigned(tensor: Tensor, index: Any, value: Any, assign: Any = Tensor.__setitem__) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        if not isinstance(value, Tensor) and any(isinstance(part, Tensor) for part in parts):
            refused()  # a number that is put where a tensor points
        assign(tensor, index, value)

    monkeypatch.setattr(market, "best_device", torch.device)
    monkeypatch.setattr(
        registration, "best_device", torch.device
    )  # no agent may ask for a device without numbers
    simulator = make_simulator(f"recsim_env/{name}", device="meta", **options)
    simulator.reset(torch.arange(64))
    slates = torch.zeros(64, simulator.slate_size, dtype=torch.int64, device="meta")
    simulator.advance(slates)  # makes what is made once
    for function in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, function, refused)
    monkeypatch.setattr(Tensor, "__setitem__", assigned)
    outcome, seen = simulator.advance(slates), simulator.observe()
    simulator.restart(torch.zeros(5, dtype=torch.int64, device="meta"))
    made = [
        outcome.reward,
        outcome.terminated,
        outcome.truncated,
        *outcome.info.values(),
        *seen.values(),
    ]
    assert {value.device.type for value in made} == {"meta"}
    assert {name: tuple(value.shape[1:]) for name, value in seen.items()} == {
        name: space.shape for name, space in simulator.observation_space.items()
    }


@pytest.mark.gpu
def test_a_trusted_step_never_waits_for_the_gpu() -> None:
    simulator = toy_simulator(device="cuda")
    simulator.reset(torch.arange(64))
    slates = slates_for(simulator, 0)
    simulator.step(slates)
    torch.cuda.set_sync_debug_mode("error")
    try:
        simulator.step(slates, validate=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Market-v0", {}),
        ("MarketVisit-v0", {}),
        *((name, {}) for name in LEARNED),
        *(pytest.param(name, FAST, marks=pytest.mark.slow) for name in LEARNED),
    ],
)
def test_the_steps_of_an_environment_never_wait_for_the_gpu(
    name: str, options: dict[str, Any]
) -> None:
    simulator = make_simulator(f"recsim_env/{name}", device="cuda", **options)
    simulator.reset(torch.arange(64))
    slates = simulator.candidates[:, :10].contiguous()
    simulator.step(slates, validate=False)  # makes what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        simulator.step(slates, validate=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_the_gpu_gives_the_same_episodes() -> None:
    for here, there in zip(
        play(toy_simulator(), torch.arange(32), 30),
        play(toy_simulator(device="cuda"), torch.arange(32), 30),
        strict=True,
    ):
        for name, value in here.observation.items():
            if not name.startswith("bought_"):  # the toy sorts equals otherwise there
                torch.testing.assert_close(value, there.observation[name].cpu())
        torch.testing.assert_close(here.reward, there.reward.cpu())  # sums in another order
