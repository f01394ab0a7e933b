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

import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import tyro
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, Site, open_place, seeds
from agents.statistics import estimate_mean
from benchmarks.data import plain_movielens, plain_open_bandit
from benchmarks.data.fit_log import RANKER, fit_ranker_of
from benchmarks.lab.cells import all_rows, json_at, rows_at
from benchmarks.lab.contenders import FIXED, TUNED, contender
from benchmarks.lab.markets import MARKETS, MarketWorld
from benchmarks.lab.options import Device, Results, Threads
from benchmarks.lab.plots import BLUE, RED, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import remember_settings, settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from recsim_env import check_log
from recsim_env.estimates import Estimate
from recsim_env.files import locked, made, read_object
from recsim_env.fitting import FitConfig, fit
from recsim_env.fitting.bar import stage_bar
from recsim_env.logs.plain import write_plain
from recsim_env.logs.schema import read_impressions
from recsim_env.shop_file import SHOP_FILE
from recsim_env.simulator import SlateSimulator

Case = Literal["known", "hidden"]
Part = Literal["market", "movielens", "open_bandit"]
TOPICS = ("clicks", "order of policies", "levels", "leaving", "returning", "positions")
