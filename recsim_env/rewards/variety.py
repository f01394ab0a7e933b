"""Terms on the variety of a slate: distances between its items, and their categories."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from recsim_env.rewards.inputs import RewardInputs
from recsim_env.rewards.terms import reward_term, zero_to_one
from recsim_env.tensors import looked_up, widened


@reward_term("intra_list_distance", bounds=zero_to_one)
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


@reward_term("category_coverage", bounds=zero_to_one)
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


@reward_term("category_entropy", bounds=zero_to_one)
def category_entropy(inputs: RewardInputs) -> Tensor:
    """Return the entropy of the categories of a slate, over log K: (B,), from 0 to 1.

    It is 0 for one category and 1 where every position has a category of its own. Where n of K
    positions show something, the entropy among these counts n / K, so that leaving a position empty
    never pays. A slate of one position scores 0.
    """
    size = inputs.slates.shape[1]
    if size == 1:
        return widened(torch.zeros_like(inputs.slates[:, 0]))
    alike = alike_shown(inputs).clamp(min=1)
    shown = inputs.shown.sum(dim=1, keepdim=True).clamp(min=1)
    surprise = (widened(shown).log() - alike.log()) * inputs.shown
    return surprise.sum(dim=1) / (size * math.log(size))


def alike_shown(inputs: RewardInputs) -> Tensor:
    """Count the shown items of the same category as each position's: (B, K) float64."""
    category = looked_up(inputs.category, inputs.slates)
    same = (category.unsqueeze(2) == category.unsqueeze(1)) & inputs.shown.unsqueeze(1)
    return widened(same.sum(dim=2))
