"""Named reward terms: pure functions of a slate and its response.

Every term works in float64 inside, so that a reward is the same number whatever the batch size and the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recsim_env.tensors import looked_up


@dataclass(frozen=True)
class RewardInputs:
    """What a reward term sees. Shapes: B shoppers, K positions, N items, E embedding width."""

    slates: Tensor
    """(B, K) int64 item ids, top position first."""
    shown: Tensor
    """(B, K) bool, False = a repeated item or no candidate."""
    clicks: Tensor
    """(B, K) bool, the responses."""
    embedding: Tensor
    """(N, E) float32 of unit length, the catalogue's."""
    category: Tensor
    """(N,) int64, the catalogue's."""
    cosines: Tensor | None = None
    """(N, N) float32 of all pairs of items, where the catalogue is small; otherwise they come from `embedding`."""


Term = Callable[[RewardInputs], Tensor]
"""A reward term: (B,) float values of a slate and its response."""

REWARD_TERMS: dict[str, Term] = {}
"""Every term that a `Reward` can name."""


def reward_term(name: str) -> Callable[[Term], Term]:
    """Register a term under a name: `@reward_term("margin")` above a function of `RewardInputs`.

    Errors: ValueError where the name is taken by another function.
    """

    def add(term: Term) -> Term:
        if REWARD_TERMS.setdefault(name, term) is not term:
            raise ValueError(f"name is {name!r}, but a reward term of that name is registered already.")
        return term

    return add


@reward_term("clicks")
def clicks(inputs: RewardInputs) -> Tensor:
    """How many positions were responded to: 0 to K. Returns (B,)."""
    return inputs.clicks.sum(dim=1)


@reward_term("intra_list_distance")
def intra_list_distance(inputs: RewardInputs) -> Tensor:
    """Mean over the K(K-1)/2 pairs of 1 - max(cosine, 0): 0 for K copies of one item, 1 for K unrelated items.

    A repeated or invalid item is at distance 0 from everything, so leaving a position empty never pays. A slate of
    one position scores 0. Ziegler et al. 2005, "Improving recommendation lists through topic diversification",
    equation 3 (there a sum of similarities), with its whole range kept. Returns (B,).
    """
    one, other = _pairs(inputs.slates.shape[1], inputs.slates.device)
    slates, shown = inputs.slates.t().contiguous(), inputs.shown.t().contiguous()  # rows are picked faster than columns
    if inputs.cosines is not None:
        pairs = looked_up(slates, one) * len(inputs.cosines) + looked_up(slates, other)
        cosine = looked_up(inputs.cosines.view(-1), pairs)
    else:
        vectors = looked_up(inputs.embedding, inputs.slates).double()
        cosine = (vectors @ vectors.transpose(1, 2))[:, one, other].t()
    both = looked_up(shown, one) & looked_up(shown, other)
    return ((1 - cosine.double().clamp(0, 1)) * both).sum(dim=0) / max(len(one), 1)


@functools.cache
@torch.inference_mode(False)  # whoever asks first, others may learn with it
def _pairs(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Both positions of every pair in a slate of so many: made once, for a GPU would wait for them."""
    one, other = torch.triu_indices(size, size, offset=1, device=device)
    return one, other


@reward_term("category_coverage")
def category_coverage(inputs: RewardInputs) -> Tensor:
    """(distinct categories shown - 1) / (K - 1): 0 for one category, 1 for a category of its own at every position.

    Repeated and invalid items add no category, and a slate of one position scores 0. Returns (B,).
    """
    size = inputs.slates.shape[1]
    category = inputs.category[inputs.slates]
    alike = (category.unsqueeze(2) == category.unsqueeze(1)) & inputs.shown.unsqueeze(1)
    repeats = alike.tril(-1).any(dim=2)
    distinct = (inputs.shown & ~repeats).sum(dim=1)
    return (distinct - 1).clamp(min=0).double() / max(size - 1, 1)


@dataclass(frozen=True)
class Reward:
    """A weighted sum of registered terms.

    `Reward({"clicks": 1.0, "intra_list_distance": 1.0})`. Errors: ValueError where there is no term, a term is not
    registered, or a weight is not a finite number.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"clicks": 1.0, "intra_list_distance": 1.0})
    """Weight of each term by its name in `REWARD_TERMS`; by default a slate of unrelated items is worth a response."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", {name: _checked_weight(name, self.weights[name]) for name in self.weights})
        if not self.weights:
            raise ValueError(f"reward has no term, but it needs at least one of {sorted(REWARD_TERMS)}.")

    def __call__(self, inputs: RewardInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward (B,) float32, and each term (B,) float32 before its weight, by name."""
        values = {name: REWARD_TERMS[name](inputs).double() for name in self.weights}
        total = sum((weight * values[name] for name, weight in self.weights.items()), start=torch.zeros(()))
        return total.float(), {name: value.float() for name, value in values.items()}


def as_reward(reward: Reward | Mapping[str, float] | None) -> Reward:
    """A reward of one's own copy from a reward, from weights by name, or the default from None."""
    if reward is None:
        return Reward()
    return Reward(reward.weights if isinstance(reward, Reward) else reward)


def _checked_weight(name: str, weight: float) -> float:
    if name not in REWARD_TERMS:
        raise ValueError(f"reward names the term {name!r}, but the registered terms are {sorted(REWARD_TERMS)}.")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
        raise ValueError(f"reward gives the term {name!r} the weight {weight!r}, but a weight must be a finite number.")
    return float(weight)
