"""Compare every policy on the same episodes of shoppers that no agent was trained on.

    python -m benchmarks.agents.compare
    python -m benchmarks.agents.compare --env recsim_env/Market-v0 --agents

It needs what `benchmarks.agents.train` writes, and takes the parameters that
`benchmarks.agents.tune` chose in the same place; a line says which policies play with their
defaults. Policies that need what the environment does not have are left out, with a line. Any
reward will do: diversity is measured whether it is paid for or not. Every policy meets the same
shoppers with the same noise, so differences are paired by episode. A trained agent is evaluated at
its most likely action and sampled, before and after training: what the untrained agent reaches is
not learning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import polars as pl
from matplotlib.figure import Figure

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, seeds
from agents.places.site import Site, is_slow
from agents.ppo.checkpoints import load_policy
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Results
from benchmarks.lab.playable import playable
from benchmarks.lab.plots import BLUE, RED, paired_differences, panels
from benchmarks.lab.run import Report, Run
from benchmarks.lab.saved import UNTRAINED
from benchmarks.lab.statistics import policy_difference, policy_mean
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.trainings import KEPT, FinishedTraining, finished_trainings
from benchmarks.lab.tuning import parameters_for, untuned
from benchmarks.lab.where import Here, Where
from policies import POLICIES, PolicyInputs
from recsim_env.estimates import Estimate
from recsim_env.types import Policy

BASE = "greedy_ctr"
"""What every policy is compared with, episode by episode."""
FIGURES = ("return", "clicks", "diversity", "visits")
"""Columns that get an interval; diversity is the mean intra-list distance of a slate."""
SHORT = {"ppo": "composer", "greedy_ctr": "greedy_ctr", "tuned_reranker": "constant"}
"""Short names in the summary, and the policies that they stand for."""


EPISODES, SLOW_EPISODES = 512, 64
"""Number of episodes by default, and where shoppers are served one by one."""


@dataclass(frozen=True)
class Config(Results):
    """Compare policies on held-out shoppers."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"policies": POLICIES}
    EMPTY: ClassVar[Collection[str]] = ("agents",)

    place: Here = field(default_factory=Where)
    """Environment, log and ranker to evaluate with."""
    policies: tuple[str, ...] = tuple(POLICIES)
    """Names of the registered policies to compare. Greedy CTR must be among them, because all are
    compared with it."""
    agents: tuple[str, ...] = ("composer",)
    """Names of the trained agents, which are those of their folders in `--trained`."""
    trained: Path = Path("runs/train")
    """Folder of the trained agents, which `benchmarks.agents.train` writes."""
    parameters: Path | None = None
    """File of the re-rankers' parameters, as `benchmarks.agents.tune` writes it. By default it is
    that of this place in `runs/tune`; the environment of all reported results has theirs."""
    episodes: int | None = None
    """Number of episodes of each policy, the same for all. By default it is 512, and 64 in
    environments of others, whose shoppers are served one by one."""
    batch: int = 256
    """Number of shoppers served at a time, which changes the speed alone."""
    sampled: bool = True
    """Whether trained agents are played sampled as well, as they learn, and not at their most
    likely action alone."""

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ValueError: If greedy CTR is not among the policies, or an option is outside its range.
        """
        super().__post_init__()
        if BASE not in self.policies:
            raise ValueError(
                f"policies is {self.policies}, but {BASE} must be among them: "
                "all are compared with it."
            )


@dataclass(frozen=True)
class Contender:
    """A policy and what it is called."""

    name: str
    """Name in the table, which agents of several training seeds share."""
    training_seed: int | None
    """Training seed of an agent; None where nothing was trained."""
    policy: Policy
    """The policy that is played."""


def contenders(config: Config, site: Site) -> list[Contender]:
    """Every registered policy that can play, tuned, then every agent before and after its training.

    All are built before any plays, so that what is wrong with one is found at once.

    Raises:
        FileNotFoundError: If an agent was not trained, or a file that is told is missing.
        ValueError: If a policy is not known, or a training cannot be read, is not finished, or
            differs from those of the agent's other seeds.
    """
    names = playable(config.policies, site)
    parameters = parameters_for(config.place, config.parameters)
    if plain := untuned(names, parameters):
        print(
            f"With default parameters, because they were not tuned here: {', '.join(plain)}. "
            f"To tune them: python -m benchmarks.agents.tune{config.place.arguments}"
        )
    found = {agent: finished_trainings(config.trained / agent) for agent in config.agents}
    return [
        *(
            Contender(name, None, POLICIES[name].build(site.inputs, parameters.get(name)))
            for name in names
        ),
        *(
            contender
            for agent, trainings in found.items()
            for training in trainings
            for contender in _ways(agent, training, site.inputs, sampled=config.sampled)
        ),
    ]


def _ways(
    agent: str, training: FinishedTraining, inputs: PolicyInputs, *, sampled: bool
) -> Iterator[Contender]:
    """An agent of one training seed before and after its training, at its best and sampled."""
    for label, file in ((", untrained", UNTRAINED), ("", KEPT)):
        for deterministic, how in ((True, ""), (False, ", sampled")):
            if deterministic or sampled:
                policy = load_policy(training.folder / file, inputs, deterministic=deterministic)
                yield Contender(f"{agent}{label}{how}", training.seed, policy)


def measure(config: Config, site: Site | None = None) -> pl.DataFrame:
    """Play every policy: one row for each policy, training seed and episode.

    Args:
        config: The comparison.
        site: The place, where it is open already.
    """
    site = site or config.place.open()
    simulator = site.judging()
    number = config.episodes or (SLOW_EPISODES if is_slow(simulator) else EPISODES)
    episodes, parts = seeds(REPORTED_SEED, number), []
    for contender in contenders(config, site):
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


def analyse(rows: pl.DataFrame) -> tuple[list[dict[str, object]], dict[str, Estimate]]:
    """The lines of the table, and the figures by name."""
    names = rows["policy"].unique(maintain_order=True).to_list()
    parts = {name: rows.filter(pl.col("policy") == name) for name in names}
    lines: list[dict[str, object]] = []
    summary: dict[str, Estimate] = {}

    # a line for each policy, and its figures under its name
    for name, part in parts.items():
        found = {column: policy_mean(part, column) for column in FIGURES}
        above = {
            column: policy_difference(part, parts[BASE], column) for column in ("return", "clicks")
        }
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

    # figures that texts cite have short names, and one compares the agent with its start
    for short, name in SHORT.items():
        summary |= {
            f"{short}_{column}": summary[f"{name}/{column}"] for column in FIGURES if name in parts
        }
    if {"composer", "constant"} <= parts.keys():
        for column in ("return", "clicks", "diversity"):
            gain = policy_difference(parts["composer"], parts["constant"], column)
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
    """Draw by how much every policy is above greedy CTR, paired by episode; agents are red."""
    several = differences(lines)
    figure, (axes,) = panels(8, 0.42 * len(several) + 1.2)
    paired_differences(axes, several, BASE.replace("_", " "))
    return figure


def differences(lines: list[dict[str, object]]) -> list[tuple[str, Estimate, str]]:
    """Name, paired difference and colour of every policy but greedy CTR, the best first."""
    found = [
        (str(line["policy"]), line["above"], BLUE if line["runs"] is None else RED)
        for line in lines
        if isinstance(line["above"], Estimate)
    ]
    return sorted(found, key=lambda one: -one[1].value)


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    lines, summary = analyse(rows)
    return Report(markdown(lines, HEADERS), summary, draw(lines))


def main(config: Config) -> None:
    """Play every policy, then report.

    Raises:
        ValueError: If the environment cannot be used.
    """
    config.place.check()
    use_threads(config.place.threads)
    run = Run("compare", config, results=config.results)
    rows = measure(config)
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
