"""Counter-based noise: a number depends on (seed, episode, step, slot) and on nothing else.

No generator is kept, so that nothing can drift: the same seed gives the same episodes whatever the
number of environments, the device, or what else has drawn random numbers in the process. The mixing
function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators", figure 17), in wrapping 64-bit integers, which every device computes alike.
"""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor

MOST_DRAWS = 10**6
"""The most uniform numbers that a new shopper, a visit or a policy's slate may take."""


class Stream(enum.IntEnum):
    """Who draws: two streams of one seed are independent of each other.

    A new kind of noise takes a number of its own here. Numbers in use never change, for the
    episodes of a seed depend on them.
    """

    SHOPPERS = 0
    """The noise of what shoppers do."""
    POLICY = 1
    """What a policy takes for its slates."""
    TRAINING = 2
    """The seeds of the episodes that an agent learns from."""
    ROULETTE = 3
    """Who goes on in training that is weighted by survival."""
    REGULARS = 4
    """The visits of regular customers before an episode."""
    WEIGHTS = 5
    """The weights of goals that an episode of a training draws."""
    VISITS = 6
    """Which categories go together in a market of whole visits."""
    NEWCOMERS = 8
    """Which episodes begin without a history."""
    NEW_ITEMS = 9
    """Which items are new."""
    DRIFT = 10
    """How a market moves by the calendar of its shop."""
    CHECKS = 77
    """The slates and observations of `recsim_env.testing`."""


def _signed(word: int) -> int:
    """Return a whole number modulo 2**64, as the signed integer with the same bits."""
    word %= 1 << 64
    return word - (1 << 64) if word >= 1 << 63 else word


_STEP = _signed(0x9E3779B97F4A7C15)
_EPISODE = _signed(0xD1342543DE82EF95)
_STREAM = _signed(0xAF251AF3B0F025B5)
_MULTIPLIER_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = _signed(0x94D049BB133111EB)
_UNIT = 2.0**-24  # float32 holds 24 bits exactly, so every number is below 1


def _shift(words: Tensor, bits: int) -> Tensor:
    """Shift to the right logically; torch's own shift keeps the sign."""
    return (words >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(words: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser element by element: a bijection of the 64-bit words.

    Shapes:
        words: int64 of any shape; the result has the same.
    """
    return _mix_(words.clone())


def _mix_(words: Tensor) -> Tensor:
    """Apply `mix` in place: for many words the memory of copies is most of the cost."""
    words.bitwise_xor_(_shift(words, 30)).mul_(_MULTIPLIER_1)
    words.bitwise_xor_(_shift(words, 27)).mul_(_MULTIPLIER_2)
    return words.bitwise_xor_(_shift(words, 31))


def episode_key(seeds: Tensor, episodes: Tensor, *, stream: int = Stream.SHOPPERS) -> Tensor:
    """Make the key of each episode, for `uniform`: (B,) int64.

    Args:
        seeds: (B,) int64.
        episodes: (B,) int64, 0 for the first episode under a seed.
        stream: Who draws.
    """
    words = mix(seeds + _STEP) + _signed(stream * _STREAM)
    return mix(words + (episodes + 1) * _EPISODE)


def uniform(keys: Tensor, counter: Tensor | int, n: int) -> Tensor:
    """Return uniform numbers, each from (key, counter, slot) alone.

    Args:
        keys: (B,) int64, from `episode_key`.
        counter: (B,) int64 or one int, the step of the episode.
        n: How many numbers each shopper gets.

    Returns:
        (B, n) float32 in [0, 1), on the device of `keys`.
    """
    step = _signed((counter + 1) * _STEP) if isinstance(counter, int) else (counter + 1) * _STEP
    words = _mix_(keys + step)
    slots = torch.arange(1, n + 1, device=keys.device, dtype=torch.int64) * _STEP
    return _shift(_mix_(words.unsqueeze(1) + slots), 40).to(torch.float32).mul_(_UNIT)


def normal(draws: Tensor) -> Tensor:
    """Make standard normal numbers of uniform ones in [0, 1), by inversion."""
    return math.sqrt(2) * torch.erfinv(2 * _inside(draws) - 1)


def gumbel(draws: Tensor) -> Tensor:
    """Make standard Gumbel numbers of uniform ones in [0, 1).

    Added to scores, the K best are a sample without replacement from the softmax of the scores
    (Yellott 1977; Kool et al. 2019, "Stochastic beams and where to find them", section 2.2).
    """
    return -torch.log(-torch.log(_inside(draws)))


def _inside(draws: Tensor) -> Tensor:
    edge = 2.0**-25
    return draws.clamp(edge, 1 - edge)
