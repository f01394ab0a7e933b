"""The report of `benchmarks.speed.small`: what each variant loses, and how much faster it is."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import kendalltau

from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.heldout import estimate
from benchmarks.lab.run import Report
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate, from_samples, resamples

SHIPPED, SMALL = "shipped", "small"
"""Names of the fitted shopper that the others are compared with, and of the small one."""
ROW = {
    "variant": pl.String,
    "what": pl.String,
    "policy": pl.String,
    "n": pl.Int64,
    "value": pl.Float64,
}
"""`what` is `auc`, `ne`, `cold_auc` or `gap_nll`, where `n` 0 is the figure itself and the others
are bootstrap samples of households; `households`; `return` of a policy in episode `n`; `us` or
`alone_us`, microseconds of the processor for a step of one of many shoppers, or of one alone, in
round `n`; or `mb` of the model's file."""
SCORES = ("auc", "ne", "cold_auc", "gap_nll")
TAU_SAMPLES = 200
"""Bootstrap samples of episodes behind the interval of a rank correlation."""

Floats = NDArray[np.float64]


def report(rows: pl.DataFrame) -> Report:
    """Make table and summary of the rows."""
    summary: dict[str, Estimate] = {}
    lines: list[dict[str, object]] = []
    for variant in rows["variant"].unique(maintain_order=True).to_list():
        found = figures(rows, variant)
        lines.append({"variant": variant} | {name: found.get(name) for name in COLUMNS})
        prefix = "" if variant == SMALL else variant.replace(",", "").replace(" ", "_") + "/"
        summary |= {f"{prefix}{name}": value for name, value in found.items()}
    headers = {"variant": "shopper", **COLUMNS}
    policies = rows.filter(pl.col("what") == "return")["policy"].n_unique()
    episodes = rows.filter(pl.col("what") == "return")["n"].n_unique()
    note = (
        "\nDifferences are paired: scores by household, speeds by round, returns by episode. τ is "
        f"that of the returns of {policies} policies in {episodes} episodes; *changed* counts "
        "pairs of policies whose difference has an interval without 0 in both shoppers, and "
        "another sign.\n"
    )
    return Report(markdown(lines, headers) + note, summary)


COLUMNS = {
    "speedup": "times as fast",
    "us": "µs a step, of many",
    "alone_ms": "ms a step, alone",
    "mb": "MB",
    "auc": "AUC",
    "auc_loss": "AUC lost",
    "ne": "NE",
    "cold_auc": "cold AUC",
    "cold_auc_loss": "cold AUC lost",
    "gap_nll": "gap NLL",
    "tau": "τ of the policies",
    "changed": "changed",
    "return_difference": "return, mean of the policies, less that of the shipped one",
}
"""Figures of a variant, and what the table calls them."""


def figures(rows: pl.DataFrame, variant: str) -> dict[str, Estimate]:
    """The figures of a variant, by name; those that compare are left out of the shipped one's."""
    own = {what: _values(rows, variant, what) for what in (*SCORES, "us", "alone_us")}
    base = {what: _values(rows, SHIPPED, what) for what in own}
    households = int(_values(rows, variant, "households")[0])
    found = {
        "us": estimate_mean(own["us"]),
        "alone_ms": estimate_mean(own["alone_us"] / 1e3),
        "mb": Estimate(float(_values(rows, variant, "mb")[0])),
    }
    found |= {what: estimate(own[what][0], own[what][1:], households) for what in SCORES}
    if variant == SHIPPED:
        return found
    found["speedup"] = estimate_mean(base["us"] / own["us"])
    for what in ("auc", "cold_auc"):
        less = base[what] - own[what]
        found[f"{what}_loss"] = estimate(less[0], less[1:], households)
    ours, theirs = returns(rows, variant), returns(rows, SHIPPED)
    found["tau"] = rank_correlation(ours, theirs)
    found["changed"] = Estimate(float(changed(ours, theirs)))
    found["return_difference"] = paired_difference(ours.mean(0), theirs.mean(0))
    return found


def _values(rows: pl.DataFrame, variant: str, what: str) -> Floats:
    own = rows.filter((pl.col("variant") == variant) & (pl.col("what") == what))
    found: Floats = own.sort("n")["value"].to_numpy()
    return found


def returns(rows: pl.DataFrame, variant: str) -> Floats:
    """The returns (policies, episodes) in a variant, policies in the order of their names."""
    own = rows.filter((pl.col("variant") == variant) & (pl.col("what") == "return"))
    table = own.sort("n").pivot("policy", index="n", values="value").drop("n")
    found: Floats = table.select(sorted(table.columns)).to_numpy().T
    return found


def rank_correlation(one: Floats, other: Floats) -> Estimate:
    """Kendall's tau of the policies' mean returns (policies, episodes) in two shoppers.

    The interval is that of other episodes, the same in both.
    """
    draws = resamples(one.shape[1], TAU_SAMPLES)
    samples = [_tau(one @ draw, other @ draw) for draw in draws]
    value = _tau(one.mean(1), other.mean(1))
    defined = [sample for sample in samples if math.isfinite(sample)]
    return from_samples(value, defined, one.shape[1])


def _tau(one: Floats, other: Floats) -> float:
    return float(kendalltau(one, other).statistic)


def changed(one: Floats, other: Floats) -> int:
    """Count pairs of policies that two shoppers rank in opposite order, both of them surely."""
    found = 0
    for a, b in combinations(range(len(one)), 2):
        signs = {_sign(paired_difference(shopper[a], shopper[b])) for shopper in (one, other)}
        found += signs == {-1, 1}
    return found


def _sign(difference: Estimate) -> int:
    """Whether a difference is surely above 0 (1), surely below (-1), or neither (0)."""
    return (difference.low > 0) - (difference.high < 0)
