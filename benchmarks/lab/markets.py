"""The markets of the reported results, with log and ranker in `runs/market/<name>/`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from agents.places.exploring import (
    PER_CATEGORY,
    ROUNDS,
    Exploration,
    fit_ranker,
    logged,
    policy_inputs,
)
from agents.places.mixture import KNOBS, TEMPERATURES, Mixture
from agents.places.site import Site
from benchmarks.lab.checked import Checked
from policies.rankers.files import load_ranker, save_ranker
from recsim_env import SlateSimulator, make_simulator
from recsim_env.files import locked, read_json, write_json
from recsim_env.shoppers.market import MarketShopper

MARKETS = Path("runs/market")
"""The folder of all markets' logs and rankers."""


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

    @property
    def plan(self) -> Exploration:
        """Who plays the log, and how long it is."""
        return Exploration(self.slates, self.mixture)

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
        lacking = not impressions.exists() or not ranker.exists()
        with locked(folder, wait=True) if lacking else contextlib.nullcontext():
            if not impressions.exists():
                write_json(path, told)
            log = logged(folder, simulator, self.plan, self.name)
            if not ranker.exists():
                save_ranker(fit_ranker(log, simulator, f"ranker of {self.name}"), ranker)

        space, size = simulator.observation_space, simulator.slate_size
        inputs = policy_inputs(simulator, load_ranker(ranker, simulator.catalog, space, size), log)
        options = {"world": self.world} | ({"alike": True} if self.alike else {})
        return Site(self.env, inputs, log, lambda population: options, device)


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
