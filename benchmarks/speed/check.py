"""Has anything become slower? Ratios measured side by side now, against the recorded ones.

    python -m benchmarks.speed.check        # or: make bench-check

Times differ from machine to machine, so none is compared: only ratios of two things that take turns
in the same run, and shares of what the machine makes of a matrix product or a copy in that run.
Each is a *gain*: more is better. A gain has failed where it is certainly lost: where even the upper
end of its 95 % interval, the spread of this run, lies more than 15 % below the recorded value. The
exit status is 1 where one has failed. The recorded values are those of `benchmarks/results`; a
faster program is recorded by its own benchmark, not here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from agents.statistics import estimate_mean
from benchmarks.lab.command import run_command
from benchmarks.lab.league_cells import CellSettings
from benchmarks.lab.options import Markets, Results
from benchmarks.lab.places import MARKET
from benchmarks.lab.run import RESULTS, Report, Run, read_rows
from benchmarks.lab.tables import markdown
from benchmarks.lab.threads import use_threads
from benchmarks.speed import latency, ppo_loops, ppo_speed, throughput
from benchmarks.speed.players import LEARNED
from recsim_env.estimates import Estimate
from recsim_env.settings import SHARE, Within

SIZE = 100_000
"""Items of the catalogue from which slates are served."""
WAYS = ("exact index, fp32", "exact index, int8")
"""Ways to serve whose gain over ranking every item is compared."""
REQUESTS = 10
"""Blocks into which requests are cut, whose medians are compared one by one."""
Figures = Mapping[str, Estimate]


@dataclass(frozen=True)
class Config(Markets, Results):
    """Measure some ratios again, and compare them with those that are recorded."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"loss": SHARE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {
        "parts": ("throughput", "ppo_speed", "latency")
    }

    parts: tuple[str, ...] = ("throughput", "ppo_speed", "latency")
    """Benchmarks whose ratios are measured again."""
    loss: float = 0.15
    """Largest share of a recorded gain that may be lost beyond the spread of this run."""
    rounds: int = 5
    """Number of turns of every system of `throughput`."""
    updates: int = 5
    """Number of updates of every loop of `ppo_speed`; the first warms up."""
    requests: int = 200
    """Number of requests of every way of `latency`."""
    work: Path = Path("runs/bench_check")
    """Folder of what serving needs: an agent, which is trained for a moment."""


# ---- the ratios of rows --------------------------------------------------------------------------


def of_throughput(rows: pl.DataFrame) -> Figures:
    """Speed per processor second over that of SARDINE, and shares of the roofline."""
    found = throughput.summarise(rows)
    kept = ("_over_sardine_per_cpu", "roofline_share")
    return {name: value for name, value in found.items() if any(part in name for part in kept)}


def of_ppo(rows: pl.DataFrame) -> Figures:
    """Speed of a training over that of Stable-Baselines3, at its defaults and at our settings."""
    found = ppo_speed.summarise(rows)
    names = ("over_stock_sb3_cpu", "over_stock_sb3_same_settings_cpu")
    return {name: found[name] for name in names}


def of_latency(rows: pl.DataFrame) -> Figures:
    """Processor time of a request that ranks every item over that of one by an index."""
    asked = rows.filter((pl.col("what") == "request") & (pl.col("items") == SIZE))

    def medians(way: str) -> np.ndarray:
        times = asked.filter(pl.col("way") == way).sort("number")["cpu_ms"].to_numpy()
        return np.array([np.median(block) for block in np.array_split(times, REQUESTS)])

    every = medians("every item")
    return {f"every_item_over/{way}": estimate_mean(every / medians(way)) for way in WAYS}


RATIOS: Mapping[str, Callable[[pl.DataFrame], Figures]] = {
    "throughput": of_throughput,
    "ppo_speed": of_ppo,
    "latency": of_latency,
}
"""The gains that the rows of a benchmark tell."""


# ---- measured again ------------------------------------------------------------------------------


def throughput_rows(config: Config) -> pl.DataFrame:
    """Time the environments and SARDINE at the two best numbers of shoppers."""
    told = throughput.Config(
        envs=(*LEARNED, MARKET),
        batches=(1024, 4096, 16384),
        crowd=0,
        rounds=config.rounds,
        seconds=0.5,
        device=config.device,
    )
    return throughput.measure(told)


def ppo_rows(config: Config) -> pl.DataFrame:
    """Train a few updates with every loop."""
    told = ppo_speed.Config(
        updates=config.updates,
        seeds=(0,),
        evaluate_every=config.updates,
        episodes=8,
        device=config.device,
        markets=config.markets,
        slates=config.slates,
    )
    use_threads(1)
    return ppo_loops.measure(told)


def latency_rows(config: Config) -> pl.DataFrame:
    """Serve some requests in every way; an agent of a moment serves as fast as a trained one."""
    league = CellSettings(
        steps={MARKET: 20_000},
        episodes=16,
        watched=8,
        work=config.work / "league",
        markets=config.markets,
        slates=config.slates,
    )
    told = latency.Config(
        league=league,
        items=(SIZE,),
        episodes=(0,),
        requests=config.requests,
        looked_at=1,
        batches=1,
    )
    use_threads(1)
    small = latency.small_market(told)
    size = latency.Size(told, small, SIZE, 0)
    return pl.concat([latency.measure(size, way) for way in ("every item", *WAYS)])


MEASURED: Mapping[str, Callable[[Config], pl.DataFrame]] = {
    "throughput": throughput_rows,
    "ppo_speed": ppo_rows,
    "latency": latency_rows,
}
"""How the rows of a benchmark are measured again, in a few minutes."""


# ---- the comparison ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A gain as it is recorded and as it is now."""

    name: str
    """The benchmark and the gain."""
    recorded: Estimate
    """As it is recorded."""
    now: Estimate
    """As it was measured now."""

    @property
    def change(self) -> float:
        """The change, as a share of the recorded gain."""
        return self.now.value / self.recorded.value - 1

    def failed(self, loss: float) -> bool:
        """Whether more than a share of the recorded gain is lost, beyond the spread of now."""
        upper = self.now.high if np.isfinite(self.now.high) else self.now.value
        return upper < (1 - loss) * self.recorded.value


def compare(part: str, recorded: pl.DataFrame, now: pl.DataFrame) -> list[Compared]:
    """Compare the gains of a benchmark that both rows tell.

    Raises:
        ValueError: If they have none in common.
    """
    before, after = RATIOS[part](recorded), RATIOS[part](now)
    both = [name for name in before if name in after]
    if not both:
        raise ValueError(f"the rows of {part} that are recorded and those of now share no ratio.")
    return [Compared(f"{part}/{name}", before[name], after[name]) for name in both]


def report(found: list[Compared], loss: float) -> Report:
    """The table of all gains, with a word on each."""
    lines: list[dict[str, object]] = [
        {
            "gain": one.name,
            "recorded": one.recorded,
            "now": one.now,
            "change": f"{one.change:+.1%}",
            "verdict": "**lost**" if one.failed(loss) else "kept",
        }
        for one in found
    ]
    return Report(markdown(lines), {one.name: one.now for one in found})


def main(config: Config) -> None:
    """Measure, compare and report; the exit status is 1 where a gain is lost."""
    run = Run("bench_check", config, results=config.results)
    found, rows = [], []
    for part in config.parts:
        now = MEASURED[part](config)
        rows.append(now.select(pl.lit(part).alias("part"), pl.all()))
        found += compare(part, read_rows(part, results=RESULTS), now)
    run.publish(pl.concat(rows, how="diagonal_relaxed"), report(found, config.loss))
    if lost := [one.name for one in found if one.failed(config.loss)]:
        sys.exit(f"{len(lost)} gains are lost: {', '.join(lost)}")


if __name__ == "__main__":
    run_command(main, Config)
