"""How fast a training is beside other processes that want the same cores.

    python -m benchmarks.speed.crowded

The training of `benchmarks.agents.train` goes on for some seconds alone, then for as many beside
busy processes, and so on in turns, with one thread and with two, which wait for each other in
several ways (`WAYS`). Measured are visits a second and visits a second of processor time. Both are
told as shares of what one thread makes alone in the same run, so that the machine matters little;
anything else that runs on it does. The busy processes are started here, do nothing but compare
clocks, and end with the measurement; on their own they end after a while.

The default of `benchmarks.lab.threads` should keep a third of the visits a second, and .8 of the
visits a processor second.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import polars as pl
from stable_baselines3.common.callbacks import BaseCallback

from agents.ppo.algorithm import SlatePPO, look_around
from agents.statistics import estimate_mean
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Device, Results
from benchmarks.lab.ppo.config import Config as TrainConfig
from benchmarks.lab.ppo.model import Training, make_model
from benchmarks.lab.ppo.sizes import USUAL_SHOPPERS
from benchmarks.lab.run import Report, Run
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.lab.where import SHIPPED, Where
from recsim_env.estimates import Estimate
from recsim_env.settings import POSITIVE, Within

COUNTING = (
    "import sys, time\nend = time.monotonic() + float(sys.argv[1])\n"
    "while time.monotonic() < end: pass"
)
"""The program of a busy process."""


@dataclass(frozen=True)
class Way:
    """A number of threads, and how they wait for each other."""

    label: str
    """The name of this way in the table."""
    threads: int
    """Number of threads that torch computes with."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables, which OpenMP reads once, when torch is imported."""


WAYS = {
    "one": Way("one thread", 1),
    "two": Way("two threads", 2),
    "two_short": Way("two threads, spinning shortly", 2, {"GOMP_SPINCOUNT": "3000"}),
    "two_passive": Way("two threads, waiting passively", 2, {"OMP_WAIT_POLICY": "PASSIVE"}),
}


@dataclass(frozen=True)
class Config(Device, Results):
    """Measure a training alone and beside busy processes."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"seconds": POSITIVE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"ways": WAYS}

    env: str = SHIPPED
    """The environment to train in: a registered id, `module:id`, or a folder that `recsim_env.fit`
    wrote."""
    shoppers: int = USUAL_SHOPPERS
    """Number of shoppers that are served at once."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Ways to use threads. `one` must be among them, because all are compared with it."""
    busy: int = 4
    """Number of processes that want the cores as well."""
    rounds: int = 4
    """Number of measurements alone, and of as many beside the busy processes."""
    seconds: float = 15.0
    """Length of a measurement in seconds."""


# ---- the training, in a process of its own -------------------------------------------------------


class Until(BaseCallback):
    """Stops a training after some seconds, and counts its visits."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.visits = 0
        self._end = time.perf_counter() + seconds

    def _on_step(self) -> bool:
        self.visits += self.training_env.num_envs
        return time.perf_counter() < self._end


def train_for(model: SlatePPO, seconds: float) -> dict[str, float]:
    """Go on training for some seconds; returns the visits, and the seconds that they took."""
    until = Until(seconds)
    wall, cpu = time.perf_counter(), time.process_time()
    quiet: Any = {"log_interval": None}  # SB3 takes None, its types do not
    model.learn(sys.maxsize // 2, until, reset_num_timesteps=model.num_timesteps == 0, **quiet)
    return {
        "visits": until.visits,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
    }


def serve(config: TrainConfig, connection: Connection) -> None:
    """Train for as many seconds as a connection asks for, and send back the speed; 0 ends it."""
    use_threads(config.place.threads)
    model = make_model(Training.of(config, config.seeds[0]))
    look_around(model)
    connection.send(train_for(model, 0.0))
    while (seconds := connection.recv()) > 0:
        connection.send(train_for(model, seconds))


def trained(config: Config, threads: int) -> TrainConfig:
    """The training, with a number of threads."""
    place = Where(config.env, device=config.device, threads=threads)
    return TrainConfig(place=place, seeds=(0,), shoppers=config.shoppers)


@contextlib.contextmanager
def training(config: Config, way: Way) -> Iterator[Connection]:
    """Start a process that trains; it is ready when the block begins, and gone when it ends."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(trained(config, way.threads), there), daemon=True
    )
    with variables(way.variables):
        process.start()
    there.close()
    try:
        here.recv()
        yield here
        here.send(0.0)
        process.join(60)
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def crowd(count: int, longest_s: float) -> Iterator[None]:
    """Start busy processes, which end with the block, or by themselves after `longest_s`."""
    processes = [
        subprocess.Popen([sys.executable, "-c", COUNTING, str(longest_s)]) for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


# ---- rows and report -----------------------------------------------------------------------------


def measure(config: Config) -> pl.DataFrame:
    """A row a way, round and number of busy processes: visits, wall_s and cpu_s of the training."""
    rows: list[dict[str, Any]] = []
    for name in config.ways:
        with training(config, WAYS[name]) as connection:
            for number in range(config.rounds):
                for busy in (0, config.busy):
                    with crowd(busy, 10 * config.seconds + 60):
                        connection.send(config.seconds)
                        rows.append(
                            {"way": name, "round": number, "busy": busy, **connection.recv()}
                        )
    return pl.DataFrame(rows)


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Summarise the speeds alone and beside busy processes, and as shares of one thread alone."""
    summary: dict[str, Estimate] = {}
    for clock, short in (("wall_s", "visits_per_s"), ("cpu_s", "visits_per_cpu_s")):
        alone = rows.filter((pl.col("way") == "one") & (pl.col("busy") == 0))
        base = float(alone["visits"].to_numpy().sum() / alone[clock].to_numpy().sum())
        for (way, busy), part in rows.group_by("way", "busy", maintain_order=True):
            seconds = part[clock].to_numpy()
            speeds = part["visits"].to_numpy() / seconds
            name = f"{short}/{way}/{'beside' if busy else 'alone'}"
            summary[name] = estimate_mean(speeds, weights=seconds)
            summary[f"share_of_{name}"] = estimate_mean(speeds / base, weights=seconds)
    return summary


def lines(summary: Mapping[str, Estimate], ways: tuple[str, ...]) -> list[dict[str, object]]:
    """Make a line of the table for each way."""
    columns = [
        f"{short}/{{}}/{where}"
        for short in ("visits_per_s", "visits_per_cpu_s")
        for where in ("alone", "beside")
    ]
    shares = [f"share_of_{column}" for column in columns if column.endswith("beside")]
    return [
        {
            "way": WAYS[way].label,
            **{column: summary[column.format(way)] for column in [*columns, *shares]},
        }
        for way in ways
    ]


HEADERS = {
    "way": "training with",
    "visits_per_s/{}/alone": "visits/s, alone",
    "visits_per_s/{}/beside": "beside busy processes",
    "visits_per_cpu_s/{}/alone": "visits per CPU second, alone",
    "visits_per_cpu_s/{}/beside": "beside them",
    "share_of_visits_per_s/{}/beside": "visits/s beside them / one thread alone",
    "share_of_visits_per_cpu_s/{}/beside": "the same per CPU second",
}


def main(config: Config) -> None:
    """Measure, then report.

    Raises:
        ValueError: If `one` is not among the ways, or another way is not known.
    """
    if "one" not in config.ways or not set(config.ways) <= WAYS.keys():
        raise ValueError(
            f"ways is {config.ways}, but it must be some of {tuple(WAYS)}, and 'one' among them."
        )
    trained(config, 1).place.check()
    run = Run("crowded", config, results=config.results)
    rows = measure(config)
    summary = summarise(rows)
    run.publish(rows, Report(markdown(lines(summary, config.ways), HEADERS), summary))


if __name__ == "__main__":
    run_command(main, Config)
