"""Agents that no simulator trained: the contenders that a learned shop and the true one must order.

They are built from a ranker alone, so they can play wherever its observations are. A `MarketCase`
is the log of a market that a shop is learned from, whole or without what its policies knew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

from torch import Tensor

from agents.places import Site
from agents.places.mixture import Mixture
from benchmarks.lab.cells import json_at
from benchmarks.lab.markets import MarketWorld
from benchmarks.lab.tuning import policy_search, trials_of
from policies import POLICIES, PolicyInputs
from policies.composer import Composer, ComposerConfig
from policies.log_servers import NoisyComposerPolicy
from recsim_env.types import Observation, Policy

HAND = (
    {"count": -1.0, "similarity": -0.5},
    {"count": -1.0, "similarity": -0.5, "sated": -0.5, "flooded": -0.5},
    {"count": -1.0, "similarity": -0.5, "sated": -1.0, "flooded": -2.0},
    {"sated": -2.0, "flooded": -2.0},
)
"""Knobs of constant re-rankers, set by hand; the search for the tuned one starts from them."""
RERANKERS: dict[str, tuple[str, dict[str, float]]] = {
    "uniform": ("uniform", {}),
    "popular": ("popular", {}),
    "greedy_ctr": ("greedy_ctr", {}),
    "mmr 0.3": ("mmr", {"weight": 0.3}),
    "mmr 1": ("mmr", {"weight": 1.0}),
    "mmr 3": ("mmr", {"weight": 3.0}),
    "cap 1": ("cap", {"limit": 1}),
    "cap 2": ("cap", {"limit": 2}),
    "cap 3": ("cap", {"limit": 3}),
    "dpp 1": ("dpp", {"alpha": 1.0}),
    "dpp 4": ("dpp", {"alpha": 4.0}),
    **{
        f"constant {letter}": ("constant_log_odds", knobs)
        for letter, knobs in zip("abcd", HAND, strict=True)
    },
}
"""Name -> registered policy and its parameters."""
SOFTMAX = {"softmax 0.5": 0.5, "softmax 1": 1.0}
"""Name -> temperature of the greedy ranker with noise on its log-odds."""
TUNED = "constant tuned"
"""A constant re-ranker whose knobs were searched for."""
FIXED = (*RERANKERS, *SOFTMAX, TUNED)
"""Names of all contenders."""


def contender(name: str, inputs: PolicyInputs, tuned: dict[str, float]) -> Policy:
    """Build a contender.

    Args:
        name: One of `FIXED`.
        inputs: What it is built from.
        tuned: Knobs of `TUNED`.
    """
    if name in SOFTMAX:
        composer = Composer(inputs, ComposerConfig(form="log_odds", offset_dims=0))
        return NoisyComposerPolicy(composer, {}, SOFTMAX[name])
    if name == TUNED:
        return POLICIES["constant_log_odds"].build(inputs, tuned)
    policy, parameters = RERANKERS[name]
    return POLICIES[policy].build(inputs, parameters)


def tune_constant(
    path: Path, site: Site, *, trials: int, episodes: int, batch: int
) -> dict[str, float]:
    """The knobs of `TUNED` that earn most, from their file or searched for from those set by hand.

    Args:
        path: The file of the knobs; beside it are the trials of an interrupted search.
        site: Where they are searched for.
        trials: Number of settings tried.
        episodes: Number of episodes of a trial.
        batch: Number of shoppers served at a time.
    """
    spec = POLICIES["constant_log_odds"]

    def search() -> dict[str, float]:
        first = [dict.fromkeys(spec.search(), 0.0) | knobs for knobs in HAND]
        told = (first, trials, episodes, batch)
        found = policy_search(TUNED, site.inputs, site.simulator(), *told, spec=spec)
        return dict(trials_of(path.with_suffix(".trials.json"), found).best_params)

    return json_at(path, search)


class Blind:
    """A policy of a shop that does not write down what shoppers declare."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def draws(self) -> int:
        """The draws that the policy takes."""
        return self._policy.draws

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Choose slates (B, K) without what was declared."""
        seen = {name: value for name, value in observation.items() if name != "declared"}
        return self._policy(seen, draws)


Case = Literal["known", "hidden"]
"""What a log holds: all that its policies used, or not what shoppers declared."""
Options = TypeVar("Options")


@dataclass(frozen=True)
class MarketCase(Generic[Options]):
    """The log of a market, with what it holds."""

    config: Options
    """How it is measured."""
    world: MarketWorld
    """The market that is the truth."""
    case: Case
    """What the log holds."""

    @classmethod
    def every(cls, config: Any, mixtures: tuple[Mixture, ...] = ("broad",)) -> list[Self]:
        """All of the mixtures, `config.worlds` and `config.cases`, in logs of `config.slates`."""
        return [
            cls(config, MarketWorld(world=world, slates=config.slates, mixture=mixture), case)
            for mixture in mixtures
            for world in config.worlds
            for case in config.cases
        ]

    def seen(self, policy: Policy) -> Policy:
        """A policy that reads what the log's shop writes down."""
        return policy if self.case == "known" else Blind(policy)
