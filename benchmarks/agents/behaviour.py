"""What a trained agent does differently with different shoppers.

    python -m benchmarks.agents.behaviour

PPO over the composer, the tuned constant re-ranker and greedy CTR serve the same fresh shoppers of
a market, whose hidden traits and boredom no policy sees. What they show is compared between thirds
of the shoppers by each trait, and between thirds of the moments by how bored the shopper would be
of what greedy would show now. The agent is that of the league's first run, trained here where the
league has not been played.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from agents.places import REPORTED_SEED, Site, seeds
from agents.ppo.agents import PPOComposerConfig
from agents.statistics import estimate_mean
from benchmarks.lab import league_cells
from benchmarks.lab.command import run_command
from benchmarks.lab.league_cells import GREEDY, PPO, RERANKER, Cell, CellSettings
from benchmarks.lab.options import Device, Results, Threads
from benchmarks.lab.places import MARKET, PLACES, Place
from benchmarks.lab.plots import AMBER, BLUE, GREEN, INK, RED, intervals, panels, plain
from benchmarks.lab.run import Report, Run
from benchmarks.lab.saved import load_actor
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from policies import POLICIES
from policies.composer import Composer
from policies.learnable.intents import ComposerPolicy
from recsim_env.estimates import Estimate
from recsim_env.rollout import rollout
from recsim_env.shoppers.market import MarketShopper, MarketState
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import first_places
from recsim_env.types import Observation, Policy

TRAITS = ("variety", "patience", "speed", "examination")
"""Hidden traits of a shopper, which are fields of `MarketState`."""
MOMENT = "boredom"
"""Variety-seeking times the satiation with greedy's slate at a visit, in which each position counts
by the chance to look at it."""
KNOBS = ("count", "clicked", "sated", "flooded")
"""Knobs of the composer that are reported, in log-odds per unit of their cue."""
THIRDS = ("low", "middle", "high")
FRESH_RUN = 90
"""The league's run whose shoppers these would be: no run has so high a number."""


@dataclass(frozen=True)
class Config(Device, Threads, Results):
    """Watch a trained agent with different shoppers."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"place": PLACES}

    league: CellSettings = field(default_factory=CellSettings)
    """How the agent is trained and the re-ranker tuned, and where both lie if that was done
    before."""
    place: str = Place(MARKET, 0).name
    """Name of the market, which is one of the places in `benchmarks.lab.places`."""
    shoppers: int = 1024
    """Number of shoppers that each policy serves for an episode, the same for all policies."""


# ---- who plays -----------------------------------------------------------------------------------


def players(config: Config, place: Place, site: Site) -> dict[str, Policy]:
    """The agent, the tuned re-ranker and greedy CTR, made where the league was not played."""
    cell = Cell(place, PPO, 0)
    path = cell.path(config.league, ".safetensors")
    if not path.exists():
        league_cells.play(cell, site, config.league)
    reranker = Cell(place, RERANKER, 0)
    parameters = league_cells.tuned_parameters(reranker, site, config.league)
    return {
        PPO: load_actor(path, PPOComposerConfig(), site.inputs),
        RERANKER: POLICIES[RERANKER].build(site.inputs, parameters),
        GREEDY: POLICIES[GREEDY].build(site.inputs),
    }


# ---- rows ----------------------------------------------------------------------------------------


@torch.no_grad()
def visits(
    name: str, policy: Policy, simulator: SlateSimulator, composer: Composer, episodes: Tensor
) -> pl.DataFrame:
    """Play the first episode of every seed: a row a visit.

    The columns are: policy · shopper (its seed) · visit · the hidden `TRAITS` · boredom ·
    categories (distinct, in the slate) · distance (mean intra-list) · clicks · reward · the
    `KNOBS`, null for a policy that is not the agent.
    """
    watched = _Watched(policy, simulator, composer)
    parts: list[pl.DataFrame] = []
    for visit in rollout(watched, simulator, episodes):
        shown, info = visit.shown, visit.outcome.info
        category = simulator.catalog.category[shown.clamp(min=0)].where(shown >= 0, -1)
        columns = watched.columns | {
            "categories": distinct(category),
            "distance": info["reward_terms/intra_list_distance"],
            "clicks": info["clicks"],
            "reward": visit.outcome.reward,
        }
        parts.append(
            pl.DataFrame({column: value.cpu().numpy() for column, value in columns.items()})
        )
    return (
        pl.concat(parts)
        .select(pl.lit(name).alias("policy"), pl.all())
        .with_columns(pl.col(KNOBS).fill_nan(None))
    )


class _Watched:
    """A policy of which is noted, before each visit, whom it serves and what it decides.

    The visit itself changes the hidden state, so that it cannot be read afterwards.

    Args:
        policy: The policy that plays.
        simulator: The simulator that it plays in.
        composer: Makes greedy's slate at intent 0.
    """

    def __init__(self, policy: Policy, simulator: SlateSimulator, composer: Composer) -> None:
        self.draws = policy.draws
        self.columns: dict[str, Tensor] = {}
        self._policy, self._simulator, self._composer = policy, simulator, composer

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Note the shoppers, their boredom and the policy's knobs, then choose slates (B, K)."""
        simulator, composer = self._simulator, self._composer
        at, state = simulator.episodes, simulator.hidden
        nothing = torch.zeros(simulator.num_envs, composer.intent_size, device=simulator.device)
        greedy = composer.compose(observation, nothing)
        columns = {
            "shopper": at.seed,
            "visit": at.visit,
            **{trait: getattr(state, trait) for trait in TRAITS},
            MOMENT: boredom(simulator.shopper, state, greedy),
            **knobs(self._policy, observation),
        }
        self.columns = {column: value.clone() for column, value in columns.items()}
        return self._policy(observation, draws)


def boredom(shopper: object, state: MarketState, slates: Tensor) -> Tensor:
    """How bored shoppers would be of slates (B, K), as `recsim_env.shoppers.market` says: (B,).

    Raises:
        TypeError: If they are no shoppers of a market.
    """
    if not isinstance(shopper, MarketShopper):
        raise TypeError(
            f"shopper is a {type(shopper).__name__}, but only a MarketShopper's boredom can be "
            "read."
        )
    looks = shopper.examined(state)
    sated = state.satiation.gather(1, shopper.catalog.category[slates])
    return state.variety * (looks * sated).sum(dim=1) / looks.sum(dim=1)


def distinct(category: Tensor) -> Tensor:
    """Count the different categories (B, K) of each row; -1 stands for none: (B,) int64."""
    return first_places(category).sum(dim=1)


def knobs(policy: Policy, observation: dict[str, Tensor]) -> dict[str, Tensor]:
    """The agent's `KNOBS` at a visit, (B,) each; NaN for other policies."""
    if not isinstance(policy, ComposerPolicy):
        return dict.fromkeys(KNOBS, torch.full((len(observation["recent_days"]),), torch.nan))
    composer = policy.composer
    intent = policy.actor.act({"features": composer.features(observation)}, None)
    return {
        name: intent[:, at] * composer.units[at]
        for at, name in enumerate(composer.knobs)
        if name in KNOBS
    }


# ---- what they say -------------------------------------------------------------------------------


def with_thirds(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `<column>_third` (0, 1 or 2) for each trait, by shopper, and for boredom, by visit.

    The bounds of boredom are those of greedy's visits, so that a third is the same for every
    policy.
    """
    shoppers = rows.unique("shopper")
    samples = {trait: shoppers[trait] for trait in TRAITS}
    samples[MOMENT] = rows.filter(pl.col("policy") == GREEDY)[MOMENT]
    thirds = []
    for column, sample in samples.items():
        low, high = np.quantile(sample.to_numpy(), [1 / 3, 2 / 3])
        thirds.append(
            ((pl.col(column) > low).cast(pl.Int64) + (pl.col(column) > high)).alias(
                f"{column}_third"
            )
        )
    return rows.with_columns(thirds)


def by_group(rows: pl.DataFrame) -> list[dict[str, object]]:
    """Make a line for each third of each trait and of boredom, from rows with thirds."""
    lines: list[dict[str, object]] = []
    for column in (*TRAITS, MOMENT):
        for third, word in enumerate(THIRDS):
            group = rows.filter(pl.col(f"{column}_third") == third)
            parts = {name: group.filter(pl.col("policy") == name) for name in (PPO, RERANKER)}
            if not all(map(len, parts.values())):
                continue
            lines.append(
                {
                    "group": column,
                    "third": word,
                    **{name: mean_of(parts[PPO], name) for name in ("categories", "distance")},
                    f"categories_{RERANKER}": mean_of(parts[RERANKER], "categories"),
                    **{name: mean_of(parts[PPO], name) for name in KNOBS},
                    "gain": gain(parts) if column in TRAITS else None,
                }
            )
    return lines


def mean_of(rows: pl.DataFrame, column: str) -> Estimate | None:
    """The mean over visits, whose independent units are shoppers; None where there are none."""
    rows = rows.drop_nulls(column)
    if rows.is_empty():
        return None
    return estimate_mean(rows[column].to_numpy(), clusters=rows["shopper"].to_numpy())


def gain(parts: dict[str, pl.DataFrame]) -> Estimate:
    """How much more the agent earned than the re-ranker in an episode of the same shopper."""
    one, other = (
        parts[name].group_by("shopper").agg(pl.col("reward").sum()) for name in (PPO, RERANKER)
    )
    both = one.join(other, on="shopper", suffix="_other").sort("shopper")
    return estimate_mean((both["reward"] - both["reward_other"]).to_numpy())


def contrasts(lines: list[dict[str, object]]) -> dict[str, Estimate]:
    """Every figure of the table, by `group_third_column`."""
    return {
        f"{line['group']}_{line['third']}_{column}": value
        for line in lines
        for column, value in line.items()
        if isinstance(value, Estimate)
    }


HEADERS = {
    "group": "by",
    "third": "third",
    "categories": "categories in a slate",
    "count": "count",
    "sated": "sated",
    "gain": "return above constant",
}


def draw(lines: list[dict[str, object]]) -> Figure:
    """Draw categories in a slate, the agent's knobs, and what adapting earns, by third."""
    figure, (left, middle, right) = panels(15, 4.6, 3)
    _thirds(left, lines, {"categories": "PPO composer", f"categories_{RERANKER}": "constant"})
    left.set_ylabel("distinct categories in a slate")
    left.margins(y=0.15)
    _thirds(middle, lines, {name: name for name in KNOBS})
    middle.set_ylabel("knobs of the agent, log-odds per unit of the cue")
    _thirds(right, [line for line in lines if line["gain"] is not None], {"gain": "PPO composer"})
    right.set_ylabel("return above the constant re-ranker")
    for axes in (middle, right):
        axes.axhline(0, color=INK, linewidth=0.8)
    return figure


def _thirds(axes: Axes, lines: list[dict[str, object]], columns: dict[str, str]) -> None:
    """Draw points with their intervals, and join the three thirds of each group."""
    groups = list(dict.fromkeys(str(line["group"]) for line in lines))
    for (column, label), colour in zip(columns.items(), (RED, BLUE, GREEN, AMBER), strict=False):
        for at, group in enumerate(groups):
            own = [line[column] for line in lines if line["group"] == group]
            found = [value for value in own if isinstance(value, Estimate)]
            places = [4 * at + third for third in range(len(found))]
            name = None if at else label
            intervals(axes, places, found, colour=colour, label=name, joined=True)
    axes.set_xticks([4 * at + 1 for at in range(len(groups))], groups)
    axes.set_xlabel("low, middle and high third by")
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    plain(axes, "y")


def measure(
    config: Config, playing: Callable[[Config, Place, Site], dict[str, Policy]] = players
) -> pl.DataFrame:
    """Play every policy: the rows of all of them."""
    place = PLACES[config.place]
    site = place.open(config.league.markets, config.league.slates, config.device)
    episodes = seeds(REPORTED_SEED + FRESH_RUN * league_cells.RUN_SEEDS, config.shoppers)
    composer = Composer(site.inputs)
    found = playing(config, place, site)
    return pl.concat(
        [visits(name, policy, site.judging(), composer, episodes) for name, policy in found.items()]
    )


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of rows with thirds."""
    lines = by_group(rows)
    table = markdown([line for line in lines if line["third"] != "middle"], HEADERS)
    return Report(table, contrasts(lines), draw(lines))


def main(config: Config) -> None:
    """Play every policy, then report."""
    use_threads(config.threads)
    league_cells.check_work(config.league)
    run = Run("behaviour", config, results=config.results)
    rows = with_thirds(measure(config))
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
