"""The places that the league is played in: environments, each with what contenders need there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.places import Site, open_place
from agents.places.opening import registered
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.where import Where
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.shoppers.market import make_market

MARKET, ALIKE, MILD, CONTROL = (
    f"recsim_env/{name}-v0" for name in ("Market", "MarketAlike", "MarketMild", "MarketControl")
)
LEARNED, JOURNEY = "recsim_env/LearnedMarket-v0", "recsim_env/CompleteJourney-v0"
"""Ids of the environments."""

Opener = Callable[[str, int, Path, int, str | None], Site]
"""Opens a place, given its id, world, folder of logs and rankers, logged slates and device."""


def open_market(env: str, world: int, markets: Path, slates: int, device: str | None) -> Site:
    """Open a market with its log and its ranker."""
    return MarketWorld(env, world, slates).open(markets, device)


def open_learned(env: str, world: int, markets: Path, slates: int, device: str | None) -> Site:
    """Open a learned market with the log that it was learned from and that log's ranker."""
    true = MarketWorld(MARKET, world, slates, "broad").open(markets, device)
    inputs = true.inputs_for(make_simulator(env, device=device))
    return Site(env, inputs, true.log, device=device)


def open_journey(env: str, world: int, markets: Path, slates: int, device: str | None) -> Site:
    """Open the Complete Journey, where agents are judged with other households than trained."""
    return open_place(env, device=device)


@dataclass(frozen=True, eq=False)
class Place:
    """An environment as the league plays in it."""

    env: str
    """Id of the environment."""
    world: int = 0
    """Seed of its catalogue, where it has one."""
    opener: Opener = open_market
    """Builds what contenders need."""
    oracles: bool = True
    """Whether the shoppers' hidden state can be read, so that oracles can play."""
    log: bool = True
    """Whether there is a log to learn from."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Contender -> settings that it has here in place of its defaults."""
    where: Where | None = None
    """The options that the place was named by, where it is none of `PLACES`."""

    @classmethod
    def of(cls, where: Where) -> Place:
        """The place that some options name; a module that they name is imported."""
        env = registered(where.env, anyway=where.anyway)[0].rpartition(":")[2]

        def opener(env: str, world: int, markets: Path, slates: int, device: str | None) -> Site:
            return where.open()

        return cls(env, 0, opener, PRESETS[env].shopper is make_market, where=where)

    @property
    def name(self) -> str:
        """The stem of the names of its files."""
        if self.where is not None:
            return self.where.name
        return f"{self.env.split('/')[-1].lower()}-world{self.world}"

    def open(self, markets: Path, slates: int, device: str | None) -> Site:
        """Open the environment; a market's log and ranker are made where they are missing.

        Args:
            markets: The folder of the markets' logs and rankers.
            slates: The number of logged slates, about.
            device: The device of the simulators, cpu or cuda; None means the best there is.
        """
        return self.opener(self.env, self.world, markets, slates, device)


PLACES = {
    place.name: place
    for place in (
        Place(MARKET, 0),
        Place(MARKET, 1),
        Place(ALIKE, 0),
        Place(MILD, 0),
        Place(MILD, 1),
        Place(CONTROL, 0),
        Place(CONTROL, 1),
        Place(LEARNED, 0, open_learned, oracles=False),
        Place(JOURNEY, 0, open_journey, oracles=False, log=False),
    )
}
"""Every place by name; the first is where the frontier is swept."""
