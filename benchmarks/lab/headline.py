"""The table of headline results in the README: a few figures of each committed summary.

Between `<!-- table:headline -->` and `<!-- /table:headline -->` stands what `table` returns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.run import read_summary


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure, and the one that it is to be compared with."""

    measured: str
    """What was measured, in words."""
    figure: str
    """`benchmark:name` of a figure in that benchmark's `summary.json`."""
    against: str
    """What the figure is compared with, in words."""
    other: str | None
    """`benchmark:name` of that figure; None where the words say it all."""
    decimals: int
    """Decimal places of both figures."""
    page: str
    """The page that discusses the result, relative to the README."""


ROWS = (
    Row(
        "AUC of held-out purchases, all promoted items (`CompleteJourney-v0`)",
        "fidelity:full_exposure_auc",
        "gradient boosting on the same features",
        "fidelity:gbdt_full_exposure_auc",
        3,
        "docs/results/shoppers.md",
    ),
    Row(
        "Return above tuned MMR, PPO (`CompleteJourney-v0`)",
        "league:journey_ppo_minus_mmr",
        "PPO above the slate that is greedy in the reward",
        "league:journey_ppo_minus_reward_greedy",
        2,
        "docs/results/agents.md",
    ),
    Row(
        "Return over that of greedy CTR, PPO on a belief (`Market-v0`)",
        "league:market_ppo_over_greedy_return",
        "PPO minus the best rule for everybody (CMA-ES, equal steps), in return",
        "league:market_ppo_minus_cma_return",
        2,
        "docs/results/market.md",
    ),
    Row(
        "PPO above the best rule for everybody, as a share, regulars (`MarketRegulars-v0`)",
        "league:regulars_ppo_minus_cma_share",
        "above the tuned re-ranker",
        "league:regulars_ppo_minus_tuned_reranker_share",
        2,
        "docs/results/market.md",
    ),
    Row(
        "Clicks in 100 slates of SARDINE's `SlateTopK-Bored-v0`, PPO on a belief",
        "sardine:ppo_return",
        "the tuned rule for everybody, with the same belief and cues",
        "sardine:constant_budget_return",
        0,
        "docs/results/sardine.md",
    ),
    Row(
        "Rank correlation (Kendall) of agents' returns, learned market with true market",
        "transfer:kendall_tau",
        "the true market with other shoppers",
        "transfer:kendall_tau_of_the_true_market_itself",
        2,
        "docs/results/market.md",
    ),
    Row(
        "Simulated visits a CPU second, `Market-v0`",
        "throughput:steps_per_s/recsim_env/Market-v0",
        "SARDINE",
        "throughput:steps_per_s/SARDINE",
        0,
        "docs/results/speed.md",
    ),
    Row(
        "The same, `CompleteJourney-v0`",
        "throughput:steps_per_s/recsim_env/CompleteJourney-v0",
        "SARDINE",
        "throughput:steps_per_s/SARDINE",
        0,
        "docs/results/speed.md",
    ),
)
"""The lines of the table, eight at most."""


def table(results: Path) -> str:
    """Return the table in markdown, made from the `summary.json` files below `results`.

    Raises:
        FileNotFoundError: If a benchmark that the table quotes has no results.
        KeyError: If its summary lacks the figure.
    """
    lines = ["| measured | here | compared with | details |", "| --- | ---: | --- | --- |"]
    for row in ROWS:
        against = row.against
        if row.other is not None:
            against += f": {_told(results, row.other, row.decimals)}"
        page = f"[{Path(row.page).stem}]({row.page})"
        here = _told(results, row.figure, row.decimals)
        lines.append(f"| {row.measured} | {here} | {against} | {page} |")
    return "\n".join(lines) + "\n"


def _told(results: Path, figure: str, decimals: int) -> str:
    """Return a figure and its interval as the other tables write them: `0.884 [0.880, 0.888]`."""
    benchmark, _, name = figure.partition(":")
    found = read_summary(benchmark, results=results)[name]
    value, low, high = (
        f"{number:,.{decimals}f}" for number in (found.value, found.low, found.high)
    )
    return value if math.isnan(found.low) else f"{value} [{low}, {high}]"
