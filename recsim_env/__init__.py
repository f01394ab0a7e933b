"""A simulator of shoppers in which slate-recommendation agents learn.

`import recsim_env` makes its environments known to `gymnasium.make` and `gymnasium.make_vec`:

    recsim_env/CompleteJourney-v0   shoppers fine-tuned on the Complete Journey data
    recsim_env/Market-v0            closed-form shoppers whom greed bores: the truth is known
    recsim_env/MarketAlike-v0       the same with shoppers who are all the median one
    recsim_env/MarketMild-v0        Market-v0 with little to gain from variety
    recsim_env/MarketControl-v0     nothing shown has a later effect: greed is optimal
    recsim_env/LearnedMarket-v0     a transformer's shoppers, fitted to the log of Market-v0
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recsim_env.catalog import Catalog
from recsim_env.env import SlateEnv
from recsim_env.registration import EnvConfig, add_preset, make_simulator, register
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs, reward_term
from recsim_env.shoppers.base import Shopper
from recsim_env.shoppers.market import CONTROL, MARKET, MILD, make_market
from recsim_env.simulator import SlateSimulator
from recsim_env.vector import SlateVectorEnv

add_preset(
    "recsim_env/CompleteJourney-v0",
    EnvConfig(shopper=Path(__file__).parent / "data" / "complete_journey"),
)

for _name, _market, _reward in (
    ("Market", MARKET, {"clicks": 1.0, "intra_list_distance": 0.3}),
    ("MarketAlike", MARKET.alike(), {"clicks": 1.0, "intra_list_distance": 0.3}),
    ("MarketMild", MILD, {"clicks": 1.0, "intra_list_distance": 0.3}),
    ("MarketControl", CONTROL, {"clicks": 1.0}),
):
    _options = {"config": _market}
    add_preset(
        f"recsim_env/{_name}-v0",
        EnvConfig(make_market, _reward, horizon_days=50, shopper_options=_options),
    )


def _learned_market(
    device: torch.device,
    slate_size: int,
    *,
    folder: Path | None = None,
    ensemble: int = 1,
    pessimism: float = 0.0,
    precision: str = "fp32",
    compiled: bool = False,
) -> Shopper[Any]:
    """Shoppers fitted to a market's log; the options are those of `load_learned_market`."""
    from recsim_env.shoppers.session.population import (
        load_learned_market,  # heavy, and not every environment needs it
    )

    return load_learned_market(
        device,
        slate_size,
        folder=folder,
        ensemble=ensemble,
        pessimism=pessimism,
        precision=precision,
        compiled=compiled,
    )


add_preset(
    "recsim_env/LearnedMarket-v0",
    EnvConfig(_learned_market, {"clicks": 1.0, "intra_list_distance": 0.3}, horizon_days=50),
)

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
