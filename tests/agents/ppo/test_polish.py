"""The untrained policy is left only for one that surely earns more."""

from __future__ import annotations

import pytest
import torch

from agents.ppo.polish import choice_of

UNTRAINED = [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("trained", "polished", "kept"),
    [
        # gains 2, 2, -1, -1: mean .5, deviation sqrt(3), error .87 (one is not more than another)
        ([3.0, 4.0, 2.0, 3.0], UNTRAINED, 0),
        # gains 2, 2, 0, 0: mean 1, deviation sqrt(4 / 3), error .58
        ([3.0, 4.0, 3.0, 4.0], UNTRAINED, 1),
        # a mean of 1 that is sure, and one of 2 that is not: gains 8, 0, 0, 0 have an error of 2
        ([3.0, 4.0, 3.0, 4.0], [9.0, 2.0, 3.0, 4.0], 1),
        ([3.0, 4.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0], 2),
        ([0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 3.0], 0),
    ],
)
def test_the_choice_is_that_of_a_hand_calculation(
    trained: list[float], polished: list[float], kept: int
) -> None:
    assert choice_of(torch.tensor([UNTRAINED, trained, polished], dtype=torch.float64)) == kept


def test_one_shopper_has_no_error_and_one_policy_no_rival() -> None:
    assert choice_of(torch.tensor([[1.0], [2.0]])) == 1
    assert choice_of(torch.tensor([[1.0, 2.0]])) == 0
