"""Searches as registered agents: CMA-ES and TPE over the composer's intents.

Both look for the one intent that serves all shoppers best. They have the composer, the cues, the
units and the shopper-steps of PPO over intents, so that a table with both says what adapting to
each shopper is worth. What wins a noisy search was partly lucky: the last steps therefore play the
finalists, and the intent 0 that everything starts from, with shoppers of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from agents.base import TrainedAgent, TrainingSetup, register_agent, training_seeds
from agents.search.playing import first_visits, play
from agents.search.searchers import Covariance, Parzen, Searcher
from policies.composer import Composer, ComposerConfig
from policies.rerankers import SameForAll
from policies.units import fitted_units
from recsim_env.settings import ONE_OR_MORE, POSITIVE, SHARE, settle

UNIT_SHOPPERS, UNIT_VISITS = 16, 10
"""Shoppers, and visits of each, from which the units of intent are fitted."""
UNITS, FINALS = -1, -2
"""Generations of `training_seeds`: that of the units, and the first one of the finals, which go on
downwards. Those of the rounds are 0 and above."""


@dataclass(frozen=True)
class SearchConfig:
    """Options that both searches share."""

    composer: ComposerConfig = field(default_factory=lambda: ComposerConfig(offset_dims=0))
    """What is steered. By default it is what `ppo_composer` steers: the named knobs."""
    expected_clicks: bool = True
    """Whether clicks count as often as they were expected, as PPO learns from them; only a
    simulator can do this. Otherwise they count as they fell."""
    finalists: int = 6
    """Number of intents that are played again at the end, besides intent 0."""
    finals: float = 0.25
    """Share of the steps with which the finalists are played."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        settle(self, finalists=ONE_OR_MORE, finals=SHARE)


@dataclass(frozen=True)
class CMAConfig(SearchConfig):
    """Options of CMA-ES, the evolution strategy."""

    spread: float = 0.7
    """Standard deviation of the intents of the first round, in fitted units."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        super().__post_init__()
        settle(self, spread=POSITIVE)


@dataclass(frozen=True)
class OptunaConfig(SearchConfig):
    """Options of TPE, as the package `optuna` has it."""

    episodes: int = 256
    """Number of episodes of a trial; as many trials are played at once as `TrainingSetup.shoppers`
    allows."""
    reach: float = 4.0
    """Largest size of every number of an intent, in fitted units."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        super().__post_init__()
        settle(self, episodes=ONE_OR_MORE, reach=POSITIVE)


@register_agent("cma", CMAConfig)
def cma(setup: TrainingSetup, config: CMAConfig) -> TrainedAgent:
    """Look for the best intent by CMA-ES."""

    def searcher(size: int) -> Searcher:
        return Covariance(size, setup.seed, config.spread)

    return search("cma", setup, config, searcher)


@register_agent("optuna", OptunaConfig)
def optuna(setup: TrainingSetup, config: OptunaConfig) -> TrainedAgent:
    """Look for the best intent by TPE."""

    def searcher(size: int) -> Searcher:
        several = max(setup.shoppers // config.episodes, 1)
        return Parzen(size, setup.seed, config.reach, several)

    return search("optuna", setup, config, searcher)


def search(
    name: str, setup: TrainingSetup, config: SearchConfig, make: Callable[[int], Searcher]
) -> TrainedAgent:
    """Play rounds of intents while the steps last, then the finalists, and keep the best.

    Args:
        name: of the agent
        setup: what it learns from
        config: its options
        make: makes the searcher, given the length of an intent

    Raises:
        ValueError: If the steps do not suffice for one round.
    """
    began = time.perf_counter()
    ground = Ground(name, setup, config)
    untrained = ground.policy(torch.zeros_like(ground.units))
    watched = setup.watched(0, untrained)

    # what an interrupted search was told already
    searcher = make(ground.composer.intent_size)
    found = setup.keeper.found(setup.about((name, config)), {"steps": 0, "told": None})
    told: list[Tensor] = [] if found is None else [value.cpu() for value in found["told"]]
    for values in told:
        searcher.ask()
        searcher.tell(values)
    ground.steps = ground.steps if found is None else found["steps"]

    # new rounds, while they leave enough for the finals
    budget = setup.steps - round(config.finals * setup.steps)
    usual = ground.steps / len(told) if told else 0.0
    while ground.steps + usual <= budget:
        intents = searcher.ask()
        generation = len(told) if searcher.fresh else 0
        returns = ground.play(intents, generation, budget)
        if returns is None:
            break
        told.append(returns)
        searcher.tell(returns)
        usual = ground.steps / len(told)
        if len(told) & (len(told) - 1) == 0:  # powers of two, as a search is steep at first
            best = ground.policy(searcher.finalists(1)[0])
            watched += setup.watched(ground.steps, best)
        setup.keeper.keep(partial(_state, ground.steps, told))
    if not told:
        raise ValueError(
            f"steps is {setup.steps}, but {name} cannot play one round of {setup.shoppers} "
            "shoppers to the end with so few."
        )

    # the finals: rounds of intent 0 and the finalists, with shoppers of their own
    last = searcher.finalists(config.finalists)
    last = torch.cat([torch.zeros_like(last[:1]), last])
    sums, rounds = torch.zeros(len(last), dtype=torch.float64), 0
    while not rounds or ground.steps + usual * len(last) / len(told[0]) <= setup.steps:
        returns = ground.play(last, FINALS - rounds, setup.steps)
        if returns is None:
            break
        sums, rounds = sums + returns, rounds + 1
    winner = int(sums.argmax()) if rounds else 1
    policy = ground.policy(last[winner])
    means = sums / max(rounds, 1)
    facts = {
        "rounds": float(len(told)),
        "finals": float(rounds),
        "return_start": float(means[0]),
        "return_best": float(means[winner]),
        "minutes": (time.perf_counter() - began - watched) / 60,
    }
    setup.watch(ground.steps, policy)
    return TrainedAgent(policy, None, untrained, None, ground.steps, facts)


class Ground:
    """Where intents are played, and how many steps that has taken.

    Args:
        name: of the agent, for messages
        setup: what it learns from
        config: its options

    Raises:
        ValueError: If there is no shopper or no step.
    """

    def __init__(self, name: str, setup: TrainingSetup, config: SearchConfig) -> None:
        self._shoppers = setup.need_shoppers(name)
        self._setup, self._config = setup, config
        self.composer = Composer(setup.inputs, config.composer)

        few = training_seeds(setup.seed, min(UNIT_SHOPPERS, self._shoppers), UNITS)
        visits = max(min(UNIT_VISITS, setup.steps // len(few)), 1)
        seen = first_visits(self.composer, setup.simulator, few, visits)
        self.steps = len(few) * visits
        """Shopper-steps so far."""
        self.units = fitted_units(self.composer, self.composer.view(seen))
        """Fitted units (A,) of an intent, in those of the composer."""

    def policy(self, intent: Tensor) -> SameForAll:
        """The policy that has an intent (A,), in fitted units, for everybody."""
        return SameForAll(self.composer, intent.to(self.units.device) * self.units)

    def play(self, intents: Tensor, generation: int, budget: int) -> Tensor | None:
        """Play intents (G, A), in fitted units, with as many shoppers each as are served at once.

        Args:
            intents: the intents
            generation: another number gives other shoppers
            budget: number of steps that must not be exceeded

        Returns:
            The mean return of each: (G,) float64, on the CPU. It is None where the steps did not
            suffice for whole episodes.
        """
        each = max(self._shoppers // len(intents), 1)
        played = play(
            self.composer,
            self._setup.simulator,
            intents.to(self.units.device) * self.units,
            training_seeds(self._setup.seed, each, generation),
            budget - self.steps,
            expected_clicks=self._config.expected_clicks,
        )
        self.steps += played.steps
        return played.returns.mean(dim=1).cpu() if played.whole else None


def _state(steps: int, told: list[Tensor]) -> dict[str, object]:
    """What `search` needs to continue after a round."""
    return {"steps": steps, "told": list(told)}
