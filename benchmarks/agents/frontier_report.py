"""The report of the frontier: fronts judged within worlds and seeds, a table and a picture."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from agents.statistics import estimate_mean
from benchmarks.lab.fronts import Floats, expected_utility, hypervolume, most_lost
from benchmarks.lab.plots import panels
from benchmarks.lab.run import Report
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate

CONDITIONED, EQUAL, SPECIALISTS = "ppo_conditioned", "ppo_conditioned_equal", "ppo_composer"
CONSTANT, GREEDY, UNIFORM = "constant", "reward_greedy", "uniform"
OUTSIDER = "capql"
"""Somebody else's agent for all weights, which plays only where it is asked for."""
SWEPT = ("mmr", "dpp", "cap")
"""Re-rankers with one parameter."""
CONTENDERS = (UNIFORM, GREEDY, *SWEPT, CONSTANT, SPECIALISTS, CONDITIONED, EQUAL)
"""Who plays by default, the quick ones first."""
EVERYBODY = (*CONTENDERS, OUTSIDER)
"""Who may play."""
ALONE = (CONSTANT, SPECIALISTS)
"""Contenders that are made anew for each way of weighing."""


@dataclass(frozen=True)
class Weighed:
    """Goals, and the ways in which they are weighed."""

    goals: tuple[str, ...]
    """Names of the goals."""
    ways: tuple[tuple[float, ...], ...]
    """The weights of all goals, which have the sum 1, for each way."""

    def at(self, number: int) -> float:
        """What rows say of a way: the weight of the second of two goals, else the way's number."""
        return self.ways[number][1] if len(self.goals) == 2 else float(number)

    def reward(self, number: int) -> dict[str, float]:
        """The weight of each goal in a way."""
        return dict(zip(self.goals, self.ways[number], strict=True))

    @property
    def schema(self) -> pl.Schema:
        """The columns of the rows.

        A row is a policy with a seed in a world: returns of all goals, means of its episodes. `at`
        says for which way of weighing it was made or played, or is the parameter of a sweep.
        """
        return pl.Schema(
            {
                "world": pl.Int64,
                "seed": pl.Int64,
                "contender": pl.String,
                "at": pl.Float64,
                **dict.fromkeys(self.goals, pl.Float64),
                "visits": pl.Float64,
                "steps": pl.Int64,
                "minutes": pl.Float64,
            }
        )


def fronts_of(
    rows: pl.DataFrame, goals: tuple[str, ...]
) -> dict[tuple[int, int], dict[str, Floats]]:
    """The points (P, n) of each contender, by world and seed."""
    found: dict[tuple[int, int], dict[str, Floats]] = {}
    for (world, seed, contender), own in rows.group_by(
        ["world", "seed", "contender"], maintain_order=True
    ):
        points = own.select(goals).to_numpy().astype(np.float64)
        found.setdefault((int(str(world)), int(str(seed))), {})[str(contender)] = points
    return found


def judged(rows: pl.DataFrame, weighed: Weighed) -> pl.DataFrame:
    """Hypervolumes, expected utility and most lost of each contender, by world and seed.

    `hypervolume` begins at what `uniform` earns, and `hypervolume_lowest` at the lowest return of
    each goal among all contenders of the world and seed. Worlds and seeds in which `uniform` did
    not play are left out.
    """
    ways = np.array(weighed.ways)
    lines = []
    for (world, seed), fronts in fronts_of(rows, weighed.goals).items():
        if UNIFORM not in fronts:
            continue
        every = np.concatenate(list(fronts.values()))
        for contender, points in fronts.items():
            lines.append(
                {
                    "world": world,
                    "seed": seed,
                    "contender": contender,
                    "hypervolume": hypervolume(points, fronts[UNIFORM][0]),
                    "hypervolume_lowest": hypervolume(points, every.min(axis=0)),
                    "utility": expected_utility(points, ways),
                    "lost": most_lost(points, every, ways),
                }
            )
    return pl.DataFrame(lines)


def compared(found: pl.DataFrame, place: str) -> dict[str, Estimate]:
    """The figures that compare hypervolumes within worlds and seeds, where both sides played.

    The best sweep is chosen anew in each world and seed, in favour of the sweeps. `found` is what
    `judged` found, and the names of the figures begin with `place`.
    """
    wide = {
        (line["world"], line["seed"], line["contender"]): line["hypervolume"]
        for line in found.iter_rows(named=True)
    }
    runs = sorted({(world, seed) for world, seed, _ in wide})
    figures: dict[str, Estimate] = {}

    def ratio(name: str, ours: str, others: Collection[str], less: float) -> None:
        pairs = [
            (wide[(*run, ours)], [wide[(*run, one)] for one in others if (*run, one) in wide])
            for run in runs
            if (*run, ours) in wide
        ]
        values = [mine / max(theirs) - less for mine, theirs in pairs if theirs and max(theirs) > 0]
        if values:
            figures[f"{place}_{name}"] = estimate_mean(np.asarray(values))

    for ours, name in ((CONDITIONED, "conditioned"), (EQUAL, "conditioned_equal")):
        ratio(f"{name}_over_specialists", ours, (SPECIALISTS,), 0)
        ratio(f"{name}_minus_best_sweep", ours, (GREEDY, *SWEPT), 1)
        ratio(f"{name}_minus_constants", ours, (CONSTANT,), 1)
    return figures


def at_first_goal(rows: pl.DataFrame, weighed: Weighed, place: str) -> dict[str, Estimate]:
    """What the agent earns of the first goal where that alone counts over greed there, a control.

    The name of the figure begins with `place`.
    """
    goal, alone = weighed.goals[0], (1.0, *(0.0 for _ in weighed.goals[1:]))
    if alone not in weighed.ways:
        return {}
    first = rows.filter(pl.col("at") == weighed.at(weighed.ways.index(alone)))
    wide = {
        (line["world"], line["seed"], line["contender"]): line[goal]
        for line in first.iter_rows(named=True)
    }
    values = [
        wide[(world, seed, CONDITIONED)] / earned
        for (world, seed, contender), earned in wide.items()
        if contender == GREEDY and (world, seed, CONDITIONED) in wide and earned
    ]
    name = f"{place}_conditioned_over_greedy_at_{goal}"
    return {name: estimate_mean(values)} if values else {}


def report(rows: pl.DataFrame, weighed: Weighed, place: str = "market") -> Report:
    """Make the table, the figures and the picture.

    Only contenders whose cells are all there in a world and seed are told of it. The names of
    figures begin with `place`.

    Raises:
        ValueError: If `uniform` played nowhere, which is the point of reference.
    """
    whole = complete(rows, len(weighed.ways))
    found = judged(whole, weighed)
    if found.is_empty():
        raise ValueError("The rows have no `uniform`, but hypervolumes begin at what it earns.")
    headers = {
        "contender": "contender",
        "hypervolume": "hypervolume beyond uniform",
        "hypervolume_lowest": "beyond the lowest returns",
        "utility": "expected utility",
        "lost": "most lost",
        "steps": "steps",
    }
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    for contender in EVERYBODY:
        own = found.filter(pl.col("contender") == contender)
        if own.is_empty():
            continue
        line: dict[str, object] = {"contender": f"`{contender}`"}
        for figure in ("hypervolume", "hypervolume_lowest", "utility", "lost"):
            value = estimate_mean(own[figure].to_numpy())
            line[figure] = summary[f"{contender}/{figure}"] = value
        steps = whole.filter(pl.col("contender") == contender)
        each = steps.group_by("world", "seed").agg(
            pl.col("steps").sum() if contender == SPECIALISTS else pl.col("steps").max()
        )
        line["steps"] = int(each["steps"].to_numpy().mean())
        lines.append(line)
    summary |= compared(found, place) | at_first_goal(whole, weighed, place)
    return Report(markdown(lines, headers), summary, picture(whole, weighed.goals))


def complete(rows: pl.DataFrame, ways: int) -> pl.DataFrame:
    """The rows without those of contenders that still lack ways in a world and seed."""
    told = rows.filter(pl.col("contender").is_in(ALONE))
    number = told.group_by("world", "seed", "contender").len()
    short = number.filter(pl.col("len") < ways)
    return rows.join(short, on=["world", "seed", "contender"], how="anti")


def picture(rows: pl.DataFrame, goals: tuple[str, ...]) -> Figure:
    """Draw the points of every contender in the first world, the mean of its seeds.

    Each further goal is drawn beside the first one; points of two goals are joined.
    """
    figure, each = panels(7.0 if len(goals) == 2 else 4.5 * (len(goals) - 1), 4.5, len(goals) - 1)
    first = rows.filter(pl.col("world") == rows["world"].min())
    joined = "-" if len(goals) == 2 else ""
    for axes, goal in zip(each, goals[1:], strict=True):
        for contender in EVERYBODY:
            own = first.filter(pl.col("contender") == contender)
            if own.is_empty():
                continue
            means = own.group_by("at").agg(pl.col(goals).mean()).sort("at")
            axes.plot(
                means[goal],
                means[goals[0]],
                marker="o",
                markersize=3,
                linestyle=joined,
                label=contender,
            )
        axes.set_xlabel(f"{goal}, the sum over an episode")
        axes.set_ylabel(f"{goals[0]}, the sum over an episode")
    each[-1].legend(frameon=False, fontsize=8)
    return figure
