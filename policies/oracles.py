"""Oracles: reference policies that read the hidden state of the shoppers (`simulator.hidden`).

They see what no shop can see and play in one simulator only, so they are no entries of `POLICIES`;
no agent may use them. Both score the whole catalogue by the true log-odds of a click.
`oracle_myopic` shows the best ones: it earns what a perfect CTR ranker would. `oracle_state` also
charges an item for the satiation of its category, in proportion to the shopper's variety-seeking,
and fills the slate greedily:

    score(i | slate) = log_odds_i - variety (extra satiation_c + count [items of c in the slate])
                       - similarity max cos(i, slate)

Its three numbers are tuned like those of any re-ranker. It is the best of a family and not the
optimum: a policy may earn more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policies.cosines import Cosines
from policies.inputs import PolicyInputs
from policies.parameters import NoParameters, tunable
from policies.pool import Pool
from policies.registry import PolicySpec
from policies.slates import SlateScores, pick
from recsim_env.settings import settle
from recsim_env.shoppers.market import MarketShopper, MarketState
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

ORACLES = ("oracle_myopic", "oracle_state")
"""Names of the oracles in results."""
POOL = 128
"""Number of items with the best scores before the slate fills, from which it is filled."""


@dataclass(frozen=True)
class OracleParameters:
    """Parameters of `Oracle` in log-odds; with all at 0 it is myopic."""

    extra: float = tunable(4.0, 0.0, 8.0)
    """Log-odds that an item loses per unit of the category's satiation and of variety-seeking, on
    top of what the click itself loses."""
    count: float = tunable(0.3, 0.0, 2.0)
    """Log-odds that an item loses per item of its category in the slate and per unit of
    variety-seeking."""
    similarity: float = tunable(0.0, 0.0, 3.0)
    """Log-odds that an item loses per unit of its largest cosine to an item of the slate."""

    def __post_init__(self) -> None:
        settle(self)


MYOPIC = OracleParameters(extra=0.0, count=0.0, similarity=0.0)


class Oracle:
    """Reads the hidden state of the shoppers of one simulator, and plays in that one only.

    Args:
        simulator: its shoppers are read at every visit
        parameters: how much satiation and similarity count

    Raises:
        ValueError: If its shoppers are not those of a market.
    """

    draws = 0

    def __init__(self, simulator: SlateSimulator, parameters: OracleParameters) -> None:
        if not isinstance(simulator.shopper, MarketShopper):
            raise ValueError(
                f"simulator has {type(simulator.shopper).__name__}, but an oracle reads a "
                "MarketShopper."
            )
        self._simulator, self._shopper = simulator, simulator.shopper
        self._cosines = Cosines(simulator.catalog)
        self._parameters = parameters

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K) for the shoppers as they are; the observation is not read."""
        state: MarketState = self._simulator.hidden
        candidates = self._simulator.candidates
        category = self._shopper.catalog.category
        variety = state.variety.unsqueeze(1)
        sated = state.satiation[:, category].gather(1, candidates)
        scores = (
            self._shopper.log_odds(state, candidates) - self._parameters.extra * variety * sated
        )
        pool = Pool.best(scores, candidates, max(POOL, self._simulator.slate_size))
        filling = _Filling(
            pool,
            category[pool.ids],
            variety * self._parameters.count,
            self._cosines,
            self._parameters,
        )
        return pick(pool, self._simulator.slate_size, filling)


class _Filling(SlateScores):
    """Scores minus the costs of each item beside those in the slate."""

    def __init__(
        self,
        pool: Pool,
        category: Tensor,
        of_count: Tensor,
        cosines: Cosines,
        parameters: OracleParameters,
    ) -> None:
        self._pool, self._category, self._cosines = pool, category, cosines
        self._of_count = of_count  # (B, 1)
        self._of_similarity = parameters.similarity
        self._count = torch.zeros_like(pool.logits)
        self._similarity = torch.zeros_like(pool.logits)

    def scores(self) -> Tensor:
        return (
            self._pool.logits
            - self._of_count * self._count
            - self._of_similarity * self._similarity
        )

    def add(self, chosen: Tensor) -> None:
        at = chosen.unsqueeze(1)
        self._count = self._count + (self._category == self._category.gather(1, at))
        item = self._pool.ids.gather(1, at).squeeze(1)
        self._similarity = torch.maximum(
            self._similarity, self._cosines.between(item, self._pool.ids)
        )


def oracle_specs(simulator: SlateSimulator) -> dict[str, PolicySpec]:
    """The oracles of one simulator by name, to be built like registered policies."""

    def myopic(inputs: PolicyInputs, parameters: NoParameters) -> Policy:
        return Oracle(simulator, MYOPIC)

    def state(inputs: PolicyInputs, parameters: OracleParameters) -> Policy:
        return Oracle(simulator, parameters)

    specs = (
        PolicySpec(NoParameters, myopic, False, ORACLES[0], needs_hidden=MarketShopper),
        PolicySpec(OracleParameters, state, False, ORACLES[1], needs_hidden=MarketShopper),
    )
    return dict(zip(ORACLES, specs, strict=True))
