"""The same seeds are the same episodes, whatever the batch; the rows are what happened."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import Tensor

from agents.evaluate import Evaluation, count_shown, evaluate
from policies import POLICIES
from recsim_env.rewards import Reward
from recsim_env.rollout import draws_for
from recsim_env.types import Observation
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

SEEDS = torch.arange(100, 123)


@pytest.mark.parametrize("name", ["uniform", "greedy_ctr", "constant"])
def test_the_episodes_do_not_depend_on_the_batch(name: str) -> None:
    results = []
    for batch in (1, 5, 64):
        simulator = toy_simulator(items=40, horizon_days=60)
        policy = POLICIES[name].build(toy_inputs(simulator))
        results.append(evaluate(policy, simulator, SEEDS, batch=batch))
    assert results[0].rows["seed"].to_list() == SEEDS.tolist()
    for other in results[1:]:
        assert_frame_equal(results[0].rows, other.rows, check_exact=True)
        assert torch.equal(results[0].exposures, other.exposures)


def test_a_row_is_what_an_episode_played_by_hand_adds_up_to() -> None:
    simulator = toy_simulator(
        items=40, horizon_days=60, reward=Reward({"clicks": 1.0, "category_coverage": 0.5})
    )
    policy = POLICIES["uniform"].build(toy_inputs(simulator))
    rows = evaluate(policy, simulator, SEEDS).rows
    for row, seed in zip(rows.iter_rows(named=True), SEEDS.tolist(), strict=True):
        observation = simulator.reset(torch.tensor([seed]))
        total = clicks = coverage = visits = 0.0
        while True:
            draws = draws_for(policy, torch.tensor([seed]), torch.tensor([int(visits)]))
            step = simulator.step(policy(observation, draws))
            total += float(step.reward)
            clicks += float(step.info["clicks"])
            coverage += float(step.info["reward_terms/category_coverage"])
            visits += 1
            observation = step.observation
            if bool(step.terminated | step.truncated):
                break
        assert row["visits"] == visits
        assert row["clicks"] == clicks
        assert row["return"] == pytest.approx(total, abs=1e-5)
        assert row["category_coverage"] == pytest.approx(coverage, abs=1e-5)
        assert row["lapsed"] == bool(step.terminated)
        assert row["days"] == float(step.info["day"])
        assert row["invalid_items"] == 0


def test_exposures_count_every_position_shown() -> None:
    simulator = toy_simulator(items=40, horizon_days=60)
    result = evaluate(POLICIES["uniform"].build(toy_inputs(simulator)), simulator, SEEDS, batch=4)
    assert int(result.exposures.sum()) == int(result.rows["visits"].sum()) * simulator.slate_size


class Asks:
    """Asks for the same slate whatever it sees."""

    draws = 0

    def __init__(self, slate: Tensor) -> None:
        self.slate = slate

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        return self.slate.expand(len(observation["recent_days"]), -1)


def test_what_is_asked_for_and_not_shown_is_no_exposure() -> None:
    """At visit v the items with (item + v) % 3 = 0 are no candidates of the toy shop."""
    simulator = toy_simulator(items=40, horizon_days=60)
    one = evaluate(Asks(torch.tensor([7, 7, 7, 7])), simulator, SEEDS, batch=4)
    away = sum(
        visits // 3 for visits in one.rows["visits"].to_list()
    )  # 7 is no candidate at the visits 2, 5, 8, ..
    shown = int(one.rows["visits"].sum()) - away
    assert away > 0
    assert one.exposures.sum() == one.exposures[7] == shown
    assert int(one.rows["invalid_items"].sum()) == 4 * int(one.rows["visits"].sum()) - shown
    assert one.coverage == 1 / 40
    assert one.gini == pytest.approx(39 / 40)


def test_where_nothing_is_shown_all_items_are_shown_alike() -> None:
    nothing = Evaluation(pl.DataFrame(), torch.zeros(4, dtype=torch.int64))
    assert (nothing.coverage, nothing.gini) == (0.0, 0.0)


def test_shown_items_are_counted_by_position() -> None:
    exposures = torch.zeros(4, dtype=torch.int64)
    count_shown(exposures, torch.tensor([[2, -1, 0], [2, -1, -1]]))
    assert exposures[1:].tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"policy": 5}, TypeError, r"^policy is 5, but it must be a Policy"),
        ({"policy": Asks}, TypeError, r"^policy is the class Asks, but it must be a Policy"),
        (
            {"policy": lambda seen, draws: seen},
            TypeError,
            r"^policy is .*, but it must be a Policy: callable, with `dr",
        ),
        ({"simulator": None}, TypeError, r"^simulator is None, but it must be a SlateSimulator"),
        ({"seeds": [1, 2]}, TypeError, r"^seeds is \[1, 2\], but it must be a int64 tensor"),
        (
            {"seeds": torch.zeros(2)},
            TypeError,
            r"^seeds is a float32 tensor of shape \(2,\), but it must be a int64",
        ),
        (
            {"seeds": torch.zeros(2, 1).long()},
            ValueError,
            r"^seeds is a int64 tensor of shape \(2, 1\), but it must b",
        ),
        (
            {"seeds": torch.zeros(0).long()},
            ValueError,
            r"^seeds is empty, but it must hold at least one number",
        ),
        (
            {"seeds": torch.tensor([4, 4])},
            ValueError,
            r"^seeds holds 2 numbers, but they must be distinct",
        ),
        ({"batch": 0}, ValueError, r"^batch is 0, but it must be a whole number of 1 or more"),
        (
            {"batch": True},
            ValueError,
            r"^batch is True, but it must be a whole number of 1 or more",
        ),
    ],
)
def test_a_wrong_argument_is_named(
    wrong: dict[str, Any], error: type[Exception], match: str
) -> None:
    simulator = toy_simulator(items=40)
    right: dict[str, Any] = {
        "policy": Asks(torch.tensor([1, 2, 3, 4])),
        "simulator": simulator,
        "seeds": SEEDS,
    }
    with pytest.raises(error, match=match):
        evaluate(**(right | wrong))


@pytest.mark.parametrize(
    ("slate", "error", "match"),
    [
        (
            torch.tensor([1, 2, 3, 40]),
            ValueError,
            r"^policy\(observation, draws\) holds 40 at \[0, 3\], but an item is",
        ),
        (
            torch.tensor([1, 2, 3]),
            ValueError,
            r"^policy\(observation, draws\) .* \(23, 3\), but it must be .*\(23, 4\)",
        ),
        (
            torch.ones(4),
            TypeError,
            r"^policy\(observation, draws\) is .*float32.*, but it must be an? int64 tensor",
        ),
    ],
)
def test_slates_that_cannot_be_shown_are_the_policys(
    slate: Tensor, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        evaluate(Asks(slate), toy_simulator(items=40), SEEDS)


def test_coverage_and_gini_of_known_exposures() -> None:
    rows = pl.DataFrame()
    even, one = Evaluation(rows, torch.full((4,), 5)), Evaluation(rows, torch.tensor([0, 0, 0, 8]))
    assert (even.coverage, one.coverage) == (1.0, 0.25)
    assert even.gini == pytest.approx(0)
    assert one.gini == pytest.approx(3 / 4)  # (N - 1) / N where one of N items has it all


def test_a_policy_draws_apart_from_the_shoppers_and_from_visit_to_visit() -> None:
    policy = POLICIES["uniform"].build(toy_inputs(toy_simulator()))
    seeds = torch.arange(3)
    first, second = (draws_for(policy, seeds, torch.full((3,), visit)) for visit in (0, 1))
    assert first.shape == (3, policy.draws)
    assert not torch.equal(first, second)
    assert torch.equal(first[1:2], draws_for(policy, seeds[1:2], torch.zeros(1, dtype=torch.int64)))


def test_a_number_of_episodes_stands_for_the_first_seeds() -> None:
    simulator, policy = toy_simulator(items=40), Asks(torch.tensor([1, 2, 3, 4]))
    told = evaluate(policy, simulator, 5).rows
    assert told.equals(evaluate(policy, simulator, torch.arange(5)).rows)
    assert len(evaluate(policy, simulator).rows) == 256
    with pytest.raises(ValueError, match="seeds is 0, but it must be a whole number from 1"):
        evaluate(policy, simulator, 0)
