"""How fast a slate is served from large catalogues, and what return that costs.

    python -m benchmarks.speed.latency

A market is enlarged to catalogues of several sizes. The league's PPO composer serves requests from
real episodes there in several ways: every item ranked, or candidates from an index that is exact or
looks into some clusters, of four-byte or one-byte numbers. Timed on one core, from the observations
to the slates; then some of the ways play the same episodes.

    runs/latency/config.json                  the settings that all rows have in common
    runs/latency/<items>-<way>.parquet        a row a request, a step of one, a batch or an episode

What is there is not measured again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, TypeVar

import faiss
import polars as pl
import torch
from torch import Tensor
from tqdm.auto import tqdm

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, seeds
from agents.places.exploring import policy_inputs
from agents.ppo.agents import PPOComposerConfig
from benchmarks.lab import league_cells
from benchmarks.lab.cells import rows_at
from benchmarks.lab.command import run_command
from benchmarks.lab.league_cells import PPO, Cell, CellSettings
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.options import Results
from benchmarks.lab.places import MARKET, PLACES, Place
from benchmarks.lab.run import Run
from benchmarks.lab.saved import load_actor
from benchmarks.lab.settings import settings_of, share_settings
from benchmarks.speed.latency_report import EVERY, ORDER, PLAYED, report
from benchmarks.speed.scaled_market import Shop, enlarge
from policies.learnable.intents import ComposerPolicy
from policies.rankers.two_tower import TwoTowerRanker, load_two_tower
from policies.serving.recommender import Recommender, index_of
from policies.serving.retrieval import IndexConfig
from recsim_env.settings import NONE_OR_MORE, RATE, Within
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

RUN_EPISODES, RUN_REQUESTS = 91, 92
"""Runs of the league whose shoppers these would be; no run has so high a number."""
VISITS = 32
"""Number of visits of each shopper that requests are taken from."""
WARM = 50
"""Number of requests that warm up before those that count."""
REMEMBERED = 16_000_000
"""Most items times shoppers at a time in the episodes, because a market remembers every item that
each shopper was shown."""
T = TypeVar("T")


@dataclass(frozen=True)
class Config(Results):
    """Serve slates from large catalogues, and time it on one core."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"episodes": NONE_OR_MORE, "share": RATE}
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {"place": PLACES}
    REPEATED: ClassVar[Collection[str]] = ("episodes",)

    league: CellSettings = field(default_factory=CellSettings)
    """How the agent is trained, and where it lies if that was done before."""
    place: str = Place(MARKET, 0).name
    """Name of the market whose catalogue is enlarged, one of the places in
    `benchmarks.lab.places`."""
    items: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Sizes of the catalogue, in items."""
    episodes: tuple[int, ...] = (2048, 1024, 32)
    """Number of episodes that are played at each size, 0 for none. A market remembers every item
    that each shopper was shown, so few fit into memory with many items."""
    share: float = 0.25
    """Share of the clusters of each category that a search looks into."""
    count: int = 24
    """Number of candidates that the index proposes of each category."""
    requests: int = 1000
    """Number of requests that are timed one at a time, of each way to serve."""
    looked_at: int = 128
    """Number of requests that are taken apart, for the time of each step and for what is found of
    what ranking every item finds."""
    batch: int = 64
    """Number of requests that are answered at once, for the throughput."""
    batches: int = 4
    """Number of batches that are timed, of each way to serve."""
    work: Path = Path("runs/latency")
    """Folder of the rows that were measured so far; delete it to measure everything again."""

    def __post_init__(self) -> None:
        """Check every option, and that every size has its number of episodes.

        Raises:
            ValueError: If it has not, or an option is outside its range.
        """
        super().__post_init__()
        if len(self.items) != len(self.episodes):
            raise ValueError(
                f"episodes has {len(self.episodes)} numbers, but items has {len(self.items)}: "
                "one a size."
            )


# ---- what serves ---------------------------------------------------------------------------------


def ways(items: int, categories: int, share: float) -> dict[str, IndexConfig | None]:
    """The index of each way to serve in `ORDER`; None means that every item is ranked.

    A category has as many clusters as each of them has items.

    Args:
        items: The number of items in the catalogue.
        categories: The number of categories.
        share: The share of the clusters that a search looks into.
    """
    lists = max(round((items / categories) ** 0.5), 1)
    probes = max(round(share * lists), 1)
    indices = (
        None,
        IndexConfig(),
        IndexConfig(int8=True),
        IndexConfig(lists, probes),
        IndexConfig(lists, probes, int8=True),
    )
    return dict(zip(ORDER, indices, strict=True))


@dataclass(frozen=True)
class Small:
    """The market as the agent met it."""

    simulator: SlateSimulator
    """The simulator of the market's shoppers."""
    ranker: TwoTowerRanker
    """The ranker of its log."""
    agent: ComposerPolicy
    """The composer that the league trained there."""


def small_market(config: Config) -> Small:
    """The league's agent of its first run and its ranker, which are made where they are missing."""
    place = PLACES[config.place]
    cell = Cell(place, PPO, 0)
    world = MarketWorld(place.env, place.world, config.league.slates)
    agent = cell.path(config.league, ".safetensors")
    ranker = config.league.markets / world.name / "ranker.safetensors"
    if not ranker.exists() or not agent.exists():
        site = place.open(config.league.markets, config.league.slates, "cpu")
        if not agent.exists():
            league_cells.play(cell, site, config.league)
    simulator, fitted = world.simulator("cpu"), load_two_tower(ranker)
    loaded = load_actor(agent, PPOComposerConfig(), policy_inputs(simulator, fitted))
    return Small(simulator, fitted, loaded)


class Size:
    """One size of the market, whose parts are made when they are needed."""

    def __init__(self, config: Config, small: Small, items: int, episodes: int) -> None:
        self.config, self.items, self.episodes, self._small = config, items, episodes, small

    @cached_property
    def shop(self) -> Shop:
        """The enlarged market, made when it is first asked for."""
        small = self._small
        return enlarge(small.simulator, small.agent, small.ranker, self.items)

    def recommender(self, way: str) -> Recommender:
        """Make the recommender of a way to serve."""
        index = ways(self.items, len(self.shop.simulator.catalog.categories), self.config.share)[
            way
        ]
        built = None if index is None else index_of(self.shop.ranker, index)
        return Recommender(self.shop.inputs, self.shop.policy, built, count=self.config.count)

    @cached_property
    def requests(self) -> list[Observation]:
        """Observations of one shopper each, from episodes that exact retrieval played."""
        return list(requests_of(self.shop, self.recommender(ORDER[1]), self.config.requests))

    @cached_property
    def truth(self) -> list[tuple[Tensor, Tensor]]:
        """The pool and slate of the requests that are taken apart, with every item ranked."""
        every = self.recommender(EVERY)
        return [
            taken_apart(every, request)[:2] for request in self.requests[: self.config.looked_at]
        ]


def requests_of(shop: Shop, recommender: Recommender, number: int) -> Iterator[Observation]:
    """Take observations (1, ...) from episodes under a recommender; those who left start anew.

    Args:
        shop: The market and its agent.
        recommender: Serves the episodes.
        number: The number of observations.

    Yields:
        An observation of one shopper, without `candidates`.
    """
    simulator, width = shop.simulator, -(-number // VISITS)
    first = REPORTED_SEED + RUN_REQUESTS * league_cells.RUN_SEEDS
    observation, left = simulator.reset(seeds(first, width)), number
    while True:
        known = {name: value for name, value in observation.items() if name != "candidates"}
        for row in range(min(width, left)):
            yield {name: value[row : row + 1].clone() for name, value in known.items()}
        left -= width
        if left <= 0:
            return
        outcome = simulator.advance(recommender.recommend(known))
        simulator.restart(outcome.ended.nonzero().squeeze(1))
        observation = simulator.observe()


# ---- rows ----------------------------------------------------------------------------------------

ROW = {
    "items": pl.Int64(),
    "way": pl.String(),
    "what": pl.String(),
    "number": pl.Int64(),
    "size": pl.Int64(),
    "wall_ms": pl.Float64(),
    "cpu_ms": pl.Float64(),
    "pool": pl.Float64(),
    "slate": pl.Float64(),
    "return": pl.Float64(),
    "index_mb": pl.Float64(),
    "load": pl.Float64(),
}
"""Columns; null where a row has nothing to say. what: `request`, `batch`, `episode`, or one of
`latency_report.STEPS` · number: which of these, an episode's is its seed · size: requests at once ·
wall_ms: by the clock · cpu_ms: of this thread's processor time · pool, slate: share of those of
ranking every item that is there too ·
load: of the machine, mean runnable processes of the last minute."""
Clocks = dict[str, float]


def timed(action: Callable[[], T]) -> tuple[T, Clocks]:
    """Do something, and time it by the clock and in this thread's processor time (milliseconds)."""
    wall, cpu = time.perf_counter(), time.thread_time()
    found = action()
    return found, {
        "wall_ms": 1e3 * (time.perf_counter() - wall),
        "cpu_ms": 1e3 * (time.thread_time() - cpu),
    }


def taken_apart(
    recommender: Recommender, request: Observation
) -> tuple[Tensor, Tensor, dict[str, Clocks]]:
    """Serve one shopper step by step, without the check of the request.

    Returns:
        The ids in the pool, the slate, and the time of each of `latency_report.STEPS`.
    """
    composer = recommender.policy.composer
    pool, retrieval = timed(lambda: recommender.pool(request))
    view, features = timed(lambda: composer.view(request, pool))
    slates, policy = timed(lambda: recommender.compose(view))
    times = {"retrieval": retrieval, "features": features, "policy": policy}
    return pool.items[pool.items >= 0], slates[0], times


def recall(found: Tensor, true: Tensor) -> float:
    """The share of the true items (P,) that are among those found (P',)."""
    return float(torch.isin(true, found).float().mean())


def measure(size: Size, way: str) -> pl.DataFrame:
    """Measure one way to serve at one size: all of its rows."""
    recommender = size.recommender(way)
    rows = [*serve(size, recommender), *(play(size, recommender) if way in PLAYED else [])]
    common = {
        "items": size.items,
        "way": way,
        "index_mb": recommender.megabytes,
        "load": os.getloadavg()[0],
    }
    return pl.DataFrame([dict.fromkeys(ROW) | common | row for row in rows], schema=ROW)


def serve(size: Size, recommender: Recommender) -> Iterator[dict[str, object]]:
    """Serve requests: a row a request, a batch, and a step of those that are taken apart."""
    requests, config = size.requests, size.config
    for request in requests[:WARM]:
        recommender.recommend(request)
    for number, request in enumerate(requests):
        _, clocks = timed(partial(recommender.recommend, request))
        yield {"what": "request", "number": number, "size": 1, **clocks}
    for number in range(config.batches):
        part = [
            requests[at % len(requests)]
            for at in range(number * config.batch, (number + 1) * config.batch)
        ]
        together = {name: torch.cat([request[name] for request in part]) for name in part[0]}
        _, clocks = timed(partial(recommender.recommend, together))
        yield {"what": "batch", "number": number, "size": config.batch, **clocks}
    for number, (request, true) in enumerate(zip(requests, size.truth, strict=False)):
        pool, slate, times = taken_apart(recommender, request)
        shares = {"pool": recall(pool, true[0]), "slate": recall(slate, true[1])}
        for step, clocks in times.items():
            found = shares if step == "retrieval" else {}
            yield {"what": step, "number": number, "size": 1, **clocks, **found}


def play(size: Size, recommender: Recommender) -> Iterator[dict[str, object]]:
    """Play episodes: a row each."""
    if size.episodes == 0:
        return
    episodes = seeds(REPORTED_SEED + RUN_EPISODES * league_cells.RUN_SEEDS, size.episodes)
    shoppers = min(max(REMEMBERED // size.items, 1), 256)
    rows = evaluate(recommender, size.shop.simulator, episodes, batch=shoppers).rows
    for seed, earned in rows.select("seed", "return").iter_rows():
        yield {"what": "episode", "number": seed, "return": earned}


# ---- the whole -----------------------------------------------------------------------------------


def rows_of(config: Config) -> pl.DataFrame:
    """All rows, of which those that are missing are measured."""
    small = small_market(config)
    found = []
    with tqdm(total=len(config.items) * len(ORDER), unit="way") as bar:
        for items, episodes in zip(config.items, config.episodes, strict=True):
            size = Size(config, small, items, episodes)
            for way in ORDER:
                path = config.work / f"{items}-{way.replace(', ', '-').replace(' ', '-')}.parquet"
                found.append(rows_at(path, partial(measure, size, way)))
                bar.update()
    return pl.concat(found)


def main(config: Config) -> None:
    """Measure what is missing, then report."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    share_settings(config.work, settings_of(config, free=("league",)))
    league_cells.check_work(config.league)
    run = Run("latency", config, results=config.results)
    rows = rows_of(config)
    run.publish(rows, report(rows))


if __name__ == "__main__":
    run_command(main, Config)
