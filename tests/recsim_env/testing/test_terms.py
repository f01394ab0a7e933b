"""The check of reward terms: every registered one passes, each broken promise has its sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recsim_env.rewards import REWARD_TERMS, RewardInputs
from recsim_env.testing import check_term

counter = iter(range(10**6))


@pytest.mark.parametrize("term", sorted(REWARD_TERMS))
def test_every_term_keeps_its_promises(term: str) -> None:
    check_term(REWARD_TERMS[term])


def pairs_of_cosines(inputs: RewardInputs) -> Tensor:
    assert inputs.cosines is not None
    return (
        inputs.cosines[inputs.slates[:, 0], inputs.slates[:, -1]]
        * inputs.shown[:, 0]
        * inputs.shown[:, -1]
    )


def writes(inputs: RewardInputs) -> Tensor:
    inputs.clicks.zero_()
    return inputs.clicks.sum(dim=1).double()


def clicks_of(inputs: RewardInputs) -> Tensor:
    return inputs.clicks.double().sum(dim=1)


BAD_TERMS: list[tuple[Callable[[RewardInputs], Any], str]] = [
    (
        lambda inputs: clicks_of(inputs).unsqueeze(1),
        r"returned a float64 tensor of shape \(8, 1\) \(K = 1\), but it must",
    ),
    (
        lambda inputs: clicks_of(inputs).sum(),
        "returned .*, but it must return a tensor of real numbers",
    ),
    (lambda inputs: clicks_of(inputs)[:1], r"returned a float64 tensor of shape \(1,\)"),
    (lambda inputs: 1.0, "returned 1.0"),
    (lambda inputs: None, "returned None"),
    (lambda inputs: clicks_of(inputs).to(torch.complex64), "returned a complex64 tensor"),
    (
        lambda inputs: clicks_of(inputs) * math.nan,
        "returned nan in row 0 .*, but every number must be finite",
    ),
    (lambda inputs: 1 / inputs.shown.sum(dim=1), r"returned inf in row 3 "),
    (
        lambda inputs: clicks_of(inputs) / (inputs.slates.shape[1] - 1),
        r"returned (nan|inf) in row \d \(K = 1\), but every number must be finite",
    ),
    (
        lambda inputs: clicks_of(inputs) - clicks_of(inputs).mean(),
        "returned another number for row 0 alone than for the",
    ),
    (
        lambda inputs: inputs.slates.double().sum(dim=1),
        "returned another number for another item at a position that is",
    ),
    (
        lambda inputs: clicks_of(inputs) + torch.rand(()),
        "drew from a global generator .*, but it must be a function of its",
    ),
    (lambda inputs: clicks_of(inputs) + next(counter), "returned other numbers when asked again"),
    (writes, r"wrote into inputs.clicks \(K = 1\), but it must leave its inputs as they are"),
    (
        pairs_of_cosines,
        "raised AssertionError without cosines, '.*' .*, but it must answer any slate",
    ),
    (lambda inputs: inputs.nothing, "raised AttributeError, "),  # type: ignore[attr-defined]
]


@pytest.mark.parametrize(
    ("term", "sentence"), BAD_TERMS, ids=lambda case: case if isinstance(case, str) else "term"
)
def test_each_broken_promise_of_a_term_has_its_sentence(term: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^The reward term \S+ {sentence}"):
        check_term(term)


@pytest.mark.parametrize("term", [None, "clicks", 3])
def test_what_is_no_term_is_refused(term: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^term is .*, but it must be a function of RewardInputs\."
    ):
        check_term(term)
