"""How fast PPO trains, and what the time goes to.

    python -m benchmarks.speed.ppo_speed

PPO over the composer's intents learns three times in the same market, with the same policy,
networks, rollouts, shoppers and seeds:

- *device*: rollouts that stay on the device and the agent's hyper-parameters, as all agents here
  learn;
- *stock*: Stable-Baselines3's PPO as it comes: its own loop, which carries rollouts through numpy,
  and its default hyper-parameters (`SB3_DEFAULTS`: ten epochs in minibatches of 64, and so on);
- *same settings*: SB3's own loop with the agent's hyper-parameters, which tells how much of it is
  the loop.

`benchmarks.speed.ppo_loops` says how they are timed.
`over_stock_sb3` is the wall time of *stock* over that of *device* for the same number of
shopper-steps. It is worth something only if those steps taught as much: `return_minus_stock` is the
difference of the returns at the end, `curve_minus_stock` that of the evaluations on the way, on the
same fresh shoppers, paired by training seed. `over_stock_sb3_same_settings` is the loop alone.

With `--before COMMIT` the same training is timed in the code of an earlier commit as well
(`benchmarks.speed.ppo_before`), in the Complete Journey and in the market: `journey_over_before`,
`market_over_before` and, with `--belief FOLDER`, `market_belief_over_before` are its steps a
processor second today over those of then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.statistics import estimate_mean, paired_difference
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Results, Threads
from benchmarks.lab.plots import AMBER, BLUE, GREEN, GREY, RED, panels, plain, seed_curves
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.speed import ppo_before
from benchmarks.speed.ppo_loops import LOOPS, NECESSARY, PARTS, Trainings, measure, with_minutes
from recsim_env.estimates import Estimate

COLOURS = {"device": RED, "stock": BLUE, "same_settings": GREY}
"""Colours of the loops."""


@dataclass(frozen=True)
class Config(Trainings, Threads, Results):
    """Time PPO against the PPO of Stable-Baselines3, and against an earlier commit."""

    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        **Trainings.CHOICES,
        "grounds": ppo_before.GROUNDS,
    }
    EMPTY: ClassVar[Collection[str]] = ("loops",)

    before: str | None = None
    """Earlier commit of this repository to compare with. By default there is none."""
    grounds: tuple[str, ...] = tuple(ppo_before.GROUNDS)
    """Where it is compared: `journey`, `market` and, where `belief` is told, `market_belief`."""
    belief: Path | None = None
    """Folder of fitted shoppers that gives the belief of `market_belief`."""


# ---- report --------------------------------------------------------------------------------------


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Summarise speeds of the updates after the first, and returns by training seed.

    Updates count as independent.
    What the figures mean stands at the top of this file; `necessary_share` is the share of
    `NECESSARY`. Figures of a loop end in its name, but for the share of ours.
    """
    timed = rows.filter(pl.col("update") > 1).with_columns(
        whole_s=pl.sum_horizontal(f"{part}_s" for part in PARTS)
    )
    steps = rows["steps"].to_numpy().max() / rows["update"].to_numpy().max()  # of an update
    summary: dict[str, Estimate] = {}

    def ratio(above: Any, below: Any) -> Estimate:
        return estimate_mean(above / below, weights=below)

    measured = {loop: timed.filter(pl.col("loop") == loop).sort("seed", "update") for loop in LOOPS}
    for loop, name in (
        ("stock", "over_stock_sb3"),
        ("same_settings", "over_stock_sb3_same_settings"),
    ):
        for clock, ending in (("wall_s", ""), ("cpu_s", "_cpu")):
            summary[name + ending] = ratio(
                measured[loop][clock].to_numpy(), measured["device"][clock].to_numpy()
            )
    for loop, own in measured.items():
        whole = own["whole_s"].to_numpy()
        necessary = (
            own.select(pl.sum_horizontal(f"{part}_s" for part in NECESSARY)).to_series().to_numpy()
        )
        summary["necessary_share" if loop == "device" else f"necessary_share_{loop}"] = ratio(
            necessary, whole
        )
        for name, clock in {"steps_per_s": "wall_s", "steps_per_cpu_s": "cpu_s"}.items():
            seconds = own[clock].to_numpy()
            summary[f"{name}_{loop}"] = ratio(np.full_like(seconds, steps), seconds)
        for part in PARTS:
            mean = estimate_mean(own[f"{part}_s"].to_numpy() / steps * 1e6)
            summary[f"{part}_us_{loop}"] = mean
    ends, curves = returns(rows)
    for loop in LOOPS:
        summary[f"return_{loop}"] = estimate_mean(ends[loop].to_numpy())
    for loop, name in (("stock", "stock"), ("same_settings", "stock_same_settings")):
        for kind, values in (("return", ends), ("curve", curves)):
            pair = values["device"].to_numpy(), values[loop].to_numpy()
            summary[f"{kind}_minus_{name}"] = paired_difference(*pair)
    return summary


def returns(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The returns at the end, and their means after training began.

    Returns:
        Two tables with a row a training seed and a column a loop.
    """
    seen = rows.drop_nulls("return").filter(pl.col("update") > 0).sort("seed", "update")
    by = ("seed", "loop")
    ends = seen.group_by(by, maintain_order=True).agg(pl.col("return").last())
    means = seen.group_by(by, maintain_order=True).agg(pl.col("return").mean())
    one, other = (
        table.pivot("loop", index="seed", values="return").sort("seed") for table in (ends, means)
    )
    return one, other


def lines(summary: dict[str, Estimate]) -> list[dict[str, object]]:
    """Make a line of the table for each loop."""
    return [
        {
            "loop": LOOPS[loop].label,
            **{name: summary[f"{name}_{loop}"] for name in ("steps_per_s", "steps_per_cpu_s")},
            **{part: summary[f"{part}_us_{loop}"] for part in PARTS},
            "share": summary["necessary_share" if loop == "device" else f"necessary_share_{loop}"],
            "return": summary[f"return_{loop}"],
        }
        for loop in LOOPS
    ]


HEADERS = {
    "loop": "PPO",
    "steps_per_s": "steps/s",
    "steps_per_cpu_s": "steps per CPU second",
    **{part: f"{part}, µs" for part in PARTS},
    "share": "simulate, act, learn",
    "return": "return at the end",
}


def draw(rows: pl.DataFrame, summary: dict[str, Estimate]) -> Figure:
    """Draw the cost of a shopper-step by part, and returns against steps and minutes."""
    figure, (left, middle, right) = panels(13, 4, 3, ratios=(1.2, 1, 1))
    _costs(left, summary)
    spent = with_minutes(rows)
    _curves(middle, spent, "steps")
    _curves(right, spent, "minutes")
    middle.set_xlabel("thousand shopper-steps")
    middle.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}")
    right.set_xlabel("wall minutes of training")
    right.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _costs(axes: Axes, summary: dict[str, Estimate]) -> None:
    left = np.zeros(len(LOOPS))
    labels = [LOOPS[loop].label for loop in LOOPS]
    for part, colour in zip(PARTS, (BLUE, GREEN, RED, AMBER, GREY), strict=True):
        widths = np.array([summary[f"{part}_us_{loop}"].value for loop in LOOPS])
        axes.barh(labels, widths, left=left, color=colour, label=part)
        left += widths
    axes.invert_yaxis()
    axes.set_xlabel("microseconds a shopper-step")
    plain(axes, "x")
    axes.legend(
        frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.3, 1), ncols=len(PARTS)
    )


def _curves(axes: Axes, rows: pl.DataFrame, against: str) -> None:
    """Draw returns against `steps` or `minutes`, a line a seed and their mean."""
    for loop in LOOPS:
        seen = rows.filter(pl.col("loop") == loop).drop_nulls("return")
        parts = seen.partition_by("seed", maintain_order=True)
        curves = [(part[against].to_numpy(), part["return"].to_numpy()) for part in parts]
        seed_curves(axes, curves, colour=COLOURS[loop], label=LOOPS[loop].label)
    axes.set_ylabel("return")


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows, those of loops and those of two commits."""
    if "ground" not in rows.columns:
        rows = rows.with_columns(ground=pl.lit(None, dtype=pl.String))
    loops = rows.filter(pl.col("ground").is_null())
    commits = rows.filter(pl.col("ground").is_not_null())
    tables: list[str] = []
    summary: dict[str, Estimate] = {}
    figure = None
    if loops.height:
        summary |= summarise(loops)
        tables.append(markdown(lines(summary), HEADERS))
        figure = draw(loops, summary)
    if commits.height:
        summary |= ppo_before.summarise(commits)
        tables.append(markdown(ppo_before.lines(summary), ppo_before.HEADERS))
    return Report("\n\n".join(tables), summary, figure)


def main(config: Config) -> None:
    """Train with every loop and in both commits, then report.

    Raises:
        ValueError: If the repository has no such commit, or nothing is left to time.
    """
    use_threads(config.threads)
    run = Run("ppo_speed", config, results=config.results)
    parts = [measure(config)] if config.loops else []
    if config.before is not None:
        told = (config.before, config.grounds, config.belief, config.threads)
        parts.append(ppo_before.compare(config, *told))
    if not parts:
        raise ValueError("loops is empty and before is not told, but one of them must be there.")
    rows = pl.concat(parts, how="diagonal")
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
