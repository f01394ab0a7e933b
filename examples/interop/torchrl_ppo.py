"""TorchRL's PPO on intents: `make interop`, or `python -m examples.interop.torchrl_ppo`."""

from __future__ import annotations

from typing import Any

import torch
import tyro
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule, set_interaction_type
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.modules import (
    IndependentNormal,
    NormalParamExtractor,
    ProbabilisticActor,
    ValueOperator,
)
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from agents.faces import IntentFace, IntentVectorEnv
from agents.places import open_place
from examples.interop.gain import gain_over_greedy


def train(site: Any, steps: int = 200_000, seed: int = 0) -> ProbabilisticActor:
    """Train PPO on the shoppers of a place, and return its actor."""
    torch.manual_seed(seed)
    simulator = site.simulator("train")
    venv = IntentVectorEnv(simulator, site.inputs_for(simulator), 128, autoreset_mode="SameStep")
    env = GymWrapper(venv)
    env.set_seed(seed)
    spaces = (venv.single_observation_space, venv.single_action_space)
    width, size = (int(space.shape[0]) for space in spaces if space.shape)

    def net(outputs: int) -> nn.Sequential:
        hidden = [nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
        return nn.Sequential(*hidden, nn.Linear(64, outputs))

    head = nn.Sequential(net(2 * size), NormalParamExtractor(scale_mapping="biased_softplus_0.5"))
    actor = ProbabilisticActor(
        TensorDictModule(head, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        return_log_prob=True,
    )
    critic = ValueOperator(net(1), in_keys=["observation"])
    advantage = GAE(gamma=0.98, lmbda=0.8, value_network=critic, average_gae=True)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.0, critic_coeff=0.5)
    adam = torch.optim.Adam(loss.parameters(), lr=1e-3)
    for batch in Collector(env, actor, frames_per_batch=2560, total_frames=steps):
        batch["next", "reward"] *= 0.1
        for _ in range(10):
            advantage(batch)
            found = loss(batch.reshape(-1))
            total = found["loss_objective"] + found["loss_critic"] + found["loss_entropy"]
            adam.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            adam.step()
    return actor


def main(steps: int = 200_000, seed: int = 0, env: str = "recsim_env/Market-v0") -> None:
    """Train, then print the gain over greedy CTR."""
    site = open_place(env)
    actor = train(site, steps, seed)

    def predict(seen: Any) -> Any:
        with torch.no_grad(), set_interaction_type(InteractionType.DETERMINISTIC):
            return actor(TensorDict({"observation": torch.from_numpy(seen)}, [len(seen)]))["action"]

    print(gain_over_greedy(site, IntentFace, predict))


if __name__ == "__main__":
    tyro.cli(main)
