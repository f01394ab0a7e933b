"""From nothing to a trained agent in a few minutes.

    python -m benchmarks.agents.demo, or: make demo

Trains PPO in `recsim_env/CompleteJourney-v0`, or where `--env` says, compares it with the baselines
on shoppers that it never met, and leaves TensorBoard events, a figure, the agent's folder and
`report.md` under `runs/demo`. Interrupted, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from rich.console import Console

from agents.ppo.monitor import MonitorConfig
from benchmarks.agents import compare, train
from benchmarks.lab.command import run_command
from benchmarks.lab.run import Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.trainings import FinishedTraining, finished_trainings
from recsim_env.files import locked, write_text

POLICIES = ("uniform", "popular", "greedy_ctr", "mmr", "constant")


@dataclass(frozen=True)
class Config(train.Config):
    """Train an agent for a few minutes, and compare it with the baselines."""

    seeds: tuple[int, ...] = (0,)
    """Training seeds, each of which is a run of its own. One takes minutes."""
    visits: int | None = 250_000
    """Length of a run in visits. It is shorter than that of `benchmarks.agents.train`, so that it
    takes minutes."""
    monitor: MonitorConfig = field(
        default_factory=lambda: MonitorConfig(evaluate_every=8, episodes=128)
    )
    """Evaluations before the first update, on the way and at the end."""
    episodes: int = 256
    """Number of episodes that each policy is evaluated on, all of other shoppers."""
    output: Path = Path("runs/demo")
    """Folder that everything is written to; the same command goes on with what lies there."""

    @property
    def training(self) -> train.Config:
        """The training, which is written below `output`."""
        told = {name.name: getattr(self, name.name) for name in fields(train.Config)}
        return train.Config(**{**told, "output": self.output / "train"})


def main(config: Config) -> None:
    """Train where that is not done yet, compare, and write the report.

    Raises:
        RuntimeError: If another process writes the same folder.
    """
    config.place.check()
    with locked(config.output):
        _demo(config)


def _demo(config: Config) -> None:
    console = Console()
    training = config.training
    console.print("[bold]Training PPO[/]; watch it with")
    console.print(f"  tensorboard --logdir {config.output}")
    site = train.train_all(training)
    console.print(f"[bold]Comparing[/] on {config.episodes} shoppers that it never met")
    settings = compare.Config(
        place=config.place,
        policies=POLICIES,
        agents=(config.agent,),
        trained=training.output,
        episodes=config.episodes,
        results=config.output,
    )
    run = Run("compare", settings, results=config.output)
    rows = compare.measure(settings, site)
    lines, summary = compare.analyse(rows)
    trained = finished_trainings(training.output / config.agent)
    table = markdown(lines, compare.HEADERS)
    folder = run.save(rows, summary=summary, table=table, figure=compare.draw(lines))
    write_text(config.output / "report.md", report(config, trained, table))
    console.print(table, soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {config.output / 'report.md'}   figure: {folder / 'figure.png'}")
    console.print(f"agent: {trained[0].folder / train.AGENT}")
    console.print(f"tensorboard --logdir {config.output}")


def report(config: Config, trained: Sequence[FinishedTraining], table: str) -> str:
    """The report as markdown: what ran, the table and the picture."""
    seeds = ", ".join(str(training.seed) for training in trained)
    one = (
        "Mean and 95 % interval over episodes; one\ntraining seed says nothing about another: "
        "`python -m benchmarks.agents.train` and\n`benchmarks.agents.compare` run several."
    )
    several = "Mean and 95 % interval over\nepisodes and training seeds."
    return f"""# PPO in {config.place.env}

Training seed {seeds}, {trained[0].visits:,} visits each; {config.episodes} episodes of shoppers
that no agent was trained on, the same for every policy. {one if len(trained) == 1 else several}

{table}

![returns](compare/figure.png)

Curves: `tensorboard --logdir {config.output}`
"""


if __name__ == "__main__":
    run_command(main, Config)
