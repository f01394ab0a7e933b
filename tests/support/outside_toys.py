"""A small environment of somebody else: users of a few songs, each of whom likes one kind."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from recsim_env.registration import register
from recsim_env.shoppers.outside import OutsideShopper, OutsideSpec
from recsim_env.shoppers.outside_catalog import clustered_catalog

ITEMS, POSITIONS, VISITS = 24, 3, 6


class Songs(gymnasium.Env[NDArray[np.float32], NDArray[np.int64]]):
    """A user clicks on songs of a kind with chance 0.7, on others with 0.1."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (1,), np.float32)
        self.action_space = spaces.MultiDiscrete([ITEMS] * POSITIONS)
        self._kind, self._steps = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._kind, self._steps = int(self.np_random.integers(4)), 0
        return np.zeros(1, np.float32), {}

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        chance = np.where(action % 4 == self._kind, 0.7, 0.1)
        clicks = self.np_random.random(POSITIONS) < chance
        self._steps += 1
        over = self._steps >= VISITS
        return np.zeros(1, np.float32), float(clicks.sum()), False, over, {"clicks": clicks}


def items_around_axes(items: int = 12, axes: int = 3) -> Tensor:
    """Embeddings of which number i lies near axis i % axes."""
    noise = 0.05 * torch.randn(items, axes, generator=torch.Generator().manual_seed(0))
    return torch.eye(axes)[torch.arange(items) % axes] + noise


def songs_spec() -> OutsideSpec:
    """What must be said of `Songs`."""
    kinds = torch.eye(4).repeat(ITEMS // 4, 1)
    noise = torch.randn(ITEMS, 4, generator=torch.Generator().manual_seed(0))
    return OutsideSpec(Songs, clustered_catalog(kinds + 0.1 * noise, 4), VISITS)


def make_songs(device: torch.device, slate_size: int) -> OutsideShopper:
    """A factory of shoppers as `recsim_env.register` takes it."""
    return OutsideShopper(songs_spec(), device)


def register_songs(id: str) -> None:
    """Register the environment."""
    register(
        id, make_songs, reward={"clicks": 1.0}, slate_size=POSITIONS, horizon_days=float(VISITS)
    )
