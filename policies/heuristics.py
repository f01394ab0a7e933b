"""Policies that learn nothing: uniform and popular."""

from __future__ import annotations

from torch import Tensor

from policies.base import (
    Policy,
    PolicyInputs,
    Untuned,
    candidates_of,
    max_candidates,
    register_policy,
    top_slates,
)
from recsim_env.types import Observation


class Uniform:
    """Every slate of candidates is as likely as any other."""

    def __init__(self, items: int, candidates: int, slate_size: int) -> None:
        self._items = items
        self._slate_size = slate_size
        self.draws = candidates  # one number a candidate; the K largest make the slate

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) of the candidates with the largest draws (B, C)."""
        return top_slates(draws, candidates_of(observation, self._items), self._slate_size)


class Popular:
    """What the most shoppers respond to, the same for everyone with the same candidates."""

    draws = 0

    def __init__(self, items: int, slate_size: int, popularity: Tensor | None) -> None:
        self._items = items
        self._slate_size = slate_size
        self._popularity = popularity

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) by `observation["popularity"]` (B, C), or by the log's popularity (N,)."""
        candidates = candidates_of(observation, self._items)
        scores = observation.get("popularity")
        if scores is None:
            assert self._popularity is not None  # the builder made sure
            scores = self._popularity.to(candidates.device)[candidates.clamp(min=0)]
        return top_slates(scores, candidates, self._slate_size)


@register_policy("uniform", Untuned, needs_ranker=False)
def uniform(inputs: PolicyInputs, parameters: Untuned) -> Policy:
    """Build `Uniform`."""
    items = len(inputs.catalog)
    return Uniform(items, max_candidates(inputs.observation_space, items), inputs.slate_size)


@register_policy("popular", Untuned, needs_ranker=False)
def popular(inputs: PolicyInputs, parameters: Untuned) -> Policy:
    """Build `Popular`. Errors: ValueError where neither the observation nor the log says what is popular."""
    if "popularity" not in inputs.observation_space.spaces and inputs.popularity is None:
        raise ValueError("The policy 'popular' needs a `popularity` key in the observation or PolicyInputs.popularity.")
    return Popular(len(inputs.catalog), inputs.slate_size, inputs.popularity)
