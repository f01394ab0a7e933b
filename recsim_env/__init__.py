"""A simulator of shoppers in which slate-recommendation agents learn.

`import recsim_env` makes `recsim_env/CompleteJourney-v0` known to `gymnasium.make` and `gymnasium.make_vec`.
"""

from __future__ import annotations

from pathlib import Path

from recsim_env.catalog import Catalog
from recsim_env.env import SlateEnv
from recsim_env.registration import EnvConfig, add_preset, make_simulator, register
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs, reward_term
from recsim_env.simulator import SlateSimulator
from recsim_env.vector import SlateVectorEnv

add_preset("recsim_env/CompleteJourney-v0", EnvConfig(shopper=Path(__file__).parent / "data" / "complete_journey"))

__all__ = [
    "REWARD_TERMS",
    "Catalog",
    "EnvConfig",
    "Reward",
    "RewardInputs",
    "SlateEnv",
    "SlateSimulator",
    "SlateVectorEnv",
    "make_simulator",
    "register",
    "reward_term",
]
