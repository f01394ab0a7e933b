"""Policies that learn nothing: uniform and popular."""

from __future__ import annotations

from torch import Tensor

from policies.base import (
    ObservationCheck,
    PolicyInputs,
    Untuned,
    candidates_of,
    check_draws,
    max_candidates,
    register_policy,
    top_slates,
)
from recsim_env import checks
from recsim_env.types import Observation, Policy


class Uniform:
    """Every slate of candidates is as likely as any other.

    Args:
        items: N
        candidates: C
        slate_size: K
        check: of the observations; None = they are not looked at
    """

    def __init__(
        self, items: int, candidates: int, slate_size: int, check: ObservationCheck | None = None
    ) -> None:
        self._items = checks.whole("items", items, 1)
        self._slate_size = checks.whole("slate_size", slate_size, 1)
        self._check = check
        self.draws = checks.whole(
            "candidates", candidates, 1
        )  # one number a candidate; the K largest make the slate

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) of the candidates with the largest draws (B, C)."""
        if self._check is not None:
            self._check(observation)
        candidates = candidates_of(observation, self._items)
        check_draws(draws, *candidates.shape)
        return top_slates(draws, candidates, self._slate_size)


class Popular:
    """What the most shoppers respond to, the same for everyone with the same candidates.

    Args:
        items: N
        slate_size: K
        popularity: (N,) of the log, for observations without a `popularity`
        check: of the observations; None = they are not looked at
    """

    draws = 0

    def __init__(
        self,
        items: int,
        slate_size: int,
        popularity: Tensor | None,
        check: ObservationCheck | None = None,
    ) -> None:
        self._items = checks.whole("items", items, 1)
        self._slate_size = checks.whole("slate_size", slate_size, 1)
        self._check = check
        self._popularity = popularity

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K) by `observation["popularity"]` (B, C), or by the log's popularity (N,)."""
        if self._check is not None:
            self._check(observation)
        candidates = candidates_of(observation, self._items)
        scores = observation.get("popularity")
        if scores is None:
            assert self._popularity is not None  # the builder made sure
            scores = self._popularity.to(candidates.device)[candidates.clamp(min=0)]
        return top_slates(scores, candidates, self._slate_size)


@register_policy("uniform", Untuned, needs_ranker=False)
def uniform(inputs: PolicyInputs, parameters: Untuned) -> Policy:
    """Build `Uniform`."""
    items, space = len(inputs.catalog), inputs.observation_space
    check = ObservationCheck(space, inputs.catalog)
    return Uniform(items, max_candidates(space, items), inputs.slate_size, check)


@register_policy("popular", Untuned, needs_ranker=False)
def popular(inputs: PolicyInputs, parameters: Untuned) -> Policy:
    """Build `Popular`.

    Raises:
        ValueError: If neither the observation nor the log says what is popular.
    """
    if "popularity" not in inputs.observation_space.spaces and inputs.popularity is None:
        raise ValueError(
            "The policy 'popular' needs a `popularity` key in the observation or PolicyInputs.popularity."
        )
    check = ObservationCheck(inputs.observation_space, inputs.catalog)
    return Popular(len(inputs.catalog), inputs.slate_size, inputs.popularity, check)
