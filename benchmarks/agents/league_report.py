"""What the league's rows say: table, figure and summary, from rows alone.

`benchmarks.lab.league_statistics` says how means over few runs are judged.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from agents.statistics import estimate_mean, paired_difference
from benchmarks.agents.league_figure import draw
from benchmarks.lab.league_cells import CMA, GREEDY, MMR, MYOPIC, PPO, RERANKER, REWARD_GREEDY
from benchmarks.lab.league_statistics import (
    at,
    baseline,
    curve_of,
    matrix,
    of,
    pairs,
    ratio,
    to_pass,
)
from benchmarks.lab.places import CONTROL, JOURNEY, LEARNED, REGULARS, REGULARS_ALIKE
from benchmarks.lab.run import Report
from benchmarks.lab.statistics import iqm_estimate
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate


def analyse(rows: pl.DataFrame, curves: pl.DataFrame, market: str, note: str) -> Report:
    """Make tables, summary and figure of the cells.

    Args:
        rows: The rows of all cells, with the columns `ROW` of `benchmarks.lab.league_cells`.
        curves: The points of their learning curves, with the columns `CURVE`.
        market: The environment that the first tables and the figure are about.
        note: The paragraph below the tables.
    """
    league = rows.filter(pl.col("weight").is_null())
    points = curves.filter(pl.col("weight").is_null())
    believing = bool(at(league, market)["believing"].any())
    tables = [market_table(at(league, market, believing), baseline(league, market))]
    if believing and not at(league, market, believing=False).is_empty():
        tables.append(market_table(at(league, market, False), baseline(league, market)))
    tables += [other_table(league, market), note]
    found = summary(league, points, market)
    drawn = draw(at(rows, market, believing), at(points, market, believing), market)
    return Report("\n".join(tables) + "\n", found, drawn)


# ---- summary -------------------------------------------------------------------------------------


def summary(rows: pl.DataFrame, curves: pl.DataFrame, market: str) -> dict[str, Estimate]:
    """The figures that others quote; those whose cells are missing are left out.

    Contenders of the market have a belief where one was played with; greedy CTR is that on the
    ranker, unless the name says otherwise.
    """
    believing = bool(at(rows, market)["believing"].any())
    points = passing(at(curves, market, believing), np.random.default_rng(0))
    found = of_market(rows, market, believing) | of_other_places(rows) | points
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def of_market(rows: pl.DataFrame, market: str, believing: bool) -> dict[str, Estimate | None]:
    """The figures of the market."""
    best, greedy = at(rows, market, believing), baseline(rows, market)
    ppo = of(best, PPO)
    found = {
        "market_ppo_return": estimate_mean(ppo["return"].to_numpy()) if len(ppo) else None,
        "market_ppo_over_greedy_return": _over(ppo, greedy),
        "market_ppo_over_greedy_clicks": _over(ppo, greedy, "clicks"),
        "market_ppo_minus_tuned_reranker_return": _minus(ppo, of(best, RERANKER)),
        "market_ppo_minus_cma_return": _minus(ppo, of(best, CMA)),
    }
    if believing:
        found["market_ppo_over_belief_greedy_return"] = _over(ppo, of(best, GREEDY))
    own = at(rows, market, believing=False)
    for name in ("plackett_luce", "autoregressive"):
        trained, untrained = (
            of(own, f"ppo_{name}", mode) for mode in ("deterministic", "untrained")
        )
        found[f"{name}_trained_minus_untrained_return"] = _minus(trained, untrained)
    return found


def of_other_places(rows: pl.DataFrame) -> dict[str, Estimate | None]:
    """The figures of places with something to know, with nothing to gain, and with households."""
    found: dict[str, Estimate | None] = {}
    for name, env in (("regulars", REGULARS), ("regulars_alike", REGULARS_ALIKE)):
        own = at(rows, env)
        for rival, contender in (("tuned_reranker", RERANKER), ("cma", CMA)):
            share = _above(of(own, PPO), of(own, contender))
            found[f"{name}_ppo_minus_{rival}_share"] = share
    control, journey = at(rows, CONTROL), at(rows, JOURNEY, believing=False)
    greedy, ppo = of(control, GREEDY), of(journey, PPO)
    found["control_ppo_over_greedy_return"] = _over(of(control, PPO), greedy)
    found["control_greedy_over_oracle_return"] = _over(greedy, of(control, MYOPIC))
    learned = at(rows, LEARNED, believing=True)
    found["learned_ppo_over_belief_greedy_return"] = _over(of(learned, PPO), of(learned, GREEDY))
    found["learned_ppo_minus_tuned_reranker_return"] = _minus(
        of(learned, PPO), of(learned, RERANKER)
    )
    found["journey_ppo_minus_mmr"] = _minus(ppo, of(journey, MMR))
    found["journey_ppo_minus_reward_greedy"] = _minus(ppo, of(journey, REWARD_GREEDY))
    return found


def _minus(one: pl.DataFrame, other: pl.DataFrame) -> Estimate | None:
    """The paired difference of two contenders' returns; None where no run has both."""
    values = pairs(one, other)
    return paired_difference(*values) if len(values[0]) else None


def _over(one: pl.DataFrame, other: pl.DataFrame, column: str = "return") -> Estimate | None:
    """The ratio of two contenders; None where no run has both."""
    values = pairs(one, other, column)
    return ratio(*values) if len(values[0]) else None


def _above(one: pl.DataFrame, other: pl.DataFrame) -> Estimate | None:
    """What one contender earns above another, as a share; None where no run has both."""
    values = pairs(one, other)
    return ratio(values[0] - values[1], values[1]) if len(values[0]) else None


def passing(curves: pl.DataFrame, generator: np.random.Generator) -> dict[str, Estimate]:
    """Steps and minutes of PPO until its mean curve passed greedy CTR for good.

    The shoppers are the same, and the runs are those with the most points on their curves.
    """
    points = pl.len().over("contender", "world", "run")
    curves = curves.filter(
        (pl.col("contender") != PPO) | (points == points.filter(pl.col("contender") == PPO).max())
    )
    runs, steps, returns, minutes = curve_of(curves, PPO)
    greedy = curves.filter(pl.col("contender") == GREEDY).select(
        "world", "run", pl.col("return").alias("level")
    )
    level = runs.join(greedy, on=["world", "run"], how="left", maintain_order="left")["level"]
    if not len(runs) or level.null_count():
        return {}
    costs = {
        "steps_to_pass_greedy": np.broadcast_to(steps, returns.shape),
        "minutes_to_pass_greedy": minutes,
    }
    found = {
        name: to_pass(returns, cost, level.to_numpy(), generator) for name, cost in costs.items()
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


# ---- tables --------------------------------------------------------------------------------------

HEADERS = {
    "contender": "contender",
    "runs": "runs",
    "return": "return (IQM)",
    "above": "above greedy CTR",
    "sampled": "sampled",
    "untrained": "untrained",
    "unpolished": "unpolished",
    "clicks": "clicks",
    "diversity": "diversity",
    "visits": "visits",
    "coverage": "items shown",
    "gini": "Gini",
    "steps": "steps",
    "minutes": "minutes",
}


OTHER_MODES = ("sampled", "untrained", "unpolished")
"""Modes of an agent beside its most likely action, which the table has a column for."""


def market_table(rows: pl.DataFrame, greedy: pl.DataFrame) -> str:
    """Make the table of one environment, a line a contender and the best one first.

    Args:
        rows: Those of the environment, with a belief or without one.
        greedy: Those of greedy CTR that contenders are compared with.
    """
    if rows.is_empty():
        return ""
    generator = np.random.default_rng(1)
    lines = [_line(rows, name, greedy, generator) for name in _contenders(rows)]
    lines.sort(key=lambda line: _value(line["return"]), reverse=True)
    title = f"**{place_of_rows(rows)}**, worlds {_listed(rows, 'world')}"
    return f"{title}\n\n{markdown(lines, HEADERS)}"


def place_of_rows(rows: pl.DataFrame) -> str:
    """The environment of rows, and whether the shop has a belief there."""
    env, believing = rows.select("env", "believing").row(0)
    return f"{env} with a belief" if believing else str(env)


def _line(
    rows: pl.DataFrame, name: str, greedy: pl.DataFrame, generator: np.random.Generator
) -> dict[str, object]:
    own = of(rows, name)
    means = {
        c: float(own[c].to_numpy().mean())
        for c in ("clicks", "diversity", "visits", "coverage", "gini")
    }
    both = pairs(own, greedy)
    itself = name == GREEDY and own.equals(greedy)
    other = {mode: of(rows, name, mode)["return"].to_numpy() for mode in OTHER_MODES}
    steps = int(own["steps"].to_numpy().mean())
    return {
        "contender": name.replace("_", " "),
        "runs": len(own),
        "return": iqm_estimate(matrix(own), generator),
        "above": paired_difference(*both) if len(both[0]) and not itself else None,
        **{mode: float(values.mean()) if len(values) else None for mode, values in other.items()},
        **means,
        "steps": steps or None,
        "minutes": float(own["minutes"].to_numpy().mean()) or None,
    }


def other_table(rows: pl.DataFrame, market: str) -> str:
    """Make the table of the returns in all other environments; empty where there are none."""
    generator = np.random.default_rng(2)
    rows = rows.filter((pl.col("env") != market) & (pl.col("mode") == "deterministic"))
    parts = rows.partition_by("env", "believing", maintain_order=True)
    places = {place_of_rows(part).split("/")[-1]: part for part in parts}
    lines = []
    for name in _contenders(rows):
        found = {
            place: iqm_estimate(matrix(part.filter(pl.col("contender") == name)), generator)
            for place, part in sorted(places.items())
        }
        lines.append({"contender": name.replace("_", " "), **found})
    if not lines:
        return ""
    heads = {"contender": "contender", **{place: place for place in sorted(places)}}
    return "Return elsewhere (IQM)\n\n" + markdown(lines, heads)


def _contenders(rows: pl.DataFrame) -> list[str]:
    names: list[str] = (
        rows.filter(pl.col("mode") == "deterministic")["contender"].unique().sort().to_list()
    )
    return names


def _listed(rows: pl.DataFrame, column: str) -> str:
    return ", ".join(str(value) for value in rows[column].unique().sort())


def _value(estimate: object) -> float:
    return estimate.value if isinstance(estimate, Estimate) else -math.inf
