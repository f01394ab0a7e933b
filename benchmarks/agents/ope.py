"""What should be believed of a policy: estimates from a log, or a simulator fitted to the log?

    python -m benchmarks.agents.ope
    python -m benchmarks.agents.ope --ray auto   # on the machines of a Ray cluster

A market writes logs by a stochastic policy whose propensities are known (`policies.shelves`). From
each log the values of other policies are estimated: by the estimators of
`recsim_env.logs.off_policy_slates`, and by playing them in a simulator that is fitted to the same
log. The market itself tells the truth, twice: what a single slate of a policy would have earned
where the logging policy led the shoppers, which is what the estimators estimate, and what the
policy earns where it leads them itself, which is what a shop wants to know. Files, which are not
made again where they are there:

    runs/ope/<market>/truth.parquet                      the market's own rows
    runs/ope/<market>/other.parquet                      rows of a simulator of another log
    runs/ope/<market>/seed<k>/impressions.parquet        a log, and declared.parquet
    runs/ope/<market>/seed<k>/estimated-<slates>.parquet rows of the estimators
    runs/ope/<market>/seed<k>/model-<slates>/            the fitted user model
    runs/ope/<market>/seed<k>/simulated-<slates>.parquet rows of the simulator

An estimate of clicks an episode is that of clicks a slate times the slates of a logged episode, but
for the estimator that weights whole episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor
from tqdm.auto import tqdm

from agents.evaluate import evaluate
from agents.places import REPORTED_SEED, Site, seeds
from benchmarks.agents.ope_report import (
    EPISODES,
    LOGGED,
    MARKET,
    MODEL,
    OTHER,
    ROWS,
    SIMULATOR,
    report,
)
from benchmarks.lab.cells import all_rows, alone, rows_at
from benchmarks.lab.command import run_command
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.measuring import RowCell, measure_and_report
from benchmarks.lab.options import Cells, Markets, Results
from benchmarks.lab.playing import Places
from benchmarks.lab.run import Run
from benchmarks.lab.session_markets import fitted_session, market_of
from benchmarks.lab.settings import settings_of
from benchmarks.lab.shelf_log import ShelfLog, first_slates, play
from policies.shelves import HOTTEST, ShelfPolicy, Shelves
from recsim_env import make_simulator
from recsim_env.estimates import Estimate
from recsim_env.logs.off_policy_slates import slate_policy_value
from recsim_env.logs.schema import read_impressions, write_impressions
from recsim_env.logs.sessions import Sessions
from recsim_env.rollout import rollout
from recsim_env.settings import SEED, Within
from recsim_env.shoppers.session.fit import SessionFitConfig
from recsim_env.simulator import SlateSimulator
from recsim_env.tables import write_parquet
from recsim_env.types import Observation

LOG_SEED, APART = 60_000_000, 1_000_000
"""First seed of the logged episodes, and how far the seeds of two logs lie from each other."""
CUES = ("sated", "flooded", "repeated")
"""Cues that evaluated policies weigh, and that the model of DR knows."""
POLICIES: dict[str, tuple[dict[str, float], float]] = {
    "greedy": ({}, 0.1),
    "sharp": ({}, 0.5),
    "flat": ({}, 2.0),
    "uniform": ({}, HOTTEST),
    "variety 1": ({"flooded": -1.0}, 1.0),
    "variety 3": ({"flooded": -3.0, "sated": -0.5}, 1.0),
    "variety 3, sharp": ({"flooded": -3.0, "sated": -0.5}, 0.5),
    "fresh": ({"repeated": -1.0}, 1.0),
    "sameness": ({"flooded": 2.0}, 1.0),
}
"""Evaluated policies: knobs, and temperature. The logging policy has no knobs and temperature 1."""
ESTIMATED = (
    "ips",
    "snips",
    "dr",
    "rips",
    "snrips",
    "cascade_dr",
    "iips",
    "sniips",
    "pseudo_inverse",
)
"""Estimators, as fields of `SlateValue`."""


@dataclass(frozen=True)
class Config(Markets, Cells, Results):
    """Estimate policies from logs and by fitted simulators, and compare both with the market."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {"episodes": Within(2, APART), "fits": SEED}
    EMPTY: ClassVar[Collection[str]] = ("fits",)

    env: str = "recsim_env/Market-v0"
    """Id of the market."""
    world: int = 0
    """Seed of the market's catalogue."""
    sizes: tuple[int, ...] = (1_000, 3_000, 10_000, 30_000, 100_000)
    """Numbers of logged slates, about: a log is cut after whole episodes. Simulators are fitted in
    this order."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the logs. All of them are estimated from; their spread is that of an estimator."""
    fits: tuple[int, ...] = (0, 1, 2)
    """Seeds of the logs that a simulator is fitted to, which takes minutes for each size."""
    other: str | None = "recsim_env/LearnedMarket-v0"
    """Id of a simulator of the same catalogue that was fitted to another log, which plays too: by
    default the shipped one, fitted to 347,000 slates of the broad mixture in `Market-v0`, world 0.
    None lets no such one play."""
    model: SessionFitConfig = field(default_factory=SessionFitConfig)
    """The user model of the simulator and its training."""
    episodes: int = 2048
    """Number of episodes by which the market and the simulators tell what a policy earns."""
    batch: int = 512
    """Number of shoppers served at a time in an evaluation, which changes its speed alone."""
    work: Path = Path("runs/ope")
    """Folder of what was measured so far, which is not measured again; delete it to start anew."""


class Opened:
    """A market with its policies."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.world = MarketWorld(config.env, config.world, config.slates, "broad")
        self.folder = config.work / self.world.name
        self._logs = Places()

    @cached_property
    def site(self) -> Site:
        """The market, with the ranker that all policies start from."""
        return self.world.open(self.config.markets, self.config.device)

    @cached_property
    def market(self) -> SlateSimulator:
        """A simulator of the market."""
        return self.site.simulator()

    @cached_property
    def shelves(self) -> Shelves:
        """What deals out the pool."""
        return Shelves(self.site.inputs_for(self.market), CUES)

    @cached_property
    def logging(self) -> ShelfPolicy:
        """The policy that writes the logs."""
        return ShelfPolicy(self.shelves, {}, 1.0)

    @cached_property
    def evaluated(self) -> dict[str, ShelfPolicy]:
        """The policies that are evaluated, by name."""
        return {name: ShelfPolicy(self.shelves, *told) for name, told in POLICIES.items()}

    def place(self, seed: int) -> Path:
        """The folder of a log."""
        return self.folder / f"seed{seed}"

    def log(self, seed: int) -> ShelfLog:
        """A log as estimators see it; the last one that was asked for is held."""
        found: ShelfLog = self._logs.get(str(seed), partial(self._read, seed))
        return found

    def _read(self, seed: int) -> ShelfLog:
        return ShelfLog.of(
            logged(self, seed),
            self.market.catalog,
            self.shelves,
            self.logging,
            self.evaluated,
            self.market.history,
        )

    def row(
        self,
        policy: str,
        estimator: str,
        slate: Estimate,
        episode: float,
        log: tuple[int | None, int | None, int | None] = (None, None, None),
        effective: float | None = None,
    ) -> dict[str, object]:
        """A row of the columns `ope_report.ROWS`; `log` is seed, size and number of slates."""
        return {
            "world": self.config.world,
            "seed": log[0],
            "size": log[1],
            "slates": log[2],
            "estimator": estimator,
            "policy": policy,
            "clicks_a_slate": slate.value,
            "low": slate.low,
            "high": slate.high,
            "clicks_an_episode": episode,
            "effective": effective,
        }


# ---- the truth -----------------------------------------------------------------------------------


def truth(opened: Opened) -> pl.DataFrame:
    """What each policy earns in the market, and what a slate of it earns where the log leads."""
    market, config = opened.market, opened.config
    rows = [
        played(opened, market, name, policy, MARKET)
        for name, policy in tqdm(opened.evaluated.items(), desc="the market", unit="policy")
    ]
    asking = Asking(opened)
    for _ in rollout(asking, market, seeds(REPORTED_SEED, config.episodes), batch=config.batch):
        pass
    for name, value in asking.means().items():
        rows.append(opened.row(name, LOGGED, Estimate(value), float("nan")))
    return pl.DataFrame(rows, schema=ROWS)


def played(
    opened: Opened,
    simulator: SlateSimulator,
    name: str,
    policy: ShelfPolicy,
    estimator: str,
    log: tuple[int | None, int | None, int | None] = (None, None, None),
) -> dict[str, object]:
    """A row of what a policy earns by playing in the market or in a simulator."""
    episodes = seeds(REPORTED_SEED, opened.config.episodes)
    found = evaluate(policy, simulator, episodes, batch=opened.config.batch).rows
    clicks, visits = (found[column].to_numpy() for column in ("clicks", "visits"))
    slate = Estimate(float(clicks.sum() / visits.sum()))
    return opened.row(name, estimator, slate, float(clicks.mean()), log)


class Asking:
    """The logging policy, which at every visit tries a slate of each evaluated policy first.

    What a slate led to is taken back: the market goes on from the slate of the logging policy.
    """

    def __init__(self, opened: Opened) -> None:
        self._logging, self._evaluated = opened.logging, opened.evaluated
        self._market = opened.market
        self._clicks = dict.fromkeys(opened.evaluated, 0.0)
        self._slates = 0
        self.draws = 2 * opened.logging.draws

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Try the slates of all policies, then draw that of the logging policy."""
        own, theirs = draws.chunk(2, dim=1)
        before = self._market.state()
        for name, policy in self._evaluated.items():
            outcome = self._market.advance(policy(observation, theirs))
            self._clicks[name] += float(outcome.info["clicks"].sum())
            self._market.restore(before)
        self._slates += len(draws)
        return self._logging(observation, own)

    def means(self) -> dict[str, float]:
        """Clicks a slate of each policy."""
        return {name: clicks / self._slates for name, clicks in self._clicks.items()}


def _one_row(row: Callable[[], dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame([row()], schema=ROWS)


def of_other_log(env: str, opened: Opened) -> pl.DataFrame:
    """What each policy earns in a simulator that was fitted to another log of the market.

    Raises:
        ValueError: If its catalogue is not that of the market.
    """
    simulator = make_simulator(env, device=opened.config.device)
    same = simulator.catalog.embedding, opened.market.catalog.embedding
    if same[0].shape != same[1].shape or not torch.allclose(*same, atol=0.01):
        raise ValueError(f"other is {env!r}, but its items are not those of {opened.config.env}.")
    parts = []
    for name, policy in tqdm(opened.evaluated.items(), desc=env, unit="policy"):
        path = opened.folder / "other" / f"{name.replace(', ', '-').replace(' ', '-')}.parquet"
        row = partial(played, opened, simulator, name, policy, OTHER)
        parts.append(rows_at(path, partial(_one_row, row)))
    return pl.concat(parts)


# ---- a log, and what is estimated from it --------------------------------------------------------


def logged(opened: Opened, seed: int) -> Sessions:
    """The log of a seed, as long as the largest size; it is played where it is missing."""
    folder, items = opened.place(seed), len(opened.market.catalog)
    longest = max(opened.config.sizes)
    rows, said = folder / "impressions.parquet", folder / "declared.parquet"
    with alone(rows):  # the cells of all sizes need it
        if not rows.exists() or pl.scan_parquet(rows).select(pl.len()).collect().item() < longest:
            impressions, declared = play(
                opened.market, opened.logging, longest, LOG_SEED + seed * APART
            )
            write_parquet(said, declared)
            write_impressions(impressions, rows, items)
    return Sessions.of(read_impressions(rows, items), pl.read_parquet(said))


def estimated(seed: int, size: int, opened: Opened) -> pl.DataFrame:
    """What each estimator says of each policy from the first slates of a log."""
    log = opened.log(seed).take(size)
    model = log.expected()
    own = log.shown(model)
    length = len(log) / len(np.unique(log.user))
    told = (seed, size, len(log))
    rows = []
    for name, chances in log.chances.items():
        of_policy = (chances * model).sum(axis=2, dtype=np.float64)
        value = slate_policy_value(
            log.clicks,
            log.propensity,
            log.shown(chances),
            independent=True,
            expected=own,
            expected_of_policy=of_policy,
            users=log.user,
            samples=200,
        )
        found: dict[str, Estimate] = {at: getattr(value, at) for at in ESTIMATED}
        found[MODEL] = Estimate(float(of_policy.sum(axis=1).mean()))
        rows += [
            opened.row(name, at, one, one.value * length, told, value.effective_slates)
            for at, one in found.items()
        ]
        nothing = Estimate(float("nan"))
        rows.append(opened.row(name, EPISODES, nothing, log.by_episodes(chances), told))
    return pl.DataFrame(rows, schema=ROWS)


def simulated(seed: int, size: int, opened: Opened) -> pl.DataFrame:
    """What each policy earns in a simulator that is fitted to the first slates of a log."""
    simulator, slates = fitted(opened, logged(opened, seed), seed, size)
    rows = [
        played(opened, simulator, name, policy, SIMULATOR, (seed, size, slates))
        for name, policy in opened.evaluated.items()
    ]
    return pl.DataFrame(rows, schema=ROWS)


def fitted(opened: Opened, whole: Sessions, seed: int, size: int) -> tuple[SlateSimulator, int]:
    """The simulator of a log, from its folder or fitted; and the number of slates of the log."""
    true, log, folder = opened.market, first_slates(whole, size), opened.place(seed)
    title = f"simulator of log {seed}, {size:,} slates"
    shopper = fitted_session(folder / f"model-{size}", log, true, opened.config.model, seed, title)
    return market_of(shopper, true), log.n_slates


# ---- all of it -----------------------------------------------------------------------------------


def cells_of(config: Config) -> list[RowCell]:
    """Every cell; the estimators come first, for they are quick."""
    opened = Opened(config)
    measured: dict[Path, Callable[[Opened], pl.DataFrame]] = {
        opened.folder / "truth.parquet": truth
    }
    if config.other is not None:
        measured[opened.folder / "other.parquet"] = partial(of_other_log, config.other)
    for seed in config.seeds:
        for size in config.sizes:
            path = opened.place(seed) / f"estimated-{size}.parquet"
            measured[path] = partial(estimated, seed, size)
    for seed in config.fits:
        for size in config.sizes:
            path = opened.place(seed) / f"simulated-{size}.parquet"
            measured[path] = partial(simulated, seed, size)
    return [
        RowCell(path, opened.world.name, partial(Opened, config), rows)
        for path, rows in measured.items()
    ]


def read_work(work: Path) -> pl.DataFrame:
    """Read all rows that were measured so far.

    Raises:
        FileNotFoundError: If there are none.
    """
    paths = [*work.glob("*/truth.parquet"), *work.glob("*/other.parquet")]
    paths += work.glob("*/seed*/[es]*ed-*.parquet")
    return all_rows(paths, work, "benchmarks.agents.ope")


def main(config: Config) -> None:
    """Measure what is missing, then report on all there is; raises as `measure_and_report`."""

    def everything(cells: Sequence[RowCell]) -> pl.DataFrame:
        return read_work(config.work)

    run = Run("ope", config, results=config.results)
    told = settings_of(config, free=("sizes", "seeds", "fits", "other"))
    measure_and_report(run, config, cells_of(config), report, told, config.work, everything)


if __name__ == "__main__":
    run_command(main, Config)
