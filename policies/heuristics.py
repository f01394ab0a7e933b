"""Policies that learn nothing of the shopper: uniform slates and popular items."""

from __future__ import annotations

from torch import Tensor

from policies.inputs import PolicyInputs
from policies.observations import ObservationCheck, candidates_of, check_draws, max_candidates
from policies.parameters import NoParameters
from policies.registry import register_policy
from policies.slates import top_slates
from recsim_env import checks
from recsim_env.types import Observation, Policy


class Uniform:
    """Shows every slate of candidates with the same probability.

    Args:
        items: number of items N
        candidates: largest number of candidates C of a visit
        slate_size: number of slate positions K
        check: check of the observations; None = they are not checked
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
        """Show the candidates with the largest draws (B, C): slates (B, K)."""
        if self._check is not None:
            self._check(observation)
        candidates = candidates_of(observation, self._items)
        check_draws(draws, *candidates.shape)
        return top_slates(draws, candidates, self._slate_size)


class Popular:
    """Shows the items that most shoppers respond to.

    Args:
        items: number of items N
        slate_size: number of slate positions K
        popularity: (N,) popularity in the log, for observations without a `popularity`
        check: check of the observations; None = they are not checked
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
        """Compose slates (B, K) by the observation's popularity (B, C), or the log's (N,)."""
        if self._check is not None:
            self._check(observation)
        candidates = candidates_of(observation, self._items)
        scores = observation.get("popularity")
        if scores is None:
            assert self._popularity is not None  # the builder made sure
            scores = self._popularity.to(candidates.device)[candidates.clamp(min=0)]
        return top_slates(scores, candidates, self._slate_size)


@register_policy("uniform", NoParameters, needs_ranker=False)
def uniform(inputs: PolicyInputs, parameters: NoParameters) -> Policy:
    """Build the policy that shows uniform slates."""
    items, space = len(inputs.catalog), inputs.observation_space
    check = ObservationCheck(space, inputs.catalog)
    return Uniform(items, max_candidates(space, items), inputs.slate_size, check)


@register_policy("popular", NoParameters, needs_ranker=False, needs_keys=("popularity",))
def popular(inputs: PolicyInputs, parameters: NoParameters) -> Policy:
    """Build the policy that shows popular items.

    Raises:
        ValueError: If neither the observation nor the log holds the popularity of items.
    """
    if "popularity" not in inputs.observation_space.spaces and inputs.popularity is None:
        raise ValueError(
            "The policy 'popular' needs a `popularity` key in the observation or "
            "PolicyInputs.popularity."
        )
    check = ObservationCheck(inputs.observation_space, inputs.catalog)
    return Popular(len(inputs.catalog), inputs.slate_size, inputs.popularity, check)
