"""What page, query and cart are worth in the market of whole visits.

    python -m benchmarks.agents.visit

In `MarketVisit-v0` and in its control, where neither scenario nor cart changes anything, the same
shoppers meet five policies: uniform slates; slates that are greedy in the reward by a ranker that
was fitted to a log; the same with two cues, what is searched for and what goes together with the
cart by that log, whose weights are tuned on other shoppers; and two policies that know the true
chances of a click, one of them without the complements. In the control the cues must bring nothing,
and complements must not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, TUNING_SEED, Site, open_place, seeds
from agents.places.opening import PLACES
from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Device, Results, Threads
from benchmarks.lab.plots import BLUE, INK, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from policies import POLICIES
from policies.composer import Composer
from policies.oracles import OracleMyopic
from policies.slates import top_slates
from recsim_env.estimates import Estimate
from recsim_env.registration import PRESETS
from recsim_env.shoppers.visits.population import VisitsShopper
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

VISIT, CONTROL = "recsim_env/MarketVisit-v0", "recsim_env/MarketVisitControl-v0"
UNIFORM, GREEDY, CUED, BLIND, ORACLE = POLICY_NAMES = (
    "uniform",
    "reward_greedy",
    "reward_greedy, cues",
    "oracle, no complements",
    "oracle",
)
WEIGHTS = {"searched": (0.0, 1.0, 2.0, 4.0), "beside_cart": (0.0, 1.0, 2.0, 4.0)}
"""Cue -> log-odds that are tried for it, one cue after the other."""


@dataclass(frozen=True)
class Config(Device, Threads, Results):
    """Measure what page, query and cart are worth."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"envs": PRESETS}

    envs: tuple[str, ...] = (VISIT, CONTROL)
    """Ids of environments with whole visits."""
    slates: int = 100_000
    """Number of slates of the log that ranker and lift are learned from, about."""
    tuning_episodes: int = 256
    """Number of episodes on which each weight of a cue is tried."""
    episodes: int = 1024
    """Number of episodes that each policy is reported on, the same for all."""
    batch: int = 256
    """Number of shoppers served at a time, which changes the speed alone."""
    cache: Path = PLACES
    """Folder of logs and rankers, which are made where they are missing."""


class KnowsAllButComplements:
    """Shows what is most likely clicked, were there neither complements nor substitutes.

    Args:
        simulator: its shoppers are read on every page

    Raises:
        TypeError: If its shoppers are not those of whole visits.
    """

    draws = 0

    def __init__(self, simulator: SlateSimulator) -> None:
        if not isinstance(simulator.shopper, VisitsShopper):
            raise TypeError(
                f"simulator has {type(simulator.shopper).__name__}, but it must have VisitsShopper."
            )
        self._simulator, self._shopper = simulator, simulator.shopper

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K) for the shoppers as they are; the observation is not read."""
        candidates = self._simulator.candidates
        log_odds = self._shopper.log_odds(self._simulator.hidden, candidates, pairs=False)
        return top_slates(log_odds, candidates, self._simulator.slate_size)


class Steered:
    """A composer with constant knobs.

    Args:
        composer: composes the slates
        knobs: log-odds per unit of each cue; those not named are 0
    """

    draws = 0

    def __init__(self, composer: Composer, knobs: Mapping[str, float]) -> None:
        self._composer, self._intent = composer, composer.intent(knobs)

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K)."""
        intent = self._intent.to(draws.device).expand(len(draws), -1)
        return self._composer.compose(observation, intent)


def tuned_knobs(config: Config, site: Site, composer: Composer) -> dict[str, float]:
    """The best weight of each cue on shoppers who are not reported on, one cue after the other."""
    simulator, who = site.simulator("train"), seeds(TUNING_SEED, config.tuning_episodes)
    found: dict[str, float] = {}
    for name, weights in WEIGHTS.items():
        means = {}
        for weight in weights:
            policy = Steered(composer, {**found, name: weight})
            rows = evaluate(policy, simulator, who, batch=config.batch).rows
            means[weight] = float(rows["return"].to_numpy().mean())
        found[name] = max(means, key=lambda weight: means[weight])
    return found


def played(config: Config, env: str) -> list[dict[str, object]]:
    """Play every policy in an environment: one row for each policy and episode."""
    site = open_place(env, slates=config.slates, cache=config.cache, device=config.device)
    simulator, composer = site.simulator("evaluation"), Composer(site.inputs)
    knobs = tuned_knobs(config, site, composer)
    contenders: dict[str, Policy] = {
        UNIFORM: POLICIES["uniform"].build(site.inputs),
        GREEDY: POLICIES["reward_greedy"].build(site.inputs),
        CUED: Steered(composer, knobs),
        BLIND: KnowsAllButComplements(simulator),
        ORACLE: OracleMyopic(simulator),
    }
    who, rows = seeds(REPORTED_SEED, config.episodes), []
    for name, policy in contenders.items():
        told = evaluate(policy, simulator, who, batch=config.batch).rows
        weights = knobs if name == CUED else dict.fromkeys(knobs, 0.0)
        rows += [
            {"env": env, "policy": name, "episode": at, "return": float(value), **weights}
            for at, value in enumerate(told["return"])
        ]
    return rows


# ---- the report ----------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make the table, the figures and the picture."""
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    drawn: list[tuple[str, Estimate, str]] = []
    for env in rows["env"].unique(maintain_order=True):
        name, own = env.split("/")[-1], rows.filter(pl.col("env") == env)
        returns = {
            policy: own.filter(pl.col("policy") == policy).sort("episode")["return"].to_numpy()
            for policy in POLICY_NAMES
        }
        line: dict[str, object] = {"environment": f"`{name}`"}
        for policy, values in returns.items():
            line[policy] = summary[f"{name}/{policy}"] = estimate_mean(values)
        of_cues = paired_difference(returns[CUED], returns[GREEDY])
        of_pairs = paired_difference(returns[ORACLE], returns[BLIND])
        line["cues bring"] = summary[f"{name}/cues_bring"] = of_cues
        line["complements bring"] = summary[f"{name}/complements_bring"] = of_pairs
        lines.append(line)
        drawn.append((f"{name}, cues", of_cues, BLUE))
        drawn.append((f"{name}, complements", of_pairs, BLUE))
    return Report(markdown(lines), summary, picture(drawn))


def picture(lines: list[tuple[str, Estimate, str]]) -> Figure:
    """Draw what cues and complements bring, with its interval."""
    figure = level_intervals(lines, "return above that without")
    figure.axes[0].axvline(0, color=INK, linewidth=0.8)
    return figure


def main(config: Config) -> None:
    """Play in every environment, and report."""
    use_threads(config.threads)
    run = Run("visit", config, results=config.results)
    table = pl.DataFrame([row for env in config.envs for row in played(config, env)])
    run.publish(table, report(table))


if __name__ == "__main__":
    run_command(main, Config)
