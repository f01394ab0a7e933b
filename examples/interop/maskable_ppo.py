"""sb3-contrib's MaskablePPO on masked places: `python -m examples.interop.maskable_ppo`."""

from __future__ import annotations

from typing import Any

import tyro
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecNormalize

from agents.faces import MaskedFace, masked_vec_env
from agents.places import open_place
from examples.interop.gain import gain_over_greedy


def train(site: Any, steps: int = 200_000, seed: int = 0) -> Any:
    """Train PPO on the shoppers of a place, and return what predicts its actions."""
    simulator = site.simulator("train")
    venv = masked_vec_env(simulator, site.inputs_for(simulator), num_envs=128, seed=seed)
    env = VecNormalize(venv, gamma=0.98)
    model = MaskablePPO(
        "MlpPolicy",
        env,
        n_steps=20,
        batch_size=640,
        n_epochs=4,
        learning_rate=1e-3,
        gamma=0.98,
        gae_lambda=0.8,
        seed=seed,
    ).learn(steps)
    return lambda seen, masks: model.predict(
        env.normalize_obs(seen), action_masks=masks, deterministic=True
    )[0]


def main(steps: int = 200_000, seed: int = 0, env: str = "recsim_env/Market-v0") -> None:
    """Train, then print the gain over greedy CTR."""
    site = open_place(env)
    print(gain_over_greedy(site, MaskedFace, train(site, steps, seed)))


if __name__ == "__main__":
    tyro.cli(main)
