"""Does a simulator that was fitted to somebody's log rank agents as the shoppers themselves do?

    python -m benchmarks.shopper.own_log

The log of a market, whose truth is known, is written out as the CSV files of a shop and goes the
way of every log: `recsim_env.fit`, a ranker, an environment. Contenders that no simulator trained
then play in the fitted shop and in the true market. This is done twice for every world: with all
that the logging policies knew, and without what shoppers had declared, which the verdict on levels
must notice. Two public data sets follow: MovieLens-100k, which is no log of slates, and the sample
of the Open Bandit data, which has no users.

    runs/own_log/world<w>-<known|hidden>/    log.csv, items.csv, shop/, rows/<contender>.parquet
    runs/own_log/movielens/, open_bandit/    log.csv, catalog.csv, shop/

What is there is not made again, so a run goes on where it stopped.
"""

from __future__ import annotations

from typing import Literal

Case = Literal["known", "hidden"]
Part = Literal["market", "movielens", "open_bandit"]
TOPICS = ("clicks", "order of policies", "levels", "leaving", "returning", "positions")
