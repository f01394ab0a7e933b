"""The visits of regular customers before an episode: played once, by a policy that explores.

The shop showed slates whose categories were drawn by what the shopper had declared, and a share of
them at random (`RegularsConfig.logged_at_random`), with items of the category drawn at random.
Nobody left meanwhile: who is a regular has stayed. Everything random comes from the seed of the
world and the number of the shopper, so that each of them has one history, however many are played
together.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recsim_env import noise
from recsim_env.catalog import Catalog
from recsim_env.shoppers.base import Past
from recsim_env.shoppers.cold import new_items
from recsim_env.shoppers.profile import Profile
from recsim_env.shoppers.regulars.behaviour import Behaviour, RegularsState
from recsim_env.shoppers.regulars.config import RegularsConfig
from recsim_env.shoppers.regulars.traits import TRAITS, Traits
from recsim_env.shoppers.worlds import (
    category_centres,
    first_interests,
    interest_draws,
    world_of,
)
from recsim_env.tensors import first_places, looked_up
from recsim_env.trees import pick

SHARPNESS = 4.0
"""Log-odds by which a category is shown more per unit of the cosine with what was declared."""


@dataclass(frozen=True)
class Known:
    """The regulars whom a shop knows, as an episode finds them."""

    state: RegularsState
    """P rows, on the CPU."""
    past: Past
    """What they were shown, and did."""


@functools.lru_cache(maxsize=4)
@torch.no_grad()
def known_regulars(
    config: RegularsConfig, world: int, slate_size: int, visits: int, of_items: float = 0.0
) -> Known:
    """Play the histories of all regulars of a world; asked again, the same object comes back.

    Args:
        config: The parameters.
        world: The seed of the world.
        slate_size: K, the positions of the slates that they were shown.
        visits: V, how many of the last visits are kept.
        of_items: The share of items that are new, which were not there then.

    Raises:
        ValueError: If all items are new, so that there was nothing to show.
    """
    new = new_items(config.items, of_items, world)
    if new is not None and bool(new.all()):
        raise ValueError(
            f"new_items is {of_items}, but regulars have a history, so that one of the "
            f"{config.items} items must be older."
        )
    catalog, quality = world_of(config, world)
    behaviour = Behaviour(config, catalog, quality, slate_size)
    keys, first = _registrations(config, world)
    length = visits_before(config, first[:, -1])

    # the longest first, so that those who are there are always the first rows
    order = length.argsort(descending=True, stable=True)
    policy = LoggingPolicy(catalog, slate_size, config.logged_at_random, new)
    played = _played(behaviour, policy, order, keys[order], first[order], length[order], visits)
    return pick(played, order.argsort())


def registered_regulars(behaviour: Behaviour, world: int) -> RegularsState:
    """Make all regulars of a world as they were on the day when they registered."""
    _, first = _registrations(behaviour.config, world)
    device = behaviour.catalog.device
    who = torch.arange(behaviour.config.known, device=device)
    return registered(behaviour, who, first.to(device))


def _registrations(config: RegularsConfig, world: int) -> tuple[Tensor, Tensor]:
    """Return the noise keys (P,) of all regulars, and what they draw at registration."""
    seeds = torch.full((config.known,), world, dtype=torch.int64)
    keys = noise.episode_key(seeds, torch.arange(config.known), stream=noise.Stream.REGULARS)
    return keys, noise.uniform(keys, 0, start_draws(config))


def start_draws(config: RegularsConfig) -> int:
    """Uniform numbers that a shopper at registration takes."""
    return interest_draws(config) + len(TRAITS) + 1


def visits_before(config: RegularsConfig, draws: Tensor) -> Tensor:
    """Draw the number of visits before an episode from uniform numbers (P,): (P,) int64."""
    low, high = math.log(config.fewest_visits), math.log(config.most_visits + 1)
    drawn = torch.exp(low + (high - low) * draws).long()
    return drawn.clamp(config.fewest_visits, config.most_visits)


def registered(behaviour: Behaviour, who: Tensor, draws: Tensor) -> RegularsState:
    """Make shoppers at registration: an interest in a few categories, and traits of their own.

    Args:
        behaviour: What they will do.
        who: (B,) int64, their numbers.
        draws: (B, `start_draws`) float32, uniform in [0, 1).
    """
    config, catalog, batch = behaviour.config, behaviour.catalog, len(draws)
    of_interest, own, _ = draws.split([interest_draws(config), len(TRAITS), 1], dim=1)
    interest, declared = first_interests(config, category_centres(catalog), of_interest)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(batch, *shape, dtype=torch.float32, device=draws.device)

    return RegularsState(
        who=who,
        traits=Traits.drawn(config, own),
        interest=interest,
        declared=declared,
        clicked=zeros(config.categories),
        sated=zeros(config.categories),
        fatigue=zeros(config.items),
        satisfaction=zeros(),
        profile=Profile.empty(batch, catalog, behaviour.slate_size, draws.device),
        day=zeros(),
    )


class LoggingPolicy:
    """Who chose the slates before an episode: see the module.

    Args:
        catalog: The items.
        slate_size: K.
        at_random: The share of the positions whose category is drawn at random.
        new: (N,) bool, items that were not there, and not all of them; None means that all were.
    """

    def __init__(
        self, catalog: Catalog, slate_size: int, at_random: float, new: Tensor | None = None
    ) -> None:
        self.slate_size, self._at_random = slate_size, at_random
        self.draws = 2 * slate_size
        """Uniform numbers that a slate takes."""
        self._centres = category_centres(catalog)
        self._sorted = catalog.category.argsort(stable=True)
        if new is not None:
            self._sorted = self._sorted[~new[self._sorted]]
        category = catalog.category[self._sorted]
        self._size = category.bincount(minlength=len(catalog.categories))
        self._first = self._size.cumsum(0) - self._size

    def shares(self, declared: Tensor) -> Tensor:
        """Return how often each category is shown to shoppers: (B, G)."""
        liked = torch.softmax(SHARPNESS * declared @ self._centres.T, dim=1)
        shares = self._at_random / liked.shape[1] + (1 - self._at_random) * liked
        if bool((self._size > 0).all()):
            return shares
        there = shares * (self._size > 0)  # of some categories every item is new
        return there / there.sum(dim=1, keepdim=True)

    def slates(self, edges: Tensor, draws: Tensor) -> Tensor:
        """Draw slates (B, K); an item may stand in a slate twice.

        Args:
            edges: (B, G), the sums of the shares up to each category.
            draws: (B, `draws`) float32, uniform in [0, 1).
        """
        of_category, of_item = draws.split(self.slate_size, dim=1)
        category = torch.searchsorted(edges, of_category.contiguous(), right=True)
        category = category.clamp(max=edges.shape[1] - 1)
        size = looked_up(self._size, category)
        place = (of_item * size).long().minimum(size - 1) + looked_up(self._first, category)
        return looked_up(self._sorted, place.clamp(0, len(self._sorted) - 1))


def _played(
    behaviour: Behaviour,
    policy: LoggingPolicy,
    who: Tensor,
    keys: Tensor,
    first: Tensor,
    length: Tensor,
    visits: int,
) -> Known:
    """Play histories of some lengths, the longest first, so that all end together."""
    size, longest = behaviour.slate_size, int(length[0])
    state = registered(behaviour, who, first)
    edges = policy.shares(state.declared).cumsum(dim=1)
    slates = torch.full((len(who), visits, size), -1, dtype=torch.int64)
    clicks, days = torch.zeros_like(slates, dtype=torch.bool), torch.zeros(len(who), visits)
    for left in range(longest, 0, -1):  # visits that are left, this one among them
        there = int((length >= left).sum())
        draws = noise.uniform(keys[:there], left, policy.draws + behaviour.draws)
        to_show, to_visit = draws.split([policy.draws, behaviour.draws], dim=1)
        slate = policy.slates(edges[:there], to_show)
        shown = first_places(slate)
        seen = behaviour.visit(_front(state, there), slate, shown, to_visit)
        if left <= visits:
            slates[:there, left - 1] = slate.where(shown, -1)
            clicks[:there, left - 1] = seen.clicks
        kept = days[:there, left - 1 :]
        kept += seen.days.unsqueeze(1) * (slates[:there, left - 1 :, 0] >= 0)
    state.day.zero_()
    return Known(state, Past(slates, clicks, days))


def _front(node: Any, count: int) -> Any:
    """Return the first rows of a state without a copy: what changes in them changes the state."""
    if isinstance(node, Tensor):
        return node[:count]
    return replace(node, **{name: _front(part, count) for name, part in vars(node).items()})
