"""Shoppers who hide nothing: the observation holds what a belief would, and it is true.

`Told(shopper)` are the same shoppers with the keys of a belief (`recsim_env.belief`), read from
their hidden state: the true chances of a click and of a look, weariness and traits. Whatever works
with a belief (`BeliefRanker`, the cue `weary`, the state features) then works with the truth, and
nothing else changes. No shop can know this: it is for measuring what knowing is worth.

How the truth is read is one registered function for each class of shoppers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recsim_env.belief.session import SessionBelief, SessionBeliefState
from recsim_env.shoppers.base import Description, Past, Shopper, name_of
from recsim_env.shoppers.drifting import DriftingMarket
from recsim_env.shoppers.market import MarketShopper, MarketState
from recsim_env.shoppers.regulars.behaviour import RegularsState
from recsim_env.shoppers.regulars.population import RegularsShopper
from recsim_env.shoppers.regulars.traits import TRAITS
from recsim_env.shoppers.session.heads import TEMPERAMENT
from recsim_env.shoppers.session.population import SessionPopulation
from recsim_env.shoppers.session.starts import SessionState
from recsim_env.shoppers.visits.population import VisitsShopper, VisitsState
from recsim_env.types import Observation, Response

MOST = 1e6
"""Bound of every number in the observation space."""


@dataclass(frozen=True)
class Truth:
    """How the hidden state of some shoppers is read."""

    tell: Callable[[Any, Tensor], Observation]
    """(hidden state, candidates (B, C)) -> `belief_logits` (B, C), `belief_weary` (B, G),
    `belief_looks` (B, K) and `belief_traits` (B, T)."""
    traits: int
    """Number T of the traits."""


Reader = Callable[[Any], Truth]
_READERS: dict[type[Shopper[Any]], Reader] = {}


def reads(kind: type[Shopper[Any]]) -> Callable[[Reader], Reader]:
    """Register how the truth about a class of shoppers is read: a function of the shoppers."""

    def add(reader: Reader) -> Reader:
        _READERS[kind] = reader
        return reader

    return add


def readable(shopper: Shopper[Any]) -> bool:
    """Tell whether somebody registered how these shoppers are read."""
    return type(shopper) in _READERS


@reads(DriftingMarket)
@reads(MarketShopper)
def of_market(shopper: MarketShopper) -> Truth:
    """Read the shoppers of a market, who differ in speed, variety-seeking, patience and depth."""

    def tell(state: MarketState, candidates: Tensor) -> Observation:
        """Read the true interest, satiation and depth, and the logarithms of positive traits."""
        traits = [state.speed.log(), state.variety.log(), state.patience]
        depth = state.examination.logit(eps=1e-6)
        return {
            "belief_logits": shopper.log_odds(state, candidates.clamp(min=0)),
            "belief_weary": shopper.config.satiation * state.satiation * state.variety.unsqueeze(1),
            "belief_looks": shopper.examined(state),
            "belief_traits": torch.stack([*traits, depth], dim=1),
        }

    return Truth(tell, traits=4)


@reads(VisitsShopper)
def of_visits(shopper: VisitsShopper) -> Truth:
    """Read the shoppers of whole visits, whom prices move more or less as well."""
    of_others = of_market(shopper.market)

    def tell(state: VisitsState, candidates: Tensor) -> Observation:
        """Read the market inside, with chances and a trait in which prices count."""
        told = of_others.tell(state.market, candidates[:, :0])
        traits = [told["belief_traits"], state.sensitivity.log().unsqueeze(1)]
        return told | {
            "belief_logits": shopper.log_odds(state, candidates),
            "belief_traits": torch.cat(traits, dim=1),
        }

    return Truth(tell, traits=of_others.traits + 1)


@reads(RegularsShopper)
def of_regulars(shopper: RegularsShopper) -> Truth:
    """Read regular customers, whose traits are named in `recsim_env.shoppers.regulars.traits`."""

    def tell(state: RegularsState, candidates: Tensor) -> Observation:
        """Read interest and habits; the whole catalogue is the pool."""
        return {
            "belief_logits": shopper.log_odds_of_all(state),  # everything is a candidate
            "belief_weary": shopper.config.sated * state.sated,
            "belief_looks": shopper.examined(state),
            "belief_traits": state.traits.numbers(),
        }

    return Truth(tell, traits=len(TRAITS))


@reads(SessionPopulation)
def of_session(shopper: SessionPopulation) -> Truth:
    """Read the shoppers of a session model, whose one trait is their temperament.

    It is a belief whose only particle is the shopper's own temperament.

    Raises:
        ValueError: If several models answer together.
    """
    if len(shopper.members) > 1 or shopper.pessimism:
        raise ValueError(
            f"shopper has {len(shopper.members)} models, but the truth is read from one."
        )
    model = shopper.members[0]
    belief = SessionBelief(model, shopper.device, slate_size=shopper.slate_size)

    def tell(state: SessionState, candidates: Tensor) -> Observation:
        """Observe the belief that knows the temperament, but for what it says of its doubt."""
        known = SessionBeliefState(
            cache=state.caches[0],
            memory=state.memory,
            interest=state.interests[0],
            declared=state.declared,
            day=state.day,
            since=state.since,
            temperaments=model.temperament(state.normal).unsqueeze(1),
            log_weight=torch.zeros_like(state.normal[:, :1]),
        )
        found = belief.observe(known, candidates)
        found["belief_traits"] = found["belief_traits"][:, :TEMPERAMENT]
        del found["belief_leaving"], found["belief_spread"]
        return found

    return Truth(tell, traits=TEMPERAMENT)


class Told(Shopper[Any]):
    """Shoppers with the truth in their observation; see the module.

    Args:
        shopper: Shoppers of a class that is `readable`.

    Raises:
        ValueError: If they are of another class.
    """

    def __init__(self, shopper: Shopper[Any]) -> None:
        if not readable(shopper):
            known = sorted(kind.__name__ for kind in _READERS)
            raise ValueError(
                f"shopper is a {name_of(shopper)}, but the truth can be read of {known} only."
            )
        super().__init__(
            shopper.catalog,
            shopper.slate_size,
            device=shopper.device,
            start_draws=shopper.start_draws,
            visit_draws=shopper.visit_draws,
            never_leave=False,
        )
        self.tells_purchases, self.facts = shopper.tells_purchases, shopper.facts
        self.tells_outside_reward = shopper.tells_outside_reward
        self.max_candidates, self.never_leave = shopper.max_candidates, shopper.never_leave
        self.shopper = shopper
        self._truth = _READERS[type(shopper)](shopper)

    tells_leaving = True
    trusted = True

    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Return the spaces of `observe` for one shopper."""
        groups, sizes = len(self.catalog.categories), (self.max_candidates, self.slate_size)

        def box(low: float, high: float, count: int) -> gymnasium.spaces.Box:
            return gymnasium.spaces.Box(low, high, (count,), np.float32)

        return {
            **self.shopper.spaces(),
            "belief_logits": box(-MOST, MOST, sizes[0]),
            "belief_weary": box(0, MOST, groups),
            "belief_looks": box(0, 1, sizes[1]),
            "belief_traits": box(-MOST, MOST, self._truth.traits),
        }

    def start(self, draws: Tensor) -> Any:
        """Make new shoppers, as those without the truth would be made."""
        return self.shopper.start(draws)

    def past(self, state: Any, visits: int) -> Past | None:
        """Tell what new shoppers did before."""
        return self.shopper.past(state, visits)

    def candidates(self, state: Any) -> Tensor:
        """Return the items that may be shown."""
        return self.shopper.candidates(state)

    def on_offer(self, state: Any, items: Tensor) -> Tensor | None:
        """Tell which items may be shown."""
        return self.shopper.on_offer(state, items)

    def observe(self, state: Any) -> Observation:
        """Return what the shop knows, and the truth."""
        return {**self.shopper.observe(state), **self._truth.tell(state, self.candidates(state))}

    def respond(self, state: Any, slates: Tensor, shown: Tensor, draws: Tensor) -> Response:
        """Answer the slates, as those without the truth do."""
        return self.shopper.respond(state, slates, shown, draws)

    def describe(self, state: Any, row: int) -> Description:
        """Tell how one shopper and their visit read to a person."""
        return self.shopper.describe(state, row)

    def staying(self) -> Told:
        """Return the same shoppers, none of whom leaves."""
        stays = copy.copy(self)
        stays.shopper, stays.never_leave = self.shopper.staying(), True
        return stays
