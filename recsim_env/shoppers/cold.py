"""Cold start: which items nobody knows yet, and who comes without a history.

Both are shares that any environment can be asked for, `new_items` and `newcomers`, and both come
from counter-based noise, so that they are the same whatever the batch:

    new_items:  which items, from the seed of the world; no past and no log holds them
    newcomers:  which episodes, from their seed and number; nothing before them is known

A simulator tells both in its observation (`spaces`) and counts them in its info, so that
reports can split by them.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env import checks, noise

NEWCOMER, NEW_CANDIDATES = "newcomer", "new_candidates"
"""Keys of an observation: (1,) float32, 1 for a shopper who came without a history, and (C,) int8,
1 for each candidate that is new."""


def share(name: str, value: Any) -> float:
    """Check a share of shoppers or items.

    Raises:
        ValueError: If it is no number from 0 to 1.
    """
    return checks.number(name, value, 0, 1)


def new_items(items: int, of_items: float, world: int) -> Tensor | None:
    """Draw which items are new: (N,) bool on the CPU, or None where none is.

    The items are ranked by one number each, so that exactly the share is new, rounded to a whole
    number of items, and a larger share holds the items of a smaller one.

    Args:
        items: N, the size of the catalogue.
        of_items: The share of them that is new, from 0 to 1.
        world: The seed of the world.
    """
    count = round(of_items * items)
    if count == 0:
        return None
    seed = torch.tensor([world], dtype=torch.int64)
    key = noise.episode_key(seed, torch.zeros_like(seed), stream=noise.Stream.NEW_ITEMS)
    rank = noise.uniform(key, 0, items)[0].argsort(stable=True)
    new = torch.zeros(items, dtype=torch.bool)
    new[rank[:count]] = True
    return new


def newcomers(seeds: Tensor, numbers: Tensor, of_shoppers: float) -> Tensor:
    """Draw which episodes begin without a history: (B,) bool.

    Args:
        seeds: (B,) int64, the seeds of the episodes.
        numbers: (B,) int64, their numbers under the seeds.
        of_shoppers: The share of them, from 0 to 1.
    """
    key = noise.episode_key(seeds, numbers, stream=noise.Stream.NEWCOMERS)
    return noise.uniform(key, 0, 1).squeeze(1) < of_shoppers


def spaces(
    has_newcomers: bool, has_new_items: bool, candidates: int
) -> dict[str, gymnasium.Space[Any]]:
    """Return the space of each key that tells of a cold start, for one shopper."""
    found: dict[str, gymnasium.Space[Any]] = {}
    if has_newcomers:
        found[NEWCOMER] = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    if has_new_items:
        found[NEW_CANDIDATES] = gymnasium.spaces.Box(0, 1, (candidates,), np.int8)
    return found
