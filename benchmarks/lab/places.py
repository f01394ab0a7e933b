"""The places that the league is played in: environments, each with what contenders need there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.places import Site, open_place
from agents.places.believing import OWN, fitted_belief
from agents.places.mixture import Mixture
from agents.places.opening import registered
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.where import Where
from recsim_env.belief.registry import load_belief
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.shoppers.drifting import make_market
from recsim_env.shoppers.visits.population import make_visits

MARKET, ALIKE, MILD, CONTROL = (
    f"recsim_env/{name}-v0" for name in ("Market", "MarketAlike", "MarketMild", "MarketControl")
)
REGULARS, REGULARS_ALIKE = (
    f"recsim_env/{name}-v0" for name in ("MarketRegulars", "MarketRegularsAlike")
)
LEARNED, JOURNEY = "recsim_env/LearnedMarket-v0", "recsim_env/CompleteJourney-v0"
"""Ids of the environments."""
BELIEF = "belief"
"""What the names of places end with where the shop has a belief."""


@dataclass(frozen=True)
class Opening:
    """Where and how an `Opener` opens a place."""

    markets: Path
    """The folder of the markets' logs, rankers and beliefs."""
    slates: int
    """The number of logged slates, about."""
    device: str | None
    """The device of the simulators."""


def open_market(place: Place, told: Opening) -> Site:
    """Open a market with its log, its ranker and its belief."""
    mixture: Mixture = "broad" if place.env == MARKET else "exploring"
    world = MarketWorld(place.env, place.world, told.slates, mixture)
    site = world.open(told.markets, told.device)
    if not place.believing:
        return site
    title = f"belief of {world.name}"
    folder = told.markets / world.name
    return site.believing(fitted_belief(folder, site.logged, site.simulator(), title=title))


def open_learned(place: Place, told: Opening) -> Site:
    """Open a learned market with the log that it was learned from and that log's ranker."""
    true = MarketWorld(MARKET, place.world, told.slates, "broad").open(told.markets, told.device)
    inputs = true.inputs_for(make_simulator(place.env, device=told.device))
    site = Site(place.env, inputs, true.log, device=told.device)
    if not place.believing:
        return site
    folder = registered(place.env)[1]
    assert folder is not None
    return site.believing(load_belief(folder, site.simulator().device))


def open_registered(place: Place, told: Opening) -> Site:
    """Open a place with its own ranker or belief; one that has none gets them from its log."""
    return open_place(place.env, belief=OWN if place.believing else None, device=told.device)


@dataclass(frozen=True, eq=False)
class Place:
    """An environment as the league plays in it."""

    env: str
    """Id of the environment."""
    world: int = 0
    """Seed of its catalogue, where it has one."""
    believing: bool = False
    """Whether the shop has a belief about its shoppers, which takes the place of the ranker."""
    opener: Callable[[Place, Opening], Site] = open_market
    """Builds what contenders need there."""
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

        def opener(place: Place, told: Opening) -> Site:
            return where.open()

        oracles = PRESETS[env].shopper in (make_market, make_visits)
        return cls(env, 0, where.belief is not None, opener, oracles, where=where)

    @property
    def name(self) -> str:
        """The stem of the names of its files."""
        if self.where is not None:
            return self.where.name
        belief = f"-{BELIEF}" if self.believing else ""
        return f"{self.env.split('/')[-1].lower()}-world{self.world}{belief}"

    def open(self, markets: Path, slates: int, device: str | None) -> Site:
        """Open the environment; a market's log, ranker and belief are made where they are missing.

        Args:
            markets: The folder of the markets' logs, rankers and beliefs.
            slates: The number of logged slates, about.
            device: The device of the simulators, cpu or cuda; None means the best there is.
        """
        return self.opener(self, Opening(markets, slates, device))


PLACES = {
    place.name: place
    for place in (
        Place(MARKET, 0, believing=True),
        Place(MARKET, 1, believing=True),
        Place(MARKET, 0),
        Place(MARKET, 1),
        Place(REGULARS, 0, True, open_registered, oracles=False),
        Place(REGULARS_ALIKE, 0, True, open_registered, oracles=False),
        Place(LEARNED, 0, True, open_learned, oracles=False),
        Place(LEARNED, 0, False, open_learned, oracles=False),
        Place(ALIKE, 0),
        Place(MILD, 0),
        Place(MILD, 1),
        Place(CONTROL, 0),
        Place(CONTROL, 1),
        Place(JOURNEY, 0, False, open_registered, oracles=False, log=False),
    )
}
"""Every place by name; the first is where the frontier is swept."""
