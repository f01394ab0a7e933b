"""What the league's rows say: table, figure and summary, from rows alone.

Means over few runs are judged as Agarwal et al. 2021, "Deep reinforcement learning at the edge of
the statistical precipice", say: by the interquartile mean over runs and worlds, whose spread is
found by resampling the runs of each world on their own (stratified bootstrap, section 4.1), and by
performance profiles (section 4.2). Their percentile intervals cover the truth too rarely over five
runs (.90 to .92 of 95 % ones by simulation), so here an interval is the value and a critical value
of `benchmarks.lab.statistics` times the bootstrap's standard error. Intervals cover other training
seeds and other shoppers in the same worlds. The authors' package rliable draws from numpy's global
generator, so all is computed here with a generator that is handed in; tests hold the statistics to
rliable's.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents.statistics import Floats, around, critical, estimate_mean, paired_difference
from benchmarks.lab.league_cells import (
    CMA,
    GREEDY,
    MMR,
    MYOPIC,
    PPO,
    RERANKER,
    REWARD_GREEDY,
    STATE,
)
from benchmarks.lab.places import CONTROL, JOURNEY, REGULARS, REGULARS_ALIKE
from benchmarks.lab.plots import COLOURS, INK, name_beside, panels
from benchmarks.lab.run import Report
from benchmarks.lab.statistics import RESAMPLES, bootstrap_error, iqm_estimate, stratified, units
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate
from recsim_env.registration import PRESETS
from recsim_env.rewards import as_reward


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


def at(rows: pl.DataFrame, env: str, believing: bool | None = None) -> pl.DataFrame:
    """The rows of one environment, with a belief, without one, or both."""
    rows = rows.filter(pl.col("env") == env)
    return rows if believing is None else rows.filter(pl.col("believing") == believing)


def baseline(rows: pl.DataFrame, env: str) -> pl.DataFrame:
    """The rows of greedy CTR in an environment: those on the ranker, where they are there."""
    greedy = _of(at(rows, env), GREEDY)
    on_ranker = greedy.filter(~pl.col("believing"))
    return greedy if on_ranker.is_empty() else on_ranker


# ---- statistics ----------------------------------------------------------------------------------


def matrix(rows: pl.DataFrame, column: str = "return") -> Floats:
    """Arrange a column of one contender and mode as (R, W), with the runs that all worlds have."""
    if rows.is_empty():
        return np.empty((0, 0))
    wide = (
        rows.sort("world", "run")
        .pivot("world", index="run", values=column)
        .drop_nulls()
        .sort("run")
    )
    return wide.drop("run").to_numpy().astype(np.float64)


def pairs(one: pl.DataFrame, other: pl.DataFrame, column: str = "return") -> tuple[Floats, Floats]:
    """A column of two contenders, for each world and run that both have: (P,) each."""
    both = one.join(other, on=["env", "world", "run"], suffix="_other").sort("world", "run")
    return both[column].to_numpy(), both[f"{column}_other"].to_numpy()


def ratio(one: Floats, other: Floats) -> Estimate:
    """The mean of one (P,) over the mean of the other, in which pairs are independent."""
    return estimate_mean(one / other, weights=other)


def first_above(curve: Floats, level: float) -> int | None:
    """The first point from which on a curve (T,) stays above a level; None if it ends below."""
    below = np.flatnonzero(~(curve > level))
    first = int(below[-1]) + 1 if len(below) else 0
    return first if first < len(curve) else None


def to_pass(
    returns: Floats, cost: Floats, level: Floats, generator: np.random.Generator
) -> Estimate | None:
    """What it cost until the mean curve passed the mean level for good; None where it did not.

    Pairs of world and run are resampled. A resample that does not pass counts as one that passed at
    the end, and no cost lies outside those that were seen.

    Args:
        returns: The learning curves of the pairs.
        cost: What each point of a curve cost.
        level: The level that each pair's curve should pass, on the same shoppers.
        generator: Draws the resamples.

    Shapes:
        returns, cost: (P, T)
        level: (P,)
    """
    number, length = returns.shape
    first = first_above(returns.mean(axis=0), float(level.mean()))
    if first is None:
        return None
    value = float(cost[:, first].mean())
    if number < 2:
        return Estimate(value, n=number)
    found = []
    for drawn in generator.integers(number, size=(RESAMPLES, number)):
        at = first_above(returns[drawn].mean(axis=0), float(level[drawn].mean()))
        found.append(cost[drawn, length - 1 if at is None else at].mean())
    error = float(bootstrap_error(found, number))
    return around(value, (error, number), n=number).within(float(cost.min()), float(cost.max()))


def curve_of(curves: pl.DataFrame, contender: str) -> tuple[pl.DataFrame, Floats, Floats, Floats]:
    """The learning curves of one contender's runs at the steps that all have, and at their end.

    Searches play whole episodes, so that runs end at slightly different steps; the end counts as
    that of the longest run.

    Returns:
        The runs (P rows of `env`, `world` and `run`), steps (T,), returns (P, T), minutes (P, T).
    """
    own = curves.filter(pl.col("contender") == contender).unique(
        ["world", "run", "steps"], keep="last"
    )
    ends = pl.col("steps") == pl.col("steps").max().over("world", "run")
    own = own.with_columns(pl.when(ends).then(pl.col("steps").max()).otherwise("steps"))
    runs = own.select("env", "world", "run").unique().sort("world", "run")
    shared = own.group_by("steps").len().filter(pl.col("len") == len(runs))["steps"]
    own = own.filter(pl.col("steps").is_in(shared.implode())).sort("world", "run", "steps")
    shape = (len(runs), len(shared))
    returns, minutes = (own[name].to_numpy().reshape(shape) for name in ("return", "minutes"))
    return runs, np.sort(shared.to_numpy()).astype(np.float64), returns, minutes


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
    ppo = _of(best, PPO)
    found = {
        "market_ppo_return": estimate_mean(ppo["return"].to_numpy()) if len(ppo) else None,
        "market_ppo_over_greedy_return": _over(ppo, greedy),
        "market_ppo_over_greedy_clicks": _over(ppo, greedy, "clicks"),
        "market_ppo_minus_tuned_reranker_return": _minus(ppo, _of(best, RERANKER)),
        "market_ppo_minus_cma_return": _minus(ppo, _of(best, CMA)),
    }
    if believing:
        found["market_ppo_over_belief_greedy_return"] = _over(ppo, _of(best, GREEDY))
    own = at(rows, market, believing=False)
    for name in ("plackett_luce", "autoregressive"):
        trained, untrained = (
            _of(own, f"ppo_{name}", mode) for mode in ("deterministic", "untrained")
        )
        found[f"{name}_trained_minus_untrained_return"] = _minus(trained, untrained)
    return found


def of_other_places(rows: pl.DataFrame) -> dict[str, Estimate | None]:
    """The figures of places with something to know, with nothing to gain, and with households."""
    found: dict[str, Estimate | None] = {}
    for name, env in (("regulars", REGULARS), ("regulars_alike", REGULARS_ALIKE)):
        own = at(rows, env)
        for rival, contender in (("tuned_reranker", RERANKER), ("cma", CMA)):
            share = _above(_of(own, PPO), _of(own, contender))
            found[f"{name}_ppo_minus_{rival}_share"] = share
    control, journey = at(rows, CONTROL), at(rows, JOURNEY, believing=False)
    greedy, ppo = _of(control, GREEDY), _of(journey, PPO)
    found["control_ppo_over_greedy_return"] = _over(_of(control, PPO), greedy)
    found["control_greedy_over_oracle_return"] = _over(greedy, _of(control, MYOPIC))
    found["journey_ppo_minus_mmr"] = _minus(ppo, _of(journey, MMR))
    found["journey_ppo_minus_reward_greedy"] = _minus(ppo, _of(journey, REWARD_GREEDY))
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


def _of(rows: pl.DataFrame, contender: str, mode: str = "deterministic") -> pl.DataFrame:
    return rows.filter((pl.col("contender") == contender) & (pl.col("mode") == mode))


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
    own = _of(rows, name)
    means = {
        c: float(own[c].to_numpy().mean())
        for c in ("clicks", "diversity", "visits", "coverage", "gini")
    }
    both = pairs(own, greedy)
    itself = name == GREEDY and own.equals(greedy)
    other = {mode: _of(rows, name, mode)["return"].to_numpy() for mode in OTHER_MODES}
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


# ---- figure --------------------------------------------------------------------------------------

LEVELS = {STATE: "-", MYOPIC: "--", RERANKER: "-.", GREEDY: ":"}
"""Line styles of the references, which are no agents."""


def draw(rows: pl.DataFrame, curves: pl.DataFrame, market: str) -> Figure:
    """Draw learning curves, performance profiles, and clicks against diversity."""
    trained = rows.filter(pl.col("mode") == "untrained")["contender"].unique()
    agents = sorted(trained, key=lambda name: (name != PPO, name))
    colour = dict(zip(agents, COLOURS * (len(agents) // len(COLOURS) + 1), strict=False))
    figure, (left, middle, right) = panels(16.5, 5.4, 3)
    draw_curves(left, curves, colour)
    draw_profiles(middle, rows.filter(pl.col("weight").is_null()), colour)
    draw_frontier(right, rows, market, colour)
    named = {
        label: line
        for axes in (left, middle)
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=8,
        frameon=False,
        fontsize=9,
    )
    return figure


def draw_curves(axes: Axes, curves: pl.DataFrame, colour: dict[str, str]) -> None:
    """Draw mean returns by steps with 95 % bands, and references as horizontal lines."""
    for name in colour:
        runs, steps, returns, _ = curve_of(curves, name)
        if len(steps) < 2:
            continue
        axes.plot(
            steps / 1e6,
            returns.mean(axis=0),
            color=colour[name],
            label=_spoken(name),
            linewidth=1.8,
        )
        if len(returns) > 1:
            low, high = band(returns, runs["world"].to_numpy())
            axes.fill_between(steps / 1e6, low, high, color=colour[name], alpha=0.15, linewidth=0)
    for name, style in LEVELS.items():
        level = curves.filter(pl.col("contender") == name)["return"]
        if len(level):
            value = float(level.to_numpy().mean())
            axes.axhline(value, color=INK, linestyle=style, linewidth=1.1, label=_spoken(name))
    axes.set_xlabel("shopper-steps, millions")
    axes.set_ylabel("return of an episode")
    axes.set_title("Learning, mean and 95 % band over runs")


def band(curves: Floats, world: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The 95 % interval of the mean of curves (P, T) whose worlds are (P,): (T,) each.

    It is taken from the spread of the runs within each world. A mean of worlds with one run each
    has no band: its bounds are NaN.
    """
    number = np.unique(world, return_inverse=True)[1]
    sizes = np.bincount(number)
    freedom = len(curves) - len(sizes)
    mean: Floats = curves.mean(axis=0)
    if freedom < 1:
        return np.full_like(mean, math.nan), np.full_like(mean, math.nan)
    of_world = np.zeros((len(sizes), curves.shape[1]))
    np.add.at(of_world, number, curves)
    spread = ((curves - (of_world / sizes[:, None])[number]) ** 2).sum(axis=0) / freedom
    half = critical(freedom + 1) * np.sqrt(spread / len(curves))
    return mean - half, mean + half


def draw_profiles(axes: Axes, rows: pl.DataFrame, colour: dict[str, str]) -> None:
    """Draw the shares of runs that earned more than some multiples of greedy CTR's return."""
    generator = np.random.default_rng(4)
    base = _of(rows, GREEDY).select("world", "run", pl.col("return").alias("greedy"))
    scaled = rows.filter(pl.col("mode") == "deterministic").join(base, on=["world", "run"])
    scaled = scaled.with_columns(pl.col("return") / pl.col("greedy"))
    if not len(scaled):
        return

    # one set of thresholds for everybody who is drawn
    scaled = scaled.filter(pl.col("contender").is_in([*colour, *LEVELS]))
    earned = scaled["return"].to_numpy()
    taus = np.linspace(float(earned.min()) - 0.02, float(earned.max()) + 0.02, 161)

    # a curve for each, in a band where there are several worlds
    for name in [*colour, *LEVELS]:
        scores = matrix(_of(scaled, name))
        if not scores.size:
            continue
        value, error = stratified(scores, lambda s: profile(s, taus), generator, 500)
        ink, style, width = (
            colour.get(name, INK),
            LEVELS.get(name, "-"),
            1.8 if name in colour else 1.1,
        )
        axes.plot(taus, value, color=ink, linestyle=style, linewidth=width, label=_spoken(name))
        if len(scores) > 1:
            half = critical(units(*scores.shape)) * error  # no width where all runs lie on one side
            axes.fill_between(
                taus,
                np.clip(value - half, 0, 1),
                np.clip(value + half, 0, 1),
                color=ink,
                alpha=0.12,
                lw=0,
            )

    axes.set_xlabel("return, as a multiple of greedy CTR's on the same shoppers")
    axes.set_ylabel("share of runs that earned more")
    axes.set_title("Performance profiles")


def profile(scores: Floats, taus: Floats) -> Floats:
    """The share of scores (..., n) that lie above each threshold (T,): (..., T)."""
    share: Floats = np.stack([(scores > tau).mean(axis=-1) for tau in taus], axis=-1)
    return share


def draw_frontier(axes: Axes, rows: pl.DataFrame, market: str, colour: dict[str, str]) -> None:
    """Draw clicks of an episode against diversity in the first world.

    There is a point for each contender, and a line for two of them over the weight of diversity.
    Agents are known by their colour, the others by their name.
    """
    rows = rows.filter(
        (pl.col("mode") == "deterministic") & (pl.col("world") == pl.col("world").min())
    )

    # the lines; the agent's also passes through the weight that the market's own reward has
    own = (
        as_reward(PRESETS[market].reward).weights.get("intra_list_distance")
        if market in PRESETS
        else None
    )
    for name, ink, word, above in ((PPO, COLOURS[0], "λ", 7), ("mmr", INK, "w", -12)):
        swept = frontier(rows, name, own if name == PPO else None)
        if len(swept) > 1:
            _draw_sweep(axes, swept, ink, word, above)

    # a point for each contender as it is in the league
    means = (
        rows.filter(pl.col("weight").is_null())
        .group_by("contender")
        .agg(pl.col("clicks", "diversity").mean())
    )
    for line in means.iter_rows(named=True):
        ink = colour.get(line["contender"], INK)
        axes.plot([line["diversity"]], [line["clicks"]], "D", color=ink, markersize=6)

    others = means.filter(~pl.col("contender").is_in(list(colour)))
    name_beside(
        axes,
        {
            _spoken(line["contender"]): (line["diversity"], line["clicks"])
            for line in others.to_dicts()
        },
    )
    axes.set_xlabel("diversity: mean intra-list distance of a slate")
    axes.set_ylabel("clicks of an episode")
    axes.set_title("Clicks and diversity (λ: weight in PPO's reward, w: of MMR)")


def _draw_sweep(axes: Axes, swept: pl.DataFrame, ink: str, word: str, above: float) -> None:
    """Draw the line of one contender over the weight of diversity, with the weights beside it."""
    axes.plot(
        swept["diversity"], swept["clicks"], "-o", color=ink, markersize=4, linewidth=1.4, alpha=0.8
    )
    for line in swept.iter_rows(named=True):
        axes.annotate(
            f"{word}={line['weight']:g}",
            (line["diversity"], line["clicks"]),
            xytext=(0, above),
            textcoords="offset points",
            fontsize=7,
            color=ink,
        )


def frontier(rows: pl.DataFrame, name: str, own: float | None) -> pl.DataFrame:
    """One contender's deterministic rows by weight of diversity.

    Args:
        rows: The rows of one environment.
        name: The contender.
        own: The weight of its league row, which joins those of the frontier; None leaves it out.
    """
    rows = rows.filter(pl.col("contender") == name)
    swept = rows.filter(pl.col("weight").is_not_null())
    if own is not None and len(swept):
        world, run = swept["world"][0], swept["run"][0]
        league = rows.filter(
            pl.col("weight").is_null() & (pl.col("world") == world) & (pl.col("run") == run)
        )
        swept = pl.concat([swept, league.with_columns(pl.lit(own).alias("weight"))])
    return swept.select("weight", "diversity", "clicks").sort("weight")


def _spoken(name: str) -> str:
    return name.replace("ppo_", "PPO ").replace("_", " ").replace("greedy ctr", "greedy CTR")
