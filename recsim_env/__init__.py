"""A simulator of shoppers in which slate-recommendation agents learn.

`import recsim_env` makes its environments known to `gymnasium.make` and `gymnasium.make_vec`:

    recsim_env/CompleteJourney-v0   shoppers fine-tuned on the Complete Journey data
    recsim_env/CompleteJourneyVisit-v0  the same on whole visits: pages, searches and carts
    recsim_env/Market-v0            closed-form shoppers whom greed bores: the truth is known
    recsim_env/MarketAlike-v0       the same with shoppers who are all the median one
    recsim_env/MarketMild-v0        Market-v0 with little to gain from variety
    recsim_env/MarketControl-v0     nothing shown has a later effect: greed is optimal
    recsim_env/MarketRegulars-v0    regulars, known for 30 to 300 visits: knowing them pays
    recsim_env/MarketRegularsAlike-v0   the same, all of them the median one: it pays nothing
    recsim_env/MarketVisit-v0       whole visits: home, search and cart, page after page
    recsim_env/MarketVisitControl-v0    the same, but neither scenario nor cart changes anything
    recsim_env/Bundle-v0            a slate is one bundle at a discount; what goes together is known
    recsim_env/BundleControl-v0     nothing goes together: the best single items are optimal
    recsim_env/LearnedMarket-v0     a transformer's shoppers, fitted to the log of Market-v0
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsim_env.catalog import Catalog
from recsim_env.env import SlateEnv
from recsim_env.registration import EnvConfig, Later, add_preset, make_simulator, register
from recsim_env.rewards import REWARD_TERMS, Reward, RewardInputs, reward_term
from recsim_env.shoppers.bundles.config import BUNDLES, BUNDLES_CONTROL
from recsim_env.shoppers.bundles.population import make_bundles
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.market import CONTROL, MARKET, MILD
from recsim_env.shoppers.regulars.config import REGULARS
from recsim_env.shoppers.regulars.population import make_regulars
from recsim_env.shoppers.visits.config import VISITS, VISITS_CONTROL
from recsim_env.shoppers.visits.population import make_visits
from recsim_env.simulator import SlateSimulator
from recsim_env.vector import SlateVectorEnv

if TYPE_CHECKING:
    from recsim_env.explaining import explain
    from recsim_env.fitting import FitConfig, Fitted, fit
    from recsim_env.logs.report import LogReport, check_log

add_preset(
    "recsim_env/CompleteJourney-v0",
    EnvConfig(shopper=Path(__file__).parent / "data" / "complete_journey"),
)

add_preset(
    "recsim_env/CompleteJourneyVisit-v0",
    EnvConfig(
        Later("recsim_env.shoppers.carts.population", "load_carts"),
        {"clicks": 0.2, "purchases": 1.0},
    ),
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

for _name, _regulars in (("MarketRegulars", REGULARS), ("MarketRegularsAlike", REGULARS.alike())):
    add_preset(
        f"recsim_env/{_name}-v0",
        EnvConfig(
            make_regulars,
            {"clicks": 1.0, "intra_list_distance": 0.3},
            shopper_options={"config": _regulars},
        ),
    )

for _name, _visits, _reward in (
    ("MarketVisit", VISITS, {"clicks": 0.2, "purchases": 1.0}),
    ("MarketVisitControl", VISITS_CONTROL, {"clicks": 1.0}),
):
    add_preset(
        f"recsim_env/{_name}-v0",
        EnvConfig(make_visits, _reward, horizon_days=50, shopper_options={"config": _visits}),
    )

for _name, _bundles in (("Bundle", BUNDLES), ("BundleControl", BUNDLES_CONTROL)):
    add_preset(
        f"recsim_env/{_name}-v0",
        EnvConfig(
            make_bundles,
            {"revenue": 1.0},
            slate_size=4,
            horizon_days=50,
            shopper_options={"config": _bundles},
        ),
    )

add_preset(
    "recsim_env/LearnedMarket-v0",
    EnvConfig(
        Path(__file__).parent / "data" / "market",
        {"clicks": 1.0, "intra_list_distance": 0.3},
        horizon_days=50,
    ),
)

__version__ = "0.1.0"
"""The version of the package, as in pyproject.toml."""

__all__ = [
    "REWARD_TERMS",
    "Catalog",
    "EnvConfig",
    "FitConfig",
    "Fitted",
    "LogReport",
    "Reward",
    "RewardInputs",
    "SlateEnv",
    "SlateSimulator",
    "SlateVectorEnv",
    "__version__",
    "check_log",
    "explain",
    "fit",
    "make_simulator",
    "register",
    "reward_term",
]

_LATER = {
    "FitConfig": "recsim_env.fitting",
    "Fitted": "recsim_env.fitting",
    "explain": "recsim_env.explaining",
    "fit": "recsim_env.fitting",
    "LogReport": "recsim_env.logs.report",
    "check_log": "recsim_env.logs.report",
}
"""Modules of names that need polars or transformers, imported when a name is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
