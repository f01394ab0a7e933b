"""Stable-Baselines3's PPO on intents: `python -m examples.interop.sb3_ppo`."""

from __future__ import annotations

from typing import Any

import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from agents.faces import IntentFace, intent_vec_env
from agents.places import open_place
from examples.interop.gain import gain_over_greedy


def train(site: Any, steps: int = 200_000, seed: int = 0) -> Any:
    """Train PPO on the shoppers of a place, and return what predicts its actions."""
    simulator = site.simulator("train")
    venv = intent_vec_env(simulator, site.inputs_for(simulator), num_envs=128, seed=seed)
    env = VecNormalize(venv, gamma=0.98)
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=20,
        batch_size=2560,
        learning_rate=1e-3,
        gamma=0.98,
        gae_lambda=0.8,
        policy_kwargs={"log_std_init": -0.5},
        seed=seed,
    ).learn(steps)
    return lambda seen: model.predict(env.normalize_obs(seen), deterministic=True)[0]


def main(steps: int = 200_000, seed: int = 0, env: str = "recsim_env/Market-v0") -> None:
    """Train, then print the gain over greedy CTR."""
    site = open_place(env)
    print(gain_over_greedy(site, IntentFace, train(site, steps, seed)))


if __name__ == "__main__":
    tyro.cli(main)
