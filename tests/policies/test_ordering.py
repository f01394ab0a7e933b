"""The best of many scores are those of a plain sort, and equals come in their order."""

from __future__ import annotations

import math

import pytest
import torch

from policies.ordering import best_of, first_largest


@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_best_are_those_of_a_stable_sort(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(16, 40, generator=generator).mul(4).round() / 4  # many are equal
    scores[0] = -math.inf
    scores[1, :30] = -math.inf
    scores[2, 5], scores[2, 9] = math.inf, -1e30
    sorted_scores, order = scores.sort(dim=1, descending=True, stable=True)
    values, places = best_of(scores.clone(), size)
    assert torch.equal(values, sorted_scores[:, :size])
    assert torch.equal(places, order[:, :size])


def test_the_first_of_the_largest_is_taken() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [-math.inf] * 4, [-1.0, -2.0, -1.0, -3.0]])
    assert first_largest(scores).tolist() == [1, 0, 0]
