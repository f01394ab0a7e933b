"""What the rows of `benchmarks.agents.transfer` say: tables, figure and summary.

A cell is one learned market beside the true one: a world, a log, a user-model seed (for an
ensemble: a PPO seed). Of each cell, with the return J of every agent in the true market and J' in
the learned one:

    kendall_tau          rank correlation of J and J' over the agents that were not trained (tau-b,
                         Kendall 1945)
    worst_return_error   max |J' / J - 1| over all agents with PPO; mean_return_error likewise
    ppo_gain_kept        the gain in J over greedy CTR of training in the learned market, over that
                         of training in the true one
    ppo_optimism         J' / J - 1 of PPO trained in the learned market, where it overrates itself
    winner_regret        1 - J of the agent that wins in the learned market / J of the best one

The true market that is played twice, with other shoppers the second time, does not agree with
itself either: its tau and errors are what a perfect learned market would have with so many
shoppers.

Intervals are 95 % intervals of the mean over cells for other worlds, or for other user-model seeds
where there is one world, cut to what a figure can be. A cell that lacks agents which another has is
not finished and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from agents.statistics import estimate_mean
from benchmarks.lab.plots import BLUE, GREY, RED, intervals, name_beside, panels
from benchmarks.lab.run import Report
from benchmarks.lab.tables import markdown
from recsim_env.estimates import Estimate

TRUE, AGAIN, LEARNED, LOG = "true", "again", "learned", "log"
"""`simulator` of the true market, of it with other shoppers, and of a single user model;
`trained_in` of agents that no simulator trained."""
BASE, PPO = "greedy_ctr", "ppo"
"""Names of the agent that gains are counted from, and of the agent that is trained."""
ROWS: dict[str, pl.DataType] = {
    "world": pl.Int64(),  # seed of the market's catalogue
    "slates": pl.Int64(),  # logged, about
    "mixture": pl.String(),  # who wrote the log
    "simulator": pl.String(),  # where the agent played: `TRUE`, `AGAIN`, `LEARNED` or an ensemble
    "model_seed": pl.Int64(),  # of the user model; null in the true market and in an ensemble
    "agent": pl.String(),
    "trained_in": pl.String(),  # `LOG`, or the simulator
    "agent_seed": pl.Int64(),  # of the training
    "episodes": pl.Int64(),
    "return": pl.Float64(),  # mean of the episodes; so are clicks and visits
    "return_se": pl.Float64(),  # its standard error over episodes
    "clicks": pl.Float64(),
    "visits": pl.Float64(),
}
"""Columns of the rows, of which there is one for each agent in each simulator."""
AGENT = ("world", "slates", "mixture", "agent", "trained_in", "agent_seed")
"""Columns that say which agent a row is about."""
FIGURES = {
    "kendall_tau": "tau",
    "kendall_tau_ppo_included": "tau_ppo_included",
    "worst_return_error": "worst_error",
    "mean_return_error": "mean_error",
    "ppo_gain_kept": "gain_kept",
    "ppo_gain_true": "gain_true",
    "ppo_gain_learned": "gain_learned",
    "ppo_optimism": "optimism",
    "winner_regret": "regret",
}
"""Names of figures in the summary, and the short ones of sizes, mixtures and ensembles."""
RANGES = {
    "kendall_tau": (-1.0, 1.0),
    "kendall_tau_ppo_included": (-1.0, 1.0),
    "worst_return_error": (0.0, math.inf),
    "mean_return_error": (0.0, math.inf),
    "winner_regret": (0.0, 1.0),
}
"""The values that figures can take; the others can be any number."""

K = TypeVar("K", int, str)

# ---- cells ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CellRows:
    """The rows of one learned market beside the true one."""

    world: int
    """Seed of the market's catalogue."""
    slates: int
    """Number of logged slates, about."""
    mixture: str
    """Who wrote the log."""
    simulator: str
    """Kind of the learned market."""
    seed: int
    """Seed of the user model; of an ensemble, that of PPO."""
    pairs: pl.DataFrame
    """One row an agent: `label`, `trained_in`, and the mean returns `true` and `learned`."""

    @cached_property
    def figures(self) -> dict[str, float]:
        """The figures of the cell by their long names; NaN where an agent is missing."""
        true, learned = self.pairs["true"].to_numpy(), self.pairs["learned"].to_numpy()
        fixed = self.pairs.filter(pl.col("trained_in") == LOG)
        error = np.abs(learned / true - 1)
        names = (BASE, trained(TRUE), trained(self.simulator))
        base, there, here = (self._true(name) for name in names)
        found = self.pairs.filter(pl.col("label") == trained(self.simulator))
        overrated = found["learned"] / found["true"] - 1
        optimism = float(overrated[0]) if len(found) else math.nan
        return {
            "kendall_tau": rank_correlation(fixed["true"].to_numpy(), fixed["learned"].to_numpy()),
            "kendall_tau_ppo_included": rank_correlation(true, learned),
            "worst_return_error": float(error.max()),
            "mean_return_error": float(error.mean()),
            "ppo_gain_kept": gain_kept(here, there, base),
            "ppo_gain_true": there - base,
            "ppo_gain_learned": here - base,
            "ppo_optimism": optimism,
            "winner_regret": float(1 - true[learned.argmax()] / true.max()),
        }

    def _true(self, label: str) -> float:
        found = self.pairs.filter(pl.col("label") == label)["true"]
        return float(found[0]) if len(found) else math.nan


def trained(simulator: str) -> str:
    """The label of PPO that was trained in a simulator."""
    return f"{PPO} trained in {simulator}"


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's tau-b of two rows of numbers; NaN for fewer than two."""
    return float(kendalltau(one, other).statistic) if len(one) > 1 else math.nan


def gain_kept(learned: float, true: float, base: float) -> float:
    """The share of PPO's gain that is kept where it is trained in the learned market.

    All three are returns in the true market. The share is NaN where training there gains nothing,
    so that there is nothing to keep.

    Args:
        learned: The return of PPO that was trained in the learned market.
        true: The return of PPO that was trained in the true market.
        base: The return that gains are counted from.
    """
    return (learned - base) / (true - base) if true > base else math.nan


def cells_of(rows: pl.DataFrame) -> list[CellRows]:
    """Find every finished cell, which are those with the most agents."""
    true = rows.filter(pl.col("simulator") == TRUE).select(*AGENT, pl.col("return").alias("true"))
    beside = rows.filter(~pl.col("simulator").is_in([TRUE, AGAIN])).join(
        true, on=AGENT, how="inner"
    )
    named = beside.with_columns(_label().alias("label")).rename({"return": "learned"})
    found: list[CellRows] = []
    for key, part in named.sort(*AGENT).group_by(
        "world", "slates", "mixture", "simulator", maintain_order=True
    ):
        world, slates, mixture, simulator = key
        of_model = part["model_seed"].drop_nulls()
        trained_seeds = part.filter(pl.col("trained_in") != LOG)["agent_seed"]
        for seed in (of_model if len(of_model) else trained_seeds).unique().sort().to_list():
            mine = (pl.col("model_seed") == seed).fill_null(True)
            theirs = (pl.col("trained_in") == LOG) | (pl.col("agent_seed") == seed)
            pairs = part.filter(mine & theirs).select("label", "trained_in", "true", "learned")
            found.append(
                CellRows(int(world), int(slates), str(mixture), str(simulator), int(seed), pairs)
            )
    most = max((len(cell.pairs) for cell in found), default=0)
    return [cell for cell in found if len(cell.pairs) == most]


def _label() -> pl.Expr:
    """The label of an agent: its name, or what `trained` says."""
    where = pl.concat_str(pl.col("agent"), pl.lit(" trained in "), pl.col("trained_in"))
    return pl.when(pl.col("trained_in") == LOG).then(pl.col("agent")).otherwise(where)


# ---- figures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Cells that are averaged."""

    name: str
    """Name in the table."""
    cells: tuple[CellRows, ...]
    """The cells that the group averages."""

    def estimate(self, figure: str) -> Estimate | None:
        """The mean of a figure with its interval; None where no cell has it."""
        found = [(cell, cell.figures[figure]) for cell in self.cells]
        found = [(cell, value) for cell, value in found if math.isfinite(value)]
        if not found:
            return None
        several = len({cell.world for cell, _ in found}) > 1
        units = [cell.world if several else cell.seed for cell, _ in found]
        values = [value for _, value in found]
        if not several and len(set(values)) == 1:
            return Estimate(values[0])  # of one simulator for all PPO seeds: nothing was repeated
        return _estimate(figure, values, units)

    @property
    def counts(self) -> tuple[int, int]:
        """The number of worlds, and the largest number of seeds of one."""
        worlds = [cell.world for cell in self.cells]
        return len(set(worlds)), max((worlds.count(world) for world in set(worlds)), default=0)


@dataclass(frozen=True)
class Transfer:
    """All that the report says."""

    main: Group
    """The cells of the main question: worlds and user-model seeds."""
    sizes: dict[int, Group]
    """Groups by the number of logged slates."""
    mixtures: dict[str, Group]
    """Groups by who wrote the log."""
    ensembles: dict[str, Group]
    """Groups by kind of simulator, with the single model as `single`."""
    summary: dict[str, Estimate]
    """The figures that others may quote, by name."""
    itself: dict[str, Estimate]
    """Figures of the true market beside itself with other shoppers; empty where it was played
    once."""


def report(rows: pl.DataFrame, slates: int, mixture: str) -> Report:
    """Make tables, summary and figure of the rows; slates and mixture are those of main cells."""
    transfer = analyse(rows, slates, mixture)
    return Report(tables(transfer), transfer.summary, draw(transfer))


def analyse(rows: pl.DataFrame, slates: int, mixture: str) -> Transfer:
    """Group the cells; the main ones are those of single user models of the chosen logs.

    A sweep and the comparison of ensembles are over the worlds and seeds that all of their values
    have.

    Args:
        rows: The rows of all cells.
        slates: The number of logged slates of the main cells.
        mixture: Who wrote the logs of the main cells.

    Raises:
        ValueError: If no main cell has two agents.
    """
    # the cells of each group
    everything = cells_of(rows)
    own: dict[str, object] = {"simulator": LEARNED, "slates": slates, "mixture": mixture}

    def alike(**told: object) -> list[CellRows]:
        """Those that are as the main ones but for what is told."""
        wanted = (own | told).items()
        return [cell for cell in everything if all(getattr(cell, at) == one for at, one in wanted)]

    single = [cell for cell in everything if cell.simulator == LEARNED]
    main = alike()
    if not main or len(main[0].pairs) < 2:
        raise ValueError(
            f"rows has no cell of {slates} slates by the mixture {mixture!r} "
            "with two agents or more."
        )
    by_size = {at: alike(slates=at) for at in sorted({cell.slates for cell in single})}
    by_mixture = {at: alike(mixture=at) for at in sorted({cell.mixture for cell in single})}
    kinds = sorted({cell.simulator for cell in everything} - {LEARNED})
    by_kind = {"single": main} | {kind: alike(simulator=kind) for kind in kinds}

    # the groups, and their figures
    main_group = Group(f"{slates:,} slates, {mixture}", tuple(main))
    sizes = {at: Group(f"{at:,} slates", cells) for at, cells in _shared(by_size).items()}
    mixtures = {at: Group(f"{at} log", cells) for at, cells in _shared(by_mixture).items()}
    ensembles = {at: Group(_ensemble_name(at), cells) for at, cells in _shared(by_kind).items()}
    itself = agreement_with_itself(rows, slates, mixture)
    summary = _named(main_group, "{long}") | _counts(main_group)
    summary |= {f"{name}_of_the_true_market_itself": estimate for name, estimate in itself.items()}
    for size, group in sizes.items():
        summary |= _named(group, f"{{short}}/{size}")
    for who, group in mixtures.items():
        summary |= _named(group, f"{{short}}/{who}")
    for kind, group in ensembles.items():
        summary |= _named(group, f"ensemble/{kind}/{{short}}")
    return Transfer(main_group, sizes, mixtures, ensembles, summary, itself)


def agreement_with_itself(rows: pl.DataFrame, slates: int, mixture: str) -> dict[str, Estimate]:
    """Compare the true market with itself with other shoppers, by agents that are not trained.

    Returns:
        Tau and errors by name; empty where no world was played twice.
    """
    here = rows.filter(
        pl.col("slates") == slates, pl.col("mixture") == mixture, pl.col("trained_in") == LOG
    )
    once, again = (
        here.filter(pl.col("simulator") == kind).select(
            "world", "agent", pl.col("return").alias(kind)
        )
        for kind in (TRUE, AGAIN)
    )
    names = ("kendall_tau", "worst_return_error", "mean_return_error")
    both = once.join(again, on=("world", "agent")).sort("world", "agent")
    found: list[tuple[float, float, float]] = []
    for part in both.partition_by("world"):
        one, other = part[TRUE].to_numpy(), part[AGAIN].to_numpy()
        error = np.abs(other / one - 1)
        found.append((rank_correlation(one, other), float(error.max()), float(error.mean())))
    return {
        name: _estimate(name, list(values))
        for name, values in zip(names, zip(*found, strict=True), strict=False)
    }


def _estimate(figure: str, values: list[float], units: list[int] | None = None) -> Estimate:
    return estimate_mean(values, clusters=units).within(*RANGES.get(figure, (-math.inf, math.inf)))


def _ensemble_name(kind: str) -> str:
    told = kind.replace("-", ", ").replace("pessimism", "pessimism ")
    return "single user models" if kind == "single" else told


def _shared(groups: dict[K, list[CellRows]]) -> dict[K, tuple[CellRows, ...]]:
    """Keep the cells of those worlds and seeds that every group has.

    Groups without a cell are left out; all of them, where they have none in common.
    """
    there = {key: cells for key, cells in groups.items() if cells}
    common = set.intersection(
        *({(cell.world, cell.seed) for cell in cells} for cells in there.values())
    )
    kept = {
        key: tuple(c for c in cells if (c.world, c.seed) in common) for key, cells in there.items()
    }
    return kept if common else {}


def _named(group: Group, pattern: str) -> dict[str, Estimate]:
    found = {
        pattern.format(long=long, short=short): group.estimate(long)
        for long, short in FIGURES.items()
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _counts(group: Group) -> dict[str, Estimate]:
    worlds, seeds = group.counts
    return {
        "worlds": Estimate(worlds),
        "seeds": Estimate(seeds),
        "agents": Estimate(len(group.cells[0].pairs)),
    }


# ---- table ---------------------------------------------------------------------------------------

HEADERS = {
    "what": "learned market",
    "runs": "worlds x seeds",
    "kendall_tau": "Kendall tau",
    "kendall_tau_ppo_included": "with PPO",
    "mean_return_error": "mean error",
    "worst_return_error": "worst error",
    "winner_regret": "regret of its winner",
    "ppo_gain_kept": "PPO gain kept",
    "ppo_optimism": "PPO optimism",
}


def tables(transfer: Transfer) -> str:
    """Make the tables of the groups' figures, and of every agent's returns in the main cells."""
    parts = [
        list(part.values()) for part in (transfer.sizes, transfer.mixtures, transfer.ensembles)
    ]
    swept = [group for part in parts if len(part) > 1 for group in part]
    lines = [_line(group) for group in (transfer.main, *swept)]
    if transfer.itself:
        runs = f"{transfer.itself['kendall_tau'].n} x 1"
        named = {"what": "the true market itself, other shoppers", "runs": runs}
        lines.insert(1, dict.fromkeys(HEADERS) | named | transfer.itself)
    agents = [
        {"agent": agent.title, "true": agent.true, "learned": agent.learned, "error": agent.error}
        for agent in agent_means(transfer.main)
    ]
    headers = {
        "agent": "agent",
        "true": "return, true",
        "learned": "return, learned",
        "error": "learned / true - 1",
    }
    return f"{markdown(lines, HEADERS, digits=1)}\n{markdown(agents, headers, digits=3)}"


def _line(group: Group) -> dict[str, object]:
    worlds, seeds = group.counts
    few = min(
        len([cell for cell in group.cells if cell.world == world])
        for world in {c.world for c in group.cells}
    )
    figures = {name: group.estimate(name) for name in HEADERS if name in FIGURES}
    return {
        "what": group.name,
        "runs": f"{worlds} x {seeds if few == seeds else f'{few}-{seeds}'}",
        **figures,
    }


@dataclass(frozen=True)
class AgentMean:
    """Mean returns of an agent over some cells."""

    name: str
    """Label of the agent."""
    true: float
    """Mean return in the true market."""
    learned: float
    """Mean return in the learned market."""

    @property
    def title(self) -> str:
        """The name as a person would write it."""
        return self.name.replace("_", " ").replace(PPO, "PPO") + (
            " market" if self.name.startswith(PPO) else ""
        )

    @property
    def error(self) -> float:
        """The relative error of the learned market, with its sign."""
        return self.learned / self.true - 1


def agent_means(group: Group) -> list[AgentMean]:
    """The mean returns of each agent over cells, the best one in the true market first."""
    pairs = (
        pl.concat([cell.pairs for cell in group.cells])
        .group_by("label")
        .agg(pl.col("true", "learned").mean())
    )
    return [
        AgentMean(**line)
        for line in pairs.sort("true", descending=True).rename({"label": "name"}).to_dicts()
    ]


# ---- picture -------------------------------------------------------------------------------------

SHOWN = {"kendall_tau": ("Kendall tau", BLUE), "worst_return_error": ("worst return error", RED)}
"""Figures that are drawn for groups, with their names and colours."""


def draw(transfer: Transfer) -> Figure:
    """Draw true against simulated returns, and tau and worst error by the log's size and writer."""
    figure, (returns, sizes, mixtures) = panels(15, 5.6, 3, ratios=(2.2, 1.2, 1))
    _draw_returns(returns, transfer.main)
    _draw_groups(sizes, [(f"{at:,}", group) for at, group in transfer.sizes.items()], joined=True)
    sizes.set_xlabel("logged slates")
    sizes.set_title("size of the log")
    _draw_groups(mixtures, [(at, group) for at, group in transfer.mixtures.items()], joined=False)
    mixtures.set_xlabel("who wrote the log")
    mixtures.set_title("logging policy")
    return figure


def _draw_returns(axes: Axes, group: Group) -> None:
    agents = agent_means(group)
    earned = [value for agent in agents for value in (agent.true, agent.learned)]
    ends = [min(earned), max(earned)]
    axes.plot(ends, ends, color=GREY, linewidth=1, zorder=0)
    points = {agent.title: (agent.true, agent.learned) for agent in agents}
    red = {agent.title: RED for agent in agents if agent.name.startswith(PPO)}
    for title, (true, learned) in points.items():
        axes.plot([true], [learned], "o", color=red.get(title, BLUE), markersize=6)
    name_beside(axes, points, colours=dict.fromkeys(points, BLUE) | red, room=0.7)
    worlds, seeds = group.counts
    axes.set_title(
        f"mean of {worlds} world{'s'[: worlds > 1]}, {seeds} user model{'s'[: seeds > 1]} each"
    )
    axes.set_xlabel("return in the true market")
    axes.set_ylabel("return in the learned market")


def _draw_groups(axes: Axes, groups: list[tuple[str, Group]], *, joined: bool) -> None:
    if not groups:
        axes.text(0.5, 0.5, "not measured yet", ha="center", transform=axes.transAxes)
        return
    for name, (title, colour) in SHOWN.items():
        found = [(place, group.estimate(name)) for place, (_, group) in enumerate(groups)]
        there = [(place, estimate) for place, estimate in found if estimate is not None]
        places, estimates = [place for place, _ in there], [estimate for _, estimate in there]
        intervals(axes, places, estimates, colour=colour, label=title, joined=joined)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(1.0, axes.get_ylim()[1]) + 0.02)
    axes.legend(frameon=False, loc="center left", fontsize=9)
