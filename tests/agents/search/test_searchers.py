"""Both searchers find the top of a hill, and their draws are their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.search.searchers import Covariance, Parzen, Searcher

TOP = torch.tensor([1.0, -0.5, 0.0])


def hill(intents: Tensor) -> Tensor:
    return -(intents - TOP).square().sum(dim=1).double()


def covariance(seed: int = 0) -> Searcher:
    return Covariance(3, seed, 0.7)


def parzen(seed: int = 0) -> Searcher:
    return Parzen(3, seed, 3.0, several=4)


each = pytest.mark.parametrize("make", [covariance, parzen])


def searched(searcher: Searcher, rounds: int) -> list[Tensor]:
    asked = []
    for _ in range(rounds):
        asked.append(searcher.ask())
        searcher.tell(hill(asked[-1]))
    return asked


@each
def test_the_top_of_a_hill_is_found(make: Callable[[int], Searcher]) -> None:
    searcher = make(0)
    searched(searcher, 40)
    best = searcher.finalists(3)
    assert best.shape == (3, 3)
    assert best.dtype == torch.float32
    assert float(-hill(best)[0]) < 0.15
    assert float(-hill(best)[0]) < float(-hill(torch.zeros(1, 3))[0]) / 5


@each
def test_the_same_seed_asks_the_same_and_no_global_generator_moves(
    make: Callable[[int], Searcher],
) -> None:
    before = str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    one, same, other = (searched(make(seed), 5) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert (str(np.random.get_state()), torch.get_rng_state().tolist()) == before  # noqa: NPY002


def test_parzen_begins_at_0_and_keeps_to_its_box_and_its_finalists_are_its_best() -> None:
    searcher = parzen()
    asked = torch.cat(searched(searcher, 10))
    assert torch.equal(asked[0], torch.zeros(3))
    assert float(asked.abs().max()) <= 3.0
    order = hill(asked).argsort(descending=True)
    torch.testing.assert_close(searcher.finalists(5), asked[order[:5]])


def test_the_finalists_of_the_strategy_are_means_and_not_its_luckiest_draws() -> None:
    searcher = covariance()
    asked = torch.cat(searched(searcher, 4))
    found = searcher.finalists(10)
    assert len(found) == 5
    torch.testing.assert_close(found[0], found[1:3].mean(dim=0))  # those of the second half
    assert torch.equal(searcher.finalists(1), found[:1])
    assert not any(torch.equal(mean, one) for mean in found for one in asked)
