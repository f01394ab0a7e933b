"""Policies that serve visits in order to write a log: noisy re-rankers and knobs drawn at random.

Neither is registered: what a log's servers explore is chosen by whoever writes the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from policies.composer import Composer, View
from recsim_env.noise import gumbel
from recsim_env.types import Observation


class NoisyComposerPolicy:
    """A composer with constant knobs and Gumbel noise on the ranker's log-odds.

    Args:
        composer: composes the slates
        knobs: log-odds per unit of each cue; those not named are 0
        temperature: scale of the noise, in log-odds; 0 adds none
    """

    def __init__(self, composer: Composer, knobs: Mapping[str, float], temperature: float) -> None:
        self._composer = composer
        self._intent = composer.intent(knobs)
        self._temperature = temperature
        self.draws = composer.pool_size

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K)."""
        view = self._composer.view(observation)
        noisy = _with_noise(view, self._temperature * gumbel(draws))
        intent = self._intent.to(draws.device).expand(len(draws), -1)
        return self._composer.compose_view(noisy, intent)


class RandomKnobsPolicy:
    """A composer that draws its knobs and the scale of its noise anew at every visit.

    Each knob is off half of the time, and uniform over its range otherwise. The scale of the Gumbel
    noise is the square of a uniform number, times `temperature`.

    Args:
        composer: composes the slates
        ranges: least and largest log-odds of each knob; those not named are 0
        temperature: largest scale of the noise, in log-odds
    """

    def __init__(
        self, composer: Composer, ranges: Mapping[str, tuple[float, float]], temperature: float
    ) -> None:
        self._composer = composer
        self._low, self._high = (
            composer.intent({name: span[end] for name, span in ranges.items()}) for end in (0, 1)
        )
        self._temperature = temperature
        self.draws = composer.pool_size + len(self._low) + 1

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K)."""
        view = self._composer.view(observation)
        of_items, of_knobs, heat = draws.split([self._composer.pool_size, len(self._low), 1], dim=1)
        noisy = _with_noise(view, self._temperature * heat**2 * gumbel(of_items))
        low, high = self._low.to(draws.device), self._high.to(draws.device)
        intent = torch.where(of_knobs < 0.5, 0.0, low + (high - low) * (2 * of_knobs - 1))
        return self._composer.compose_view(noisy, intent)


def _with_noise(view: View, noise: Tensor) -> View:
    """The view with noise (B, P) added to the ranker's log-odds."""
    return replace(view, pool=replace(view.pool, logits=view.pool.logits + noise))
