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

from agents.base import TrainedAgent, TrainingSetup, register_agent
from agents.search.ground import EPISODES, UNITS, Ground
from agents.search.searchers import Covariance, Parzen, Searcher
from policies.composer import Composer, ComposerConfig
from recsim_env.settings import ONE_OR_MORE, POSITIVE, SHARE, settle

FINALS = UNITS - 1
"""Generation of `training_seeds` of the first round of finals, which go on downwards."""


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
    episodes: int = EPISODES
    """Most episodes of an intent in a round. Many rounds of few episodes find better intents than
    few rounds of many."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        super().__post_init__()
        settle(self, spread=POSITIVE, episodes=ONE_OR_MORE)


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

    return search("cma", setup, config, searcher, config.episodes)


@register_agent("optuna", OptunaConfig)
def optuna(setup: TrainingSetup, config: OptunaConfig) -> TrainedAgent:
    """Look for the best intent by TPE."""

    def searcher(size: int) -> Searcher:
        several = max(setup.shoppers // config.episodes, 1)
        return Parzen(size, setup.seed, config.reach, several)

    return search("optuna", setup, config, searcher)


def search(
    name: str,
    setup: TrainingSetup,
    config: SearchConfig,
    make: Callable[[int], Searcher],
    episodes: int | None = None,
) -> TrainedAgent:
    """Play rounds of intents while the steps last, then the finalists, and keep the best.

    Args:
        name: of the agent
        setup: what it learns from
        config: its options
        make: makes the searcher, given the length of an intent
        episodes: most episodes of an intent in a round; None means as many as are served at once

    Raises:
        ValueError: If the steps do not suffice for one round.
    """
    began = time.perf_counter()
    setup.need_shoppers(name)
    composer = Composer(setup.inputs, config.composer)
    ground = Ground(setup, composer, expected_clicks=config.expected_clicks)
    untrained = ground.policy(torch.zeros_like(ground.units))
    watched = setup.watched(0, untrained)

    # what an interrupted search was told already
    searcher = make(composer.intent_size)
    found = setup.keeper.found(setup.about((name, config)), {"steps": 0, "told": None})
    told: list[Tensor] = [] if found is None else [value.cpu() for value in found["told"]]
    for values in told:
        searcher.ask()
        searcher.tell(values)
    ground.steps = ground.steps if found is None else found["steps"]

    def after_round() -> None:
        """Watch the best intent so far, and keep what was learned."""
        nonlocal watched
        if len(told) & (len(told) - 1) == 0:  # powers of two, as a search is steep at first
            watched += setup.watched(ground.steps, ground.policy(searcher.finalists(1)[0]))
        setup.keeper.keep(partial(_state, ground.steps, told))

    # new rounds, while they leave enough for the finals
    budget = setup.steps - round(config.finals * setup.steps)
    ground.search(searcher, budget, told, episodes, after_round)
    if not told:
        raise ValueError(
            f"steps is {setup.steps}, but {name} cannot play one round of {setup.shoppers} "
            "shoppers to the end with so few."
        )

    # the finals: rounds of intent 0 and the finalists, with shoppers of their own
    last = searcher.finalists(config.finalists)
    last = torch.cat([torch.zeros_like(last[:1]), last])
    sums, rounds = torch.zeros(len(last), dtype=torch.float64), 0
    while (returns := ground.play(last, FINALS - rounds, setup.steps)) is not None:
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


def _state(steps: int, told: list[Tensor]) -> dict[str, object]:
    """What `search` needs to continue after a round."""
    return {"steps": steps, "told": list(told)}
