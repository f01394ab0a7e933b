"""The likelihood of what shoppers did: of a slate over moods, of an episode over temperaments."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recsim_env.tensors import constant

MOODS = (-math.sqrt(3), 0.0, math.sqrt(3))  # nodes of the standard normal
MOOD_CHANCES = (1 / 6, 2 / 3, 1 / 6)  # their weights
CLICK_EDGE = 1e-6  # a click is never surer than 1 - this, so that its likelihood stays finite
LEAST = 1e-30  # no answer is less likely, so that its logarithm is finite


def slate_log_likelihood(
    log_looks: Tensor, click_logits: Tensor, clicks: Tensor, shown: Tensor
) -> Tensor:
    """Compute the log-likelihood (V, S) of the answers to slates.

    In a mood the positions are independent; moods are summed over.

    Shapes: log_looks (V, S, K), click_logits (V, S, M, K); clicks, shown (V, K) bool.
    """
    chance = (log_looks.exp().unsqueeze(2) * click_logits.sigmoid()).clamp(max=1 - CLICK_EDGE)
    answered = torch.where(clicks[:, None, None], chance, 1 - chance)
    of_mood = (answered.clamp(min=LEAST).log() * shown[:, None, None]).sum(dim=3)
    return torch.logsumexp(of_mood + constant(MOOD_CHANCES, of_mood).log(), dim=2)


def episode_log_likelihood(of_visit: Tensor, episode: Tensor, episodes: int) -> Tensor:
    """Compute the log-likelihood (B,) of episodes.

    It is that of the mean over temperaments of the product over visits.

    Args:
        of_visit: (V, S) log-likelihoods
        episode: (V,) int64 episode of each visit, 0 .. B - 1
        episodes: B
    """
    whole = of_visit.new_zeros(episodes, of_visit.shape[1]).index_add(0, episode, of_visit)
    return torch.logsumexp(whole, dim=1) - math.log(of_visit.shape[1])


def over_moods(values: Tensor) -> Tensor:
    """Average values (..., M, K) over moods: (..., K)."""
    return torch.einsum("...mk,m->...k", values, constant(MOOD_CHANCES, values))
