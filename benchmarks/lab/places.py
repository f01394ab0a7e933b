"""Where the league is played: environments, each with what contenders are built from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.ppo.config import PPOConfig
from agents.ppo.vec_env import TrainingReward
from benchmarks.data.market_log import MarketWorld, build
from benchmarks.lab.world import World
from policies import PolicyInputs
from policies.composer import ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.logs.sessions import Sessions
from recsim_env.registration import PRESETS, make_simulator
from recsim_env.rewards import as_reward
from recsim_env.simulator import SlateSimulator

MARKET, ALIKE, MILD, CONTROL = (
    f"recsim_env/{name}-v0" for name in ("Market", "MarketAlike", "MarketMild", "MarketControl")
)
LEARNED, JOURNEY = "recsim_env/LearnedMarket-v0", "recsim_env/CompleteJourney-v0"
MEASURED = ("intra_list_distance", "category_coverage")
"""Reward terms that are looked at whatever the environment pays for."""


@dataclass(frozen=True)
class Site:
    """A place, opened."""

    env: str
    """Id of the environment."""
    inputs: PolicyInputs
    """What policies are built from."""
    log: Sessions | None = None
    """What was logged there before."""
    options: Callable[[str], Mapping[str, Any]] = lambda population: {}
    """What `make_simulator` is told for `train` or `evaluation` shoppers."""
    device: str | None = None
    """cpu or cuda; None for the best there is."""

    def training(self, diversity: float | None = None) -> SlateSimulator:
        """Training shoppers; the reward is clicks and so much diversity, or the environment's own."""
        paid = (
            self._paid if diversity is None else {"clicks": 1.0, "intra_list_distance": diversity}
        )
        return make_simulator(self.env, device=self.device, reward=paid, **self.options("train"))

    def judging(self, population: str = "evaluation") -> SlateSimulator:
        """Shoppers to be evaluated with: the environment's own reward, and every `MEASURED` term at no weight."""
        paid = {**dict.fromkeys(MEASURED, 0.0), **self._paid}
        return make_simulator(self.env, device=self.device, reward=paid, **self.options(population))

    @property
    def _paid(self) -> Mapping[str, float]:
        return as_reward(PRESETS[self.env].reward).weights


Opener = Callable[[str, int, Path, int, str | None], Site]
"""Opens a place: id, world, folder of logs and rankers, logged slates, device."""


def open_market(env: str, world: int, markets: Path, slates: int, device: str | None) -> Site:
    """A market, with its log and its ranker."""
    built = build(MarketWorld(env, world, slates), markets, device)
    return Site(env, built.inputs(), built.log, lambda population: {"world": world}, device)


def open_learned(env: str, world: int, markets: Path, slates: int, device: str | None) -> Site:
    """A learned market, with the log that it was learned from and that log's ranker."""
    built = build(MarketWorld(MARKET, world, slates, "broad"), markets, device)
    return Site(env, built.inputs(make_simulator(env, device=device)), built.log, device=device)


def open_journey(env: str, world: int, markets: Path, slates: int, device: str | None) -> Site:
    """The Complete Journey's shoppers: agents are trained with some households and evaluated with others."""
    journey = World(env, device=device)
    inputs = journey.inputs(journey.simulator("evaluation"))
    return Site(env, inputs, None, lambda population: {"population": population}, device)


@dataclass(frozen=True, eq=False)
class Place:
    """An environment, and what is there."""

    env: str
    """Its id."""
    world: int = 0
    """Seed of its catalogue, where it has one."""
    opener: Opener = open_market
    """Builds what contenders need."""
    oracles: bool = True
    """Whether the shoppers' state can be read."""
    log: bool = True
    """Whether there is a log to learn from."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Contender -> settings of its own here, in place of its defaults."""

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.env.split('/')[-1].lower()}-world{self.world}"

    def open(self, markets: Path, slates: int, device: str | None) -> Site:
        """Load what is there; a market's log and ranker are made where they are missing."""
        return self.opener(self.env, self.world, markets, slates, device)


JOURNEY_SETTINGS = {
    "ppo_composer": {
        "ppo": PPOConfig(),
        "network": NetworkConfig(log_std=-1.5),
        "composer": ComposerConfig(),
        "reward": TrainingReward(),
    }
}
"""Greed is nearly right there, so PPO explores close to it; as in `benchmarks.agents.train`."""
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
        Place(JOURNEY, 0, open_journey, oracles=False, log=False, settings=JOURNEY_SETTINGS),
    )
}
"""Every place by name; the first is where the frontier is swept."""
