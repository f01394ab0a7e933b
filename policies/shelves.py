"""A stochastic policy whose propensities are exact: every position draws from a shelf of its own.

The pool of the best candidates is dealt out to K shelves in turns, best first, so that position k
has the candidates of rank k, K + k, 2 K + k, and so on. Each position draws one of its shelf from a
softmax of the ranker's log-odds and of knobs on cues, without a look at the other positions. So
slates hold distinct items, positions are independent, and the propensity of a slate is the product
of those of its positions: what estimators of `recsim_env.logs.off_policy_slates` need. Factored
policies of this kind are those of Swaminathan et al. 2017, "Off-policy evaluation for slate
recommendation".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.composer import Composer, ComposerConfig
from policies.inputs import PolicyInputs
from recsim_env import checks
from recsim_env.types import Observation

HOTTEST = 1e6
"""Highest temperature, at which all items of a shelf are as likely as each other."""
LARGEST = 1e3
"""Largest knob, in log-odds per unit of its cue."""


@dataclass(frozen=True)
class Shelved:
    """The pool of a visit, dealt out to the positions.

    Shapes: B shoppers, K positions, S items of a shelf.
        items:  (B, K, S) int64, -1 where a shelf is shorter
        logits: (B, K, S) float32 log-odds of a click by the ranker, -inf there
        cues:   (B, K, S, J) float32, the value of each of the named cues
    """

    items: Tensor
    logits: Tensor
    cues: Tensor

    def places(self, slates: Tensor) -> Tensor:
        """The place of each item of slates (B, K) on the shelf of its position: (B, K) int64.

        Raises:
            ValueError: If a slate has an item that is not on its shelf.
        """
        same = (self.items == slates.unsqueeze(2)) & (self.items >= 0)
        for row, position in (~same.any(dim=2)).nonzero()[:1].tolist():
            raise ValueError(
                f"slates holds {int(slates[row, position])} at [{row}, {position}], but it must be "
                "an item of the shelf of that position."
            )
        return same.int().argmax(dim=2)


class Shelves:
    """Deals out the pool of a visit.

    Args:
        inputs: What policies are built from.
        cues: Names of the cues that knobs may weigh.

    Raises:
        ValueError: If there is no ranker, or the environment lacks a cue.
    """

    def __init__(self, inputs: PolicyInputs, cues: tuple[str, ...]) -> None:
        self._composer = Composer(inputs, ComposerConfig(form="log_odds", offset_dims=0))
        known = tuple(self._composer.cues)
        for name in cues:
            checks.choice("cues", name, known)
        self.cues = cues
        self.size = inputs.slate_size
        self._columns = [known.index(name) for name in cues]
        self._units = [cue.unit for cue in self._composer.cues.values()]

    @torch.no_grad()
    def __call__(self, observation: Observation) -> Shelved:
        """Deal out the pool of each shopper."""
        view = self._composer.view(observation)
        cues = [view.cues[:, :, at] / self._units[at] for at in self._columns]
        none = view.cues[:, :, :0]
        valued = torch.stack(cues, dim=2) if cues else none
        return Shelved(
            self._dealt(view.pool.items, -1),
            self._dealt(view.pool.logits, -math.inf),
            self._dealt(valued, 0.0),
        )

    def _dealt(self, values: Tensor, empty: float) -> Tensor:
        """Deal out values (B, P, ..), best first, to (B, K, S, ..)."""
        shoppers, pool = values.shape[:2]
        length = -(-pool // self.size)
        whole = values.new_full((shoppers, length * self.size, *values.shape[2:]), empty)
        whole[:, :pool] = values
        return whole.view(shoppers, length, self.size, *values.shape[2:]).transpose(1, 2)


class ShelfPolicy:
    """Draws the item of each position from its shelf.

    Args:
        shelves: Deals out the pool.
        knobs: Log-odds per unit of each cue; those not named are 0.
        temperature: What all log-odds are divided by, above 0; at `HOTTEST` items are drawn
            uniformly from their shelf.

    Raises:
        TypeError: If `knobs` is no mapping.
        ValueError: If a knob is none of the shelves' cues, or a number is out of its range.
    """

    def __init__(
        self, shelves: Shelves, knobs: Mapping[str, float], temperature: float = 1.0
    ) -> None:
        knobs = checks.mapping("knobs", knobs)
        for name in knobs:
            checks.choice("knobs", name, shelves.cues)
        weights = [
            checks.number(f"knobs[{name!r}]", knobs.get(name, 0.0), -LARGEST, LARGEST)
            for name in shelves.cues
        ]
        self._shelves = shelves
        self._weights = torch.tensor(weights, dtype=torch.float32)
        self._temperature = checks.number("temperature", temperature, 1e-3, HOTTEST)
        self.draws = shelves.size

    @torch.no_grad()
    def chances(self, shelved: Shelved) -> Tensor:
        """The chance of each item of a shelf: (B, K, S) float64, 0 where a shelf is shorter."""
        scores = shelved.logits + shelved.cues @ self._weights.to(shelved.cues.device)
        return torch.softmax(scores.double() / self._temperature, dim=2)

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Draw slates (B, K)."""
        shelved = self._shelves(observation)
        reached = self.chances(shelved).cumsum(dim=2)
        # a sum that rounds to less than 1 must not end behind the last item
        last = (shelved.items >= 0).sum(dim=2, keepdim=True) - 1
        place = (reached <= draws.double().unsqueeze(2)).sum(dim=2, keepdim=True)
        return shelved.items.gather(2, torch.minimum(place, last)).squeeze(2)

    def log_propensity(self, observation: Observation, slates: Tensor) -> Tensor:
        """The log-probability (B,) float64 of slates (B, K), for `recsim_env.logs.record.record`.

        Raises:
            ValueError: If a slate has an item that is not on its shelf.
        """
        shelved = self._shelves(observation)
        return propensities(self.chances(shelved), shelved.places(slates)).log().sum(dim=1)


def propensities(chances: Tensor, places: Tensor) -> Tensor:
    """Look up the chances (B, K, S) of the items at places (B, K) of their shelves: (B, K)."""
    return chances.gather(2, places.unsqueeze(2)).squeeze(2)
