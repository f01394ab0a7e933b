"""Values of slates equal those of the Open Bandit Pipeline, and those of all slates written out."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsim_env.logs.off_policy import policy_value
from recsim_env.logs.off_policy_slates import (
    pseudo_inverse_weights,
    slate_policy_value,
    uniform_together,
)

RECORDED = json.loads((Path(__file__).parent / "data" / "off_policy_slates.json").read_text())
"""Forty slates of three of four items, drawn independently and without repetition, and what
sb-obp 0.5.10 makes of them."""


@pytest.mark.parametrize("kind", ["independent", "distinct"])
def test_values_are_those_of_the_open_bandit_pipeline(kind: str) -> None:
    told = RECORDED[kind]
    columns = {name: value for name, value in told.items() if name != "found"}
    value = slate_policy_value(**columns, independent=kind == "independent")
    assert len(told["found"]) == (7 if kind == "independent" else 5)
    for name, expected in told["found"].items():
        assert getattr(value, name).value == pytest.approx(expected, abs=1e-12), name
    if kind == "distinct":
        assert value.iips is value.sniips is value.dr is value.pseudo_inverse is None


def test_slates_of_one_item_are_valued_as_bandit_rows() -> None:
    random = np.random.default_rng(0)
    reward = random.integers(0, 2, (50, 1))
    propensity, chance, expected, of_policy = random.uniform(0.1, 1, (4, 50, 1))
    told = {"expected": expected, "expected_of_policy": of_policy}
    slates = slate_policy_value(reward, propensity, chance, independent=True, **told)
    flat = {name: values[:, 0] for name, values in told.items()}
    rows = policy_value(reward[:, 0], propensity[:, 0], chance[:, 0], **flat)
    assert rows.dr is not None
    for found in (slates.ips, slates.rips, slates.iips, slates.pseudo_inverse):
        assert found is not None
        assert found.value == pytest.approx(rows.ips.value)
    for found in (slates.snips, slates.snrips, slates.sniips):
        assert found is not None
        assert found.value == pytest.approx(rows.snips.value)
    for found in (slates.dr, slates.cascade_dr):
        assert found is not None
        assert (found.value, found.low) == pytest.approx((rows.dr.value, rows.dr.low))
    assert slates.effective_slates == pytest.approx(rows.effective_rows)
    assert slates.effective_positions == pytest.approx(rows.effective_rows)


def every_slate(size: int, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """All slates of independent positions, and of each the chances (R, K) of its items at 1 / C."""
    slates = np.array(list(itertools.product(range(candidates), repeat=size)))
    return slates, np.full(slates.shape, 1 / candidates)


def test_every_estimator_is_unbiased_where_its_assumption_holds() -> None:
    slates, propensity = every_slate(size=3, candidates=3)
    policy = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])  # by position and item
    at = np.arange(3)
    chance = policy[at, slates]
    own = np.array([[0.1, 0.4, 0.7], [0.2, 0.2, 0.6], [0.5, 0.3, 0.1]])[at, slates]
    above = own * (1 - 0.5 * np.pad(own, ((0, 0), (1, 0)))[:, :-1])  # less below a good item
    below = own * (1 - 0.5 * np.pad(own, ((0, 0), (0, 1)))[:, 1:])  # less above a good item
    told: dict[str, Any] = {
        "expected": np.full(slates.shape, 0.3) + 0.1 * slates,
        "expected_of_policy": np.tile(0.3 + 0.1 * (policy @ np.arange(3)), (len(slates), 1)),
    }
    weight = chance.prod(axis=1)
    unbiased = {
        "own": ("ips", "dr", "rips", "cascade_dr", "iips", "pseudo_inverse"),
        "above": ("ips", "dr", "rips", "cascade_dr"),
        "below": ("ips", "dr"),
    }
    for name, reward in {"own": own, "above": above, "below": below}.items():
        truth = float((weight[:, None] * reward).sum())
        found = slate_policy_value(reward, propensity, chance, independent=True, **told)
        for estimator in unbiased[name]:
            assert getattr(found, estimator).value == pytest.approx(truth), (name, estimator)
        for estimator in set(unbiased["own"]) - set(unbiased[name]):
            assert abs(getattr(found, estimator).value - truth) > 0.001, (name, estimator)


def test_pseudo_inverse_of_random_slates_values_a_single_slate() -> None:
    slates = np.array(list(itertools.permutations(range(4), 2)))
    good = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.2, 0.0]])  # by position and item
    reward = good[np.arange(2), slates]
    wanted = (2, 0)
    marginal = np.zeros((len(slates), 2, 4))
    marginal[:, [0, 1], wanted] = 1
    weights = pseudo_inverse_weights(slates, marginal, uniform_together(2, 4))
    propensity = np.tile([1 / 4, 1 / 3], (len(slates), 1))
    chance = (slates == wanted).astype(float)
    found = slate_policy_value(reward, propensity, chance, weights=weights)
    assert found.pseudo_inverse is not None
    assert found.pseudo_inverse.value == pytest.approx(0.3 + 0.4)
    assert found.ips.value == pytest.approx(0.3 + 0.4)
    assert (np.abs(weights) > 1e-9).sum() > 1 == (chance.prod(axis=1) > 0).sum()


def test_weights_of_independent_positions_are_those_of_the_pseudo_inverse() -> None:
    slates, propensity = every_slate(size=2, candidates=3)
    policy = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    indicators = np.zeros((len(slates), 2, 3))
    np.put_along_axis(indicators, slates[..., None], 1, axis=2)
    flat = indicators.reshape(len(slates), -1)
    together = flat.T @ flat / len(slates)
    weights = pseudo_inverse_weights(slates, np.tile(policy, (len(slates), 1, 1)), together)
    ratio = policy[np.arange(2), slates] / propensity
    assert weights == pytest.approx(1 + (ratio - 1).sum(axis=1))
    uniform = np.array([len(set(slate)) == 2 for slate in slates.tolist()])
    distinct = flat[uniform].T @ flat[uniform] / uniform.sum()
    assert distinct == pytest.approx(uniform_together(2, 3))


def test_slates_of_a_user_are_resampled_together() -> None:
    reward = np.repeat([[0.0, 1.0]] * 20, 25, axis=0) * np.repeat([[0.0], [1.0]] * 10, 25, axis=0)
    ones = np.ones(reward.shape)
    alone = slate_policy_value(reward, ones, ones)
    together = slate_policy_value(reward, ones, ones, users=np.repeat(np.arange(20), 25))
    assert together.rips.n == 20
    assert together.rips.high - together.rips.low > 3 * (alone.rips.high - alone.rips.low)


GOOD: dict[str, Any] = {
    "reward": [[1.0, 0.0], [0.0, 1.0]],
    "propensity": [[0.5, 0.5], [0.5, 0.5]],
    "chance": [[0.5, 0.5], [0.5, 0.5]],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"propensity": [[0.5, 0.0], [1, 1]]},
            "propensity is 0.0 in row 0, position 1, but a prob",
        ),
        (
            {"chance": [[0.5, 0.5], [1.5, 1]]},
            "chance is 1.5 in row 1, position 0, but a probability",
        ),
        ({"chance": [[0, 1], [1, 0]]}, "chance is 0 in every slate: the policy shows no slate"),
        ({"reward": [[1.0, np.nan], [0, 0]]}, "reward is nan in row 0, position 1, but it must be"),
        ({"reward": [1.0, 0.0]}, r"reward has shape \(2,\), but it must be a table of numbers"),
        ({"chance": [[0.5], [0.5]]}, r"chance has shape \(2, 1\), but reward has \(2, 2\)"),
        ({"expected": GOOD["chance"]}, "expected is given alone"),
        ({"users": [1]}, "users has 1 rows, but reward has 2"),
        ({"weights": [1.0]}, "weights has 1 rows, but reward has 2"),
        ({"weights": [1.0, 1.0], "independent": True}, "they follow from the propensities"),
    ],
)
def test_bad_slates_are_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slate_policy_value(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slates": [[0, 3]]}, "slates holds 3, but a candidate is a number from 0 to 2"),
        ({"slates": [[0.0, 1.0]]}, "slates is float64 of shape"),
        ({"together": np.eye(5)}, r"together has shape \(5, 5\), but it must be \(6, 6\)"),
        ({"marginal": np.full((1, 2, 3), 2.0)}, "marginal is 2.0 in row 0, position 0, but a prob"),
    ],
)
def test_bad_weights_are_told(change: dict[str, Any], message: str) -> None:
    good = {"slates": [[0, 1]], "marginal": np.full((1, 2, 3), 1 / 3)}
    with pytest.raises(ValueError, match=message):
        pseudo_inverse_weights(**{**good, "together": uniform_together(2, 3), **change})


def test_random_slates_need_enough_candidates() -> None:
    with pytest.raises(ValueError, match="size is 3, but it must be from 1 to the number of cand"):
        uniform_together(3, 2)
    with pytest.raises(ValueError, match="size times candidates is 10000, but it must be at most"):
        uniform_together(10, 1000)
