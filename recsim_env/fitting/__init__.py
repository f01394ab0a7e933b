"""From a shop's own log to simulated shoppers, with a verdict on how far they can be trusted.

recsim_env.fit("log.csv", "items.csv", "shop")
recsim_env.register("shop/Mine-v0", "shop")

config.py    how a simulator is fitted
output.py    the folder that is written, and what is kept of an unfinished fit
parts.py     the episodes of a log: to learn from, to stop by, to judge on
judging.py   the fitted models, judged on users whom they never saw
fit.py       all stages in order
"""

from recsim_env.fitting.config import FitConfig
from recsim_env.fitting.stages import Fitted, fit

__all__ = ["FitConfig", "Fitted", "fit"]
