"""Show random slates to shoppers and count what comes of it: `python -m examples.random_slates`."""

import gymnasium as gym
import numpy as np
import tyro

import recsim_env  # noqa: F401  (registers the environments)


def main(env: str = "recsim_env/Market-v0", shoppers: int = 64, visits: int = 50) -> None:
    """Play random slates, shopper by shopper in one batch.

    Args:
        env: Id of the environment.
        shoppers: Number of shoppers that are served at once.
        visits: Number of visits of each of them.
    """
    envs = gym.make_vec(env, num_envs=shoppers)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    clicks, rewards, episodes = 0, 0.0, 0
    for _ in range(visits):
        _, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        clicks += int(np.sum(info["clicks"]))
        rewards += float(np.sum(reward))
        episodes += int(np.sum(terminated | truncated))
    served = shoppers * visits
    print(f"{env}: {served} visits, {episodes} episodes ended")
    print(f"{clicks / served:.2f} clicks and a reward of {rewards / served:.2f} a visit")


if __name__ == "__main__":
    tyro.cli(main)
