"""RLlib's PPO on intents: `make interop`, or `python -m examples.interop.rllib_ppo`."""

from __future__ import annotations

from typing import Any

import torch
import tyro
from gymnasium import VectorizeMode
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from agents.faces import IntentFace, IntentVectorEnv
from agents.places import open_place
from examples.interop.gain import gain_over_greedy


def train(site: Any, steps: int = 200_000, seed: int = 0) -> Any:
    """Train PPO on the shoppers of a place, and return its network."""

    def make(context: Any) -> IntentVectorEnv:
        simulator = site.simulator("train")
        return IntentVectorEnv(simulator, site.inputs_for(simulator), context["num_envs"])

    tune.register_env("intents", make)
    config = (
        PPOConfig()
        .environment("intents", normalize_actions=False, clip_actions=True)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=128,
            gym_env_vectorize_mode=VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .training(gamma=0.98, lambda_=0.8, lr=1e-3, train_batch_size=2560, minibatch_size=2560)
        .training(num_epochs=10, entropy_coeff=0.0, vf_loss_coeff=0.01, vf_clip_param=1e6)
        .training(grad_clip=0.5, use_kl_loss=False, clip_param=0.2)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()
    for _ in range(steps // 2560):
        algorithm.train()
    return algorithm.get_module()


def main(steps: int = 200_000, seed: int = 0, env: str = "recsim_env/Market-v0") -> None:
    """Train, then print the gain over greedy CTR."""
    site = open_place(env)
    module = train(site, steps, seed)

    def predict(seen: Any) -> Any:
        with torch.no_grad():
            found = module.forward_inference({"obs": torch.from_numpy(seen)})
        return found["action_dist_inputs"].chunk(2, dim=1)[0]  # the means of the Gaussian

    print(gain_over_greedy(site, IntentFace, predict))


if __name__ == "__main__":
    tyro.cli(main)
