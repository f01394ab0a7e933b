"""Deletion test of explanations: without the causes that are named, responses are rarer.

    python -m benchmarks.shopper.explained

Shoppers are shown a few slates and then asked about one more. Of it the item with the largest
chance of a response is explained (`recsim_env.explaining`), kind of cause by kind, and some causes
are taken out together, under the same noise:

    named     those that raised the chance most, by the explanation
    random    as many of the same kind, drawn from all that the shopper has
    shuffled  those that an explanation names whose effects were shuffled among the causes

Every response is compared with itself, so differences are paired by shopper. For a single cause
that named lowers more than random holds by construction, because the explanation took it out by
itself; for several it says that what was found one by one holds together. Shuffled explanations are
the control: they must do as random ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from agents.places import REPORTED_SEED, seeds
from agents.statistics import paired_difference
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.plots import BLUE, GREY, level_intervals
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from policies.heuristics import Popular, Uniform
from recsim_env.estimates import Estimate
from recsim_env.explaining import Cause, Explanation, explain, without
from recsim_env.registration import make_simulator
from recsim_env.rollout import draws_for
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

KINDS = {
    "recsim_env/CompleteJourney-v0": ("item", "category"),
    "recsim_env/Market-v0": ("interest",),
    "recsim_env/MarketRegulars-v0": ("interest",),
    "recsim_env/LearnedMarket-v0": ("interest",),
}
"""Kinds of causes that are judged where: those of which a response has several that may raise
it."""
WAYS = ("named", "random", "shuffled")


@dataclass(frozen=True)
class Config(Threads, Results):
    """Take named, random and shuffled causes out of what moved responses."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"envs": KINDS}

    envs: tuple[str, ...] = tuple(KINDS)
    """Ids of the environments."""
    shoppers: int = 500
    """Number of shoppers of each environment."""
    visits: int = 3
    """Number of slates that each was shown before the one that is explained."""
    removed: tuple[int, ...] = (1, 3)
    """Numbers of causes that are taken out together."""
    batch: int = 50
    """Number of shoppers who are explained at a time, which changes the speed alone."""
    seed: int = 0
    """Seed of the random causes and of the shuffling."""


# ---- the measurement -----------------------------------------------------------------------------


def policy_of(simulator: SlateSimulator) -> Policy:
    """Return who fills the slates: popular items where popularity is seen, else any."""
    items, size = len(simulator.catalog), simulator.slate_size
    if "popularity" in simulator.observation_space.spaces:
        return Popular(items, size, None)
    return Uniform(items, simulator.shopper.max_candidates, size)


def before_a_slate(
    simulator: SlateSimulator, policy: Policy, first: int, batch: int, visits: int
) -> Tensor:
    """Play some visits of new shoppers, who do not leave meanwhile.

    Returns:
        The slates of the next visit, (B, K).
    """
    numbers = seeds(first, batch)
    observation = simulator.reset(numbers, staying=True)
    for visit in range(visits + 1):
        slates = policy(observation, draws_for(policy, numbers, torch.full_like(numbers, visit)))
        if visit < visits:
            observation = simulator.step(slates).observation
    return slates


def chosen(
    explained: Explanation, row: int, position: int, number: int, generator: np.random.Generator
) -> dict[str, list[Cause]] | None:
    """Choose the causes that are taken out for a response, in each of `WAYS`.

    None where fewer than `number` causes raised the chance, or there are none besides.
    """
    mine = (explained.rows == row).nonzero().flatten().tolist()
    effects = explained.effect[mine, position].tolist()
    if sum(effect > 0 for effect in effects) < number or len(mine) <= number:
        return None
    shuffled = generator.permutation(effects).tolist()

    def strongest(told: list[float]) -> list[Cause]:
        order = sorted(range(len(mine)), key=lambda at: -told[at])
        return [explained.causes[mine[at]] for at in order[:number]]

    drawn = generator.choice(len(mine), number, replace=False).tolist()
    return {
        "named": strongest(effects),
        "random": [explained.causes[mine[at]] for at in drawn],
        "shuffled": strongest(shuffled),
    }


def measure_batch(
    config: Config, simulator: SlateSimulator, slates: Tensor, kind: str, first: int
) -> list[dict[str, Any]]:
    """Explain a batch of shoppers by one kind of causes: a row a shopper and number of causes."""
    explained = explain(simulator, slates, kinds=[kind])
    target = explained.probability.argmax(dim=1)
    everyone = torch.arange(len(slates))
    rows = []
    for number in config.removed:
        plans = []
        for row in range(len(slates)):
            generator = np.random.default_rng([config.seed, first + row, number])
            plans.append(chosen(explained, row, int(target[row]), number, generator))
        told: dict[str, tuple[Tensor, Tensor]] = {}
        for way in WAYS:
            causes = [plan[way] if plan is not None else [] for plan in plans]
            chance, clicks = without(simulator, slates, causes)
            told[way] = chance[everyone, target], clicks[everyone, target]
        for row, plan in enumerate(plans):
            if plan is None:
                continue
            own: dict[str, Any] = {
                "kind": kind,
                "removed": number,
                "shopper": first + row,
                "causes": int((explained.rows == row).sum()),
                "chance": float(explained.probability[row, target[row]]),
                "response": int(explained.clicks[row, target[row]]),
            }
            for way, (chance, clicks) in told.items():
                own[f"chance_{way}"] = float(chance[row])
                own[f"response_{way}"] = int(clicks[row])
            rows.append(own)
    return rows


def measure(config: Config) -> pl.DataFrame:
    """Measure every environment: a row for each shopper, kind and number of causes."""
    rows: list[dict[str, Any]] = []
    for env in config.envs:
        simulator = make_simulator(env, history=max(config.visits, 1), device="cpu")
        policy = policy_of(simulator)
        for first in range(0, config.shoppers, config.batch):
            batch = min(config.batch, config.shoppers - first)
            slates = before_a_slate(simulator, policy, REPORTED_SEED + first, batch, config.visits)
            for kind in KINDS[env]:
                found = measure_batch(config, simulator, slates, kind, first)
                rows += [{"env": env, **row} for row in found]
    return pl.DataFrame(rows)


# ---- the report ----------------------------------------------------------------------------------


def report(rows: pl.DataFrame) -> Report:
    """Make the table, the figures and the picture."""
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    drawn: list[tuple[str, Estimate, str]] = []
    for (env, kind, number), own in rows.group_by("env", "kind", "removed", maintain_order=True):
        name = str(env).split("/")[-1]
        key = f"{name}/{kind}_{number}"

        def less(what: str, one: str, other: str, own: pl.DataFrame = own) -> Estimate:
            return paired_difference(
                own[f"{what}_{one}"].to_numpy(), own[f"{what}_{other}"].to_numpy()
            )

        summary[f"{key}/named"] = less("chance", "named", "random")
        summary[f"{key}/named_response"] = less("response", "named", "random")
        summary[f"{key}/shuffled"] = less("chance", "shuffled", "random")
        lines.append(
            {
                "environment": f"`{name}`",
                "cause": kind,
                "removed": number,
                "shoppers": own.height,
                "chance": float(own["chance"].to_numpy().mean()),
                "without named": float(own["chance_named"].to_numpy().mean()),
                "without random": float(own["chance_random"].to_numpy().mean()),
                "named less random": summary[f"{key}/named"],
                "the same, responses": summary[f"{key}/named_response"],
                "shuffled less random": summary[f"{key}/shuffled"],
            }
        )
        title = f"{name}, {number} x {kind}"
        drawn.append((f"{title}: named", summary[f"{key}/named"], BLUE))
        drawn.append((f"{title}: shuffled", summary[f"{key}/shuffled"], GREY))
    label = "chance of the response, less that without random causes"
    return Report(markdown(lines), summary, level_intervals(drawn, label, mark=0, ink=GREY))


def main(config: Config) -> None:
    """Explain the shoppers of every environment, take causes out, and report."""
    use_threads(config.threads)
    run = Run("explained", config, results=config.results)
    rows = measure(config)
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
