"""How fast a slate is served, and what that costs: python -m benchmarks.latency

A market is blown up to catalogues of several sizes. The league's PPO composer serves requests from real episodes there
in several ways: every item ranked, or candidates from an index that is exact or looks into some clusters, of four-byte
or one-byte numbers. Timed on one core, from the observations to the slates; then the same ways play the same episodes.

    runs/latency/<items>/<way>.requests.parquet     a row a request, a batch, or a request looked at step by step
    runs/latency/<items>/<way>.episodes.parquet     a row an episode

What is there is not measured again. `benchmarks.latency_report` makes table, figure and summary of the rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import faiss
import polars as pl
import torch
import tyro
from torch import Tensor
from tqdm.auto import tqdm

from agents.evaluate import evaluate
from agents.ppo_agents import PPOComposerConfig
from benchmarks import league
from benchmarks.blown_up import Shop, blow_up
from benchmarks.latency_report import EVERY, ORDER, SERVED, STEPS, report
from benchmarks.league_places import MARKET, PLACES, Place
from benchmarks.league_report import PPO
from benchmarks.market import MarketWorld, policy_inputs
from benchmarks.report import RESULTS, Run
from benchmarks.transfer import load_actor
from benchmarks.world import REPORTED_SEED, seeds
from policies.composer import ComposerPolicy
from policies.retrieval import IndexConfig
from policies.serving import Recommender, index_of
from policies.two_tower import TwoTowerRanker, load_two_tower
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation

RUN_EPISODES, RUN_REQUESTS = 91, 92
"""The league's runs whose shoppers these would be: no run has so high a number."""
VISITS = 32
"""Visits of each shopper that requests are taken from."""


@dataclass(frozen=True)
class Config:
    """Serve slates from large catalogues."""

    league: league.Config = field(default_factory=league.Config)
    """How the agent is trained, and where it lies if that was done."""
    place: str = Place(MARKET, 0).name
    """A market."""
    items: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Sizes of its catalogue."""
    share: float = 0.25
    """Of the clusters of each category, how many are looked into."""
    count: int = 24
    """Candidates of each category."""
    requests: int = 2048
    """Single requests of each way with an index."""
    baseline: int = 1024
    """Single requests where every item is ranked."""
    warm: int = 100
    """Requests before those that count."""
    looked_at: int = 512
    """Requests taken apart: time of each step, and what is found of what ranking every item finds."""
    batch: int = 64
    """Requests answered at once, for the throughput."""
    batches: int = 16
    """Times that these are."""
    episodes: tuple[int, ...] = (4096, 2048, 128)
    """Episodes of each size; 0 = none are played."""
    shoppers: tuple[int, ...] = (256, 128, 16)
    """Shoppers at a time in these: a market remembers every item that each was shown."""
    threads: int = 1
    """CPU threads."""
    report_only: bool = False
    """Measure nothing."""
    work: Path = Path("runs/latency")
    """Folder of the rows; delete it to start anew."""
    results: Path = RESULTS
    """Folder of the results."""

    def __post_init__(self) -> None:
        if not len(self.items) == len(self.episodes) == len(self.shoppers):
            raise ValueError(
                f"items, episodes and shoppers name {len(self.items)}, {len(self.episodes)} and {len(self.shoppers)} "
                "numbers, but each needs one a size."
            )
        if not max(self.looked_at, self.warm) <= self.baseline <= self.requests:
            raise ValueError(
                f"baseline is {self.baseline}, but it must be from {max(self.looked_at, self.warm)} (looked_at, warm) "
                f"to {self.requests} (requests)."
            )


# ---- ways to serve ---------------------------------------------------------------------------------------------------


PLAYED = (SERVED, EVERY, ORDER[4])
"""Ways that play episodes, in this order: the others find the same or more, as their requests show."""


def ways(items: int, categories: int, share: float) -> dict[str, IndexConfig | None]:
    """Name -> index, in the order of `ORDER`; None = every item is ranked.

    A category has as many clusters as each of them has items.
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

    env: str
    simulator: SlateSimulator
    ranker: TwoTowerRanker
    agent: ComposerPolicy


def small_market(config: Config) -> Small:
    """The league's agent of its first run, and the ranker that it composes from; both are made if they are missing."""
    place = PLACES[config.place]
    cell, world = league.Cell(place, PPO, 0), MarketWorld(place.env, place.world, config.league.slates)
    agent, ranker = cell.path(config.league, ".safetensors"), config.league.markets / world.name / "ranker.safetensors"
    if not ranker.exists() or not agent.exists():
        site = place.open(config.league.markets, config.league.slates, "cpu")
        if not agent.exists():
            league.play(cell, site, config.league)
    simulator, fitted = world.simulator("cpu"), load_two_tower(ranker)
    loaded = load_actor(agent, PPOComposerConfig(), policy_inputs(simulator, fitted))
    return Small(place.env, simulator, fitted, loaded)


class Size:
    """One size of the market; what takes time is made when it is needed."""

    def __init__(self, config: Config, small: Small, at: int) -> None:
        self.items, self.config, self._small = config.items[at], config, small
        self.episodes, self.shoppers = config.episodes[at], config.shoppers[at]
        self.folder = config.work / str(self.items)
        self._made: dict[str, Recommender] = {}

    @cached_property
    def shop(self) -> Shop:
        """The market blown up."""
        small = self._small
        return blow_up(small.env, small.simulator, small.agent, small.ranker, self.items)

    def recommender(self, way: str) -> Recommender:
        """Serves in this way."""
        if way not in self._made:
            categories = len(self.shop.simulator.catalog.categories)
            config = ways(self.items, categories, self.config.share)[way]
            index = None if config is None else index_of(self.shop.ranker, config)
            self._made[way] = Recommender(self.shop.inputs, self.shop.policy, index, count=self.config.count)
        return self._made[way]

    @cached_property
    def requests(self) -> list[Observation]:
        """Observations of one shopper each, from episodes that exact retrieval played."""
        return list(requests_of(self.shop, self.recommender(ORDER[1]), self.config.requests))

    @cached_property
    def truth(self) -> list[tuple[Tensor, Tensor]]:
        """Pool and slate of the requests that are looked at, every item ranked."""
        every = self.recommender(EVERY)
        return [found(every, request) for request in self.requests[: self.config.looked_at]]


def requests_of(shop: Shop, recommender: Recommender, number: int) -> Iterator[Observation]:
    """So many observations (1, ...) from episodes under a recommender, without `candidates`; who left starts anew."""
    simulator, width = shop.simulator, -(-number // VISITS)
    first = REPORTED_SEED + RUN_REQUESTS * league.RUN_SEEDS
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


def found(recommender: Recommender, request: Observation) -> tuple[Tensor, Tensor]:
    """Ids in the pool of one shopper, and their slate."""
    pool = recommender.pool(request)
    return pool.items[pool.items >= 0], recommender.compose(recommender.policy.composer.view(request, pool))[0]


# ---- rows ------------------------------------------------------------------------------------------------------------


def timed(action: Callable[[], object]) -> dict[str, float]:
    """Milliseconds by the clock and of this thread's processor time."""
    wall, cpu = time.perf_counter(), time.thread_time()
    action()
    return {"wall_ms": 1e3 * (time.perf_counter() - wall), "cpu_ms": 1e3 * (time.thread_time() - cpu)}


def serve(size: Size, way: str) -> pl.DataFrame:
    """A row a request, a step of a request, and a batch.

    Columns: items · way · what (`request`, `batch` or a step) · number · wall_ms · cpu_ms · size (requests at once) ·
    pool and slate, the share of them that ranking every item finds too, null for most · index_mb · load (of the
    machine, mean runnable processes of the last minute).
    """
    recommender, config = size.recommender(way), size.config
    requests = size.requests[: config.baseline if way == EVERY else None]
    for request in requests[: config.warm]:
        recommender.recommend(request)
    common = {"items": size.items, "way": way, "index_mb": recommender.megabytes, "load": os.getloadavg()[0]}
    rows: list[dict[str, object]] = []
    for number, request in enumerate(requests):
        rows.append({"what": "request", "number": number, **timed(partial(recommender.recommend, request))})
    for number, request in enumerate(requests[: config.looked_at]):
        shares = recalled(found(recommender, request), size.truth[number])
        rows[number] |= shares
        rows += steps_of(recommender, request, number)
    for number in range(config.batches):
        part = [requests[at % len(requests)] for at in range(number * config.batch, (number + 1) * config.batch)]
        together = {name: torch.cat([request[name] for request in part]) for name in part[0]}
        took = timed(partial(recommender.recommend, together))
        rows.append({"what": "batch", "number": number, "size": config.batch, **took})
    return pl.DataFrame([{**common, "size": 1, "pool": None, "slate": None, **row} for row in rows], schema=ROW)


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
    "index_mb": pl.Float64(),
    "load": pl.Float64(),
}


def steps_of(recommender: Recommender, request: Observation, number: int) -> list[dict[str, object]]:
    """A row for each of `STEPS`; the check is left out."""
    made: dict[str, object] = {}
    composer = recommender.policy.composer

    def retrieve() -> None:
        made["pool"] = recommender.pool(request)

    def look() -> None:
        made["view"] = composer.view(request, made["pool"])  # type: ignore[arg-type]

    def act() -> None:
        recommender.compose(made["view"])  # type: ignore[arg-type]

    actions = zip(STEPS, (retrieve, look, act), strict=True)
    return [{"what": step, "number": number, **timed(action)} for step, action in actions]


def recalled(one: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Share of the true pool and of the true slate that is there."""
    return {
        name: float(torch.isin(wanted, had).float().mean())
        for name, had, wanted in zip(("pool", "slate"), one, true, strict=True)
    }


def play(size: Size, way: str) -> pl.DataFrame:
    """A row an episode: items · way · what (`episode`) · seed · return · visits · clicks."""
    episodes = seeds(REPORTED_SEED + RUN_EPISODES * league.RUN_SEEDS, size.episodes)
    recommender = size.recommender(way)
    rows = evaluate(recommender, size.shop.simulator, episodes, batch=size.shoppers).rows
    named = [pl.lit(size.items, pl.Int64()).alias("items"), pl.lit(way).alias("way"), pl.lit("episode").alias("what")]
    return rows.select(*named, "seed", "return", "visits", "clicks")


# ---- the whole -------------------------------------------------------------------------------------------------------


def measure(config: Config) -> None:
    """Measure what is missing: all timing, then the episodes; first in both the way that the targets are read off."""
    small = small_market(config)
    sizes = [Size(config, small, at) for at in range(len(config.items))]
    tables = [
        (serve, "requests", size, way) for size in sizes for way in (SERVED, *(way for way in ORDER if way != SERVED))
    ]
    tables += [(play, "episodes", size, way) for size in sizes if size.episodes for way in PLAYED]
    missing = [table for table in tables if not path_of(table[2].folder, table[3], table[1]).exists()]
    for action, kind, size, way in tqdm(missing, unit="table"):
        league.write(action(size, way), path_of(size.folder, way, kind))


def path_of(folder: Path, way: str, kind: str) -> Path:
    """Of some rows."""
    return folder / f"{way.replace(', ', '-').replace(' ', '_')}.{kind}.parquet"


def read(config: Config) -> pl.DataFrame:
    """All rows that there are, of the sizes asked for."""
    paths = [path for items in config.items for path in sorted((config.work / str(items)).glob("*.parquet"))]
    return pl.concat([pl.read_parquet(path) for path in paths], how="diagonal")


def main(config: Config) -> None:
    """Measure what is missing, then report."""
    torch.set_num_threads(config.threads)
    faiss.omp_set_num_threads(config.threads)
    run = Run("latency", config, results=config.results)
    if not config.report_only:
        measure(config)
    rows = read(config)
    found = report(rows)
    print(found.table)
    run.save(rows, summary=found.summary, table=found.table, figure=found.figure)


if __name__ == "__main__":
    main(tyro.cli(Config))
