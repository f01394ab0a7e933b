"""From nothing to a trained agent in a few minutes.

    python -m benchmarks.agents.demo, or: make demo

Trains PPO in `recsim_env/CompleteJourney-v0`, compares it with the baselines on shoppers that it
never met, and leaves TensorBoard events, a figure and `report.md` under `runs/demo`. Interrupted,
the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from agents.ppo.monitor import MonitorConfig
from benchmarks.agents import compare, train
from benchmarks.lab.checked import Checked
from benchmarks.lab.run import Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.trainings import FinishedTraining, finished_trainings
from recsim_env.files import locked, write_text

POLICIES = ("uniform", "popular", "greedy_ctr", "mmr", "constant")


@dataclass(frozen=True)
class Config(Checked):
    """Train an agent for a few minutes, and compare it with the baselines."""

    train: train.Config = field(
        default_factory=lambda: train.Config(
            seeds=(0,),
            visits=250_000,
            monitor=MonitorConfig(evaluate_every=8, episodes=128),
            output=Path("runs/demo/train"),
        )
    )
    """The training, of one seed and fewer visits than the benchmark's so that it takes minutes."""
    episodes: int = 256
    """Number of episodes that each policy is evaluated on, all of other shoppers."""
    output: Path = Path("runs/demo")
    """Folder that everything is written to; the same command goes on with what lies there."""


def main(config: Config) -> None:
    """Train where that is not done yet, compare, and write the report.

    Raises:
        RuntimeError: If another process writes the same folder.
    """
    config.train.world.check()
    with locked(config.output):
        _demo(config)


def _demo(config: Config) -> None:
    console = Console()
    made = train.visits_to_make(config.train)
    console.print(f"[bold]Training PPO[/] for {made:,} visits; watch it with")
    console.print(f"  tensorboard --logdir {config.output}")
    train.train_all(config.train)
    console.print(f"[bold]Comparing[/] on {config.episodes} shoppers that it never met")
    settings = compare.Config(
        world=config.train.world,
        policies=POLICIES,
        agents=(config.train.agent,),
        trained=config.train.output,
        episodes=config.episodes,
        results=config.output,
    )
    run = Run("compare", settings, results=config.output)
    rows = compare.measure(settings)
    lines, summary = compare.analyse(rows)
    trained = finished_trainings(config.train.output / config.train.agent)
    table = markdown(lines, compare.HEADERS)
    folder = run.save(rows, summary=summary, table=table, figure=compare.draw(lines))
    write_text(config.output / "report.md", report(config, trained, table))
    console.print(table, soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {config.output / 'report.md'}   figure: {folder / 'figure.png'}")
    console.print(f"tensorboard --logdir {config.output}")


def report(config: Config, trained: Sequence[FinishedTraining], table: str) -> str:
    """The report as markdown: what ran, the table and the picture."""
    seeds = ", ".join(str(training.seed) for training in trained)
    one = (
        "Mean and 95 % interval over episodes; one\ntraining seed says nothing about another: "
        "`python -m benchmarks.agents.train` and\n`benchmarks.agents.compare` run several."
    )
    several = "Mean and 95 % interval over\nepisodes and training seeds."
    return f"""# PPO in {config.train.world.env}

Training seed {seeds}, {trained[0].visits:,} visits each; {config.episodes} episodes of shoppers
that no agent was trained on, the same for every policy. {one if len(trained) == 1 else several}

{table}

![returns](compare/figure.png)

Curves: `tensorboard --logdir {config.output}`
"""


if __name__ == "__main__":
    main(tyro.cli(Config))
