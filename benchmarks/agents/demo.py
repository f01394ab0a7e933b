"""What learning is for, in two minutes.

    python -m benchmarks.agents.demo, or: make demo

First the market: PPO learns in `recsim_env/Market-v0`, with a ranker fitted to a small log of
uniform slates, and its curve passes greedy CTR within a minute; two slates side by side show what
it does differently with a shopper who is bored. Then `recsim_env/CompleteJourney-v0`. With `--env`
only the place that it names. Every policy meets the same shoppers, whom no agent was trained on;
the figures show paired differences from greedy CTR. TensorBoard events, figures, agents' folders
and `report.md` are left under `runs/demo`. Interrupted, the same command goes on.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from agents.folder import ABOUT
from agents.places import REPORTED_SEED, Site, open_place, seeds
from agents.ppo.checkpoints import load_policy
from agents.ppo.monitor import MonitorConfig
from benchmarks.agents import compare, train
from benchmarks.lab.command import run_command
from benchmarks.lab.curves import Curve
from benchmarks.lab.plots import INK, RED, paired_differences, panels, seed_curves
from benchmarks.lab.ppo.sizes import USUAL_VISITS
from benchmarks.lab.run import Run
from benchmarks.lab.saved import AGENT
from benchmarks.lab.side_by_side import Visit, as_figure, as_table, bored_visit
from benchmarks.lab.tables import markdown
from benchmarks.lab.trainings import KEPT, FinishedTraining, finished_trainings
from benchmarks.lab.where import Where
from policies import POLICIES
from recsim_env.estimates import Estimate
from recsim_env.files import locked, read_object, replacing, write_text

BASELINES = ("uniform", "greedy_ctr", "reward_greedy", "mmr", "constant")
MARKET = "recsim_env/Market-v0"
"""The environment of the first act."""
MARKET_SHARE = 0.8
"""Share of the visits that are made in the market, where one costs half of what it does in the
Complete Journey."""
MARKET_SLATES = 20_000
"""Number of logged slates of the market, about: played, and its ranker fitted, in seconds."""
BORED = 64
"""Number of shoppers of whom the most bored one is shown."""


@dataclass(frozen=True)
class Config(train.Config):
    """Train an agent for two minutes, and compare it with the baselines."""

    seeds: tuple[int, ...] = (0,)
    """Training seeds, each of which is a run of its own. One takes about two minutes."""
    visits: int | None = 250_000
    """Length of a run in visits, those of all places together. It is shorter than that of
    `benchmarks.agents.train`, so that it takes about two minutes."""
    monitor: MonitorConfig = field(
        default_factory=lambda: MonitorConfig(evaluate_every=12, episodes=48)
    )
    """Evaluations before the first update, on the way and at the end."""
    episodes: int = 96
    """Number of episodes that each policy is evaluated on, all of other shoppers."""
    output: Path = Path("runs/demo")
    """Folder that everything is written to; the same command goes on with what lies there."""


@dataclass(frozen=True)
class SmallMarket(Where):
    """The market with a log of uniform slates, which one policy plays in a second."""

    env: str = MARKET
    """The id of the market."""
    log_slates: int | None = MARKET_SLATES
    """Number of logged slates, about."""

    def open(self) -> Site:
        """Open the market; its log is played and its ranker fitted where they are missing."""
        return open_place(
            self.env,
            slates=self.log_slates,
            mixture="uniform",
            cache=self.cache,
            device=self.device,
        )


@dataclass(frozen=True)
class Act:
    """A training and its comparison."""

    training: train.Config
    """The training, which is written below `folder`."""
    folder: Path
    """What the act writes."""


def acts(config: Config) -> list[Act]:
    """The market and then the place of the configuration; that alone where it was named."""
    told = {name.name: getattr(config, name.name) for name in fields(train.Config)}
    own = train.Config(**{**told, "output": config.output / "train"})
    place = config.place
    if place != Where(device=place.device, threads=place.threads, cache=place.cache):
        return [Act(own, config.output)]
    visits = config.visits or USUAL_VISITS
    market = round(MARKET_SHARE * visits)
    first = replace(
        own,
        place=SmallMarket(device=place.device, threads=place.threads, cache=place.cache),
        visits=max(market, 1),
        monitor=replace(config.monitor, evaluate_every=max(config.monitor.evaluate_every // 4, 1)),
        output=config.output / "market" / "train",
    )
    return [
        Act(first, config.output / "market"),
        Act(replace(own, visits=max(visits - market, 1)), config.output),
    ]


def main(config: Config) -> None:
    """Train where that is not done yet, compare, and write the report.

    Raises:
        RuntimeError: If another process writes the same folder.
    """
    config.place.check()
    with locked(config.output):
        console = Console()
        console.print("Watch the trainings with")
        console.print(f"  tensorboard --logdir {shlex.quote(str(config.output))}")
        parts = [_play(config, act, console) for act in acts(config)]
        write_text(config.output / "report.md", "\n".join(parts))
        console.print(f"report: {config.output / 'report.md'}")


def _play(config: Config, act: Act, console: Console) -> str:
    """Train, compare and show; returns the part of the report."""
    training, env = act.training, act.training.place.env
    console.rule(f"[bold]PPO in {env}[/]")
    site = train.train_all(training)

    # the comparison, its table and its figure
    settings = compare.Config(
        place=training.place,
        policies=BASELINES,
        agents=(config.agent,),
        trained=training.output,
        episodes=config.episodes,
        sampled=False,
        results=act.folder,
    )
    run = Run("compare", settings, results=act.folder)
    rows = compare.measure(settings, site)
    lines, summary = compare.analyse(rows)
    trained = finished_trainings(training.output / config.agent)
    level = greedy_return(trained[0].folder / AGENT)
    table = markdown(lines, compare.HEADERS)
    figure = draw(lines, [Curve.read(one.folder) for one in trained], level)
    folder = run.save(rows, summary=summary, table=table, figure=figure)
    console.print(shown(lines, env))
    curve = Curve.read(trained[0].folder)
    console.print(passing(curve, level))

    # what the agent does differently
    picture = ""
    if "category_shown" in site.inputs.observation_space.spaces:
        visit = compared_visit(site, trained[0])
        console.print(as_table(visit))
        with replacing(act.folder / "slates.png") as temporary:
            as_figure(visit).savefig(temporary, format="png", dpi=80)
        picture = f"\n![slates of a bored shopper]({_inside(config, act)}slates.png)\n"
    console.print(f"figure: {folder / 'figure.png'}")
    console.print(f"agent: {trained[0].folder / AGENT}")
    return report(config, act, trained, table, passing(curve, level)) + picture


def greedy_return(agent: Path) -> float:
    """The mean return of greedy CTR in the episodes in which a training was evaluated at its end.

    Args:
        agent: The agent's folder, whose scores tell it.
    """
    scores = read_object(agent / ABOUT)["scores"]
    return float(scores["return"]["value"] - scores["return_above_greedy_ctr"]["value"])


def compared_visit(site: Site, trained: FinishedTraining) -> Visit:
    """One visit of a bored shopper, served by greedy CTR and by the agent."""
    greedy = POLICIES["greedy_ctr"].build(site.inputs)
    simulator = site.judging()
    agent = load_policy(trained.folder / KEPT, site.inputs)
    shoppers = seeds(REPORTED_SEED, BORED)
    return bored_visit(simulator, greedy, {"greedy CTR": greedy, "PPO": agent}, shoppers)


def passing(curve: Curve, level: float) -> str:
    """Say when the curve of a training passed greedy CTR for good."""
    at = curve.passed(level)
    if at is None:
        return f"PPO's curve does not stay above greedy CTR ({level:.2f})."
    if at == 0:
        return (
            f"PPO's curve is above greedy CTR ({level:.2f}) from its start, which is greedy in the "
            f"reward ({curve.returns[0]:.2f}), and ends at {curve.returns[-1]:.2f} after "
            f"{curve.visits[-1]:,} visits."
        )
    return (
        f"PPO's curve stays above greedy CTR ({level:.2f}) from visit {curve.visits[at]:,} on, "
        f"and ends at {curve.returns[-1]:.2f}."
    )


def shown(lines: Sequence[dict[str, object]], env: str) -> Table:
    """The table of the comparison for a terminal, agents in bold."""
    table = Table(title=f"{env}, shoppers that no agent met", title_justify="left")
    table.add_column("policy")
    for column in ("return", "above greedy CTR", "clicks", "diversity"):
        table.add_column(column, justify="right")
    for line in lines:
        cells = [_written(line[name]) for name in ("return", "above")]
        cells += [_written(line[name], alone=True) for name in ("clicks", "diversity")]
        table.add_row(str(line["policy"]), *cells, style=None if line["runs"] is None else "bold")
    return table


def _written(value: object, *, alone: bool = False) -> str:
    """A figure with its interval, or alone."""
    if not isinstance(value, Estimate):
        return "–"
    return f"{value.value:.2f}" + ("" if alone else f" [{value.low:.2f}, {value.high:.2f}]")


def draw(lines: list[dict[str, object]], curves: Sequence[Curve], level: float) -> Figure:
    """Draw the curve of the training beside the paired differences from greedy CTR."""
    figure, (left, right) = panels(12.5, 4.4, 2, ratios=(1, 1.25))
    _curve(left, curves, level)
    paired_differences(right, compare.differences(lines), "greedy CTR")
    return figure


def _curve(axes: Axes, curves: Sequence[Curve], level: float) -> None:
    pairs = [(curve.visits / 1000, curve.returns) for curve in curves]
    seed_curves(axes, pairs, colour=RED, label="PPO")
    axes.axhline(level, color=INK, linewidth=1.2, linestyle="--", label="greedy CTR")
    axes.set_xlabel("thousand visits of the training")
    axes.set_ylabel("return of an episode, other shoppers")
    axes.legend(frameon=False, fontsize=9)


def _inside(config: Config, act: Act) -> str:
    """The folder of an act as the report names it, with a slash where it is one below."""
    inside = act.folder.relative_to(config.output).as_posix()
    return "" if inside == "." else f"{inside}/"


def report(
    config: Config, act: Act, trained: Sequence[FinishedTraining], table: str, passed: str
) -> str:
    """The part of the report as markdown: what ran, the table and the picture."""
    numbers = ", ".join(str(training.seed) for training in trained)
    one = (
        "Mean and 95 % interval over episodes; one\ntraining seed says nothing about another: "
        "`python -m benchmarks.agents.train` and\n`benchmarks.agents.compare` run several."
    )
    several = "Mean and 95 % interval over\nepisodes and training seeds."
    return f"""# PPO in {act.training.place.env}

Training seed {numbers}, {trained[0].visits:,} visits each; {config.episodes} episodes of shoppers
that no agent was trained on, the same for every policy. {one if len(trained) == 1 else several}

{passed}

{table}

![curve, and returns above greedy CTR]({_inside(config, act)}compare/figure.png)

Curves: `tensorboard --logdir {shlex.quote(str(config.output))}`
"""


if __name__ == "__main__":
    run_command(main, Config)
