"""d3rlpy's IQL on a Minari dataset of random intents: `make interop`, or as a module."""

from __future__ import annotations

from typing import Any

import d3rlpy
import gymnasium
import minari
import numpy as np
import tyro
from d3rlpy.algos import IQLConfig
from d3rlpy.dataset import MDPDataset
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.preprocessing import (
    MinMaxActionScaler,
    MultiplyRewardScaler,
    StandardObservationScaler,
)

from agents.faces import IntentFace
from agents.places import open_place
from examples.interop.gain import gain_over_greedy
from recsim_env.logs.minari_data import write_minari


def explore(envs: Any, dataset_id: str, rounds: int = 24, seed: int = 0) -> Any:
    """Play random intents that are held for about twenty visits, and write them as a dataset."""
    random, shape = np.random.default_rng(seed), envs.action_space.shape
    held = random.normal(0.0, 0.8, shape)

    def act(seen: Any) -> Any:
        anew = random.random((len(seen), 1)) < 0.05
        held[:] = np.where(anew, random.normal(0.0, 0.8, shape), held)
        return np.clip(held + random.normal(0.0, 0.2, shape), -4.0, 4.0).astype(np.float32)

    return write_minari(dataset_id, envs, act, rounds=rounds, seed=seed, algorithm="random")


def train(dataset: Any, steps: int = 1_500, seed: int = 0) -> Any:
    """Learn from a dataset alone, and return what predicts actions."""
    d3rlpy.seed(seed)
    episodes = list(dataset.iterate_episodes())
    replay = MDPDataset(
        np.concatenate([one.observations[:-1] for one in episodes]),  # d3rlpy takes T, not T + 1
        np.concatenate([one.actions for one in episodes]),
        np.concatenate([one.rewards for one in episodes]).astype(np.float32),
        np.concatenate([one.terminations for one in episodes]),
        np.concatenate([one.truncations for one in episodes]),
    )
    small = VectorEncoderFactory([64, 64])
    iql = IQLConfig(
        gamma=0.98,
        tau=0.03,  # what leaving costs has twenty visits to travel
        actor_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        actor_encoder_factory=small,
        critic_encoder_factory=small,
        value_encoder_factory=small,
        action_scaler=MinMaxActionScaler(),
        observation_scaler=StandardObservationScaler(),
        reward_scaler=MultiplyRewardScaler(0.1),  # less the mean, staying would be worth nothing
        weight_temp=30.0,
    ).create()
    iql.fit(replay, steps, steps, logger_adapter=NoopAdapterFactory())
    return iql.predict


def main(
    steps: int = 1_500,
    rounds: int = 24,
    seed: int = 0,
    env: str = "recsim_env/Market-v0",
    face: str = "agents:agents/MarketIntent-v0",
    dataset: str = "recsim-env/market-intents/random-v0",
) -> None:
    """Write the dataset where it is missing, train, then print the gain over greedy CTR."""
    if dataset not in minari.list_local_datasets():
        explore(gymnasium.make_vec(face, num_envs=128), dataset, rounds, seed)
    played = minari.load_dataset(dataset)
    site = open_place(env)
    width = int(np.prod(played.action_space.shape))
    zero = lambda seen: np.zeros((len(seen), width), np.float32)  # noqa: E731
    print("intent 0:", gain_over_greedy(site, IntentFace, zero))
    print("IQL:", gain_over_greedy(site, IntentFace, train(played, steps, seed)))


if __name__ == "__main__":
    tyro.cli(main)
