"""A small market for agents, and settings with which each of them trains in a second or two."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from agents import AGENTS
from agents.ppo.config import PPOConfig
from policies.composer import ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env import make_simulator
from recsim_env.shoppers.market import MARKET
from recsim_env.simulator import SlateSimulator

SHOPPERS = 16
WHOLE_EPISODES = ("cma", "optuna")
"""Agents that play whole episodes only, so that some steps may be left over."""
QUICK_PPO = {
    "ppo": PPOConfig(learning_rate=1e-2, n_steps=4, batch_size=32, n_epochs=2),
    "network": NetworkConfig((16,), (16,)),
    "composer": ComposerConfig(pool=12),
    "checked": 0.0,
    "watch_every": 1,
}
QUICK_SLATEQ = {
    "warm_up": 32,
    "batch_size": 16,
    "memory": 64,
    "hidden": 16,
    "item_hidden": 8,
    "pool": 24,
    "updates": 2,
}
QUICK: dict[str, dict[str, Any]] = {
    name: QUICK_PPO if name.startswith("ppo") else QUICK_SLATEQ if "slateq" in name else {}
    for name in AGENTS
} | {
    "reinforce": {"epochs": 2, "warm_up": 2, "batch_size": 64},
    "ppo_constrained": QUICK_PPO | {"steered": 0.0},
}
"""Settings for every agent; one that is not named here trains with its defaults."""


def quick_steps(name: str) -> int:
    """Shopper-steps for `SHOPPERS` at once; PPO scales its features by 10 visits of each first."""
    if name in WHOLE_EPISODES:
        return SHOPPERS * 400
    if name == "ppo_composer":  # of which a search takes three tenths
        return SHOPPERS * 56
    if name == "ppo_constrained":  # which plays whole episodes of greedy CTR first
        return SHOPPERS * 110
    return SHOPPERS * (10 + 4 * 6 if name.startswith("ppo") else 12)


def small_market(device: str = "cpu") -> SlateSimulator:
    """The market with 60 items."""
    config = replace(MARKET, items=60, categories=6, favourites=2)
    return make_simulator("recsim_env/Market-v0", device=device, world=0, config=config)


def tensors_of(part: Any) -> list[Tensor]:
    """All tensors that a policy consists of, its networks' included."""
    found: list[Tensor] = []
    if part is None:  # what is the same for everybody has no samples
        return found
    for name, value in sorted(vars(part).items()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, nn.Module):
            found += value.state_dict().values()
        elif name == "posterior":
            found += tensors_of(value)
    return found
