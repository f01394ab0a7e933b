"""Oracles: reference policies that read the hidden state of the shoppers (`simulator.hidden`).

They see what no shop can see and play in one simulator only, so they are no entries of `POLICIES`;
no agent may use them. Both score the whole catalogue by the true log-odds of a click.
`oracle_myopic` shows the best ones: it earns what a perfect CTR ranker would. `oracle_state` is
greedy in the reward (`policies.gains`) by the true chance that an item is looked at and clicked,
and charges an item for the satiation of its category, in proportion to the shopper's
variety-seeking:

    log_odds(i | slate) = log_odds_i - variety (extra satiation_c + count [items of c in the slate])

Its numbers are tuned like those of any re-ranker. It is the best of a family and not the optimum: a
policy may earn more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policies.cosines import Cosines
from policies.filling import LogOddsScores, SlateSoFar
from policies.gains import Gains, RewardScores
from policies.inputs import PolicyInputs
from policies.parameters import NoParameters, tunable
from policies.pool import Pool
from policies.registry import PolicySpec
from policies.slates import pick, top_slates
from recsim_env import checks
from recsim_env.settings import settle
from recsim_env.shoppers.market import ClosedMarket
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

ORACLES = ("oracle_myopic", "oracle_state")
"""Names of the oracles in results."""
POOL = 128
"""Number of items with the best scores before the slate fills, from which it is filled."""


@dataclass(frozen=True)
class OracleParameters:
    """How much `OracleState` charges for satiation, and how much it pays for diversity."""

    extra: float = tunable(4.0, 0.0, 8.0)
    """Log-odds that an item loses per unit of the category's satiation and of variety-seeking, on
    top of what the click itself loses."""
    count: float = tunable(0.3, 0.0, 2.0)
    """Log-odds that an item loses per item of its category in the slate and per unit of
    variety-seeking."""
    factor: float = tunable(1.0, 0.25, 8.0, log=True, least=1e-6, most=1e6)
    """Factor on the weight of every reward term that clicks do not earn, such as diversity."""

    def __post_init__(self) -> None:
        settle(self)


class OracleMyopic:
    """Shows what is most likely clicked by the true log-odds; plays in one simulator only.

    Args:
        simulator: its shoppers are read at every visit

    Raises:
        ValueError: If its shoppers are not those of a market.
    """

    draws = 0

    def __init__(self, simulator: SlateSimulator) -> None:
        self._simulator, self._shopper = simulator, market_of(simulator)

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K) for the shoppers as they are; the observation is not read."""
        candidates = self._simulator.candidates
        log_odds = self._shopper.log_odds(self._simulator.hidden, candidates.clamp(min=0))
        return top_slates(log_odds, candidates, self._simulator.slate_size)


class OracleState:
    """Reads what satiates, and what is looked at; plays in one simulator only.

    Args:
        simulator: its shoppers are read at every visit
        parameters: how much satiation counts, and diversity

    Raises:
        ValueError: If its shoppers are not those of a market.
    """

    draws = 0

    def __init__(self, simulator: SlateSimulator, parameters: OracleParameters) -> None:
        self._simulator, self._shopper = simulator, market_of(simulator)
        self._cosines, self._gains = Cosines(simulator.catalog), Gains(simulator.reward)
        self._parameters = parameters

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K) for the shoppers as they are; the observation is not read."""
        hidden = self._simulator.hidden
        state = self._shopper.market_state(hidden)
        candidates, size = self._simulator.candidates, self._simulator.slate_size
        variety = state.variety.unsqueeze(1)
        items = candidates.clamp(min=0)
        sated = state.satiation[:, self._shopper.catalog.category].gather(1, items)
        charged = self._shopper.log_odds(hidden, items) - self._parameters.extra * variety * sated
        charged = charged.masked_fill(candidates < 0, -math.inf)
        pool = Pool.best(charged, candidates, max(POOL, size))
        slate = SlateSoFar(pool, self._simulator.catalog, self._cosines, size)
        without = torch.zeros_like(variety)
        log_odds = LogOddsScores(slate, pool.logits, -self._parameters.count * variety, without)
        scale = math.log(self._parameters.factor)
        scales = torch.full_like(variety, scale).expand(-1, len(self._gains.knobs))
        looks = self._shopper.examined(hidden)
        return pick(pool, size, RewardScores(log_odds, self._gains, scales, looks))


def market_of(simulator: SlateSimulator) -> ClosedMarket[Any]:
    """The shoppers of a market, whose hidden state an oracle reads.

    Raises:
        TypeError: If it is no simulator.
        ValueError: If its shoppers are others.
    """
    checks.instance("simulator", simulator, SlateSimulator)
    if not isinstance(simulator.shopper, ClosedMarket):
        raise ValueError(
            f"simulator has {type(simulator.shopper).__name__}, but an oracle reads a ClosedMarket."
        )
    return simulator.shopper


def oracle_specs(simulator: SlateSimulator) -> dict[str, PolicySpec]:
    """The oracles of one simulator by name, to be built like registered policies."""

    def myopic(inputs: PolicyInputs, parameters: NoParameters) -> Policy:
        return OracleMyopic(simulator)

    def state(inputs: PolicyInputs, parameters: OracleParameters) -> Policy:
        return OracleState(simulator, parameters)

    specs = (
        PolicySpec(NoParameters, myopic, False, ORACLES[0], needs_hidden=ClosedMarket),
        PolicySpec(OracleParameters, state, False, ORACLES[1], needs_hidden=ClosedMarket),
    )
    return dict(zip(ORACLES, specs, strict=True))
