"""Baselines of the completion of a cart: popularity, own history, and own history with lift.

    score(i) = log(own purchases + popular * purchases a visit of all) + mean * l + most * m

where l and m are the mean and the largest log lift of item i with the items of the cart. The
weights are those that hit most on weeks that nothing is reported of, for each measure on its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recsim_env.shoppers.carts.examples import scored_visits
from recsim_env.shoppers.carts.histories import before
from recsim_env.shoppers.carts.lift import PairLift
from recsim_env.shoppers.carts.model import CartCompletion
from recsim_env.shoppers.household.features import POPULARITY, visit_context
from recsim_env.shoppers.household.memory import COUNT, Keys
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.household.replay import Visits
from recsim_env.shoppers.household.states import REMEMBERED

AT_ONCE = 32
"""Carts that are scored together, so that what they touch stays in the cache."""
POPULAR = (0.1, 1.0, 5.0, 20.0)
"""Purchases that one purchase a visit of everybody counts for."""
MEAN = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Weights of the mean log lift."""
MOST = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Weights of the largest log lift."""
NOTHING = 1e-6
"""Purchases of an item that nobody ever bought."""


@dataclass(frozen=True)
class Carts:
    """Some carts of which one item is hidden, and what is known of all items.

    Shapes: B carts, N items.
        visit, household, hidden: (B,) int64; the hidden item
        cart: (B, L) int64, padded with -1
        held, bought: (B, M) items bought before, and how often
        context: (B, CONTEXT)
        stats: (B, N, LEVELS, STATS)
        item_context: (B, N, ITEM_CONTEXT)
        promoted: (B, N) bool
        lift: (B, N, CART_FEATURES) from `PairLift.of_carts`
        popularity: (B, N) float32 purchases a visit
    """

    visit: Tensor
    household: Tensor
    hidden: Tensor
    cart: Tensor
    held: Tensor
    bought: Tensor
    context: Tensor
    stats: Tensor
    item_context: Tensor
    promoted: Tensor
    lift: Tensor
    popularity: Tensor

    @property
    def count(self) -> Tensor:
        """How often the household bought each item before: (B, N)."""
        return self.stats[:, :, 0, COUNT]

    @property
    def new(self) -> Tensor:
        """Whether the household never bought the hidden item: (B,) bool."""
        return self.count.gather(1, self.hidden.unsqueeze(1)).squeeze(1) == 0

    def ranks(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Find how many items stand above the hidden one; of equal ones, half do.

        Args:
            scores: (B, N)

        Returns:
            Among all items outside of the cart, and among those that the household never bought:
            (B,) float32 each. The second one says nothing where the hidden item was bought before.
        """
        at = self.hidden.unsqueeze(1)
        own = scores.gather(1, at)
        width = scores.shape[1]
        inside = torch.zeros(len(scores), width + 1, dtype=torch.bool)
        inside.scatter_(1, self.cart.where(self.cart >= 0, width), True)
        found = []
        for left_out in (inside[:, :width], inside[:, :width] | (self.count > 0)):
            above = ((scores > own) & ~left_out).sum(dim=1)
            beside = ((scores == own) & ~left_out).scatter(1, at, False).sum(dim=1)
            found.append(above + 0.5 * beside)
        return found[0], found[1]


def carts(
    visits: Visits,
    keys: Keys,
    promotions: StorePromotions,
    lift: PairLift,
    within: Tensor,
    most: int,
    seed: int,
) -> Iterator[Carts]:
    """Hide one random item of each basket of two items or more.

    Args:
        visits: the log
        keys: the counters of the items
        promotions: what the stores promote
        lift: what carts say about items
        within: (V,) bool the visits that are wanted
        most: most carts; of more, a random part is taken
        seed: of what is drawn

    Yields:
        Some carts at a time.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = scored_visits(visits, within, items=2)
    order = torch.rand(len(chosen), generator=generator).masked_fill(~chosen, 2.0).argsort()
    chosen[order[most:]] = False
    everything = torch.arange(keys.n_items)
    popularity = promotions.purchases_a_visit()
    for group, memory in before(visits, keys, chosen, REMEMBERED):
        for now in group.split(AT_ONCE):
            basket = visits.padded(now)
            size = (basket >= 0).sum(dim=1)
            place = (torch.rand(len(now), generator=generator) * size).long().unsqueeze(1)
            cart = basket.scatter(1, place, -1)
            who, day, week = visits.shopper[now], visits.day[now].float(), visits.week[now]
            week_row = week.clamp(max=len(promotions.item_context) - 1)
            items = everything.expand(len(now), -1)
            yield Carts(
                visit=now,
                household=who,
                hidden=basket.gather(1, place).squeeze(1),
                cart=cart,
                held=memory.items[who],
                bought=memory.purchases()[who],
                context=visit_context(memory.tally_of(who, day), day, visits.since[now]),
                stats=memory.stats(who.unsqueeze(1), items, day.unsqueeze(1)),
                item_context=promotions.item_context[week_row],
                promoted=promotions.placement[promotions.row(visits.store[now], week)] > 0,
                lift=lift.of_carts(cart, items),
                popularity=popularity[week_row],
            )


def popularity(batch: Carts) -> Tensor:
    """Score items (B, N) by what all households bought in the last four weeks."""
    assert batch.item_context.shape[-1] > POPULARITY
    return batch.popularity


@dataclass(frozen=True)
class Weights:
    """The weights of a baseline, see the module."""

    popular: float
    mean: float = 0.0
    most: float = 0.0

    def scores(self, batch: Carts) -> Tensor:
        """Score items (B, N)."""
        known = (batch.count + self.popular * batch.popularity + NOTHING).log()
        return known + self.mean * batch.lift[..., 0] + self.most * batch.lift[..., 1]


OWN = tuple(Weights(popular) for popular in POPULAR)
"""What is tried for own history alone."""
WITH_LIFT = tuple(Weights(*values) for values in itertools.product(POPULAR, MEAN, MOST))
"""What is tried for own history with lift; it holds own history alone."""


def completion(model: CartCompletion, vectors: Tensor, batch: Carts) -> Tensor:
    """Score items (B, N) by a fitted model; `vectors` (N, D) are those of its items."""
    visit = model.visit(vectors, batch.context, batch.held, batch.bought, batch.cart)
    items = torch.arange(len(vectors)).expand(len(batch.visit), -1)
    logits: Tensor = model(
        vectors, visit, items, batch.stats, batch.item_context, batch.promoted, batch.lift
    )
    return logits
