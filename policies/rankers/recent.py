"""The counters of a shop's profile, made from the few slates that an observation holds.

The two-tower ranker looks at the counters of `recsim_env.shoppers.profile`. Shoppers who tell
nothing beside the last slates are ranked all the same: their counters are those of these slates, in
the fit and in use alike, so that the ranker's memory reaches as far back as the observation.
"""

from __future__ import annotations

import gymnasium
import torch
from torch import Tensor

from policies.rankers.two_tower import SHOPPER_KEYS, TwoTowerRanker
from recsim_env.catalog import Catalog
from recsim_env.shoppers.profile import Profile
from recsim_env.types import Observation


class RecentCounters:
    """Makes the keys of a profile from `recent_slates` and `recent_clicks`.

    Args:
        catalog: the items
        slate_size: number of slate positions K
    """

    def __init__(self, catalog: Catalog, slate_size: int) -> None:
        self._catalog, self._slate_size = catalog, slate_size

    @torch.no_grad()
    def __call__(self, observation: Observation) -> Observation:
        """The observation with the counters of the slates that it holds, and all its other keys."""
        slates, clicks = observation["recent_slates"], observation["recent_clicks"].bool()
        shown = slates >= 0  # (B, H, K)
        profile = Profile.empty(len(slates), self._catalog, self._slate_size, slates.device)
        category, embedding = self._catalog.category, self._catalog.embedding
        for at in reversed(range(slates.shape[1])):  # the oldest slate first
            seen = shown[:, at]
            profile.record(
                slates[:, at].clamp(min=0), seen, clicks[:, at] & seen, category, embedding
            )
        profile.visits = shown.any(dim=2).sum(dim=1).float()
        return {**observation, **profile.observe()}


class RecentRanker:
    """A two-tower ranker for observations without a profile; a `policies.inputs.Ranker`.

    Args:
        ranker: fitted with the same counters
        counters: makes them
    """

    def __init__(self, ranker: TwoTowerRanker, counters: RecentCounters) -> None:
        self.two_tower = ranker
        self._counters = counters

    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response to every candidate, (B, C); see `TwoTowerRanker.logits`."""
        return self.two_tower.logits(self._counters(observation))

    def looks(self, observation: Observation) -> Tensor:
        """The chance that each position is looked at, (1, K)."""
        return self.two_tower.looks(observation)


def counters_for(
    space: gymnasium.spaces.Dict, catalog: Catalog, slate_size: int
) -> RecentCounters | None:
    """The counters that a two-tower ranker needs where the observation does not hold its keys."""
    if set(SHOPPER_KEYS) <= space.keys():
        return None
    return RecentCounters(catalog, slate_size)
