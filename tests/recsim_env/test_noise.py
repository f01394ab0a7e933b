"""The noise is SplitMix64's, uniform, and a function of (seed, episode, step, slot) alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from recsim_env.noise import episode_key, mix, uniform

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def reference(word: int) -> int:
    """SplitMix64's finaliser in whole numbers of any size."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def keys(count: int, episode: int = 0, stream: int = 0) -> Tensor:
    return episode_key(torch.arange(count), torch.full((count,), episode), stream=stream)


def test_mix_is_splitmix64() -> None:
    words = [random.Random(0).getrandbits(64) for _ in range(200)] + [0, 1, WORD, 1 << 63]
    mixed = mix(torch.tensor([signed(word) for word in words]))
    assert mixed.tolist() == [signed(reference(word)) for word in words]


def test_first_output_of_splitmix64_from_seed_0() -> None:
    assert (
        mix(torch.tensor([signed(GOLDEN)])).tolist()[0] & WORD == 0xE220A8397B1DCDAF
    )  # the published first output


def test_numbers_lie_on_the_grid_of_24_bits_below_1() -> None:
    numbers = uniform(keys(1000), 3, 50)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() <= 1 - 2**-24
    assert torch.equal((numbers * 2**24).round() / 2**24, numbers)


def test_rows_do_not_depend_on_the_batch() -> None:
    steps = torch.arange(40) % 7
    whole = uniform(keys(40), steps, 11)
    assert torch.equal(
        whole, torch.cat([uniform(keys(40)[i : i + 1], steps[i : i + 1], 11) for i in range(40)])
    )
    assert torch.equal(whole.flip(0), uniform(keys(40).flip(0), steps.flip(0), 11))


def test_more_numbers_begin_with_the_fewer() -> None:
    assert torch.equal(uniform(keys(9), 2, 30)[:, :4], uniform(keys(9), 2, 4))


@pytest.mark.parametrize("counter", [0, 1, 5, 1_000_000])
def test_counter_as_number_and_as_tensor(counter: int) -> None:
    assert torch.equal(uniform(keys(9), counter, 5), uniform(keys(9), torch.full((9,), counter), 5))


def test_uniform_by_chi_square() -> None:
    numbers = uniform(keys(2000), 1, 500).flatten()
    expected = numbers.numel() / 256
    statistic = float(
        ((torch.bincount((numbers * 256).long(), minlength=256) - expected) ** 2 / expected).sum()
    )
    assert (
        abs(statistic - 255) < 4.5 * (2 * 255) ** 0.5
    )  # chi-square with 255 degrees of freedom: mean 255, var 510


@pytest.mark.parametrize("other", ["slot", "step", "episode", "seed", "stream"])
def test_neighbours_are_not_correlated(other: str) -> None:
    first = uniform(keys(3000), 4, 101)
    second = {
        "slot": first.roll(1, dims=1),
        "step": uniform(keys(3000), 5, 101),
        "episode": uniform(keys(3000, episode=1), 4, 101),
        "seed": uniform(keys(3001)[1:], 4, 101),
        "stream": uniform(keys(3000, stream=1), 4, 101),
    }[other]
    correlation = float(((first - 0.5) * (second - 0.5)).mean() * 12)
    assert (
        abs(correlation) < 4.5 / first.numel() ** 0.5
    )  # of independent numbers: mean 0, deviation 1 / sqrt(n)


def test_every_seed_episode_and_stream_has_its_own_key() -> None:
    grid = [keys(500, episode, stream) for episode in range(20) for stream in range(5)]
    assert len(torch.cat(grid).unique()) == 500 * 20 * 5


def test_large_seeds_streams_and_counters_are_accepted() -> None:
    key = episode_key(torch.tensor([2**63 - 1]), torch.tensor([2**40]), stream=10**30)
    assert 0 <= float(uniform(key, 2**62, 1)) < 1


def test_no_generator_moves() -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    uniform(keys(10), 0, 10)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]  # noqa: NPY002


@pytest.mark.gpu
def test_the_gpu_gives_the_same_numbers() -> None:
    assert torch.equal(uniform(keys(1000).cuda(), 3, 50).cpu(), uniform(keys(1000), 3, 50))
