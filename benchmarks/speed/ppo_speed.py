"""How fast PPO trains, and what the time goes to: python -m benchmarks.speed.ppo_speed

PPO over the composer's intents learns three times in the same market, with the same policy,
networks, rollouts, shoppers and seeds:

- *device*: rollouts that stay on the device and the agent's hyper-parameters, as all agents here
  learn;
- *stock*: Stable-Baselines3's PPO as it comes: its own loop, which carries rollouts through numpy,
  and its default hyper-parameters (`SB3_DEFAULTS`: ten epochs in minibatches of 64, and so on);
- *same settings*: SB3's own loop with the agent's hyper-parameters, which tells how much of it is
  the loop.

They take turns, update by update, so that whatever else the machine does strikes all. Every part is
timed on the clock of the processor, on a GPU on the wall clock after waiting for the device.
`over_stock_sb3` is the wall time of *stock* over that of *device* for the same number of
shopper-steps. It is worth something only if those steps taught as much: `return_minus_stock` is the
difference of the returns at the end, `curve_minus_stock` that of the evaluations on the way, on the
same fresh shoppers, paired by training seed. `over_stock_sb3_same_settings` is the loop alone.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from stable_baselines3 import PPO

from agents.base import Ground
from agents.evaluate import evaluate
from agents.ppo.agents import PPOComposerConfig, learn_update, untrained_model
from agents.ppo.algorithm import (
    PPOConfig,
    StockPPO,
    environment_of,
    make_ppo,
    make_stock_ppo,
    policy_of,
)
from benchmarks.lab.places import MARKET, PLACES, Place, Site
from benchmarks.lab.run import RESULTS, Report, Run
from benchmarks.lab.statistics import Estimate, estimate_mean, paired_difference
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import THREADS, use_threads
from benchmarks.lab.world import REPORTED_SEED, seeds
from policies.learnable.kinds import IntentConfig

AGENT = "ppo_composer"
SB3_DEFAULTS = {
    field.name: inspect.signature(PPO).parameters[field.name].default
    for field in fields(PPOConfig)
    if field.name != "n_steps"
}
"""What SB3's PPO does unless told otherwise. Visits between two updates are the same for all."""


def as_it_comes(agent: PPOComposerConfig) -> PPOComposerConfig:
    """The agent at SB3's default hyper-parameters, at a learning rate that stays."""
    return replace(agent, ppo=replace(agent.ppo, **SB3_DEFAULTS), annealed=1.0)


@dataclass(frozen=True)
class Loop:
    """A way to train."""

    label: str
    make: Callable[..., StockPPO]
    """Whose loop it is."""
    settings: Callable[[PPOComposerConfig], PPOComposerConfig] = lambda agent: agent
    """What becomes of the agent's hyper-parameters."""


LOOPS = {
    "device": Loop("here: rollouts on the device", make_ppo),
    "stock": Loop("stock SB3, its defaults", make_stock_ppo, as_it_comes),
    "same_settings": Loop("stock SB3, settings as here", make_stock_ppo),
}
"""This project's, SB3's as it comes, and SB3's with the agent's hyper-parameters."""
COLOURS = {"device": "#c23b3b", "stock": "#3b6ea5", "same_settings": "#7d7d7d"}
NECESSARY = ("simulate", "act", "learn")
"""Parts that any PPO must do: shoppers answer; the network, the ranker and the composer make
slates; gradients."""
PARTS = (*NECESSARY, "store", "other")
"""`store` is the rollout buffer and the advantages; `other` is all that is left of an update."""


@dataclass(frozen=True)
class Config:
    """Time PPO against stock SB3."""

    place: str = Place(MARKET, 0).name
    """Where, a place of the league."""
    shoppers: int = 1024
    """Shoppers served at once."""
    updates: int = 10
    """Rollouts and updates of each training; the first is left out of the speed."""
    loops: tuple[str, ...] = tuple(LOOPS)
    """Ways to train, of `LOOPS`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    evaluate_every: int = 2
    """Updates between two evaluations, which are not timed."""
    episodes: int = 512
    """Episodes of an evaluation, the same for all."""
    markets: Path = Path("runs/market")
    """Folder of the markets' logs and rankers."""
    slates: int = 300_000
    """Logged slates of the market."""
    device: str | None = None
    """cpu or cuda; None for the best there is."""
    threads: int = THREADS
    """CPU threads."""
    results: Path = RESULTS
    """Folder of the results."""


# ---- clocks --------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds that pass inside of methods, by part; a method inside of a timed one counts for the outer one's part."""

    def __init__(self, device: torch.device, parts: Sequence[str] = PARTS) -> None:
        self._device = device
        self._busy = False
        self._watched: list[tuple[Any, str]] = []
        self.seconds = dict.fromkeys(parts, 0.0)

    def now(self) -> float:
        """Seconds: of the processor, on a GPU of the wall clock with nothing left to do."""
        if self._device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def watch(self, part: str, owner: Any, *names: str) -> None:
        """Time methods of an object."""
        for name in names:
            setattr(owner, name, self._timed(part, getattr(owner, name)))
            self._watched.append((owner, name))

    def release(self) -> None:
        """Time them no longer."""
        for owner, name in self._watched:
            delattr(owner, name)  # the class's own is behind it
        self._watched.clear()

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._busy:
                return method(*args, **kwargs)
            self._busy, began = True, self.now()
            try:
                return method(*args, **kwargs)
            finally:
                self._busy = False
                self.seconds[part] += self.now() - began

        return timed


def watched(model: StockPPO) -> Stopwatch:
    """A stopwatch on everything that PPO does."""
    env = environment_of(model)
    watch = Stopwatch(env.device)
    watch.watch("simulate", env.simulator, "reset", "advance", "restart", "observe")
    watch.watch("act", env.composer, "view", "compose_view")
    watch.watch("act", model.policy, "forward", "predict_values")
    watch.watch("store", model.rollout_buffer, "reset", "add", "compute_returns_and_advantage")
    watch.watch("learn", model, "train")
    return watch


# ---- rows ----------------------------------------------------------------------------------------


class Training:
    """One training with one loop, an update at a time."""

    def __init__(self, config: Config, site: Site, loop: str, seed: int) -> None:
        self._config, self._site, self._loop, self._seed = config, site, loop, seed
        self._agent = LOOPS[loop].settings(
            PPOComposerConfig(**PLACES[config.place].settings.get(AGENT, {}))
        )
        ground = Ground(site.training(), site.inputs, seed, 0, config.shoppers)
        start = IntentConfig(self._agent.network.log_std)
        self._model = untrained_model("composer", ground, self._agent, start, LOOPS[loop].make)
        self._watch = watched(self._model)

    def update(self, number: int) -> dict[str, Any]:
        """A row of seconds; number 0 trains nothing. Every few updates it has a `return`, elsewhere null."""
        before = dict(self._watch.seconds)
        wall, cpu, began = time.perf_counter(), time.process_time(), self._watch.now()
        if number:
            learn_update(self._model, self._agent, number, self._config.updates)
        whole = self._watch.now() - began if number else 0.0
        clocks = (
            {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            if number
            else {}
        )
        parts = {part: self._watch.seconds[part] - before[part] for part in PARTS}
        parts["other"] = whole - sum(parts.values())
        return {
            "loop": self._loop,
            "seed": self._seed,
            "update": number,
            "steps": self._model.num_timesteps,
            "wall_s": clocks.get("wall_s", 0.0),
            "cpu_s": clocks.get("cpu_s", 0.0),
            **{f"{part}_s": seconds for part, seconds in parts.items()},
            "return": None if number % self._config.evaluate_every else self._return(),
        }

    def _return(self) -> float:
        episodes = seeds(REPORTED_SEED, self._config.episodes)
        rows = evaluate(policy_of(self._model), self._site.judging(), episodes).rows
        return float(rows["return"].to_numpy().mean())


def measure(config: Config) -> pl.DataFrame:
    """A row an update, loop and seed; see `Training.update`."""
    site = PLACES[config.place].open(config.markets, config.slates, config.device)
    rows: list[dict[str, Any]] = []
    for seed in config.seeds:
        trainings = [Training(config, site, loop, seed) for loop in config.loops]
        for number in range(config.updates + 1):
            turn = trainings if number % 2 else trainings[::-1]
            rows += [training.update(number) for training in turn]
    schema = {"loop": pl.String, "seed": pl.Int64, "update": pl.Int64, "steps": pl.Int64}
    floats = dict.fromkeys(
        ("wall_s", "cpu_s", *(f"{part}_s" for part in PARTS), "return"), pl.Float64
    )
    return pl.DataFrame(rows, schema={**schema, **floats}).sort("loop", "seed", "update")


# ---- report --------------------------------------------------------------------------------------


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Speeds from the updates after the first, which count as independent, and returns, by training seed.

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
    """A row a training seed and a column a loop: the return at the end, and the mean of those after training began."""
    seen = rows.drop_nulls("return").filter(pl.col("update") > 0).sort("seed", "update")
    by = ("seed", "loop")
    ends = seen.group_by(by, maintain_order=True).agg(pl.col("return").last())
    means = seen.group_by(by, maintain_order=True).agg(pl.col("return").mean())
    one, other = (
        table.pivot("loop", index="seed", values="return").sort("seed") for table in (ends, means)
    )
    return one, other


def lines(summary: dict[str, Estimate]) -> list[dict[str, object]]:
    """A line a loop."""
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
    """What a shopper-step costs by part, and return against shopper-steps and against wall minutes."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    _costs(left, summary)
    left.legend(
        frameon=False, fontsize=8, ncols=len(PARTS), loc="lower left", bbox_to_anchor=(-0.3, 1)
    )
    spent = with_minutes(rows)
    draw_curves(middle, spent, "steps")
    draw_curves(right, spent, "minutes")
    middle.set_xlabel("thousand shopper-steps")
    middle.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}")
    right.set_xlabel("wall minutes of training")
    right.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _costs(axes: Axes, summary: dict[str, Estimate]) -> None:
    colours = ("#3b6ea5", "#3f8f55", "#c23b3b", "#b07a1e", "#999999")
    left = np.zeros(len(LOOPS))
    for part, colour in zip(PARTS, colours, strict=True):
        widths = np.array([summary[f"{part}_us_{loop}"].value for loop in LOOPS])
        axes.barh(
            [LOOPS[loop].label for loop in LOOPS], widths, left=left, color=colour, label=part
        )
        left += widths
    axes.invert_yaxis()
    axes.set_xlabel("microseconds a shopper-step")


def with_minutes(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows in order, with the wall `minutes` of training so far."""
    minutes = pl.col("wall_s").cum_sum().over("loop", "seed", order_by="update") / 60
    return rows.sort("loop", "seed", "update").with_columns(minutes=minutes)


def draw_curves(axes: Axes, rows: pl.DataFrame, against: str) -> None:
    """One thin line a seed, and the mean over seeds at the same number of updates; against: `steps` or `minutes`."""
    for loop in LOOPS:
        seen = rows.filter(pl.col("loop") == loop).drop_nulls("return")
        colour = COLOURS[loop]
        for (_,), own in seen.group_by("seed", maintain_order=True):
            axes.plot(
                own[against].to_numpy(),
                own["return"].to_numpy(),
                color=colour,
                alpha=0.3,
                linewidth=0.8,
            )
        mean = seen.group_by("update").agg(pl.col(against, "return").mean()).sort("update")
        line = mean[against].to_numpy(), mean["return"].to_numpy()
        axes.plot(*line, "-o", color=colour, markersize=4, label=LOOPS[loop].label)
    axes.set_ylabel("return")
    axes.grid(color="#e4e4e4", linewidth=0.6)


def report(rows: pl.DataFrame) -> Report:
    """What the rows say."""
    summary = summarise(rows)
    return Report(markdown(lines(summary), HEADERS), summary, draw(rows, summary))


def main(config: Config) -> None:
    """Train, then report."""
    use_threads(config.threads)
    run = Run("ppo_speed", config, results=config.results)
    rows = measure(config)
    found = report(rows)
    print(found.table)
    run.save(rows, **vars(found))


if __name__ == "__main__":
    main(tyro.cli(Config))
