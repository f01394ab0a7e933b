"""How both families train: batches that long episodes do not swell, and when a training stops."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from recsim_env.shoppers.training import SHORT, StopEarly, own_generators, packed
from recsim_env.testing.generators import generators


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(batches: list[Tensor], lengths: Tensor) -> list[int]:
    """Cells of each batch, its padding among them."""
    return [len(batch) * int(lengths[batch].max()) for batch in batches]


@pytest.mark.parametrize(
    "lengths",
    [
        torch.cat([torch.full((2000,), 20), torch.tensor([3000])]),  # a robot among shoppers
        torch.cat([torch.full((2000,), 20), torch.tensor([256])]),
        torch.randint(1, 51, (3000,), generator=generator()),
        torch.tensor([7]),
        torch.cat([torch.ones(500, dtype=torch.int64), torch.arange(1, 700)]),
    ],
    ids=["robot", "cut robot", "market", "one", "all lengths"],
)
def test_long_episodes_stand_with_their_like(lengths: Tensor) -> None:
    batches = packed(lengths, 64, 4096, generator())
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(len(lengths)))
    assert max(map(len, batches)) <= 64
    for batch, size in zip(batches, cells(batches, lengths), strict=True):
        assert size <= 4096 or len(batch) == 1
        if int(lengths[batch].max()) > SHORT:
            assert size < 2 * int(lengths[batch].sum())  # less than half is padding


def test_one_robot_neither_slows_nor_swells_a_training() -> None:
    people = torch.full((2000,), 20)
    with_robot = torch.cat([people, torch.tensor([256])])
    plain, more = (packed(lengths, 64, 4096, generator()) for lengths in (people, with_robot))
    assert len(more) <= len(plain) + 2
    assert sum(cells(more, with_robot)) <= sum(cells(plain, people)) + 2 * 256
    at_once = max(cells(more, with_robot))
    assert at_once <= max(cells(plain, people))


def test_short_episodes_share_batches_whatever_their_length() -> None:
    lengths = torch.randint(1, 51, (3000,), generator=generator())
    batches = packed(lengths, 64, 4096, generator())
    means = torch.stack([lengths[batch].float().mean() for batch in batches if len(batch) == 64])
    assert float(means.std()) == pytest.approx(float(lengths.float().std()) / 8, rel=0.3)


def test_batches_are_mixed_anew_by_the_generator_alone() -> None:
    lengths = torch.randint(1, 51, (500,), generator=generator())
    one, same, other = (packed(lengths, 32, 4096, generator(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    together = [{tuple(sorted(batch.tolist())) for batch in batches} for batches in (one, other)]
    assert not together[0] & together[1]


def history(*losses: float) -> list[dict[str, float]]:
    return [{"loss": 9.0}, *({"eval_loss": loss} for loss in losses)]


def test_when_a_training_stops() -> None:
    stop = StopEarly(patience=2, least_steps=500)
    assert not stop.is_over(800, history())
    assert not stop.is_over(800, history(3.0, 2.0, 2.5))
    assert stop.is_over(800, history(3.0, 2.0, 2.5, 2.1))
    assert not stop.is_over(499, history(3.0, 2.0, 2.5, 2.1))
    assert not stop.is_over(800, history(3.0, 2.0, 2.5, 1.9))


def test_the_global_generators_stand_where_they_stood() -> None:
    before = generators()
    with own_generators(3):
        first = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    assert generators() == before
    with own_generators(3):
        assert torch.equal(torch.rand(1), first[0])
    assert generators() == before
    with pytest.raises(KeyError):
        _fails()
    assert generators() == before


def _fails() -> None:
    with own_generators(3):
        np.random.rand()  # noqa: NPY002
        raise KeyError
