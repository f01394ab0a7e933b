"""A market with its log and its ranker, which are built once and used again.

The ranker that a log's policies start from is fitted to what was logged before, in rounds. What is
built lies in `runs/market/<name>/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from benchmarks.lab.checked import Checked
from benchmarks.lab.log_mixture import KNOBS, TEMPERATURES, Mixture, servers
from benchmarks.lab.sites import Site, seeds
from policies import PolicyInputs
from policies.rankers.two_tower import TwoTowerRanker, fit_two_tower, load_two_tower, save_two_tower
from recsim_env import SlateSimulator, make_simulator
from recsim_env.files import locked, read_json, write_json
from recsim_env.logs.record import record
from recsim_env.logs.schema import read_impressions, write_impressions
from recsim_env.logs.sessions import Sessions
from recsim_env.shoppers.market import MarketShopper
from recsim_env.tables import write_parquet

MARKETS = Path("runs/market")
"""The folder of all markets' logs and rankers."""
LOG_SEED, HELD_OUT_SEED = 40_000_000, 50_000_000
"""First seeds of the logged episodes and of held-out ones, which nothing else uses."""
ROUNDS = (0.2, 0.3, 0.5)
"""Share of the log that each round writes; the first round is uniform."""
PER_CATEGORY = 4
"""Candidates of each of the twenty categories in the pool that re-rankers and composers look at,
beside the ten best."""
DECLARED = {"shopper": pl.Int64(), "declared": pl.List(pl.Float32)}
"""Columns of the table of what shoppers declared."""
TABLE_FILES = ("declared.parquet", "impressions.parquet")
"""Files of a market's log."""
Tables = tuple[pl.DataFrame, pl.DataFrame]
"""Impressions, and what their shoppers declared."""


@dataclass(frozen=True)
class MarketWorld(Checked):
    """One market, its log and its ranker, which lie in a folder of their own."""

    env: str = "recsim_env/Market-v0"
    """Id of a market."""
    world: int = 0
    """Seed of the market's catalogue; every world is another one."""
    slates: int = 300_000
    """Number of logged slates, about. The default is that of all reported results."""
    mixture: Mixture = "exploring"
    """Mixture of policies that serves the log: `exploring` and `broad` are mixtures of many
    policies, `greedy` is the ranker alone, `uniform` is random slates."""
    alike: bool = False
    """Give all shoppers the same traits, so that there is nothing to personalise."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        kind = self.env.split("/")[-1].lower() + ("-alike" if self.alike else "")
        return f"{kind}-world{self.world}-{self.mixture}-{self.slates}"

    def simulator(self, device: str | None = None) -> SlateSimulator:
        """A new simulator of the market."""
        return make_simulator(self.env, device=device, world=self.world, alike=self.alike)

    def open(self, markets: Path = MARKETS, device: str | None = None) -> Site:
        """Load the market's log and ranker, or make them first.

        Args:
            markets: The folder of all markets' folders.
            device: The device of the simulators, cpu or cuda; None means the best there is.

        Raises:
            ValueError: If the folder was built with other settings of the market.
        """
        folder, simulator = markets / self.name, self.simulator(device)
        impressions, ranker = folder / "impressions.parquet", folder / "ranker.safetensors"
        path, told = folder / "market.json", _told(simulator)
        if path.exists() and read_json(path) != told:
            raise ValueError(
                f"{path} was built with other settings of the market: "
                "delete the folder to build it again."
            )
        if not impressions.exists() or not ranker.exists():
            with locked(folder, wait=True):
                _make(self, simulator, folder)

        log = _sessions(folder, simulator)
        inputs = policy_inputs(simulator, load_two_tower(ranker, simulator.device), log)
        options = {"world": self.world} | ({"alike": True} if self.alike else {})
        return Site(self.env, inputs, log, lambda population: options, device)


def policy_inputs(
    simulator: SlateSimulator, ranker: TwoTowerRanker | None, log: Sessions | None = None
) -> PolicyInputs:
    """What policies are built from in a market; nothing of it comes from the shoppers' traits."""
    popularity = (
        None if log is None else popularity_of(log, len(simulator.catalog)).to(simulator.device)
    )
    return PolicyInputs(
        simulator.catalog,
        simulator.observation_space,
        simulator.slate_size,
        ranker,
        popularity,
        per_category=PER_CATEGORY,
    )


def popularity_of(log: Sessions, items: int) -> Tensor:
    """Responses an exposure of each item (N,), shrunk to the log's mean by a hundred exposures."""
    shown = torch.bincount(log.slates[log.slates >= 0], minlength=items).float()
    clicked = torch.bincount(log.slates[log.clicks], minlength=items).float()
    return (clicked + 100 * clicked.sum() / shown.sum()) / (shown + 100)


# ---- the log -------------------------------------------------------------------------------------


def write_round(
    simulator: SlateSimulator,
    inputs: PolicyInputs | None,
    mixture: Mixture,
    slates: int,
    first_seed: int,
) -> Iterator[Tables]:
    """Play one round of a log.

    Args:
        simulator: The market.
        inputs: What policies are built from; None in the first round.
        mixture: Who serves.
        slates: The number of slates of the round, about.
        first_seed: The first episode seed, by which shoppers are numbered.

    Yields:
        The impressions of some episodes, and what their shoppers declared.
    """
    at = first_seed
    for name, policy, share in servers(simulator, inputs, mixture, slates, first_seed):
        wanted, visits, mean = slates * share, 0, simulator.horizon_days  # at most a visit a day
        while visits < wanted:
            episodes = min(max(round((wanted - visits) / mean), 16), 1024)
            numbers = seeds(at, episodes)
            table, _ = record(simulator, policy, numbers, policy_name=name, split="train")
            table = table.with_columns(
                pl.col("shopper") + at, pl.col("visit") + at * 1000, click=pl.col("purchase")
            )
            said = simulator.reset(numbers)["declared"].cpu().numpy()
            yield (
                table,
                pl.DataFrame(
                    {"shopper": numbers.numpy(), "declared": said}, schema_overrides=DECLARED
                ),
            )
            visits, at, mean = visits + len(table), at + episodes, len(table) / episodes


def write_log(world: MarketWorld, simulator: SlateSimulator) -> Tables:
    """Play the whole log in rounds; the ranker of a round was fitted to the rounds before."""
    parts: list[Tables] = []
    inputs = None
    rounds = (1.0,) if world.mixture == "uniform" else ROUNDS
    for number, share in enumerate(rounds):
        first = LOG_SEED + number * 1_000_000
        parts += write_round(simulator, inputs, world.mixture, round(share * world.slates), first)
        if number + 1 < len(rounds):
            log = Sessions.of(*_joined(parts))
            ranker = fit_two_tower(log, simulator.catalog, simulator.slate_size)
            inputs = policy_inputs(simulator, ranker, log)
    return _joined(parts)


def _joined(parts: list[Tables]) -> Tables:
    impressions, declared = zip(*parts, strict=True)
    return pl.concat(impressions).sort("shopper", "visit"), pl.concat(declared).sort("shopper")


# ---- on disk -------------------------------------------------------------------------------------


def _sessions(folder: Path, simulator: SlateSimulator) -> Sessions:
    rows = read_impressions(folder / "impressions.parquet", len(simulator.catalog))
    return Sessions.of(rows, pl.read_parquet(folder / "declared.parquet"))


def _make(world: MarketWorld, simulator: SlateSimulator, folder: Path) -> None:
    """Make what is missing in a market's folder; a log's impressions are written last."""
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
    """The settings that a log depends on besides its folder's name."""
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
