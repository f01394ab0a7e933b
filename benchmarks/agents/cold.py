"""What exploring is worth at a cold start: new shoppers, new items, and a control without either.

    python -m benchmarks.agents.cold
    python -m benchmarks.agents.cold --belief
    python -m benchmarks.agents.cold --ray auto   # on the machines of a Ray cluster

The world is a market of regulars in which nothing that is shown changes what a shopper wants, nor
who stays: the only reason to show anything but what is most likely clicked is to learn. Items
differ much in what only clicks can tell (`quality_spread`, an assumption). In `cold` a share of the
shoppers comes without a history, and a share of the items is new: they are in no history and not in
the log that ranker and belief were fitted to. In `control` there is neither.

Every agent has the same steps, ranker and belief, and is judged by the first ten visits of shoppers
that it never met. Three agents are judged beside a twin that learns as they do and does not
explore: Thompson sampling on the new items (`thompson_items`) beside the same with a scale of 0,
LinUCB beside itself with no bonus, and PPO over intents beside PPO without the cue `uncertain`.
What exploring brings is the difference of the two, paired by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import polars as pl
import torch

from agents import AGENTS, TrainingSetup
from agents.places import REPORTED_SEED, Site, open_place, seeds
from agents.places.opening import PLACES
from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.command import run_command
from benchmarks.lab.league_cells import RUN_SEEDS
from benchmarks.lab.measuring import RowCell, keeper_of, measure_and_report
from benchmarks.lab.options import Cells, Device, Results
from benchmarks.lab.places import REGULARS
from benchmarks.lab.plots import BLUE, INK, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.settings import settings_of
from benchmarks.lab.tables import markdown
from benchmarks.lab.tuning import policy_search, trials_of
from policies import POLICIES
from recsim_env.estimates import Estimate
from recsim_env.rollout import draws_for
from recsim_env.settings import AMOUNT, SHARE, Within
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

NAME = COLD = "cold"
CONTROL = "control"
GREEDY, REWARD_GREEDY, TUNED = "greedy_ctr", "reward_greedy", "constant tuned"
THOMPSON, THOMPSON_TWIN = "thompson_items", "thompson_items, no exploring"
LINUCB, LINUCB_TWIN = "linucb", "linucb, no exploring"
PPO, PPO_TWIN = "ppo_composer", "ppo_composer, no uncertain"
TWINS = {THOMPSON: THOMPSON_TWIN, LINUCB: LINUCB_TWIN, PPO: PPO_TWIN}
"""Exploring agent -> the same agent without exploring."""
AGENT_NAMES = (GREEDY, REWARD_GREEDY, TUNED, *(name for pair in TWINS.items() for name in pair))
FIRST_VISITS = 10
"""Visits by which an agent is judged."""
GAIN, OF_EXPLORING = "above greedy", "above its twin"
"""Columns of the table of gains: above `reward_greedy`, and above the twin without exploring."""
COLUMNS = (
    "return",
    "return, known",
    "return, newcomers",
    "share of new items",
    "response of new items",
    "response",
)
"""Columns of the table of all agents; those that a world does not have are empty there."""
COUNTS = ("return", "visits", "shown", "clicks", "new_shown", "new_clicks")
"""Sums over the first visits of a shopper."""


@dataclass(frozen=True)
class Config(Device, Cells, Results):
    """Measure what exploring is worth at a cold start."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "newcomers": SHARE,
        "new_items": SHARE,
        "quality_spread": AMOUNT,
        "declared_noise": AMOUNT,
    }
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "agents": AGENT_NAMES,
        "worlds": (COLD, CONTROL),
    }

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings. Each has shoppers of its own to report on."""
    newcomers: float = 0.5
    """Share of shoppers without a history in the cold world."""
    new_items: float = 0.3
    """Share of items that are new there."""
    quality_spread: float = 1.0
    """Standard deviation over items of the log-odds that an item has for every shopper, which no
    catalogue tells."""
    declared_noise: float = 1.0
    """Length of the noise in what a shopper declares of its interest, whose length is 1: so that
    little is known of newcomers."""
    items: int = 200
    """Number of items in the catalogue."""
    known: int = 512
    """Number of regulars; one in four is kept for reporting."""
    world: int = 0
    """Seed of the catalogue, of the items' quality and of which are new."""
    slates: int = 6_000
    """Number of slates of the log that ranker and belief are fitted to, about."""
    steps: int = 20_000
    """Length of a training in shopper-steps."""
    shoppers: int = 256
    """Number of shoppers that are served at once in a training."""
    trials: int = 12
    """Number of settings of the constant re-ranker that are tried."""
    tuning_episodes: int = 128
    """Number of episodes of a trial."""
    episodes: int = 512
    """Number of shoppers that each agent is reported on, for each seed."""
    belief: bool = False
    """Whether ranker and cues are those of a belief, which is fitted to the log: it takes many
    times as long. Without it there is no cue `uncertain`, and PPO has no twin. The results have a
    folder of their own, `cold_belief`."""
    agents: tuple[str, ...] = AGENT_NAMES
    """Agents that play; PPO without `uncertain` only where there is a belief."""
    worlds: tuple[str, ...] = (COLD, CONTROL)
    """Worlds that are played."""
    cache: Path = PLACES
    """Folder of logs, rankers and beliefs, which are made where they are missing."""
    work: Path = Path("runs/cold")
    """Folder of what is done; delete it to start anew."""

    @property
    def name(self) -> str:
        """The name of the results."""
        return f"{NAME}_belief" if self.belief else NAME

    @property
    def playing(self) -> tuple[str, ...]:
        """The agents that can play."""
        return tuple(a for a in self.agents if self.belief or a != PPO_TWIN)

    @property
    def kept(self) -> Path:
        """The folder of what is done."""
        return self.work / self.name


def world_of(config: Config) -> RegularsConfig:
    """The market: nothing that is shown has a later effect, and nobody leaves."""
    return RegularsConfig(
        items=config.items,
        categories=20,
        width=8,
        known=config.known,
        fewest_visits=10,
        most_visits=20,
        quality_spread=config.quality_spread,
        declared_noise=config.declared_noise,
        drift=0.0,
        habit_spread=0.0,
        habit_click=0.0,
        habit_pleased=0.0,
        fatigue=0.0,
        sated=0.0,
        leave_base=-np.inf,
    )


def site_of(config: Config, name: str) -> Site:
    """Open the cold world or its control."""
    cold = {"newcomers": config.newcomers, "new_items": config.new_items}
    return open_place(
        REGULARS,
        options={
            "config": world_of(config),
            "world": config.world,
            **(cold if name == COLD else {}),
        },
        reward={"clicks": 1.0},
        horizon_days=60.0,  # about ten visits
        slates=config.slates,
        belief="own" if config.belief else None,
        cache=config.cache,
        device=config.device,
    )


# ---- who plays -----------------------------------------------------------------------------------


def tuned_policy(config: Config, name: str, site: Site) -> Policy:
    """A constant re-ranker whose knobs earned most on training shoppers."""
    spec, simulator = POLICIES["constant_log_odds"], site.simulator("train")
    first, told = dict.fromkeys(spec.search(), 0.0), (config.trials, config.tuning_episodes)
    search = policy_search(TUNED, site.inputs, simulator, [first], *told, spec=spec)
    study = trials_of(config.kept / f"{name}.trials.json", search)
    return spec.build(site.inputs, dict(study.best_params))


def trained(config: Config, name: str, site: Site, agent: str, seed: int) -> Policy:
    """Train an agent with a seed; it plays as it is at its most likely action."""
    inputs = site.inputs
    if agent == PPO_TWIN:
        space = {
            key: one for key, one in inputs.observation_space.items() if key != "belief_spread"
        }
        inputs = replace(inputs, observation_space=gymnasium.spaces.Dict(space))
    parameters: dict[str, Mapping[str, Any]] = {
        THOMPSON: {"known_spread": 0.0},  # cold items alone
        THOMPSON_TWIN: {"known_spread": 0.0, "scale": 0.0},
        LINUCB_TWIN: {"alpha": 0.0},
    }
    keeper = keeper_of(path_of(config, name, seed, agent))
    setup = TrainingSetup(
        site.training(), inputs, seed, config.steps, config.shoppers, keeper=keeper
    )
    registered = agent.partition(",")[0]
    return AGENTS[registered].learn(setup, parameters.get(agent, {})).policy


def policy_of(config: Config, world: str, site: Site, agent: str, seed: int) -> Policy:
    """Build, tune or train an agent."""
    if agent in (GREEDY, REWARD_GREEDY):
        return POLICIES[agent].build(site.inputs)
    if agent == TUNED:
        return tuned_policy(config, world, site)
    return trained(config, world, site, agent, seed)


@torch.no_grad()
def first_visits(policy: Policy, simulator: SlateSimulator, who: torch.Tensor) -> pl.DataFrame:
    """Play the first visits of some shoppers: a row each, with the sums of `COUNTS`."""
    observation = simulator.reset(who.to(simulator.device))
    newcomer = simulator.episodes.newcomer.clone()
    sums = {name: torch.zeros(len(who), dtype=torch.float64) for name in COUNTS}
    running = torch.ones(len(who), dtype=torch.bool)
    none = torch.zeros(len(who))
    for _ in range(FIRST_VISITS):
        at = simulator.episodes
        slates = policy(observation, draws_for(policy, at.seed, at.visit, at.number))
        outcome = simulator.advance(slates)
        told = {
            "return": outcome.reward,
            "visits": none + 1,
            "shown": (simulator.episodes.recent_slates[:, 0] >= 0).sum(dim=1),
            **{
                name: outcome.info.get(name, none) for name in ("clicks", "new_shown", "new_clicks")
            },
        }
        for name, value in told.items():
            sums[name] += value.double().cpu() * running
        running &= ~outcome.ended.cpu()
        observation = simulator.observe()
    columns = {name: value.numpy() for name, value in sums.items()}
    return pl.DataFrame({"newcomer": newcomer.cpu().numpy(), **columns})


def measured(config: Config, world: str, seed: int, agent: str, site: Site) -> list[dict[str, Any]]:
    """Play an agent before the shoppers of a seed: a row for newcomers, and one for the others."""
    policy = policy_of(config, world, site, agent, seed)
    simulator = site.simulator("evaluation", horizon_days=float("inf"))
    played = first_visits(
        policy, simulator, seeds(REPORTED_SEED + seed * RUN_SEEDS, config.episodes)
    )
    rows = []
    for newcomer in (False, True):
        own = played.filter(pl.col("newcomer") == newcomer)
        if len(own):
            sums = {name: float(own[name].sum()) for name in COUNTS}
            about = {"world": world, "agent": agent, "seed": seed, "newcomer": newcomer}
            rows.append({**about, "shoppers": len(own), **sums})
    return rows


# ---- the report ----------------------------------------------------------------------------------


def per_seed(rows: pl.DataFrame, value: Callable[[pl.DataFrame], float]) -> np.ndarray:
    """A figure of each seed, in the order of the seeds."""
    parts = [part for _, part in sorted(rows.group_by("seed"), key=lambda pair: pair[0])]
    return np.array([value(part) for part in parts], dtype=np.float64)


def mean_return(rows: pl.DataFrame) -> float:
    """The mean return of the first visits of a shopper."""
    return total(rows, "return") / total(rows, "shoppers")


def total(rows: pl.DataFrame, column: str) -> float:
    """The sum of a column."""
    return float(rows[column].to_numpy().sum())


def rate(top: str, bottom: str) -> Callable[[pl.DataFrame], float]:
    """A ratio of two sums, 0 where there is nothing to divide by."""
    return lambda rows: total(rows, top) / max(total(rows, bottom), 1.0)


def report(rows: pl.DataFrame) -> Report:
    """Make the tables, the figures and the picture from the rows of all seeds."""
    summary: dict[str, Estimate] = {}
    drawn: list[tuple[str, Estimate, str]] = []
    lines: list[dict[str, object]] = []
    gains: list[dict[str, object]] = []
    for world in rows["world"].unique(maintain_order=True):
        of_world = rows.filter(pl.col("world") == world)
        played = {
            agent: of_world.filter(pl.col("agent") == agent)
            for agent in of_world["agent"].unique(maintain_order=True)
        }
        for agent, own in played.items():
            lines.append(_line(world, agent, own, summary))
        for agent in (name for name in (TUNED, *TWINS) if name in played):
            line: dict[str, object] = {"world": world, "agent": f"`{agent}`"}
            for name, base in ((GAIN, REWARD_GREEDY), (OF_EXPLORING, TWINS.get(agent, ""))):
                line[name] = ""
                if base not in played:
                    continue
                found = paired_difference(
                    per_seed(played[agent], mean_return), per_seed(played[base], mean_return)
                )
                summary[f"{world}/{agent}, {name}"] = line[name] = found
                if name == OF_EXPLORING:
                    colour = BLUE if world == COLD else INK
                    drawn.append((f"{agent}, {world}", found, colour))
            gains.append(line)
    table = f"{markdown(lines)}\n\n{markdown(gains)}"
    label = "return of ten visits above that without exploring"
    return Report(table, summary, level_intervals(drawn, label, mark=0))


def _line(
    world: str, agent: str, rows: pl.DataFrame, summary: dict[str, Estimate]
) -> dict[str, object]:
    """The line of an agent in the table of all."""
    line: dict[str, object] = {"world": world, "agent": f"`{agent}`"}
    parts = {"known": rows.filter(~pl.col("newcomer")), "newcomers": rows.filter("newcomer")}
    line |= dict.fromkeys(COLUMNS, "")
    figures: dict[str, np.ndarray] = {"return": per_seed(rows, mean_return)}
    if len(parts["newcomers"]):
        figures |= {f"return, {name}": per_seed(part, mean_return) for name, part in parts.items()}
    if total(rows, "new_shown") > 0 or world == COLD:
        figures["share of new items"] = per_seed(rows, rate("new_shown", "shown"))
        figures["response of new items"] = per_seed(rows, rate("new_clicks", "new_shown"))
    figures["response"] = per_seed(rows, rate("clicks", "shown"))
    for name, values in figures.items():
        summary[f"{world}/{agent}/{name}"] = line[name] = estimate_mean(values)
    return line


def path_of(config: Config, world: str, seed: int, agent: str) -> Path:
    """The file of the rows of a cell."""
    name = agent.replace(", ", "-").replace(" ", "_")
    return config.kept / world / f"{name}-{seed}.json"


def cells_of(config: Config) -> list[RowCell]:
    """Every world with every seed and agent."""
    return [
        RowCell(
            path_of(config, world, seed, agent),
            world,
            partial(site_of, config, world),
            partial(measured, config, world, seed, agent),
        )
        for world in config.worlds
        for seed in config.seeds
        for agent in config.playing
    ]


def main(config: Config) -> None:
    """Measure what is not measured yet, and report; raises as `measure_and_report`."""
    run = Run(config.name, config, results=config.results)
    told = settings_of(config, free=("seeds", "agents", "worlds"))
    measure_and_report(run, config, cells_of(config), report, told, config.kept)


if __name__ == "__main__":
    run_command(main, Config)
