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
def known_regulars(config: RegularsConfig, world: int, slate_size: int, visits: int) -> Known:
    """Play the histories of all regulars of a world; asked again, the same object comes back.

    Args:
        config: The parameters.
        world: The seed of the world.
        slate_size: K, the positions of the slates that they were shown.
        visits: V, how many of the last visits are kept.
    """
    catalog, quality = world_of(config, world)
    behaviour = Behaviour(config, catalog, quality, slate_size)
    seeds = torch.full((config.known,), world, dtype=torch.int64)
    keys = noise.episode_key(seeds, torch.arange(config.known), stream=noise.Stream.REGULARS)
    first = noise.uniform(keys, 0, start_draws(config))
    length = visits_before(config, first[:, -1])

    # the longest first, so that those who are there are always the first rows
    order = length.argsort(descending=True, stable=True)
    played = _played(behaviour, order, keys[order], first[order], length[order], visits)
    return pick(played, order.argsort())


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
    """Who chose the slates before an episode: see the module."""

    def __init__(self, catalog: Catalog, slate_size: int, at_random: float) -> None:
        self.slate_size, self._at_random = slate_size, at_random
        self.draws = 2 * slate_size
        """Uniform numbers that a slate takes."""
        self._centres = category_centres(catalog)
        self._sorted = catalog.category.argsort(stable=True)
        self._size = catalog.category.bincount(minlength=len(catalog.categories))
        self._first = self._size.cumsum(0) - self._size

    def shares(self, declared: Tensor) -> Tensor:
        """Return how often each category is shown to shoppers: (B, G)."""
        liked = torch.softmax(SHARPNESS * declared @ self._centres.T, dim=1)
        return self._at_random / liked.shape[1] + (1 - self._at_random) * liked

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
        place = (of_item * size).long().minimum(size - 1)
        return looked_up(self._sorted, looked_up(self._first, category) + place)


def _played(
    behaviour: Behaviour, who: Tensor, keys: Tensor, first: Tensor, length: Tensor, visits: int
) -> Known:
    """Play histories of some lengths, the longest first, so that all end together."""
    size, longest = behaviour.slate_size, int(length[0])
    state = registered(behaviour, who, first)
    policy = LoggingPolicy(behaviour.catalog, size, behaviour.config.logged_at_random)
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
