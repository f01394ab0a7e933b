"""A log whose truth is known: each item has a rate, each user a factor, some policies know it."""

import numpy as np
import torch

from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions
from tests.support.toys import toy_catalog

ITEMS, CATEGORIES, SLATE = 30, 5, 4


def verdict_catalog() -> Catalog:
    return toy_catalog(ITEMS, CATEGORIES, 8)


def rates() -> np.ndarray:
    """Click chance of each item for the average user."""
    return np.linspace(0.05, 0.6, ITEMS)


def toy_log(
    users: int = 400, visits: int = 4, *, seed: int = 0, policies: tuple[str, ...] = ("blind",)
) -> tuple[Sessions, np.ndarray]:
    """Episodes, and the true chance (S, T, K) of every click.

    The policy `blind` draws items at random. `clever` draws them too, but shows them to users who
    like what they are shown twice as much, which nothing in the log tells. Users after `blind` are
    of factor .5 or 1.5 at random.
    """
    random = np.random.default_rng(seed)
    slates = np.stack(
        [np.stack([random.permutation(ITEMS)[:SLATE] for _ in range(visits)]) for _ in range(users)]
    )
    policy = random.integers(len(policies), size=users) if policies else np.full(users, -1)
    factor = random.choice([0.5, 1.5], users)
    clever = np.array([*(name == "clever" for name in policies), False])[policy]
    factor = np.where(clever, 2.0 * factor, factor)
    chance = np.clip(rates()[slates] * factor[:, None, None], 0, 0.98)
    clicks = random.random(chance.shape) < chance
    length = random.integers(1, visits + 1, size=users)
    real = np.arange(visits) < length[:, None]
    sessions = Sessions(
        slates=torch.from_numpy(np.where(real[:, :, None], slates, -1)),
        clicks=torch.from_numpy(clicks & real[:, :, None]),
        length=torch.from_numpy(length),
        left=torch.from_numpy(length < visits),
        propensity=torch.full((users, visits), torch.nan),
        policy=torch.from_numpy(np.where(real, policy[:, None], -1)),
        declared=torch.zeros(users, 0),
        policies=policies,
    )
    return sessions, chance
