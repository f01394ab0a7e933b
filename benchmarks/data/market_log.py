"""Build the logs and CTR rankers of some markets.

    python -m benchmarks.data.market_log

Every other command that needs them builds them as well; `benchmarks.lab.markets` says how, and
`agents.places.mixture` who serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.places.mixture import Mixture
from benchmarks.lab.command import run_command
from benchmarks.lab.markets import MARKETS, MarketWorld
from benchmarks.lab.options import Threads
from benchmarks.lab.threads import use_threads


@dataclass(frozen=True)
class Config(Threads):
    """Build the log and the ranker of some markets."""

    envs: tuple[str, ...] = ("recsim_env/Market-v0",)
    """Ids of the markets."""
    worlds: tuple[int, ...] = (0,)
    """Seeds of their catalogues; every market is built in each of these worlds."""
    slates: int = 300_000
    """Number of logged slates of each market, about. The default is that of reported results."""
    mixture: Mixture = "exploring"
    """Mixture of policies that serves the log: `exploring` and `broad` are mixtures of many
    policies, `greedy` is the ranker alone, `uniform` is random slates."""
    work: Path = MARKETS
    """Folder that each market's folder is written to; those that are there are left as they are."""


def main(config: Config) -> None:
    """Build what is missing, and print one line for each market."""
    use_threads(config.threads)
    for env in config.envs:
        for number in config.worlds:
            world = MarketWorld(env, number, config.slates, config.mixture)
            log = world.open(config.work).logged
            clicks = float(log.clicks.sum()) / log.n_slates
            folder = config.work / world.name
            print(f"{folder}: {log.n_slates:,} slates, {clicks:.2f} clicks a slate")


if __name__ == "__main__":
    run_command(main, Config)
