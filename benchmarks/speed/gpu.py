"""What a GPU makes of it, in one command of at most ten minutes.

    python -m benchmarks.speed.gpu

Four things take their turns on the GPU that torch sees:

- the tests that need one (`pytest -m "gpu and not slow"`);
- simulation: steps a second of every environment named, by number of shoppers, precision, and with
  CUDA graphs or without, beside what the memory of the card would allow: a step cannot but move
  the keys and values that attention reads, and the observation, and a copy in the same run tells
  how fast memory is;
- PPO end to end on the market: simulating, ranking, composing, storing and learning;
- fitting the session model to a log.

Slates are random, shoppers who left start anew inside of the time, and every turn ends when the
device has nothing left to do. A turn that runs out of memory is a row without a speed.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure

from agents.base import TrainingSetup
from agents.places import Site
from agents.ppo.agents import PPOComposerConfig, learn_update, untrained_model
from agents.ppo.algorithm import make_ppo
from agents.statistics import estimate_mean
from benchmarks.lab.checked import Checked
from benchmarks.lab.command import run_command
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.options import Results
from benchmarks.lab.plots import log_numbers, panels
from benchmarks.lab.provenance import ROOT
from benchmarks.lab.run import Report, Run
from benchmarks.lab.stopwatch import Clock
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.speed.needs import sizes
from benchmarks.speed.players import LEARNED, MARKET, Crowd
from policies.learnable.intents import IntentConfig
from recsim_env.estimates import Estimate
from recsim_env.registration import OWN, PRESETS, make_simulator
from recsim_env.settings import NONE_OR_MORE, POSITIVE, Within
from recsim_env.shoppers.members import PRECISIONS
from recsim_env.shoppers.session.fit import SessionFitConfig, fit_session

PARTS = ("tests", "simulate", "ppo", "fit")
"""What is measured, in this order."""
GIB = 2**30
COPIED = GIB
"""Bytes of the copy that tells how fast the memory is."""


@dataclass(frozen=True)
class Config(Results, Checked):
    """Measure simulation, training and fitting on a GPU."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"seconds": POSITIVE, "slates": NONE_OR_MORE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "parts": PARTS,
        "envs": PRESETS,
        "precisions": PRECISIONS,
    }

    parts: tuple[str, ...] = PARTS
    """Which of the parts are measured."""
    envs: tuple[str, ...] = (
        MARKET,
        OWN + "MarketVisit-v0",
        OWN + "MarketRegulars-v0",
        OWN + "Bundle-v0",
        *reversed(LEARNED),
        OWN + "CompleteJourneyVisit-v0",
    )
    """Ids of the environments that are timed."""
    batches: tuple[int, ...] = (1024, 16384, 65536, 262144)
    """Numbers of shoppers at a time."""
    precisions: tuple[str, ...] = ("fp32", "bf16")
    """Number formats of shoppers that are networks."""
    seconds: float = 0.5
    """Least length of a turn in seconds."""
    rounds: int = 3
    """Number of turns of each."""
    learners: tuple[int, ...] = (1024, 16384, 65536)
    """Numbers of shoppers of a PPO training at a time."""
    updates: int = 4
    """Number of updates of a PPO training; the first one is left out."""
    minibatches: int = 4
    """Number of minibatches of a PPO update in each pass over its visits, whatever their number."""
    slates: int = 20_000
    """Number of slates, about, of the log that PPO's ranker is fitted to."""
    fitted: int = 200
    """Number of episodes of it that the session model is fitted to, in one pass."""


# ---- what is measured ----------------------------------------------------------------------------


ROW = {
    "part": pl.String,
    "what": pl.String,
    "system": pl.String,
    "batch": pl.Int64,
    "precision": pl.String,
    "graphs": pl.Boolean,
    "round": pl.Int64,
    "value": pl.Float64,
}
"""`what` is `steps_per_s`, `bytes` a shopper at the peak, `moved_bytes` a step, `copy_bytes` a
second, `passed` and `failed` tests, or `slates_per_s`; `value` is null where memory ran out."""


def tests() -> Iterator[dict[str, Any]]:
    """Run the tests that need a GPU."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu and not slow",
            f"--junitxml={report}",
        ]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        print(done.stdout)
        suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
    told = {} if suite is None else suite.attrib
    counts = {name: int(told.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    for what, value in {"passed": passed, "failed": failed}.items():
        yield {"part": "tests", "what": what, "value": float(value)}


def memory_speed(device: torch.device) -> Iterator[dict[str, Any]]:
    """How many bytes a second a copy reads and writes."""
    source = torch.empty(COPIED // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    for number in range(5):
        clock = Clock(device)
        for _ in range(10):
            clock.timed(lambda: target.copy_(source))
        if number > 1:
            value = 2 * 10 * COPIED / clock.wall
            yield {"part": "simulate", "what": "copy_bytes", "round": number, "value": value}


def simulate(config: Config, device: torch.device) -> Iterator[dict[str, Any]]:
    """Time the steps of every environment, batch, precision and way."""
    yield from memory_speed(device)
    for env in config.envs:
        for precision in config.precisions if env in LEARNED else ("fp32",):
            seat = {"part": "simulate", "system": env, "precision": precision}
            options = {"precision": precision} if env in LEARNED else {}
            moved = sizes(env, device)["moved_bytes"]
            yield {**seat, "what": "moved_bytes", "value": moved}
            fixed = make_simulator(env, device=device).shopper.replayable
            for graphs in (False, True) if fixed else (False,):
                for batch in config.batches:
                    told = {**seat, "batch": batch, "graphs": graphs}
                    yield from timed(config, env, device, batch, options | {"graphs": graphs}, told)


def timed(
    config: Config,
    env: str,
    device: torch.device,
    batch: int,
    options: Mapping[str, Any],
    told: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Time a crowd: rows of its speed, and of the memory that it takes at most."""
    gc.collect()  # the crowd before, whose memory would count as this one's
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        crowd = Crowd(env, batch, device, **options)
        for _ in range(6):  # what is made once, and what is captured
            crowd.step(crowd.slates())
        for number in range(config.rounds):
            clock = Clock(device)
            steps = crowd.play(clock, config.seconds)
            yield {**told, "what": "steps_per_s", "round": number, "value": steps / clock.wall}
        peak = torch.cuda.max_memory_allocated() / batch
        yield {**told, "what": "bytes", "value": peak}
    except torch.OutOfMemoryError:
        yield {**told, "what": "steps_per_s", "round": 0, "value": None}


def opened(config: Config, folder: Path) -> Site:
    """A market with its log and ranker, which are made on the CPU, small as they are."""
    use_threads(1)
    world = MarketWorld(MARKET, 0, config.slates, "broad")
    world.open(folder, "cpu")
    return world.open(folder, "cuda")


def ppo(config: Config, site: Site) -> Iterator[dict[str, Any]]:
    """Time whole updates of PPO, with CUDA graphs and without."""
    for shoppers in config.learners:
        for graphs in (False, True):
            told = {"part": "ppo", "system": MARKET, "batch": shoppers, "graphs": graphs}
            agent = PPOComposerConfig()
            visits = agent.ppo.n_steps * shoppers
            agent = replace(agent, ppo=replace(agent.ppo, batch_size=visits // config.minibatches))
            simulator = site.simulator("train", graphs=graphs)
            setup = TrainingSetup(simulator, site.inputs, 0, 0, shoppers)
            start = IntentConfig(agent.network.log_std)
            try:
                model = untrained_model("composer", setup, agent, start, make_ppo)
                for number in range(1, config.updates + 1):
                    torch.cuda.synchronize()
                    began = time.perf_counter()
                    learn_update(model, agent, number, config.updates)
                    torch.cuda.synchronize()
                    if number > 1:
                        value = visits / (time.perf_counter() - began)
                        yield {**told, "what": "steps_per_s", "round": number, "value": value}
            except torch.OutOfMemoryError:
                yield {**told, "what": "steps_per_s", "round": 0, "value": None}


def fit(config: Config, site: Site) -> Iterator[dict[str, Any]]:
    """Time the fit of a session model to the log, on the GPU and on one thread of the CPU."""
    assert site.log is not None
    log = site.log.take(torch.arange(config.fitted))
    catalog, settings = site.inputs.catalog.to("cpu"), SessionFitConfig(epochs=1)
    for device in ("cuda", "cpu"):
        began = time.perf_counter()
        fit_session(log, catalog, settings, device=device)
        seconds = time.perf_counter() - began
        value = int(log.real.sum()) / seconds
        yield {"part": "fit", "what": "slates_per_s", "system": device, "value": value}


def measure(config: Config) -> Iterator[dict[str, Any]]:
    """Measure all parts: rows with columns of `ROW`.

    Raises:
        ValueError: If torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("device is cpu, but this benchmark needs a GPU that torch sees.")
    if "tests" in config.parts:
        yield from tests()
    if "simulate" in config.parts:
        yield from simulate(config, torch.device("cuda"))
    if {"ppo", "fit"} & set(config.parts):
        with TemporaryDirectory() as folder:
            site = opened(config, Path(folder))
            if "ppo" in config.parts:
                yield from ppo(config, site)
            if "fit" in config.parts:
                yield from fit(config, site)


# ---- report --------------------------------------------------------------------------------------


def _mean(values: Any) -> Estimate:
    return estimate_mean(np.asarray(values, dtype=float))


def speeds(rows: pl.DataFrame, part: str) -> pl.DataFrame:
    """The rows of speeds of a part, without those that ran out of memory."""
    return rows.filter(
        (pl.col("part") == part) & (pl.col("what") == "steps_per_s") & pl.col("value").is_not_null()
    )


def values_of(rows: pl.DataFrame, **where: object) -> Any:
    """The values of the rows that have these numbers and names in their columns."""
    return rows.filter(**where)["value"].to_numpy()


def lines(rows: pl.DataFrame) -> list[dict[str, object]]:
    """A line of the table for each environment, precision and number of shoppers."""
    found: list[dict[str, object]] = []
    rows = rows.with_columns(pl.col("precision").fill_null("fp32"))
    copied = values_of(rows, what="copy_bytes")
    for part in ("simulate", "ppo"):
        simulated, keys = part == "simulate", ["system", "precision", "batch"]
        for (system, precision, batch), own in speeds(rows, part).group_by(
            keys, maintain_order=True
        ):
            # the fastest way, beside what memory would allow it
            eager, graphed = (values_of(own, graphs=graphs) for graphs in (False, True))
            best = max((values.mean() for values in (eager, graphed) if len(values)), default=0.0)
            seat = {"system": system, "precision": precision}
            moved = values_of(rows, what="moved_bytes", **seat)
            share = best * moved.mean() / copied.mean() if len(moved) and len(copied) else None
            peak = values_of(rows, what="bytes", batch=batch, **seat)

            found.append(
                {
                    "what": "simulation" if simulated else "PPO, all of it",
                    "system": str(system).removeprefix(OWN),
                    "precision": precision,
                    "batch": batch,
                    "eager": _mean(eager) if len(eager) else None,
                    "graphs": _mean(graphed) if len(graphed) else None,
                    "share": share if simulated and system in LEARNED else None,
                    "gib": peak.max() * int(str(batch)) / GIB if simulated and len(peak) else None,
                }
            )
    return found


HEADERS = {
    "what": "what",
    "system": "shoppers",
    "precision": "precision",
    "batch": "at a time",
    "eager": "steps a second",
    "graphs": "with CUDA graphs",
    "share": "share of what memory allows",
    "gib": "GiB at most",
}


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """The best speeds, and what graphs bring at the smallest and largest batch of each."""
    summary: dict[str, Estimate] = {}
    for part in ("simulate", "ppo"):
        own = speeds(rows, part)
        for system in own["system"].unique(maintain_order=True).to_list():
            mine = own.filter(pl.col("system") == system)
            mean = mine.group_by("precision", "batch", "graphs").agg(pl.col("value").mean())
            best = mean.sort("value").tail(1)
            values = mine.join(best, on=["precision", "batch", "graphs"], nulls_equal=True)["value"]
            name = str(system).removeprefix(OWN)
            summary[f"{part}_steps_per_s/{name}"] = _mean(values.to_numpy())
            most = int(mine["batch"].to_numpy().max())
            summary[f"{part}_most_at_once/{name}"] = _mean([float(most)])
    for name in ("passed", "failed"):
        values = rows.filter((pl.col("part") == "tests") & (pl.col("what") == name))["value"]
        if len(values):
            summary[f"tests_{name}"] = _mean(values.to_numpy())
    fits = dict(rows.filter(pl.col("what") == "slates_per_s").select("system", "value").rows())
    if len(fits) == 2:
        summary["fit_over_one_thread"] = _mean([fits["cuda"] / fits["cpu"]])
    return summary


def draw(rows: pl.DataFrame) -> Figure:
    """Draw steps a second against the number of shoppers, with CUDA graphs and without."""
    parts = [part for part in ("simulate", "ppo") if len(speeds(rows, part))]
    figure, panel = panels(5.5 * len(parts), 4.2, len(parts))
    for axes, part in zip(panel, parts, strict=True):
        own = speeds(rows, part)
        keys = ["system", "precision"]
        for at, ((system, precision), mine) in enumerate(own.group_by(keys, maintain_order=True)):
            for graphs, line in ((False, ":o"), (True, "-o")):
                mean = (
                    mine.filter(pl.col("graphs") == graphs)
                    .group_by("batch")
                    .agg(pl.col("value").mean())
                    .sort("batch")
                )
                label = f"{str(system).removeprefix(OWN)} {precision or ''}".strip()
                axes.plot(
                    mean["batch"].to_numpy(),
                    mean["value"].to_numpy(),
                    line,
                    color=f"C{at}",
                    markersize=3,
                    label=label if graphs else None,
                )
        log_numbers(axes)
        axes.set_yscale("log")
        axes.set_xlabel("shoppers at a time (dotted: without CUDA graphs)")
        axes.set_ylabel("PPO steps a second" if part == "ppo" else "shopper-steps a second")
        axes.legend(frameon=False, fontsize=8)
    return figure


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    figure = draw(rows) if len(speeds(rows, "simulate")) or len(speeds(rows, "ppo")) else None
    return Report(markdown(lines(rows), HEADERS), summarise(rows), figure)


def main(config: Config) -> None:
    """Measure everything, then report; where the GPU fails, on what was measured before."""
    run = Run("gpu", config, results=config.results)
    found: list[dict[str, Any]] = []
    try:
        for row in measure(config):
            print({name: value for name, value in row.items() if value is not None}, flush=True)
            found.append({name: row.get(name) for name in ROW})
    finally:
        if found:
            rows = pl.DataFrame(found, schema=ROW)
            run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
