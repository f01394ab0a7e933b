"""A bundle at a discount, as a person would see it: what was taken, and why it goes together."""

import gymnasium as gym
import numpy as np

import recsim_env  # noqa: F401  (registers the environments)

if __name__ == "__main__":
    env = gym.make("recsim_env/Bundle-v0", render_mode="ansi")
    env.reset(seed=3)
    bundle, level = [54, 432, 794, 1], 2  # four items, offered at the third level of discount
    _, revenue, _, _, info = env.step(np.array([*bundle, level]))
    print(env.render())
    print(f"whole: {bool(info['whole'])}, revenue {revenue:.2f}")
