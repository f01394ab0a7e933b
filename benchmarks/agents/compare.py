"""Compare every policy on the same episodes of shoppers nobody trained on: python -m benchmarks.agents.compare

Needs `benchmarks.data.train_ranker`, `benchmarks.agents.tune` and `benchmarks.agents.train`. Every
policy meets the same shoppers with the same noise, so differences are paired by episode. A trained
agent is evaluated at its most likely action and sampled, before and after training: what the
untrained agent reaches is not learning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import tyro
from matplotlib.figure import Figure

from agents.evaluate import evaluate
from agents.ppo.checkpoints import LAST, load_policy
from benchmarks.agents.train import UNTRAINED
from benchmarks.agents.tune import PARAMETERS, read_parameters
from benchmarks.lab.run import RESULTS, Report, Run
from benchmarks.lab.statistics import (
    Estimate,
    by_training_seed,
    estimate_mean,
    over_training_seeds,
    paired_difference,
)
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.world import REPORTED_SEED, World, seeds
from policies import POLICIES, PolicyInputs
from recsim_env.types import Policy

BASE = "greedy_ctr"
"""What every policy is compared with, episode by episode."""
FIGURES = ("return", "clicks", "diversity", "visits")
"""Columns that get an interval. Diversity is the mean intra-list distance of an episode's
slates."""
SHORT = {"ppo": "composer", "greedy_ctr": "greedy_ctr", "tuned_reranker": "constant"}
"""Names in the summary of the policies that everyone asks for."""


@dataclass(frozen=True)
class Config:
    """Compare policies on held-out shoppers."""

    world: World = field(default_factory=World)
    """Environment, populations and device to evaluate in."""
    policies: tuple[str, ...] = tuple(POLICIES)
    """Registered policies; greedy CTR must be among them."""
    agents: tuple[str, ...] = ("composer",)
    """Trained agents, by their folder's name."""
    trained: Path = Path("runs/train")
    """Folder that `benchmarks.agents.train` wrote."""
    parameters: Path = PARAMETERS
    """File that `benchmarks.agents.tune` wrote."""
    episodes: int = 512
    """Episodes of each policy."""
    batch: int = 256
    """Shoppers at a time."""
    results: Path = RESULTS
    """Folder of the results."""


@dataclass(frozen=True)
class Contender:
    """A policy and what it is called."""

    name: str
    """As in the table; agents of several training seeds share it."""
    training_seed: int | None
    policy: Policy


def contenders(config: Config, inputs: PolicyInputs) -> Iterator[Contender]:
    """Every registered policy with its tuned parameters, then every agent, untrained and trained."""
    parameters = read_parameters(config.parameters)
    for name in config.policies:
        yield Contender(name, None, POLICIES[name].build(inputs, parameters.get(name)))
    for agent in config.agents:
        folders = sorted(
            (config.trained / agent).glob("seed*"),
            key=lambda path: int(path.name.removeprefix("seed")),
        )
        if not folders:
            raise FileNotFoundError(
                f"{config.trained / agent} holds no training: run python -m benchmarks.agents.train."
            )
        for folder in folders:
            seed = int(folder.name.removeprefix("seed"))
            for label, file in ((", untrained", UNTRAINED), ("", LAST)):
                for sampled, how in ((False, ""), (True, ", sampled")):
                    policy = load_policy(folder / file, inputs, deterministic=not sampled)
                    yield Contender(f"{agent}{label}{how}", seed, policy)


def measure(config: Config) -> pl.DataFrame:
    """One row for each policy, training seed and episode; coverage and Gini of its policy in every row."""
    simulator = config.world.simulator("evaluation")
    inputs = config.world.inputs(simulator)
    episodes, parts = seeds(REPORTED_SEED, config.episodes), []
    for contender in contenders(config, inputs):
        seed = contender.training_seed
        title = contender.name if seed is None else f"{contender.name}, seed {seed}"
        result = evaluate(contender.policy, simulator, episodes, batch=config.batch, title=title)
        parts.append(
            result.rows.rename({"seed": "episode"}).with_columns(
                pl.lit(contender.name).alias("policy"),
                pl.lit(seed, dtype=pl.Int64).alias("training_seed"),
                pl.lit(result.coverage).alias("coverage"),
                pl.lit(result.gini).alias("gini"),
                (pl.col("intra_list_distance") / pl.col("visits")).alias("diversity"),
            )
        )
    return pl.concat(parts)


# ---- analysis ------------------------------------------------------------------------------------


def estimate(rows: pl.DataFrame, column: str) -> Estimate:
    """The mean of a policy's column, over episodes, and over training seeds where it has several."""
    if rows["training_seed"].n_unique() > 1:
        return over_training_seeds(by_training_seed(rows, column, seed="training_seed"))
    return estimate_mean(rows[column].to_numpy())


def difference(rows: pl.DataFrame, base: pl.DataFrame, column: str) -> Estimate:
    """By how much a policy is above another, paired by episode."""
    order = base.sort("episode")[column].to_numpy()
    if rows["training_seed"].n_unique() > 1:
        table = by_training_seed(rows, column, seed="training_seed")
        return over_training_seeds(table - order)
    return paired_difference(rows.sort("episode")[column].to_numpy(), order)


def analyse(rows: pl.DataFrame) -> tuple[list[dict[str, object]], dict[str, Estimate]]:
    """The lines of the table, and the figures by name."""
    names = rows["policy"].unique(maintain_order=True).to_list()
    parts = {name: rows.filter(pl.col("policy") == name) for name in names}
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}
    for name, part in parts.items():
        found = {column: estimate(part, column) for column in FIGURES}
        above = {column: difference(part, parts[BASE], column) for column in ("return", "clicks")}
        short = name.replace(", ", "_")
        summary |= {f"{short}/{column}": value for column, value in found.items()}
        summary |= {f"{short}/{column}_above_{BASE}": value for column, value in above.items()}
        coverage = float(part["coverage"].to_numpy().mean())
        runs = part["training_seed"].n_unique() if part["training_seed"].null_count() == 0 else None
        lines.append(
            {
                "policy": name.replace("_", " "),
                "runs": runs,
                **found,
                "coverage": coverage,
                "above": None if name == BASE else above["return"],
            }
        )
    for short, name in SHORT.items():
        summary |= {
            f"{short}_{column}": summary[f"{name}/{column}"] for column in FIGURES if name in parts
        }
    if {"composer", "constant"} <= parts.keys():
        for column in ("return", "clicks", "diversity"):
            gain = difference(parts["composer"], parts["constant"], column)
            summary[f"ppo_above_tuned_reranker_{column}"] = gain
    return lines, summary


HEADERS = {
    "policy": "policy",
    "runs": "training seeds",
    "return": "return",
    "clicks": "clicks",
    "diversity": "diversity",
    "visits": "visits",
    "coverage": "coverage",
    "above": "return above greedy CTR",
}


def draw(lines: list[dict[str, object]]) -> Figure:
    """Returns with their intervals, one line a policy."""
    figure = Figure(figsize=(8, 0.42 * len(lines) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(reversed(lines)):
        value = line["return"]
        assert isinstance(value, Estimate)
        colour = "#3b6ea5" if line["runs"] is None else "#b83a3a"
        axes.plot(
            [value.low, value.high],
            [place, place],
            color=colour,
            linewidth=2,
            solid_capstyle="round",
        )
        axes.plot([value.value], [place], "o", color=colour, markersize=6)
    axes.set_yticks(range(len(lines)), [str(line["policy"]) for line in reversed(lines)])
    axes.set_xlabel("return of an episode on held-out shoppers, mean and 95 % interval")
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def report(rows: pl.DataFrame) -> Report:
    """What the rows say."""
    lines, summary = analyse(rows)
    return Report(markdown(lines, HEADERS), summary, draw(lines))


def main(config: Config) -> None:
    """Measure, then report."""
    if BASE not in config.policies:
        raise ValueError(
            f"policies is {config.policies}, but {BASE} must be among them: all are compared with it."
        )
    config.world.check()
    use_threads(config.world.threads)
    run = Run("compare", config, results=config.results)
    rows = measure(config)
    found = report(rows)
    print(found.table)
    run.save(rows, **vars(found))


if __name__ == "__main__":
    main(tyro.cli(Config))
