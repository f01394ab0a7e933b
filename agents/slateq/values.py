"""What SlateQ knows of a visit, and the networks that value its items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.slateq.config import SlateQConfig
from policies.composer import Composer
from policies.rankers.networks import Standardizer, tower
from policies.slates import filled
from recsim_env.types import Observation


@dataclass(frozen=True)
class Visits:
    """B visits before a slate is shown, each with a pool of items.

    Shapes: B visits, P pool items, F state features, Z item features.
    """

    features: Tensor
    """(B, F) float32 features of the state."""
    items: Tensor
    """(B, P, Z) float32 features of each pool item, finite everywhere."""
    logits: Tensor
    """(B, P) float32 click logits of the ranker; -inf where the pool has no item."""
    ids: Tensor
    """(B, P) int64 catalogue items; -1 where the pool has no item."""

    def at(self, places: Tensor) -> Visits:
        """The same visits with the pool reduced to the pool indices `places` (B, K)."""
        of_items = places.unsqueeze(2).expand(-1, -1, self.items.shape[2])
        return Visits(
            self.features,
            self.items.gather(1, of_items),
            self.logits.gather(1, places),
            self.ids.gather(1, places),
        )

    def slates(self, places: Tensor, size: int) -> Tensor:
        """Item ids (B, size) of pool indices (B, at most size)."""
        return filled(self.ids.gather(1, places), size)


ObserveVisit = Callable[[Observation], Visits]
"""Turns an observation of B shoppers into what the learner knows of their visits."""


@torch.no_grad()
def observe_visit(composer: Composer, observation: Observation) -> Visits:
    """State, pool and cues of B visits as `policies.composer.Composer` computes them.

    Item features are the logit, the cues and the principal components of the item's embedding.
    """
    view = composer.view(observation)
    absent = view.pool.items < 0
    logits = view.pool.logits.masked_fill(absent, -torch.inf)
    items = torch.cat(
        [logits.masked_fill(absent, 0.0).unsqueeze(2), view.cues, view.vectors], dim=2
    )
    return Visits(view.features, items, logits, view.pool.items)


class ItemValues(nn.Module):
    """Computes Q(s, none) and the gain of every pool item.

    A subclass implements `forward`, and `start` where it depends on the scale of its inputs.
    """

    def forward(self, visits: Visits) -> tuple[Tensor, Tensor]:
        """Q(s, none) as (B,), and gain(s, i) = Q(s, i) - Q(s, none) as (B, P)."""
        raise NotImplementedError

    def start(self, visits: Visits, level: float) -> None:
        """Prepare for the first update.

        Args:
            visits: a sample of the warm-up
            level: estimate of the discounted reward of a visit and all after it
        """


class FactorisedValues(ItemValues):
    """Combines state and item in one small layer, so the state is encoded once for the whole pool.

        x = tower(state),    Q(s, none) = a . x,    gain(s, i) = b . tanh(A x + B item_i)

    It starts with the same gain for every item and state; the best slate is then the one with the
    largest logits.
    """

    def __init__(
        self, width: int, item_width: int, config: SlateQConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.standardize = Standardizer(width)
        self.standardize_item = Standardizer(item_width)
        self.state = nn.Sequential(
            tower(width, (config.hidden,), config.hidden, generator), nn.Tanh()
        )
        self.none = tower(config.hidden, (), 1, generator, gain=0.0)
        self.of_state = tower(config.hidden, (), config.item_hidden, generator)
        self.of_item = tower(item_width, (), config.item_hidden, generator)
        self.gain = tower(config.item_hidden, (), 1, generator, gain=0.0)
        _set_bias(self.gain, config.reward_scale)  # the immediate reward of one click

    def forward(self, visits: Visits) -> tuple[Tensor, Tensor]:
        """Q(s, none) as (B,), and gain(s, i) as (B, P)."""
        state = self.state(self.standardize(visits.features))
        meeting = self.of_state(state).unsqueeze(1) + self.of_item(
            self.standardize_item(visits.items)
        )
        return self.none(state).squeeze(1), self.gain(torch.tanh(meeting)).squeeze(2)

    @torch.no_grad()
    def start(self, visits: Visits, level: float) -> None:
        """Fix the scale of the features, and set every Q(s, none) to `level`."""
        self.standardize.fit(visits.features)
        self.standardize_item.fit(visits.items[visits.ids >= 0])
        _set_bias(self.none, level)


def _set_bias(network: nn.Sequential, value: float) -> None:
    last = network[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, value)
