"""Named reward terms: pure functions of a slate and its response.

Every term works in float64 inside, so that a reward is the same number whatever the batch size and
the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from recsim_env import checks
from recsim_env.registry import Registry
from recsim_env.tensors import looked_up, widened

MOST_WEIGHT = 1e9
"""Largest weight of a term: with it no reward leaves the range of float32 while terms stay below
1e29."""


@dataclass(frozen=True)
class RewardInputs:
    """What a reward term sees.

    Shapes: B shoppers, K positions, N items, E embedding width.
    """

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
    """(N, N) float32 of all pairs of items, where the catalogue is small; otherwise they come from
    `embedding`."""
    purchases: Tensor | None = None
    """(B, K) bool, what was bought of what was clicked; None where shoppers do not tell purchases
    from clicks (`Shopper.tells_purchases`)."""
    outside_reward: Tensor | None = None
    """(B,) float32, what somebody else's environment paid; None where the shoppers are our own."""


Term = Callable[[RewardInputs], Tensor]
"""A reward term: (B,) float values of a slate and its response."""

REWARD_TERMS: Registry[Term] = Registry("reward term")
"""Every term that a `Reward` can name."""


def reward_term(name: str) -> Callable[[Term], Term]:
    """Register a term under a name: `@reward_term("margin")` above a function of `RewardInputs`.

    A cell of a notebook that runs again replaces its term, with a warning.

    Raises:
        ValueError: If the name is no text or is taken by another function, or if the term is no
            function.
    """
    checks.text("name", name)

    def add(term: Term) -> Term:
        if not callable(term):
            raise ValueError(
                f"term is {checks.told(term)}, but it must be a function of RewardInputs."
            )
        REWARD_TERMS.add(name, term, term)
        return term

    return add


@reward_term("clicks")
def clicks(inputs: RewardInputs) -> Tensor:
    """Count the positions that were responded to: (B,), from 0 to K."""
    return inputs.clicks.sum(dim=1)


@reward_term("purchases")
def purchases(inputs: RewardInputs) -> Tensor:
    """Count the positions that were bought: (B,), from 0 to the clicks.

    Raises:
        ValueError: If the shoppers do not tell purchases from clicks.
    """
    if inputs.purchases is None:
        raise ValueError(
            "The reward term 'purchases' counts what was bought, but these shoppers do not tell "
            "purchases from clicks."
        )
    return inputs.purchases.sum(dim=1)


@reward_term("outside_reward")
def outside_reward(inputs: RewardInputs) -> Tensor:
    """Return what somebody else's environment paid for the slate: (B,).

    Raises:
        ValueError: If the shoppers are our own.
    """
    if inputs.outside_reward is None:
        raise ValueError(
            "The reward term 'outside_reward' is what an outside environment pays, but these "
            "shoppers are none (`recsim_env.shoppers.outside`)."
        )
    return inputs.outside_reward


@reward_term("intra_list_distance")
def intra_list_distance(inputs: RewardInputs) -> Tensor:
    """Return the mean over the K(K-1)/2 pairs of positions of 1 - max(cosine, 0): (B,).

    It is 0 for K copies of one item and 1 for K unrelated items. A repeated or invalid item is at
    distance 0 from everything, so that leaving a position empty never pays. A slate of one position
    scores 0. Ziegler et al. 2005, "Improving recommendation lists through topic diversification",
    equation 3 (there a sum of similarities), with its whole range kept.
    """
    one, other = _pairs(inputs.slates.shape[1], inputs.slates.device)
    slates, shown = (
        inputs.slates.t().contiguous(),
        inputs.shown.t().contiguous(),
    )  # rows are picked faster than columns
    if inputs.cosines is not None:
        pairs = looked_up(slates, one) * len(inputs.cosines) + looked_up(slates, other)
        cosine = looked_up(inputs.cosines.view(-1), pairs)
    else:
        vectors = widened(looked_up(inputs.embedding, inputs.slates))
        cosine = (vectors @ vectors.transpose(1, 2))[:, one, other].t()
    both = looked_up(shown, one) & looked_up(shown, other)
    return ((1 - widened(cosine).clamp(0, 1)) * both).sum(dim=0) / max(len(one), 1)


@functools.cache
@torch.inference_mode(False)  # whoever asks first, others may learn with it
def _pairs(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return both positions of every pair in a slate; they are made once and shared."""
    one, other = torch.triu_indices(size, size, offset=1, device=device)
    return one, other


@reward_term("category_coverage")
def category_coverage(inputs: RewardInputs) -> Tensor:
    """Return (distinct categories shown - 1) / (K - 1): (B,).

    It is 0 for one category and 1 where every position has a category of its own. Repeated and
    invalid items add no category, and a slate of one position scores 0.
    """
    size = inputs.slates.shape[1]
    category = inputs.category[inputs.slates]
    alike = (category.unsqueeze(2) == category.unsqueeze(1)) & inputs.shown.unsqueeze(1)
    repeats = alike.tril(-1).any(dim=2)
    distinct = (inputs.shown & ~repeats).sum(dim=1)
    return widened((distinct - 1).clamp(min=0)) / max(size - 1, 1)


@dataclass(frozen=True)
class Reward:
    """A weighted sum of registered terms.

    `Reward({"clicks": 1.0, "intra_list_distance": 1.0})`.

    Raises:
        TypeError: If `weights` is no mapping.
        ValueError: If there is no term, a term is not registered, or a weight is no finite number
            from -1e9 to 1e9.
    """

    weights: Mapping[str, float] = field(
        default_factory=lambda: {"clicks": 1.0, "intra_list_distance": 1.0}
    )
    """Weight of each term by its name in `REWARD_TERMS`; by default a slate of unrelated items is
    worth a response."""
    _called: ClassVar[bool] = False  # no field: it says nothing of the reward

    def __post_init__(self) -> None:
        weights = checks.mapping("reward", self.weights)
        if not weights:
            raise ValueError(
                f"reward has no term, but it needs at least one of {sorted(REWARD_TERMS)}."
            )
        for name in weights:
            REWARD_TERMS.find("a term of reward", name)
            weights[name] = checks.number(
                f"reward[{name!r}]", weights[name], -MOST_WEIGHT, MOST_WEIGHT
            )
        object.__setattr__(self, "weights", weights)

    def __call__(self, inputs: RewardInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the reward (B,) float32, and each term (B,) float32 before its weight, by name.

        Raises:
            ValueError: If a term is no real tensor of shape (B,) on the device of the slates, if it
                wrote into its inputs, or if a reward is not finite. The numbers are checked on a
                CPU at every call, elsewhere at the first: it takes a synchronisation.
        """
        values = {name: widened(term_value(name, inputs)) for name in self.weights}
        terms = [weight * values[name] for name, weight in self.weights.items()]
        total = sum(terms[1:], start=terms[0] + 0).float()  # + 0: there is no reward of -0
        if total.is_cpu or not (self._called or total.is_meta):
            _check_finite(total, values)
            vars(self)["_called"] = True
        return total, {name: value.float() for name, value in values.items()}


def as_reward(reward: Reward | Mapping[str, float] | None) -> Reward:
    """Return a copy of a reward, from a reward, from weights by name, or the default from None.

    Raises:
        TypeError: As `Reward`.
        ValueError: As `Reward`.
    """
    if reward is None:
        return Reward()
    return Reward(reward.weights if isinstance(reward, Reward) else reward)


_SHIPPED = tuple(REWARD_TERMS.values())
"""Terms that tests hold against writing into their inputs: they are handed the step's tensors."""


def _of_copies(name: str, term: Term, inputs: RewardInputs) -> object:
    """Return what a term makes of copies of its inputs; the tables of the catalogue are not copied.

    Raises:
        ValueError: If it wrote into a copy or a table. Torch counts what is written into a tensor,
            though not in inference mode, which is left for so long.
    """
    learning = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(learning):
        optional = ("purchases", "outside_reward")
        given = ["slates", "shown", "clicks"]
        given += [key for key in optional if getattr(inputs, key) is not None]
        copies = {key: getattr(inputs, key).clone() for key in given}
        own = replace(inputs, **copies)
        before = _writes(own)
        value = term(own)
        written = sorted(key for key, count in _writes(own).items() if count != before[key])
    if written:
        raise ValueError(
            f"The reward term {name!r} wrote into inputs.{written[0]}, but it must leave its "
            "inputs as they are: a clone of them may be changed."
        )
    return value


def _writes(inputs: RewardInputs) -> dict[str, int]:
    """Return how often each tensor was written into, for those of which torch counts it."""
    return {
        key: value._version
        for key, value in vars(inputs).items()
        if isinstance(value, Tensor) and not value.is_inference()
    }


def term_value(name: str, inputs: RewardInputs) -> Tensor:
    """Return the value of a registered term: (B,) real numbers.

    Raises:
        ValueError: If it is no real tensor of shape (B,) on the device of the slates, or the term
            wrote into its inputs.
    """
    term = REWARD_TERMS[name]
    shipped = any(term is known for known in _SHIPPED)
    value: object = term(inputs) if shipped else _of_copies(name, term, inputs)
    slates = inputs.slates
    if (
        isinstance(value, Tensor)
        and value.ndim == 1
        and len(value) == len(slates)
        and value.device == slates.device
        and value.layout == torch.strided
        and not value.is_complex()
    ):
        return value
    raise ValueError(
        f"The reward term {name!r} is {checks.told(value)}, but it must be a tensor of real "
        "numbers of shape "
        f"({len(slates)},), one a shopper, on {slates.device}."
    )


def _check_finite(total: Tensor, values: Mapping[str, Tensor]) -> None:
    if math.isfinite(total.sum().item()) or bool(
        total.isfinite().all()
    ):  # a sum takes a fifth of the time
        return
    row = int((~total.isfinite()).nonzero()[0, 0])
    found = ", ".join(f"{name} {float(value[row])}" for name, value in values.items())
    raise ValueError(
        f"The reward of row {row} is {float(total[row])} ({found}), but it must be finite."
    )
