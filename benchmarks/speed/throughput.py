"""How fast shoppers are simulated, beside the peers: python -m benchmarks.speed.throughput

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

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import torch
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from benchmarks.lab.run import RESULTS, Report, Run
from benchmarks.lab.statistics import Estimate, estimate_mean
from benchmarks.lab.tables import markdown
from benchmarks.speed.peers import PEERS
from benchmarks.speed.ppo_speed import Stopwatch
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.types import best_device

TRANSFORMER, MARKET = "recsim_env/CompleteJourney-v0", "recsim_env/Market-v0"
PREFIX = "recsim_env/"
LEARNED = (TRANSFORMER, "recsim_env/LearnedMarket-v0")
"""Environments whose shoppers are networks."""
SINGLE = 0
"""In the column `batch`: one shopper behind `gymnasium.make`."""
LATE = 40
"""Visits after which a step is timed again: it must not get dearer."""
FORWARD = (
    "token",
    "append_visit",
    "new_item_queries",
    "temperament",
    "answer",
    "click_probability",
    "leave_logits",
)
"""Methods of networks that a step calls, besides their heads; to propose new items is none
of them."""
COUNTERS = ("stats", "record", "tally", "look", "context")
"""Methods of what they count."""


@dataclass(frozen=True)
class Config:
    """Time the environments."""

    envs: tuple[str, ...] = ()
    """Ids of the environments to time; all registered ones of this package by default."""
    batches: tuple[int, ...] = (1, 64, 1024, 4096, 16384, 65536)
    """Shoppers at a time."""
    twice: int = 4096
    """Shoppers at a time where one thread is compared with two."""
    precisions: tuple[str, ...] = ("fp32",)
    """Number formats that networks are timed in: fp32, bf16."""
    compiled: bool = False
    """Whether networks are also timed fused by `torch.compile`."""
    crowd: int = 100_000
    """Shoppers of `CompleteJourney-v0` that take one step together, to measure their memory; 0
    leaves this out."""
    rounds: int = 2
    """Times that every system is timed, in turns; intervals are over these."""
    seconds: float = 1.0
    """Seconds that a turn lasts at least; a turn has at least one step."""
    memory_gib: float = 4.0
    """Memory, in GiB: batches whose state would take more are left out."""
    device: str | None = None
    """Device to simulate on: cpu or cuda; by default cuda where there is one."""
    results: Path = RESULTS
    """Folder in which the results are written, each benchmark in a folder of its own name."""


# ---- clocks and sizes ----------------------------------------------------------------------------


@dataclass
class Clock:
    """Wall and processor seconds."""

    device: torch.device
    wall: float = 0.0
    cpu: float = 0.0

    def timed(self, work: Callable[[], Any]) -> Any:
        """Do it, and add what it took."""
        wall, cpu = self._wall(), time.process_time()
        found = work()
        self.wall, self.cpu = self.wall + self._wall() - wall, self.cpu + time.process_time() - cpu
        return found

    def _wall(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def state_bytes(state: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors in a state of dataclasses and lists; what is shared with others counts once."""
    seen = set() if seen is None else seen
    if isinstance(state, Tensor):
        new = state.data_ptr() not in seen
        seen.add(state.data_ptr())
        return state.untyped_storage().nbytes() * new
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        state = list(vars(state).values())
    return sum(state_bytes(part, seen) for part in state) if isinstance(state, list | tuple) else 0


# ---- players -------------------------------------------------------------------------------------


class Crowd:
    """Many shoppers of an environment under a random policy."""

    def __init__(self, env: str, batch: int, device: torch.device, **options: Any) -> None:
        self.simulator = make_simulator(env, device=device, **options)
        self.batch = batch
        self._seen = self.simulator.reset(torch.arange(batch))
        self._generator = torch.Generator(device).manual_seed(0)

    def slates(self) -> Tensor:
        """A random slate of candidates for each shopper."""
        candidates = self._seen["candidates"]
        number = (candidates >= 0).sum(dim=1, keepdim=True)
        shape = (self.batch, self.simulator.slate_size)
        draws = torch.rand(shape, generator=self._generator, device=self.simulator.device)
        return candidates.gather(1, (draws * number).long())

    def step(self, slates: Tensor) -> None:
        """Show them, start anew where an episode is over, look."""
        outcome = self.simulator.advance(slates)
        over = (outcome.terminated | outcome.truncated).nonzero().flatten()
        if len(over):
            self.simulator.restart(over)
        self._seen = self.simulator.observe()

    def watch(self, slates: Tensor) -> None:
        """Show them and look; who left is shown more, for what it costs."""
        self.simulator.advance(slates)
        self._seen = self.simulator.observe()

    def play(self, clock: Clock, seconds: float) -> int:
        """Steps of all shoppers together."""
        steps, until = 0, clock.wall + seconds
        while clock.wall < until or steps == 0:
            slates = self.slates()
            clock.timed(lambda chosen=slates: self.step(chosen))  # type: ignore[misc]
            steps += self.batch
        return steps


class One:
    """One shopper as a newcomer meets it."""

    def __init__(self, env: str, device: torch.device) -> None:
        self._env = gymnasium.make(env, device=device)
        self._env.reset(seed=0)
        self._env.action_space.seed(0)

    def step(self, slate: Any) -> None:
        """Show it; start anew where the episode is over."""
        _, _, terminated, truncated, _ = self._env.step(slate)
        if terminated or truncated:
            self._env.reset()

    def play(self, clock: Clock, seconds: float) -> int:
        """Steps."""
        steps, until = 0, clock.wall + seconds
        while clock.wall < until:
            slate = self._env.action_space.sample()
            clock.timed(lambda chosen=slate: self.step(chosen))  # type: ignore[misc]
            steps += 1
        return steps


class Peer:
    """A peer's environment."""

    def __init__(self, name: str) -> None:
        self._steps = PEERS[name](np.random.default_rng(0))
        next(self._steps)()  # what it imports and builds is not timed

    def play(self, clock: Clock, seconds: float) -> int:
        """Steps."""
        steps, until = 0, clock.wall + seconds
        while clock.wall < until:
            clock.timed(next(self._steps))
            steps += 1
        return steps


@dataclass(frozen=True)
class Seat:
    """Who plays, and how."""

    system: str
    batch: int
    threads: int = 1
    precision: str = "fp32"
    compiled: bool = False

    @property
    def name(self) -> str:
        """In the column `system`: a network that runs in another way is another system."""
        way = ("" if self.precision == "fp32" else f", {self.precision}") + (
            ", compiled" if self.compiled else ""
        )
        return self.system + way

    def player(self, device: torch.device) -> Crowd | One | Peer:
        """Seated; made anew for every turn, so that only one crowd is in memory."""
        if self.system in PEERS:
            return Peer(self.system)
        if self.batch == SINGLE:
            return One(self.system, device)
        options = (
            {"precision": self.precision, "compiled": self.compiled}
            if self.system in LEARNED
            else {}
        )
        return Crowd(self.system, self.batch, device, **options)


def seats(config: Config, device: torch.device) -> list[Seat]:
    """Everyone who takes turns.

    Raises:
        ValueError: At an id that is not registered.
    """
    here = [name for name in PRESETS if name.startswith(PREFIX)]
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
    both = (
        [Seat(env, config.twice, threads) for env in envs for threads in (1, 2)]
        if device.type == "cpu"
        else []
    )
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


def bytes_per_shopper(env: str, device: torch.device, batch: int = 64) -> int:
    """Bytes of state that a shopper takes, and what the simulator remembers of the episode."""
    crowd = Crowd(env, batch, device)
    return (state_bytes(crowd.simulator.hidden) + state_bytes(crowd.simulator.episodes)) // batch


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
    """All rows; see `ROW`."""
    device = best_device(config.device)
    rows: list[dict[str, Any]] = []

    def add(what: str, seat: Seat, number: int, value: float | None = None, **told: Any) -> None:
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
        steps = crowd.play(clock, 0.0)
        add(
            "speed",
            Seat(TRANSFORMER, config.crowd),
            0,
            steps=steps,
            wall_s=clock.wall,
            cpu_s=clock.cpu,
        )
    return pl.DataFrame(rows, schema=ROW)


def machine(device: torch.device) -> dict[str, float]:
    """What the machine makes of a matrix product and of a copy, one thread: operations and bytes a second."""
    a, b = torch.linspace(-1.0, 1.0, 2 * 1024**2, device=device).view(2, 1024, 1024)
    large = torch.zeros(2**26, device=device)
    product, copy = Clock(device), Clock(device)
    for _ in range(8):
        product.timed(lambda: a @ b)
        copy.timed(large.clone)
    seconds = "wall" if device.type == "cuda" else "cpu"
    moved = 2 * large.nbytes * 8  # read and written
    return {
        "matmul_flops": 8 * 2 * 1024**3 / getattr(product, seconds),
        "copy_bytes": moved / getattr(copy, seconds),
    }


def sizes(env: str, device: torch.device, batch: int = 1024) -> dict[str, float]:
    """What a step of one shopper needs and where its time goes, from steps of `batch` at a time."""
    crowd = Crowd(env, batch, device)
    crowd.step(crowd.slates())  # makes what is made once
    counter = FlopCounterMode(display=False)
    with counter:
        crowd.step(crowd.slates())
    caches = getattr(crowd.simulator.hidden, "caches", [])
    attended = sum(cache.keys.nbytes + cache.values.nbytes for cache in caches)
    observed = sum(value.nbytes for value in crowd.simulator.observe().values())
    return {
        "bytes": float(bytes_per_shopper(env, device)),
        "flops": counter.get_total_flops() / batch,
        "moved_bytes": (attended + observed) / batch,
        **shares(crowd),
        **by_history(env, device, batch),
    }


def by_history(env: str, device: torch.device, batch: int, steps: int = 6) -> dict[str, float]:
    """Seconds of a step at the first visits, and after `LATE` of them; nobody is replaced in between."""
    crowd, found = Crowd(env, batch, device), {}
    for name, skipped in (("early_s", 1), ("late_s", LATE)):
        clock = Clock(device)
        for number in range(skipped + steps):
            slates = crowd.slates()
            (clock if number >= skipped else Clock(device)).timed(
                lambda chosen=slates: crowd.watch(chosen)
            )  # type: ignore[misc]
        found[name] = (clock.wall if device.type == "cuda" else clock.cpu) / (steps * batch)
    return found


def shares(crowd: Crowd, steps: int = 4) -> dict[str, float]:
    """Shares of a step that the networks' forward takes, and the counters that they read; {} where there is no network.

    On a CPU only: elsewhere what is timed here would have to be waited for.
    """
    shopper: Any = crowd.simulator.shopper
    shop = getattr(shopper, "shop", shopper)
    models = [getattr(member, "model", member) for member in getattr(shop, "members", ())]
    if not models or crowd.simulator.device.type != "cpu":
        return {}
    watch, whole = (
        Stopwatch(crowd.simulator.device, ("forward", "counters")),
        Clock(crowd.simulator.device),
    )
    state: Any = crowd.simulator.hidden
    for model in models:
        watch.watch("forward", model, *_methods(model, FORWARD))
        for head in (
            getattr(model, name) for name in ("slate_head", "gap_head") if hasattr(model, name)
        ):
            watch.watch("forward", head, *_methods(head, ("forward", "shoppers")))
    watch.watch("counters", state.memory, *_methods(state.memory, COUNTERS))
    for _ in range(steps):
        slates = crowd.slates()
        whole.timed(lambda chosen=slates: crowd.watch(chosen))  # type: ignore[misc]
    watch.release()
    return {f"{part}_share": seconds / whole.cpu for part, seconds in watch.seconds.items()}


def _methods(owner: Any, names: tuple[str, ...]) -> list[str]:
    """Those that the owner has."""
    return [name for name in names if hasattr(owner, name)]


# ---- report --------------------------------------------------------------------------------------


def summarise(rows: pl.DataFrame) -> dict[str, Estimate]:
    """Speeds at the best batch, ratios of them round by round, and what a step needs. Peers count where they played."""
    speed = rows.filter(pl.col("what") == "speed")
    clock = "cpu_s" if "cpu" in speed["device"].to_list() else "wall_s"
    speed = speed.with_columns(
        rate=pl.col("steps") / pl.col(clock), wall_rate=pl.col("steps") / pl.col("wall_s")
    )
    summary: dict[str, Estimate] = {}

    def estimate(values: Any) -> Estimate:
        return estimate_mean(np.asarray(values, dtype=float))

    def rates(system: str, batch: int | None = None, threads: int = 1, column: str = "rate") -> Any:
        own = speed.filter((pl.col("system") == system) & (pl.col("threads") == threads))
        crowd = best_batch(speed, system) if batch is None else batch
        return own.filter(pl.col("batch") == crowd).sort("round")[column].to_numpy()

    systems = speed["system"].unique(maintain_order=True).to_list()
    for system in systems:
        summary[f"steps_per_s/{system}"] = estimate(rates(system))
    for name, env in (("transformer", TRANSFORMER), ("market", MARKET)):
        if env not in systems:
            continue
        if "SARDINE" in systems:
            summary[f"{name}_over_sardine_per_cpu"] = estimate(rates(env) / rates("SARDINE"))
        summary[f"single_step_ms_{name}"] = estimate(1e3 / rates(env, SINGLE))
    twice = speed.filter(pl.col("threads") == 2)
    for env in twice["system"].unique(maintain_order=True).to_list():
        crowd = int(twice["batch"].to_numpy()[0])
        ratio = rates(env, crowd, 2, "wall_rate") / rates(env, crowd, 1, "wall_rate")
        summary["two_threads_over_one" if env == TRANSFORMER else f"two_threads_over_one/{env}"] = (
            estimate(ratio)
        )
    told = (
        rows.filter(pl.col("value").is_not_null())
        .group_by("what", "system")
        .agg(pl.col("value").mean())
    )
    values = {(row["what"], row["system"]): row["value"] for row in told.to_dicts()}
    multiplied, copied = values["matmul_flops", "machine"], values["copy_bytes", "machine"]
    for env in systems:
        if ("flops", env) not in values:
            continue
        for what in ("bytes", "flops", "moved_bytes"):
            summary[f"{what}/{env}"] = estimate([values[what, env]])
        summary[f"late_over_early/{env}"] = estimate(
            [values["late_s", env] / values["early_s", env]]
        )
        needed = max(values["flops", env] / multiplied, values["moved_bytes", env] / copied)
        name = "roofline_share" if env == TRANSFORMER else f"roofline_share/{env}"
        summary[name] = estimate(needed * rates(env))
        if ("forward_share", env) in values:
            suffix = "" if env == TRANSFORMER else f"/{env}"
            summary[f"overhead_share{suffix}"] = estimate([1.0 - values["forward_share", env]])
            summary[f"counters_share{suffix}"] = estimate([values["counters_share", env]])
    return summary


def best_batch(speed: pl.DataFrame, system: str) -> int:
    """The batch that is fastest on one thread, in the mean over rounds; one that was not played in all is left out."""
    own = speed.filter((pl.col("system") == system) & (pl.col("threads") == 1))
    mean = own.group_by("batch").agg(pl.col("rate").mean(), turns=pl.len())
    return int(
        mean.filter(pl.col("turns") == pl.col("turns").max()).sort("rate")["batch"].to_numpy()[-1]
    )


def lines(rows: pl.DataFrame, summary: dict[str, Estimate]) -> list[dict[str, object]]:
    """A line a system: the fastest crowd, and what a step needs."""
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
                "system": system.removeprefix(PREFIX),
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
    """Steps per second of the processor against the number of shoppers at a time; peers are level lines."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    speed = rows.filter((pl.col("what") == "speed") & (pl.col("threads") == 1))
    clock = "cpu_s" if "cpu" in speed["device"].to_list() else "wall_s"
    mean = (
        speed.group_by("system", "batch")
        .agg(rate=(pl.col("steps") / pl.col(clock)).mean())
        .sort("system", "batch")
    )
    for (system,), own in mean.group_by("system", maintain_order=True):
        name, rate = str(system), own["rate"].to_numpy()
        if name in PEERS:
            line = axes.axhline(rate[0], linestyle="--", linewidth=1, color="#777777")
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
                label=name.removeprefix(PREFIX),
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_yscale("log")
    axes.set_xlabel("shoppers at a time")
    axes.set_ylabel(f"shopper-steps per {'CPU ' if clock == 'cpu_s' else ''}second")
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def report(rows: pl.DataFrame) -> Report:
    """What the rows say."""
    summary = summarise(rows)
    return Report(markdown(lines(rows, summary), HEADERS), summary, draw(rows))


def main(config: Config) -> None:
    """Time everyone, then report."""
    run = Run("throughput", config, results=config.results)
    rows = measure(config)
    found = report(rows)
    print(found.table)
    run.save(rows, **vars(found))


if __name__ == "__main__":
    main(tyro.cli(Config))
