"""Small networks that the learnable policies are built from."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class Standardizer(nn.Module):
    """(x - mean) / deviation, with both fixed before training by `fit`, so that a start is a start.

    Shapes: x (..., F) float32; returns the same.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    @torch.no_grad()
    def fit(self, examples: Tensor) -> None:
        """Take mean and deviation from examples (S, F); a number that never varies is only centred."""
        deviation = examples.std(dim=0)
        self.mean.copy_(examples.mean(dim=0))
        self.deviation.copy_(deviation.where(deviation > 1e-4, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean).div_(self.deviation).clamp_(-5, 5)  # in place: half of the memory's traffic


def tower(
    width: int,
    hidden: tuple[int, ...],
    out: int,
    generator: torch.Generator,
    *,
    gain: float = 1.0,
    activation: type[nn.Module] = nn.Tanh,
) -> nn.Sequential:
    """A network with orthogonal weights (Saxe et al. 2014); gain 0 makes the last layer all zeros.

    Shapes: (..., width) to (..., out).
    """
    sizes = (width, *hidden, out)
    layers: list[nn.Module] = []
    for at, (before, after) in enumerate(pairwise(sizes)):
        last = at == len(sizes) - 2
        linear = nn.Linear(before, after, device="meta").to_empty(device="cpu")  # no draw from the global generator
        nn.init.orthogonal_(linear.weight, gain=gain if last else math.sqrt(2), generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, activation()]
    return nn.Sequential(*layers)
