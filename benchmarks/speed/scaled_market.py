"""A market enlarged to many items, with the ranker and the agent of the small one carried over.

The items of a market are drawn around the centres of its categories by the seed of its world, so a
larger catalogue of the same world is the small one with items added. Ranker and agent know an item
by its embedding alone: what the ranker had learned of single items stays behind, for the added ones
were never logged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agents.places.exploring import policy_inputs
from benchmarks.lab.session_markets import market_of
from policies.composer import Composer
from policies.features import principal
from policies.inputs import PolicyInputs
from policies.learnable.intents import ComposerPolicy
from policies.rankers.two_tower import TwoTower, TwoTowerRanker
from recsim_env.catalog import Catalog
from recsim_env.shoppers.market import MarketShopper
from recsim_env.simulator import SlateSimulator

OF_ITEMS = ("vectors", "category", "own", "bias")
"""Tensors of a two-tower model that have a row for each item."""


@dataclass(frozen=True)
class Shop:
    """An enlarged market and what its shop serves with."""

    simulator: SlateSimulator
    """The simulator of the enlarged market's shoppers."""
    inputs: PolicyInputs
    """What policies are built from."""
    policy: ComposerPolicy
    """The agent of the small market, carried over."""

    @property
    def ranker(self) -> TwoTowerRanker:
        """The ranker of its items."""
        assert isinstance(self.inputs.ranker, TwoTowerRanker)
        return self.inputs.ranker


class Carried:
    """Carries what is affine in the embeddings of one catalogue over to the items of another one.

    Principal components depend on the items, and may turn and change their sign with their number;
    this keeps those that a model was fitted to.
    """

    def __init__(self, before: Catalog, after: Catalog) -> None:
        self._before, self._after = _with_one(before.embedding), _with_one(after.embedding)
        self._solve = torch.linalg.pinv(self._before)

    def __call__(self, values: Tensor) -> Tensor:
        """Turn values (N, D) of the one catalogue into those (N', D) of the other.

        Raises:
            ValueError: If they are not affine.
        """
        weights = self._solve @ values.double()
        if not torch.allclose(self._before @ weights, values.double(), rtol=0, atol=1e-4):
            raise ValueError(
                "values are not affine in the embeddings, "
                "but only what is affine can be carried over."
            )
        found: Tensor = self._after @ weights
        return found.float()


def _with_one(embedding: Tensor) -> Tensor:
    return torch.cat([embedding.double(), embedding.new_ones(len(embedding), 1).double()], dim=1)


def enlarge(
    small: SlateSimulator, policy: ComposerPolicy, ranker: TwoTowerRanker, items: int
) -> Shop:
    """Enlarge a market, on the CPU, and carry policy and ranker over to it.

    Args:
        small: The market.
        policy: The agent that learned in it.
        ranker: The ranker of its log.
        items: The number of items of the large market.

    Raises:
        TypeError: If the small one is no market.
        ValueError: If it has more items.
    """
    shopper = small.shopper
    if not isinstance(shopper, MarketShopper):
        raise TypeError(
            f"small has {type(shopper).__name__} shoppers, but only a market can be enlarged."
        )
    if items < len(small.catalog):
        raise ValueError(f"items is {items}, but the market has {len(small.catalog)} already.")
    config = replace(shopper.config, items=items)
    more = MarketShopper(torch.device("cpu"), small.slate_size, config=config, world=shopper.world)
    simulator = market_of(more, small)
    carried = Carried(small.catalog, simulator.catalog)
    inputs = policy_inputs(simulator, carry_ranker(ranker, carried, simulator.catalog))
    composer = Composer(inputs, policy.composer.config)
    vectors = carried(principal(small.catalog.embedding, policy.composer.summary.vectors.shape[1]))
    composer.summary.vectors = vectors
    composer.offset_vectors = carried(policy.composer.offset_vectors)
    return Shop(simulator, inputs, ComposerPolicy(composer, policy.actor))


def carry_ranker(ranker: TwoTowerRanker, carried: Carried, catalog: Catalog) -> TwoTowerRanker:
    """Make the ranker of other items, which were never logged: each has the mean bias."""
    old = ranker.model
    width, per_category = len(old.standardize.mean), len(old.standardize_category.mean)
    model = TwoTower(
        carried(old.vectors),
        catalog.category,
        width,
        per_category,
        len(old.examination),
        old.config,
    ).requires_grad_(False)
    kept = {name: value for name, value in old.state_dict().items() if name not in OF_ITEMS}
    model.load_state_dict(kept, strict=False)
    model.bias.fill_(float(old.bias.detach().mean()))
    return TwoTowerRanker(model)
