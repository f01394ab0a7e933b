"""Options that several commands share, declared once and mixed into their configurations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.checked import Checked
from benchmarks.lab.markets import MARKETS
from benchmarks.lab.run import OUTPUT
from benchmarks.lab.threads import THREADS


@dataclass(frozen=True, kw_only=True)
class Threads(Checked):
    """The number of CPU threads."""

    threads: int = THREADS
    """Number of CPU threads. One is the default because more are faster only where no other process
    wants the cores, and because only one gives the same numbers when a training is resumed."""


@dataclass(frozen=True, kw_only=True)
class OnRay(Checked):
    """The cluster on which the cells of a benchmark are played, see `benchmarks.lab.playing`."""

    ray: str | None = None
    """Ray cluster whose machines play the cells: auto for the one that this machine belongs to, or
    HOST:PORT of its head. All of them must see the checkout and the folders of this command at the
    same paths. By default this process plays the cells, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Cells(Threads, OnRay):
    """Where the cells of a benchmark are played, and on how many threads each."""


@dataclass(frozen=True, kw_only=True)
class Searchers(OnRay):
    """The cluster on which parameters are searched for, and how many search together."""

    searchers: int = 1
    """Number of workers of the cluster that make one search together, each from what all have
    found. The default gives the trials of one process, search by search at once; with more, trials
    depend on who is faster."""

    def __post_init__(self) -> None:
        """Check that there is a cluster where several search.

        Raises:
            ValueError: If there is none.
        """
        super().__post_init__()
        if self.searchers > 1 and self.ray is None:
            raise ValueError(
                f"searchers is {self.searchers}, but it must be 1 where no cluster is named by ray."
            )


@dataclass(frozen=True, kw_only=True)
class Device(Checked):
    """The device of simulation and training."""

    device: str | None = None
    """Device to simulate and train on, cpu or cuda. By default it is cuda where there is one."""


@dataclass(frozen=True, kw_only=True)
class Served(Checked):
    """How many shoppers are served together."""

    shoppers: int = 1024
    """Number of shoppers that are served at once in a training."""
    batch: int = 256
    """Number of shoppers served at a time in an evaluation, which changes its speed alone."""


@dataclass(frozen=True, kw_only=True)
class Results(Checked):
    """The folder of the results."""

    results: Path = OUTPUT
    """Folder in which the results are written, each benchmark in a folder of its own name. The
    documents are filled from `benchmarks/results`, which nothing writes to unless it is named
    here."""


@dataclass(frozen=True, kw_only=True)
class MarketLogs(Checked):
    """Where the logs and rankers of markets lie, and how large the logs are."""

    slates: int = 300_000
    """Number of logged slates of a market, about. The default is that of all reported results."""
    markets: Path = MARKETS
    """Folder of the markets' logs and rankers. Those that are missing are built, which takes some
    minutes each."""


@dataclass(frozen=True, kw_only=True)
class Markets(MarketLogs, Device):
    """Logs and rankers of markets, and the device to play on."""


@dataclass(frozen=True, kw_only=True)
class Crew(Cells, Device):
    """Who plays the cells of a command that asks for threads and device elsewhere."""
