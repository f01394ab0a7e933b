"""Values of policies equal those of the Open Bandit Pipeline, and those worked out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsim_env.logs.off_policy import policy_value

RECORDED = json.loads((Path(__file__).parent / "data" / "off_policy.json").read_text())
"""Sixty bandit rows of four actions, and what sb-obp 0.5.10 makes of them."""


def recorded_rows() -> dict[str, Any]:
    policy, expected = (np.array(RECORDED[name]) for name in ("policy", "expected"))
    action = np.array(RECORDED["action"])
    here = np.arange(len(action)), action
    return {
        "reward": np.array(RECORDED["reward"]),
        "propensity": np.array(RECORDED["propensity"]),
        "chance": policy[here],
        "expected": expected[here],
        "expected_of_policy": (policy * expected).sum(axis=1),
    }


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_values_are_those_of_the_open_bandit_pipeline(name: str) -> None:
    found = getattr(policy_value(**recorded_rows(), samples=4000), name)
    assert found.value == pytest.approx(RECORDED[name], abs=1e-12)
    low, high = RECORDED[f"{name}_interval"]  # of 10,000 bootstrap samples
    if name != "snips":  # theirs holds the normalising sum fixed
        assert found.low == pytest.approx(low, abs=0.06 * (high - low))
        assert found.high == pytest.approx(high, abs=0.06 * (high - low))


def test_values_by_hand() -> None:
    found = policy_value(
        [1, 0, 1],
        [0.5, 0.25, 0.5],
        [0.25, 0.5, 1.0],
        expected=[0.5, 0.5, 1.0],
        expected_of_policy=[0.6, 0.7, 0.8],
    )
    assert found.ips.value == pytest.approx((0.5 * 1 + 2 * 0 + 2 * 1) / 3)
    assert found.snips.value == pytest.approx(2.5 / (0.5 + 2 + 2))
    assert found.dr is not None
    assert found.dr.value == pytest.approx((0.6 + 0.5 * 0.5 + 0.7 - 2 * 0.5 + 0.8 + 0) / 3)
    assert found.effective_rows == pytest.approx(4.5**2 / (0.25 + 4 + 4))


def test_the_logging_policy_is_worth_its_own_mean() -> None:
    random = np.random.default_rng(0)
    reward, chance = random.integers(0, 2, 500), random.uniform(0.1, 1, 500)
    found = policy_value(reward, chance, chance)
    assert found.ips.value == found.snips.value == pytest.approx(reward.mean())
    assert found.effective_rows == pytest.approx(500)
    assert found.dr is None


def test_dr_is_right_where_the_model_is_although_propensities_are_wrong() -> None:
    random = np.random.default_rng(1)
    rate = np.array([0.1, 0.5])
    action = random.integers(0, 2, 4_000)
    reward = random.random(4_000) < rate[action]
    policy = np.array([0.2, 0.8])
    found = policy_value(
        reward,
        np.where(action == 1, 0.9, 0.4),  # truly .5 each
        policy[action],
        expected=rate[action],
        expected_of_policy=np.full(4_000, policy @ rate),
    )
    assert found.dr is not None
    assert found.dr.low < policy @ rate < found.dr.high
    assert found.ips.high < policy @ rate


def test_rows_of_a_user_are_resampled_together() -> None:
    reward = np.repeat([0.0, 1.0] * 20, 25)
    ones = np.ones(len(reward))
    alone = policy_value(reward, ones, ones)
    together = policy_value(reward, ones, ones, users=np.repeat(np.arange(40), 25))
    assert together.ips.n == 40
    assert together.ips.high - together.ips.low > 3 * (alone.ips.high - alone.ips.low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": [0.5, 0.0]}, "propensity is 0.0 in row 1, but a probability must be above"),
        ({"propensity": [-0.7, 0.5]}, "log-probabilities need exp first"),
        ({"chance": [0.5, 1.5]}, "chance is 1.5 in row 1, but a probability must be from 0 to 1"),
        ({"chance": [0.0, 0.0]}, "shows nothing that was logged"),
        ({"reward": [1.0, np.nan]}, "reward is nan in row 1, but it must be finite"),
        ({"reward": ["a", "b"]}, "reward is .*, but it must be one row of numbers"),
        ({"reward": []}, r"reward has shape \(0,\)"),
        ({"chance": [0.5]}, "chance has 1 rows, but reward has 2"),
        ({"expected": [0.5, 0.5]}, "expected is given alone"),
        ({"users": [1]}, "users has 1 rows, but reward has 2"),
    ],
)
def test_bad_rows_are_told(change: dict[str, list[Any]], message: str) -> None:
    good = {"reward": [1.0, 0.0], "propensity": [0.5, 0.5], "chance": [0.5, 0.5]}
    with pytest.raises(ValueError, match=message):
        policy_value(**{**good, **change})  # type: ignore[arg-type]
