"""Why a shopper responded: exact counterfactuals under the same noise.

    simulator.reset(seeds)
    print(explain(simulator, slates))       # before `simulator.step(slates)`

The chance of each response is computed as it is, and once more without each cause: a purchase that
never was, a promotion that was not there, a need that was not met before. What is random is drawn
from the same numbers (`recsim_env.noise`), so that nothing but the cause differs. A kind of cause
is one file in `recsim_env.explaining.kinds`, registered by `register_kind`.
"""

from recsim_env.explaining import kinds  # they join the registry
from recsim_env.explaining.case import Case, World
from recsim_env.explaining.counterfactual import explain, without
from recsim_env.explaining.explanation import Cause, Explanation, Reason
from recsim_env.explaining.kind import KINDS, Found, Kind, register_kind

__all__ = [
    "KINDS",
    "Case",
    "Cause",
    "Explanation",
    "Found",
    "Kind",
    "Reason",
    "World",
    "explain",
    "kinds",
    "register_kind",
    "without",
]
