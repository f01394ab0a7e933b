"""The end of a visit: when a basket is complete, learned from baskets of which a part is hidden.

A basket of n items is looked at with k of them, k uniform from 0 to n. Where it is complete, k is
n. Each look counts n + 1 times, so that every basket is looked at once with each number of items:
the share that is complete is then the hazard P(n = k | n >= k, the items seen).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recsim_env.shoppers.carts.examples import LARGEST_BASKET, CartExamples
from recsim_env.shoppers.carts.model import CartCompletion

AT_ONCE = 512
"""Baskets whose features are computed together."""
STEPS = 100
"""Most steps of the fit."""
PULL = 1e-4
"""Weight of the squared coefficients."""


def prefixes(baskets: Tensor, draws: Tensor) -> Tensor:
    """Keep a random part of baskets, from nothing to all: (B, L) bool, True for what is kept.

    Args:
        baskets: (B, L) int64, padded with -1 at the end
        draws: (B, L + 1) float32, uniform in [0, 1)
    """
    held = baskets >= 0
    size = held.sum(dim=1, keepdim=True)
    kept = (draws[:, :1] * (size + 1)).long().clamp(max=size)
    place = draws[:, 1:].masked_fill(~held, 2.0).argsort(dim=1).argsort(dim=1)
    return (place < kept) & held


@torch.no_grad()
def looks(
    model: CartCompletion, examples: CartExamples, text: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Look at every basket with a random part of its items.

    Returns:
        Features (V, D + CONTEXT + 2) of `CartCompletion.complete`, whether the basket was complete
        (V,) float32, and how often the look counts (V,) float32.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors, found = model.vectors(text), []
    for rows in torch.arange(len(examples)).split(AT_ONCE):
        basket = examples.items[rows, :LARGEST_BASKET].long()
        kept = prefixes(basket, torch.rand(len(rows), LARGEST_BASKET + 1, generator=generator))
        cart, context = basket.where(kept, -1), examples.context[rows]
        held, counts = examples.held[rows].long(), examples.counts[rows].float()
        visit = model.visit(vectors, context, held, counts, cart)
        size = (basket >= 0).sum(dim=1)
        label = (kept.sum(dim=1) == size).float()
        found.append((model.complete_features(visit, context, cart), label, (size + 1).float()))
    features, labels, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    return features, labels, weights


def fit_checkout(model: CartCompletion, examples: CartExamples, text: Tensor, seed: int) -> None:
    """Fit `CartCompletion.checkout` by logistic regression, in place; all else stays as it is.

    Args:
        model: a fitted completion
        examples: baskets, those without items among them
        text: (N, text_width) embeddings
        seed: of the parts that are seen
    """
    features, label, weight = looks(model, examples, text, seed)
    weight = weight / weight.sum()
    with torch.enable_grad():
        found = torch.zeros(features.shape[1], requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [found], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            each = F.binary_cross_entropy_with_logits(features @ found, label, reduction="none")
            loss = (each * weight).sum() + PULL * found.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
    model.checkout.data.copy_(found.detach())
