"""The same seeds are the same episodes, whatever the batch; the rows are what happened."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from agents.evaluate import Evaluation, draws_for, evaluate, showcase
from policies import POLICIES
from recsim_env.rewards import Reward
from tests.policy_toys import toy_inputs
from tests.toys import toy_simulator

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
    simulator = toy_simulator(items=40, horizon_days=60, reward=Reward({"clicks": 1.0, "category_coverage": 0.5}))
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


def test_a_showcase_ends_with_what_was_shown() -> None:
    simulator = toy_simulator(items=40, lapse=0.0, horizon_days=1e4)
    policy = POLICIES["popular"].build(toy_inputs(simulator))
    seen = showcase(policy, simulator, torch.arange(5), visits=3)
    assert bool((seen["recent_slates"][:, :3] >= 0).all())
    assert bool((seen["recent_slates"][:, 3:] == -1).all())
