"""Which categories go together: the known matrix of a world."""

from __future__ import annotations

import torch
from torch import Tensor

from recsim_env.shoppers.bundles.config import BundleConfig

STREAM = 2**40
"""Added to the seed of a world, so that its catalogue stays as it is in every other market."""


def pairs_of(config: BundleConfig, categories: int, world: int) -> Tensor:
    """Draw the utility of a pair of items by their categories: (G, G) float32, on the CPU.

    The matrix is symmetric. A pair of different categories goes together with the chance
    `partners`, and then gains `complement`; a pair of one category loses `substitute`.

    Args:
        config: The parameters.
        categories: G, how many categories the catalogue has.
        world: The seed of the world.
    """
    generator = torch.Generator().manual_seed(STREAM + world)
    drawn = torch.rand(categories, categories, generator=generator, dtype=torch.float32)
    together = (drawn < config.partners).triu(diagonal=1).float()
    alone = torch.eye(categories, dtype=torch.float32)
    return config.complement * (together + together.T) - config.substitute * alone
