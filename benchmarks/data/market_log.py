"""Build a market's log and its CTR ranker: python -m benchmarks.data.market_log

A shop that explores writes an impression log: every episode is served by one policy, drawn from a
mixture that holds the greedy ranker, noisy versions of it, constant re-rankers with knobs drawn at
random, and uniform slates. A shop that explores broadly also serves what is popular, has many more
such re-rankers, tries out the ones it could have instead (MMR, caps, DPP), and in a part of the
episodes draws the knobs anew at every visit, so that what was shown before and what is shown now
are not of one hand. The ranker they start from is fitted to what was logged before, in rounds. What
is built lies in `runs/market/` and is used again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl
import torch
import tyro
from torch import Tensor

from benchmarks.lab.threads import THREADS, use_threads
from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.heuristics import Uniform
from policies.rankers.two_tower import TwoTowerRanker, fit_two_tower, load_two_tower, save_two_tower
from recsim_env import SlateSimulator, make_simulator, noise
from recsim_env.files import locked, write_json
from recsim_env.logs.record import record
from recsim_env.logs.schema import read_impressions, write_impressions
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.market import MarketShopper
from recsim_env.tables import write_parquet
from recsim_env.types import Observation, Policy

LOG_SEED, HELD_OUT_SEED = 40_000_000, 50_000_000
"""First seeds of the logged episodes: never those of a training, a tuning or a report."""
ROUNDS = (0.2, 0.3, 0.5)
"""Share of the log that each round writes; the first is uniform."""
PER_CATEGORY = 4
"""Of each of the twenty categories in the pool that every re-ranker and composer looks at, beside
the ten best."""
KNOBS = {
    "count": (-2.0, 0.0),
    "similarity": (-2.0, 0.0),
    "sated": (-1.5, 0.3),
    "flooded": (-3.0, 0.5),
}
"""Range that each knob of a logging re-ranker is drawn from, log-odds."""
TEMPERATURES = (0.3, 0.7, 1.5)
"""Scale of the Gumbel noise on the log-odds of the noisy policies: a sample from a softmax at that
temperature."""
DECLARED = {"shopper": pl.Int64(), "declared": pl.List(pl.Float32)}
"""Columns of the table of what shoppers declared."""
Tables = tuple[pl.DataFrame, pl.DataFrame]
"""Impressions, and what their shoppers declared."""
Mixture = Literal["broad", "exploring", "greedy", "uniform"]
"""Who serves a log: `greedy` is the ranker alone after a uniform first round; see the module for
the others."""
GROUPS, GROUP = 60, 400
"""Most re-rankers with knobs of their own in a round of a broad log, and slates of each at least,
about."""
TRIED = ("mmr", "cap", "dpp")
"""Registered policies that a broad log tries with parameters from all over their ranges."""
BROAD = {
    "count": (-2.0, 0.0),
    "similarity": (-2.0, 0.0),
    "sated": (-3.0, 0.3),
    "flooded": (-3.0, 0.5),
}
"""Range of the knobs there; each is off half of the time, so that diversity and feedback also come
alone."""


@dataclass(frozen=True)
class MarketWorld:
    """One market, its log and its ranker."""

    env: str = "recsim_env/Market-v0"
    """Id of a market."""
    world: int = 0
    """Seed of its catalogue."""
    slates: int = 300_000
    """Logged slates, about."""
    mixture: Mixture = "exploring"
    """Who serves the log."""
    alike: bool = False
    """Shoppers without traits of their own."""

    @property
    def name(self) -> str:
        """Of the folder."""
        kind = self.env.split("/")[-1].lower() + ("-alike" if self.alike else "")
        return f"{kind}-world{self.world}-{self.mixture}-{self.slates}"

    def simulator(self, device: str | None = None) -> SlateSimulator:
        """The true market."""
        return make_simulator(self.env, device=device, world=self.world, alike=self.alike)


# ---- who serves the log --------------------------------------------------------------------------


class Logging:
    """A composer with constant knobs and noise on the ranker's log-odds."""

    def __init__(self, composer: Composer, knobs: dict[str, float], temperature: float) -> None:
        self._composer = composer
        self._intent = composer.intent(knobs)
        self._temperature = temperature
        self.draws = composer.pool_size

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K)."""
        view = self._composer.view(observation)
        logits = view.pool.logits + self._temperature * noise.gumbel(draws)
        intent = self._intent.to(draws.device).expand(len(draws), -1)
        return self._composer.compose_view(
            replace(view, pool=replace(view.pool, logits=logits)), intent
        )


class Restless:
    """A composer that draws its knobs, as those of a broad log, and the temperature of its noise at every visit."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer
        self._low, self._high = (
            composer.intent({name: span[end] for name, span in BROAD.items()}) for end in (0, 1)
        )
        self.draws = composer.pool_size + len(self._low) + 1

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K)."""
        view = self._composer.view(observation)
        of_items, of_knobs, heat = draws.split([self._composer.pool_size, len(self._low), 1], dim=1)
        logits = view.pool.logits + TEMPERATURES[-1] * heat**2 * noise.gumbel(of_items)
        low, high = self._low.to(draws.device), self._high.to(draws.device)
        intent = torch.where(of_knobs < 0.5, 0.0, low + (high - low) * (2 * of_knobs - 1))
        return self._composer.compose_view(
            replace(view, pool=replace(view.pool, logits=logits)), intent
        )


def policy_inputs(
    simulator: SlateSimulator, ranker: TwoTowerRanker | None, log: Sessions | None = None
) -> PolicyInputs:
    """What policies are built from in a market; nothing of it comes from the shoppers."""
    popularity = (
        None if log is None else _popularity(log, len(simulator.catalog)).to(simulator.device)
    )
    return PolicyInputs(
        simulator.catalog,
        simulator.observation_space,
        simulator.slate_size,
        ranker,
        popularity,
        per_category=PER_CATEGORY,
    )


def _popularity(log: Sessions, items: int) -> Tensor:
    """Responses an exposure of each item (N,), shrunk towards the mean of the log by a hundred exposures."""
    shown = torch.bincount(log.slates[log.slates >= 0], minlength=items).float()
    clicked = torch.bincount(log.slates[log.clicks], minlength=items).float()
    return (clicked + 100 * clicked.sum() / shown.sum()) / (shown + 100)


def servers(
    simulator: SlateSimulator,
    ranker: TwoTowerRanker | None,
    log: Sessions | None,
    mixture: Mixture,
    slates: int,
    seed: int,
) -> list[tuple[str, Policy, float]]:
    """Name, policy and share of everyone who serves a round of so many slates; `ranker` and `log` were before it."""
    uniform = Uniform(
        len(simulator.catalog), simulator.shopper.max_candidates, simulator.slate_size
    )
    if ranker is None or mixture == "uniform":
        return [("uniform", uniform, 1.0)]
    inputs = policy_inputs(simulator, ranker, log)
    composer = Composer(inputs, ComposerConfig(offset_dims=0))
    greedy = Logging(composer, {}, 0.0)
    if mixture == "greedy":
        return [("greedy", greedy, 1.0)]
    noisy = [(f"softmax {t}", Logging(composer, {}, t)) for t in TEMPERATURES]
    if mixture == "exploring":
        found: list[tuple[str, Policy, float]] = [
            ("uniform", uniform, 0.1),
            ("greedy", greedy, 0.1),
        ]
        found += [(name, policy, 0.2 / len(noisy)) for name, policy in noisy]
        return found + rerankers(composer, 12, 0.6, seed)
    groups = min(max(round(0.25 * slates / GROUP), len(TRIED)), GROUPS)
    return [
        ("uniform", uniform, 0.05),
        ("greedy", greedy, 0.1),
        ("popular", POLICIES["popular"].build(inputs, {}), 0.05),
        *((name, policy, 0.1 / len(noisy)) for name, policy in noisy),
        *rerankers(composer, groups, 0.25, seed, BROAD, off=0.5),
        *tried(inputs, groups, 0.25, seed),
        ("restless", Restless(composer), 0.2),
    ]


def tried(
    inputs: PolicyInputs, number: int, share: float, seed: int
) -> list[tuple[str, Policy, float]]:
    """The registered policies of `TRIED` in turn, each time with other parameters from the range they are tuned in."""
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[str, Policy, float]] = []
    for at in range(number):
        spec = POLICIES[TRIED[at % len(TRIED)]]
        drawn = {
            name: span.low
            + (span.high + span.integer - span.low) * float(torch.rand((), generator=generator))
            for name, span in spec.search().items()
        }
        parameters = {
            name: int(value) if spec.search()[name].integer else value
            for name, value in drawn.items()
        }
        found.append(
            (f"{TRIED[at % len(TRIED)]} {at}", spec.build(inputs, parameters), share / number)
        )
    return found


def rerankers(
    composer: Composer,
    number: int,
    share: float,
    seed: int,
    ranges: Mapping[str, tuple[float, float]] = KNOBS,
    off: float = 0.0,
) -> list[tuple[str, Policy, float]]:
    """Constant re-rankers with knobs drawn at random, each off with a chance, and half of them noisy."""
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[str, Policy, float]] = []
    for at in range(number):
        drawn = {name: float(torch.rand((), generator=generator)) for name in ranges}
        knobs = {name: low + (high - low) * drawn[name] for name, (low, high) in ranges.items()}
        if off > 0:
            knobs = {
                name: knob
                for name, knob in knobs.items()
                if float(torch.rand((), generator=generator)) >= off
            }
        temperature = TEMPERATURES[at % len(TEMPERATURES)] * (at % 2)
        found.append((f"knobs {at}", Logging(composer, knobs, temperature), share / number))
    return found


def write_round(
    simulator: SlateSimulator,
    ranker: TwoTowerRanker | None,
    log: Sessions | None,
    mixture: Mixture,
    slates: int,
    first_seed: int,
) -> Iterator[Tables]:
    """Impressions of about so many slates and what their shoppers declared; shoppers are numbered by their seed."""
    at = first_seed
    for name, policy, share in servers(simulator, ranker, log, mixture, slates, first_seed):
        wanted, visits, mean = slates * share, 0, simulator.horizon_days  # at most a visit a day
        while visits < wanted:
            episodes = min(max(round((wanted - visits) / mean), 16), 1024)
            seeds = torch.arange(at, at + episodes)
            table, _ = record(simulator, policy, seeds, scenario=name, split="train")
            table = table.with_columns(
                pl.col("shopper") + at, pl.col("visit") + at * 1000, click=pl.col("purchase")
            )
            said = simulator.reset(seeds)["declared"].cpu().numpy()
            yield (
                table,
                pl.DataFrame(
                    {"shopper": seeds.numpy(), "declared": said}, schema_overrides=DECLARED
                ),
            )
            visits, at, mean = visits + len(table), at + episodes, len(table) / episodes


def write_log(world: MarketWorld, simulator: SlateSimulator) -> Tables:
    """The whole log, in rounds; the ranker of a round knows the rounds before."""
    parts: list[Tables] = []
    ranker = log = None
    rounds = (1.0,) if world.mixture == "uniform" else ROUNDS
    for number, share in enumerate(rounds):
        first = LOG_SEED + number * 1_000_000
        parts += write_round(
            simulator, ranker, log, world.mixture, round(share * world.slates), first
        )
        if number + 1 < len(rounds):
            log = Sessions.of(*_joined(parts))
            ranker = fit_two_tower(log, simulator.catalog, simulator.slate_size)
    return _joined(parts)


def _joined(parts: list[Tables]) -> Tables:
    impressions, declared = zip(*parts, strict=True)
    return pl.concat(impressions).sort("shopper", "visit"), pl.concat(declared).sort("shopper")


# ---- what others use -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BuiltMarket:
    """A market with what a shop there has."""

    world: MarketWorld
    folder: Path
    simulator: SlateSimulator
    log: Sessions
    ranker: TwoTowerRanker

    def inputs(self, simulator: SlateSimulator | None = None) -> PolicyInputs:
        """What policies are built from, on this market or on a learned one of the same catalogue."""
        return policy_inputs(simulator or self.simulator, self.ranker, self.log)


def build(
    world: MarketWorld, work: Path = Path("runs/market"), device: str | None = None
) -> BuiltMarket:
    """Load a market's log and ranker, or make them first.

    Raises:
        ValueError: If the folder was built with other settings of the market.
    """
    folder = work / world.name
    simulator = world.simulator(device)
    told = _told(simulator)
    path = folder / "market.json"
    if path.exists() and json.loads(path.read_text()) != told:
        raise ValueError(
            f"{path} was built with other settings of the market: delete the folder to build it again."
        )
    impressions, ranker = folder / "impressions.parquet", folder / "ranker.safetensors"
    if not impressions.exists() or not ranker.exists():
        with locked(folder, wait=True):
            _make(world, simulator, folder)
    return BuiltMarket(
        world,
        folder,
        simulator,
        _sessions(folder, simulator),
        load_two_tower(ranker, simulator.device),
    )


def _sessions(folder: Path, simulator: SlateSimulator) -> Sessions:
    rows = read_impressions(folder / "impressions.parquet", len(simulator.catalog))
    return Sessions.of(rows, pl.read_parquet(folder / "declared.parquet"))


def _make(world: MarketWorld, simulator: SlateSimulator, folder: Path) -> None:
    """What is missing in a market's folder; the presence of the impressions says that the log is whole."""
    impressions, ranker = folder / "impressions.parquet", folder / "ranker.safetensors"
    if not impressions.exists():
        write_json(folder / "market.json", _told(simulator))
        table, declared = write_log(world, simulator)
        write_parquet(folder / "declared.parquet", declared)
        simulator.catalog.to("cpu").save(folder)
        write_impressions(table, impressions, len(simulator.catalog))
    if not ranker.exists():
        save_two_tower(
            fit_two_tower(_sessions(folder, simulator), simulator.catalog, simulator.slate_size),
            ranker,
        )


def _told(simulator: SlateSimulator) -> dict[str, object]:
    """What a log depends on besides its folder's name."""
    assert isinstance(simulator.shopper, MarketShopper)
    return {
        "config": {name: str(value) for name, value in vars(simulator.shopper.config).items()},
        "slate_size": simulator.slate_size,
        "horizon_days": simulator.horizon_days,
        "rounds": list(ROUNDS),
        "knobs": {name: list(span) for name, span in KNOBS.items()},
        "temperatures": list(TEMPERATURES),
        "per_category": PER_CATEGORY,
    }


@dataclass(frozen=True)
class Config:
    """Build the log and the ranker of some markets."""

    envs: tuple[str, ...] = ("recsim_env/Market-v0",)
    """Ids of markets."""
    worlds: tuple[int, ...] = (0,)
    """Seeds of their catalogues."""
    slates: int = 300_000
    """Logged slates of each, about."""
    mixture: Mixture = "exploring"
    """Who serves the log."""
    work: Path = Path("runs/market")
    """Where what is built goes."""
    threads: int = THREADS
    """CPU threads."""


def main(config: Config) -> None:
    """Build what is missing."""
    use_threads(config.threads)
    for env in config.envs:
        for number in config.worlds:
            built = build(MarketWorld(env, number, config.slates, config.mixture), config.work)
            clicks = float(built.log.clicks.sum()) / built.log.n_slates
            print(f"{built.folder}: {built.log.n_slates:,} slates, {clicks:.2f} clicks a slate")


if __name__ == "__main__":
    main(tyro.cli(Config))
