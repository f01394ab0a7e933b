"""How fast shoppers are simulated, beside the peers.

    python -m benchmarks.speed.throughput

Every registered environment plays a random policy with many shoppers at once, and as
`gymnasium.make` gives it, one shopper at a time; the peers (`benchmarks.speed.peers`) play theirs.
Episodes that are over start anew inside of the time, choosing slates is outside. All take turns,
round by round, so that whatever else the machine does strikes all of them, and speeds are per
second of the processor; on a GPU per second of the wall clock with nothing left to do.

The roofline: floating-point operations of a step (counted by torch, in the networks) and bytes that
it cannot but move (the keys and values that attention reads, and the observation), against what
this machine makes of a matrix product and of a copy in the same run. `roofline_share` is the time
that the slower of the two would take over the time it took.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from agents.statistics import estimate_mean
from benchmarks.lab.command import run_command
from benchmarks.lab.options import Device, Results
from benchmarks.lab.plots import GREY, log_numbers, panels
from benchmarks.lab.run import Report, Run
from benchmarks.lab.stopwatch import Clock
from benchmarks.lab.tables import markdown
from benchmarks.speed.needs import LATE, sizes
from benchmarks.speed.peers import PEERS
from benchmarks.speed.players import (
    LEARNED,
    MARKET,
    TRANSFORMER,
    Crowd,
    One,
    Peer,
    Player,
    bytes_per_shopper,
)
from recsim_env.estimates import Estimate
from recsim_env.registration import OWN, PRESETS
from recsim_env.settings import NONE_OR_MORE, POSITIVE, Within
from recsim_env.shoppers.members import PRECISIONS
from recsim_env.types import best_device

SINGLE = 0
"""The value in the column `batch` of one shopper behind `gymnasium.make`."""


@dataclass(frozen=True)
class Config(Device, Results):
    """Time every environment, and the peers beside them."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "crowd": NONE_OR_MORE,
        "seconds": POSITIVE,
        "memory_gib": POSITIVE,
    }
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"precisions": PRECISIONS}
    EMPTY: ClassVar[Collection[str]] = ("envs",)

    envs: tuple[str, ...] = ()
    """Ids of the environments to time. By default, all that this package registers."""
    batches: tuple[int, ...] = (1, 64, 1024, 4096, 16384, 65536)
    """Numbers of shoppers at a time that are tried."""
    twice: int = 4096
    """Number of shoppers at a time where one thread is compared with two."""
    precisions: tuple[str, ...] = ("fp32",)
    """Number formats that networks are timed in, fp32 or bf16. The default is that of the
    environments."""
    compiled: bool = False
    """Time the networks also fused by `torch.compile`, which takes minutes to compile."""
    crowd: int = 100_000
    """Number of shoppers of `CompleteJourney-v0` that take one step together, to measure their
    memory; 0 leaves this out."""
    rounds: int = 2
    """Number of times that every system is timed, in turns. Intervals are over these."""
    seconds: float = 1.0
    """Least length of a turn in seconds; a turn has at least one step."""
    memory_gib: float = 4.0
    """Memory that a batch's state may take, in GiB. Larger batches are left out."""


@dataclass(frozen=True)
class Seat:
    """Which system is timed, and how it runs."""

    system: str
    """Id of an environment, or name of a peer."""
    batch: int
    """Number of shoppers at a time, or `SINGLE`."""
    threads: int = 1
    """Number of threads that torch computes with."""
    precision: str = "fp32"
    """Number format of the networks."""
    compiled: bool = False
    """Whether the networks are fused by `torch.compile`."""

    @property
    def name(self) -> str:
        """The value in the column `system`, which tells apart the ways a network runs."""
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        return self.system + precision + (", compiled" if self.compiled else "")

    def player(self, device: torch.device) -> Player:
        """Make the player, anew for every turn so that only one crowd is in memory."""
        if self.system in PEERS:
            return Peer(self.system)
        if self.batch == SINGLE:
            return One(self.system, device)
        told = {"precision": self.precision, "compiled": self.compiled}
        options = told if self.system in LEARNED else {}
        return Crowd(self.system, self.batch, device, **options)


def seats(config: Config, device: torch.device) -> list[Seat]:
    """Everyone who takes turns.

    Raises:
        ValueError: If an id is not registered.
    """
    here = [name for name in PRESETS if name.startswith(OWN)]
    if unknown := [name for name in config.envs if name not in here]:
        raise ValueError(f"envs has {unknown}, but there are {here}.")
    envs = list(config.envs) or here
    peers = [Seat(name, SINGLE) for name in PEERS if _installed(name)]
    sizes = {env: bytes_per_shopper(env, device) for env in envs}
    fit = {
        env: [b for b in config.batches if b * sizes[env] <= config.memory_gib * 2**30]
        for env in envs
    }
    crowds = [Seat(env, batch) for env in envs for batch in (SINGLE, *fit[env])]
    numbers = (1, 2) if device.type == "cpu" else ()
    both = [Seat(env, config.twice, threads) for env in envs for threads in numbers]
    ways = [
        (precision, compiled)
        for precision in config.precisions
        for compiled in {False, config.compiled}
    ]
    others = [
        Seat(env, batch, 1, *way)
        for env in envs
        if env in LEARNED
        for way in ways
        for batch in fit[env]
    ]
    return list(dict.fromkeys([*peers, *crowds, *both, *others]))


def _installed(peer: str) -> bool:
    try:
        next(PEERS[peer](np.random.default_rng(0)))
    except ModuleNotFoundError as error:
        print(f"{peer} is left out: {error}")
        return False
    return True


# ---- rows ----------------------------------------------------------------------------------------

ROW = {
    "what": pl.String,
    "system": pl.String,
    "batch": pl.Int64,
    "threads": pl.Int64,
    "device": pl.String,
    "precision": pl.String,
    "round": pl.Int64,
    "steps": pl.Int64,
    "wall_s": pl.Float64,
    "cpu_s": pl.Float64,
    "value": pl.Float64,
}
"""`what` is `speed`, or what `value` measures: `bytes` a shopper, `flops` and `moved_bytes` a step,
`matmul_flops` and `copy_bytes` a second, `forward_share` and `counters_share` of a step, `early_s`
and `late_s` of a step."""


def measure(config: Config) -> pl.DataFrame:
    """Time everything in turns: all rows, see `ROW`."""
    device = best_device(config.device)
    rows: list[dict[str, Any]] = []

    def add(what: str, seat: Seat, number: int, value: float | None = None, **told: Any) -> None:
        """Add a row in the columns of `ROW`."""
        common = {
            "batch": seat.batch,
            "threads": seat.threads,
            "device": device.type,
            "precision": seat.precision,
        }
        rows.append(
            {"what": what, "system": seat.name, **common, "round": number, "value": value, **told}
        )

    chosen = seats(config, device)
    for number in range(config.rounds):
        for seat in tqdm(chosen, desc=f"round {number + 1} of {config.rounds}", unit="player"):
            torch.set_num_threads(seat.threads)
            player, clock = seat.player(device), Clock(device)
            player.play(Clock(device), min(config.seconds, 0.2))  # warm-up
            steps = player.play(clock, config.seconds)
            add("speed", seat, number, steps=steps, wall_s=clock.wall, cpu_s=clock.cpu)
        torch.set_num_threads(1)
        for what, value in machine(device).items():
            add(what, Seat("machine", SINGLE), number, value)
    for env in dict.fromkeys(seat.system for seat in chosen if seat.system not in PEERS):
        seat = Seat(env, 1024)
        for what, value in sizes(env, device).items():
            add(what, seat, 0, value)
    if config.crowd and TRANSFORMER in {seat.system for seat in chosen}:
        crowd, clock = Crowd(TRANSFORMER, config.crowd, device), Clock(device)
        told = {"steps": crowd.play(clock, 0.0), "wall_s": clock.wall, "cpu_s": clock.cpu}
        add("speed", Seat(TRANSFORMER, config.crowd), 0, **told)
    return pl.DataFrame(rows, schema=ROW)


def machine(device: torch.device) -> dict[str, float]:
    """Measure the machine: operations and bytes a second of a matrix product and a copy."""
    a, b = torch.linspace(-1.0, 1.0, 2 * 1024**2, device=device).view(2, 1024, 1024)
    large = torch.zeros(2**26, device=device)
    product, copy = Clock(device), Clock(device)
    for _ in range(8):
        product.timed(lambda: a @ b)
        copy.timed(large.clone)
    moved = 2 * large.nbytes * 8  # read and written
    return {
        "matmul_flops": 8 * 2 * 1024**3 / product.busy,
        "copy_bytes": moved / copy.busy,
    }


# ---- report --------------------------------------------------------------------------------------


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Summarise speeds at the best batch, their ratios round by round, and what a step needs."""
    speed = rows.filter(pl.col("what") == "speed")
    clock = "cpu_s" if "cpu" in speed["device"].to_list() else "wall_s"
    speed = speed.with_columns(
        rate=pl.col("steps") / pl.col(clock), wall_rate=pl.col("steps") / pl.col("wall_s")
    )
    return _speeds(speed) | _two_threads(speed) | _needs(rows, speed)


def _rates(
    speed: pl.DataFrame,
    system: str,
    batch: int | None = None,
    threads: int = 1,
    column: str = "rate",
) -> Any:
    """The rates of a system round by round, in a batch or in its best one."""
    own = speed.filter((pl.col("system") == system) & (pl.col("threads") == threads))
    crowd = best_batch(speed, system) if batch is None else batch
    return own.filter(pl.col("batch") == crowd).sort("round")[column].to_numpy()


def _mean(values: Any) -> Estimate:
    return estimate_mean(np.asarray(values, dtype=float))


def _speeds(speed: pl.DataFrame) -> dict[str, Estimate]:
    """The speed of every system, and of the two main environments over the peers."""
    systems = speed["system"].unique(maintain_order=True).to_list()
    summary = {f"steps_per_s/{system}": _mean(_rates(speed, system)) for system in systems}
    for name, env in (("transformer", TRANSFORMER), ("market", MARKET)):
        if env not in systems:
            continue
        if "SARDINE" in systems:
            ratio = _rates(speed, env) / _rates(speed, "SARDINE")
            summary[f"{name}_over_sardine_per_cpu"] = _mean(ratio)
        summary[f"single_step_ms_{name}"] = _mean(1e3 / _rates(speed, env, SINGLE))
    return summary


def _two_threads(speed: pl.DataFrame) -> dict[str, Estimate]:
    """The speed on two threads over that on one."""
    summary: dict[str, Estimate] = {}
    twice = speed.filter(pl.col("threads") == 2)
    for env in twice["system"].unique(maintain_order=True).to_list():
        crowd = int(twice["batch"].to_numpy()[0])
        two, one = (_rates(speed, env, crowd, threads, "wall_rate") for threads in (2, 1))
        name = "two_threads_over_one" if env == TRANSFORMER else f"two_threads_over_one/{env}"
        summary[name] = _mean(two / one)
    return summary


def _needs(rows: pl.DataFrame, speed: pl.DataFrame) -> dict[str, Estimate]:
    """What a step of each environment needs, and its share of what the machine could do."""
    told = (
        rows.filter(pl.col("value").is_not_null())
        .group_by("what", "system")
        .agg(pl.col("value").mean())
    )
    values = {(row["what"], row["system"]): row["value"] for row in told.to_dicts()}
    multiplied, copied = values["matmul_flops", "machine"], values["copy_bytes", "machine"]
    summary: dict[str, Estimate] = {}
    for env in speed["system"].unique(maintain_order=True).to_list():
        if ("flops", env) not in values:
            continue
        suffix = "" if env == TRANSFORMER else f"/{env}"
        for what in ("bytes", "flops", "moved_bytes"):
            summary[f"{what}/{env}"] = _mean([values[what, env]])
        late, early = values["late_s", env], values["early_s", env]
        summary[f"late_over_early/{env}"] = _mean([late / early])
        needed = max(values["flops", env] / multiplied, values["moved_bytes", env] / copied)
        summary[f"roofline_share{suffix}"] = _mean(needed * _rates(speed, env))
        if ("forward_share", env) in values:
            summary[f"overhead_share{suffix}"] = _mean([1.0 - values["forward_share", env]])
            summary[f"counters_share{suffix}"] = _mean([values["counters_share", env]])
    return summary


def best_batch(speed: pl.DataFrame, system: str) -> int:
    """The batch that is fastest on one thread, among those that were played in every round."""
    own = speed.filter((pl.col("system") == system) & (pl.col("threads") == 1))
    mean = own.group_by("batch").agg(pl.col("rate").mean(), turns=pl.len())
    return int(
        mean.filter(pl.col("turns") == pl.col("turns").max()).sort("rate")["batch"].to_numpy()[-1]
    )


def lines(rows: pl.DataFrame, summary: dict[str, Estimate]) -> list[dict[str, object]]:
    """Make a line of the table for each system: its fastest crowd, and what a step needs."""
    speed = rows.filter(pl.col("what") == "speed").with_columns(
        rate=pl.col("steps") / pl.col("cpu_s")
    )
    systems = speed["system"].unique(maintain_order=True).to_list()
    found: list[dict[str, object]] = []
    for system in sorted(systems, key=lambda name: -summary[f"steps_per_s/{name}"].value):
        suffix = "" if system == TRANSFORMER else f"/{system}"
        one = speed.filter((pl.col("system") == system) & (pl.col("batch") == SINGLE))
        found.append(
            {
                "system": system.removeprefix(OWN),
                "steps_per_s": summary[f"steps_per_s/{system}"],
                "batch": best_batch(speed, system) or 1,
                "single_ms": float((1e3 / one["rate"].to_numpy()).mean()) if len(one) else None,
                "two": summary.get(f"two_threads_over_one{suffix}"),
                "kib": _scaled(summary.get(f"bytes/{system}"), 2**10),
                "kflop": _scaled(summary.get(f"flops/{system}"), 1e3),
                "roofline": summary.get(f"roofline_share{suffix}") if system in LEARNED else None,
                "history": summary.get(f"late_over_early/{system}"),
            }
        )
    return found


def _scaled(estimate: Estimate | None, by: float) -> float | None:
    return None if estimate is None else estimate.value / by


HEADERS = {
    "system": "shoppers",
    "steps_per_s": "steps per CPU second",
    "batch": "at a time",
    "single_ms": "one shopper, ms a step",
    "two": "two threads / one",
    "kib": "KiB a shopper",
    "kflop": "kFLOP a step",
    "roofline": "share of the roofline",
    "history": f"step after {LATE} visits / at first",
}


def draw(rows: pl.DataFrame) -> Figure:
    """Draw steps per processor second against the shoppers at a time; peers are level lines."""
    figure, (axes,) = panels(9, 4.5)
    speed = rows.filter((pl.col("what") == "speed") & (pl.col("threads") == 1))
    clock = "cpu_s" if "cpu" in speed["device"].to_list() else "wall_s"
    mean = (
        speed.group_by("system", "batch")
        .agg(rate=(pl.col("steps") / pl.col(clock)).mean())
        .sort("system", "batch")
    )

    # peers have one speed; a crowd's depends on its size
    for (system,), own in mean.group_by("system", maintain_order=True):
        name, rate = str(system), own["rate"].to_numpy()
        if name in PEERS:
            line = axes.axhline(rate[0], linestyle="--", linewidth=1, color=GREY)
            axes.annotate(
                f"{name}, one user at a time",
                (1, rate[0]),
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=7,
            )
            line.set_zorder(0)
        else:
            crowds = own.filter(pl.col("batch") != SINGLE)
            axes.plot(
                crowds["batch"].to_numpy(),
                crowds["rate"].to_numpy(),
                "-o",
                markersize=3,
                label=name.removeprefix(OWN),
            )

    log_numbers(axes)
    axes.set_yscale("log")
    axes.set_xlabel("shoppers at a time")
    axes.set_ylabel(f"shopper-steps per {'CPU ' if clock == 'cpu_s' else ''}second")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def report(rows: pl.DataFrame) -> Report:
    """Make table, summary and figure of the rows."""
    summary = summarise(rows)
    return Report(markdown(lines(rows, summary), HEADERS), summary, draw(rows))


def main(config: Config) -> None:
    """Time everything, then report."""
    run = Run("throughput", config, results=config.results)
    rows = measure(config)
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
