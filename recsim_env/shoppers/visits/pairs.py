"""Which categories go together in a world: the complements and substitutes."""

from __future__ import annotations

import torch
from torch import Tensor

from recsim_env.noise import Stream, episode_key, uniform
from recsim_env.tensors import looked_up


def complements(world: int, categories: int) -> Tensor:
    """Draw which categories go together: (G, G) bool, symmetric, on the CPU.

    The categories are laid in a ring in random order, and neighbours go together, so that every
    category has two complements; no category is its own. The order has nothing to do with the
    items' embeddings, which therefore do not tell it.

    Args:
        world: The seed of the world.
        categories: G.
    """
    key = episode_key(torch.tensor([world]), torch.tensor([0]), stream=Stream.VISITS)
    ring = uniform(key, 0, categories)[0].argsort(stable=True)
    pairs = torch.zeros(categories, categories, dtype=torch.bool)
    pairs[ring, ring.roll(1)] = True
    return (pairs | pairs.T) & ~torch.eye(categories, dtype=torch.bool)


def inside(cart: Tensor, category: Tensor, groups: int) -> Tensor:
    """Tell which categories are in carts: (B, G) float32, 1 or 0.

    Args:
        cart: (B, L) int64 items, padded with -1.
        category: (N,) int64, the catalogue's.
        groups: G.
    """
    of_item = looked_up(category, cart.clamp(min=0)).where(cart >= 0, groups)
    held = torch.zeros(len(cart), groups + 1, dtype=torch.float32, device=cart.device)
    return held.scatter_(1, of_item, 1.0)[:, :groups]


def met(cart: Tensor, together: Tensor, category: Tensor) -> tuple[Tensor, Tensor]:
    """Tell what a cart says about each category: (B, G) float32 each, 1 or 0.

    Args:
        cart: (B, L) int64 items, padded with -1.
        together: (G, G) float32, 1 for categories that go together and 0 for others.
        category: (N,) int64, the catalogue's.

    Returns:
        Whether a category goes together with one in the cart, and whether it is in the cart itself.
    """
    held = inside(cart, category, len(together))
    return (held @ together).clamp(max=1.0), held  # sums of ones are exact
