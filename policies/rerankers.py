"""Re-rankers of a CTR model: how a shop can vary its slates without learning to.

All of them look at the pool of the best candidates and fill the slate greedily. Their parameters
are tuned by `benchmarks.agents.tune`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from policies.composer import Composer, ComposerConfig, Form
from policies.cosines import Cosines
from policies.cues import BUDGET_KNOBS, WORTH_KNOBS, Knob, knobs
from policies.gains import scale_knobs
from policies.inputs import UNRANKED, PolicyInputs
from policies.parameters import tunable
from policies.pool import Pool, Pooling
from policies.registry import register_policy
from policies.slates import FARTHEST, SlateScores, pick
from recsim_env.settings import settle
from recsim_env.types import Observation, Policy

SINGULAR = 1e-8
"""Items that add at most this squared length to the span of a slate count as lying in that span.

It is above the rounding errors of the vectors that a catalogue keeps.
"""


class Reranker:
    """Fills slates greedily from the pool of a ranker; subclasses say how the scores change."""

    draws = 0

    def __init__(self, name: str, inputs: PolicyInputs) -> None:
        self._catalog = inputs.catalog
        self._ranker = inputs.need_ranker(name)
        self._slate_size = inputs.slate_size
        self._pooling = Pooling(inputs)

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K)."""
        pool = self._pooling.of(self._ranker, observation)
        return pick(pool, self._slate_size, self.scores_of(pool))

    def scores_of(self, pool: Pool) -> SlateScores:
        """Scores of this pool before the slate fills, which then change with every item in it."""
        raise NotImplementedError


# ---- maximal marginal relevance ----


@dataclass(frozen=True)
class MMRParameters:
    """Parameters of maximal marginal relevance, see `MMR`."""

    weight: float = tunable(1.0, 0.0, 5.0, least=0.0)
    """Log-odds that an item loses for a cosine of 1 to an item in the slate, 0 or more."""

    def __post_init__(self) -> None:
        settle(self)


class MMR(Reranker):
    """Maximal marginal relevance: score = logit - weight * max(0, largest cosine to the slate).

    Carbonell & Goldstein 1998, equation 1, with lambda = 1 / (1 + weight), divided by lambda.
    """

    def __init__(self, inputs: PolicyInputs, parameters: MMRParameters) -> None:
        super().__init__("mmr", inputs)
        self._cosines = Cosines(inputs.catalog)
        self._weight = parameters.weight

    def scores_of(self, pool: Pool) -> SlateScores:
        """Scores of an empty slate, to which nothing is similar."""
        return _Relevance(pool, self._cosines, self._weight)


class _Relevance(SlateScores):
    def __init__(self, pool: Pool, cosines: Cosines, weight: float) -> None:
        self._pool, self._cosines, self._weight = pool, cosines, weight
        self._similarity = torch.zeros_like(pool.logits)

    def scores(self) -> Tensor:
        return self._pool.logits - self._weight * self._similarity

    def add(self, chosen: Tensor) -> None:
        item = self._pool.ids.gather(1, chosen.unsqueeze(1)).squeeze(1)
        self._similarity = torch.maximum(
            self._similarity, self._cosines.between(item, self._pool.ids)
        )


register_policy("mmr", MMRParameters)(MMR)


# ---- category cap ----


@dataclass(frozen=True)
class CapParameters:
    """Parameters of the category cap, see `CategoryCap`."""

    limit: int = tunable(2, 1, 10, integer=True, least=1)
    """Largest number of items of one category in a slate, 1 or more."""

    def __post_init__(self) -> None:
        settle(self)


class CategoryCap(Reranker):
    """Shows the best logits, at most `limit` of a category; the best of the rest fill the slate."""

    def __init__(self, inputs: PolicyInputs, parameters: CapParameters) -> None:
        super().__init__("cap", inputs)
        self._limit = parameters.limit

    def scores_of(self, pool: Pool) -> SlateScores:
        """Scores of an empty slate, which has room for every category."""
        return _Capped(pool, self._catalog.category[pool.ids], self._limit)


class _Capped(SlateScores):
    def __init__(self, pool: Pool, category: Tensor, limit: int) -> None:
        self._pool, self._category, self._limit = pool, category, limit
        self._count = torch.zeros_like(category)
        self._behind = 1e4  # log-odds that put every item with room before all without

    def scores(self) -> Tensor:
        return self._pool.logits - self._behind * (self._count >= self._limit)

    def add(self, chosen: Tensor) -> None:
        self._count = self._count + (
            self._category == self._category.gather(1, chosen.unsqueeze(1))
        )


register_policy("cap", CapParameters)(CategoryCap)


# ---- determinantal point process ----


@dataclass(frozen=True)
class DPPParameters:
    """Parameters of the determinantal point process, see `DPP`."""

    alpha: float = tunable(2.0, 0.05, 10.0, least=0.0)
    """Weight of the log-odds against the log-volume of the slate, 0 or more."""

    def __post_init__(self) -> None:
        settle(self)


class DPP(Reranker):
    """Greedy MAP inference of a determinantal point process over slates.

    It maximises alpha * sum of logits + log det of the slate's cosines, by algorithm 1 of Chen,
    Zhang & Zhou 2018, "Fast greedy MAP inference for determinantal point process". The
    Cholesky factor is kept row by row, so an item's gain is log d_i^2, and after item j is taken
    e_i = (S_ji - <c_j, c_i>) / d_j, c_i = [c_i, e_i], d_i^2 = d_i^2 - e_i^2.

    An item with the vector of one in the slate, or with any vector in their span, makes the
    determinant 0 and its log -inf: such items are taken only where nothing else is left, and then
    by their logits.
    """

    def __init__(self, inputs: PolicyInputs, parameters: DPPParameters) -> None:
        super().__init__("dpp", inputs)
        self._cosines = Cosines(inputs.catalog, exact=True)
        self._alpha = parameters.alpha

    def scores_of(self, pool: Pool) -> SlateScores:
        """Scores of an empty slate: every item alone has volume 1."""
        quality = (self._alpha * pool.logits.to(self._cosines.dtype)).masked_fill(
            pool.logits <= UNRANKED, -FARTHEST
        )
        return _Volume(pool, self._cosines, quality)


class _Volume(SlateScores):
    def __init__(self, pool: Pool, cosines: Cosines, quality: Tensor) -> None:
        self._pool, self._cosines, self._quality = pool, cosines, quality
        self._volume = torch.ones_like(quality, dtype=cosines.dtype)  # d^2, (B, P)
        self._factor = self._volume.new_zeros(*pool.logits.shape, 0)  # c, (B, P, items taken)

    def scores(self) -> Tensor:
        return (self._quality + self._volume.log()).masked_fill(self._volume <= SINGULAR, -FARTHEST)

    def add(self, chosen: Tensor) -> None:
        """Extend the Cholesky factor by the items (B,) that were taken."""
        at = chosen.unsqueeze(1)
        cosine = self._cosines.between(self._pool.ids.gather(1, at).squeeze(1), self._pool.ids)
        own = self._factor.gather(
            1, at.unsqueeze(2).expand(-1, -1, self._factor.shape[2])
        )  # (B, 1, taken)
        volume = self._volume.gather(1, at)
        entry = (cosine - (own * self._factor).sum(dim=2)) / volume.sqrt()
        entry = entry.masked_fill(
            volume <= SINGULAR, 0.0
        )  # what adds nothing to the span changes no volume
        self._factor = torch.cat([self._factor, entry.unsqueeze(2)], dim=2)
        self._volume = self._volume - entry.square()


register_policy("dpp", DPPParameters)(DPP)


# ---- the composer with the same knobs for everybody ----


class SameForAll:
    """The composer with one intent for all shoppers.

    Args:
        composer: composes the slates
        intent: (A,) float32
    """

    draws = 0

    def __init__(self, composer: Composer, intent: Tensor) -> None:
        self.composer = composer
        self.intent = intent

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K)."""
        view = self.composer.view(observation)
        intent = self.intent.to(view.features.device).expand(len(view.features), -1)
        return self.composer.compose_view(view, intent)


def same_for_all(
    inputs: PolicyInputs, form: Form, knobs: Mapping[str, float], *, budget: bool = False
) -> SameForAll:
    """Build the composer with the same knobs for all; those that are lacking here are left out."""
    composer = Composer(inputs, ComposerConfig(form=form, offset_dims=0, budget=budget))
    here = {name: value for name, value in knobs.items() if name in composer.knobs}
    return SameForAll(composer, composer.intent(here))


@dataclass(frozen=True)
class RewardGreedyParameters:
    """Parameters of the slate that is greedy in the reward of the visit."""

    factor: float = tunable(1.0, 0.25, 8.0, log=True, least=1e-6, most=1e6)
    """Factor on the weight of every reward term that clicks do not earn, such as diversity; with 1
    the slate is greedy in the reward as it is, without a parameter."""

    def __post_init__(self) -> None:
        settle(self)


@register_policy("reward_greedy", RewardGreedyParameters)
def reward_greedy(inputs: PolicyInputs, parameters: RewardGreedyParameters) -> Policy:
    """Build the policy whose slates are greedy in the reward of the visit, whatever comes later."""
    scales = dict.fromkeys(scale_knobs(), math.log(parameters.factor))
    return same_for_all(inputs, "reward", scales)


def constant_parameters() -> Any:
    """Make the default parameters of `constant`: one for each knob that is registered by now.

    Each is in log-odds per unit of its cue, or the logarithm of a factor on a reward term, or what
    a click is worth. A knob that an environment lacks has no effect.
    """
    return _parameters_of(tuple({**knobs(), **WORTH_KNOBS, **scale_knobs()}.items()))()


def budget_parameters() -> Any:
    """Make the default parameters of `constant_budget`, those of `constant` and of the budget."""
    return _parameters_of(
        tuple({**knobs(), **BUDGET_KNOBS, **WORTH_KNOBS, **scale_knobs()}.items())
    )()


def log_odds_parameters() -> Any:
    """Make the default parameters of `constant_log_odds`, in log-odds per unit of a cue."""
    return _parameters_of(tuple(knobs().items()))()


@functools.cache
def _parameters_of(known: tuple[tuple[str, Knob], ...]) -> type[Any]:
    """The dataclass with one tunable field for each knob."""
    fields = [
        (name, float, tunable(knob.default, knob.tuned.low, knob.tuned.high))
        for name, knob in known
    ]
    return dataclasses.make_dataclass(
        "ConstantParameters", fields, frozen=True, namespace={"__post_init__": settle}
    )


@register_policy("constant", constant_parameters)
def constant(inputs: PolicyInputs, parameters: Any) -> Policy:
    """Build the composer with the same knobs for all, which an agent that adapts must beat."""
    return same_for_all(inputs, "reward", asdict(parameters))


@register_policy("constant_budget", budget_parameters)
def constant_budget(inputs: PolicyInputs, parameters: Any) -> Policy:
    """Build the same with a budget of clicks by category (`policies.budget`)."""
    return same_for_all(inputs, "reward", asdict(parameters), budget=True)


@register_policy("constant_log_odds", log_odds_parameters)
def constant_log_odds(inputs: PolicyInputs, parameters: Any) -> Policy:
    """Build the same with slates that are greedy in log-odds, whatever the reward is made of."""
    return same_for_all(inputs, "log_odds", asdict(parameters))
