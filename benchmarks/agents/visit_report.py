"""The report of `benchmarks.agents.visit`: returns, and what seeing and sharing bring.

Differences are paired by episode. Where a trained agent is in one of the two, the independent units
are its trainings, crossed with the shoppers whom all of them serve; two agents are paired by the
seed of their trainings.
"""

from __future__ import annotations

import polars as pl

from agents.statistics import estimate_mean, over_training_seeds, paired_difference
from benchmarks.lab.plots import BLUE, GREEN, level_intervals
from benchmarks.lab.run import Report
from benchmarks.lab.statistics import returns_of
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate

UNIFORM, GREEDY, CUED, BLIND, ORACLE = UNTRAINED = (
    "uniform",
    "reward_greedy",
    "reward_greedy, cues",
    "oracle, no complements",
    "oracle",
)
SHARED, SPLIT, SPLIT_LONGER, UNSEEING = TRAINED = (
    "PPO, shared",
    "PPO, per scenario",
    "PPO, per scenario, thrice the steps",
    "PPO, not seeing",
)
COMPARED = {
    "cues_bring": (CUED, GREEDY),
    "complements_bring": (ORACLE, BLIND),
    "training_brings": (SHARED, CUED),
    "seeing_brings": (SHARED, UNSEEING),
    "sharing_brings": (SHARED, SPLIT),
    "sharing_brings_at_a_third_of_the_steps": (SHARED, SPLIT_LONGER),
}
"""Name of a figure -> the two whose difference it is, the first less the second."""


def less(rows: pl.DataFrame, policy: str, baseline: str) -> Estimate:
    """By how much a policy earns more than another in an environment, from the same shoppers.

    Raises:
        ValueError: If both were trained, with different numbers of seeds.
    """
    one, other = returns_of(rows, policy), returns_of(rows, baseline)
    if {policy, baseline} <= set(TRAINED) and len(one) != len(other):
        raise ValueError(
            f"rows has {len(one)} trainings of {policy!r} and {len(other)} of {baseline!r}, but it "
            "must have as many of both."
        )
    if policy in TRAINED or baseline in TRAINED:
        return over_training_seeds(one - other)
    return paired_difference(one[0], other[0])


def mean_of(rows: pl.DataFrame, policy: str) -> Estimate:
    """The mean return of a policy in the rows of one environment."""
    returns = returns_of(rows, policy)
    return over_training_seeds(returns) if policy in TRAINED else estimate_mean(returns[0])


def report(rows: pl.DataFrame) -> Report:
    """Make the tables, the figures and the picture."""
    means: list[dict[str, object]] = []
    gains: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    drawn: list[tuple[str, Estimate, str]] = []
    envs = rows["env"].unique(maintain_order=True).to_list()
    there = set(rows["policy"])
    parts = {env.split("/")[-1]: rows.filter(pl.col("env") == env) for env in envs}
    for policy in (*UNTRAINED, *(name for name in TRAINED if name in there)):
        line: dict[str, object] = {"mean return": policy}
        for name, own in parts.items():
            line[f"`{name}`"] = summary[f"{name}/{policy}"] = mean_of(own, policy)
        means.append(line)
    for figure, (policy, baseline) in COMPARED.items():
        if not {policy, baseline} <= there:
            continue
        line = {"difference": figure.replace("_", " "), "of": policy, "less": baseline}
        for name, own in parts.items():
            found = summary[f"{name}/{figure}"] = less(own, policy, baseline)
            line[f"`{name}`"] = found
            colour = GREEN if policy in TRAINED else BLUE
            drawn.append((f"{name}: {figure.replace('_', ' ')}", found, colour))
        gains.append(line)
    drawing = level_intervals(drawn, "difference of returns", mark=0)
    return Report(f"{markdown(means)}\n{markdown(gains)}", summary, drawing)
