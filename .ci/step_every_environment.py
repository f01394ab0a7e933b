"""Make every registered recsim_env environment, single and vectorised, and take random steps in
it."""

import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np

import recsim_env

NUM_ENVS = 3
STEPS = 3


def step_single(environment_id: str) -> None:
    """Reset, take random steps, reset again; observations must lie in the declared space."""
    env = gym.make(environment_id)
    env.action_space.seed(0)
    for seed in (0, None):
        observation, _ = env.reset(seed=seed)
        assert observation in env.observation_space, (
            f"{environment_id}: reset leaves the observation space"
        )
        for _ in range(STEPS):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            assert observation in env.observation_space, (
                f"{environment_id}: a step leaves the observation space"
            )
            assert np.isfinite(float(reward)), f"{environment_id}: reward {reward}"
            if terminated or truncated:
                observation, _ = env.reset()
    env.close()


def step_vector(environment_id: str) -> None:
    """The same for a batch, which resets its finished episodes itself."""
    envs = gym.make_vec(environment_id, num_envs=NUM_ENVS)
    envs.action_space.seed(0)
    for seed in (0, None):
        observation, _ = envs.reset(seed=seed)
        assert observation in envs.observation_space, (
            f"{environment_id}: reset leaves the observation space"
        )
        for _ in range(STEPS):
            observation, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
            assert observation in envs.observation_space, (
                f"{environment_id}: a step leaves the observation space"
            )
            assert reward.shape == terminated.shape == truncated.shape == (NUM_ENVS,)
            assert np.isfinite(reward).all(), f"{environment_id}: reward {reward}"
    envs.close()


if __name__ == "__main__":
    assert "site-packages" in Path(recsim_env.__file__).parts, (
        f"not the installed package: {recsim_env.__file__}"
    )
    ids = sorted(name for name in gym.registry if name.startswith("recsim_env/"))
    if not ids:
        sys.exit("import recsim_env registered no environment")
    for environment_id in ids:
        start = time.perf_counter()
        step_single(environment_id)
        step_vector(environment_id)
        print(
            f"{environment_id}: stepped alone and as a batch in {time.perf_counter() - start:.1f} s"
        )
