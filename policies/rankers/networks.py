"""Small networks of rankers and learnable policies, and the files in which fitted models lie."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsim_env import checks
from recsim_env.files import read_tensors, write_tensors

Shapes = dict[str, tuple[int, ...]]
"""Shapes of the tensors of a model, by name."""
DESCRIBED = "model"
"""Metadata key under which a model's file is described."""


class Standardizer(nn.Module):
    """Computes (x - mean) / deviation, cut at 5 deviations.

    `fit` fixes mean and deviation before training, so that features do not shift during training.

    Shapes: x (..., F) float32; returns the same.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float32))
        self.register_buffer("deviation", torch.ones(width, dtype=torch.float32))

    @torch.no_grad()
    def fit(self, examples: Tensor) -> None:
        """Take mean and deviation of examples (S, F); features that never vary are only centred."""
        deviation = examples.std(dim=0)
        self.mean.copy_(examples.mean(dim=0))
        self.deviation.copy_(deviation.where(deviation > 1e-4, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise x (..., F)."""
        return (
            (x - self.mean).div_(self.deviation).clamp_(-5, 5)
        )  # in place: half of the memory's traffic


def tower(
    width: int,
    hidden: tuple[int, ...],
    out: int,
    generator: torch.Generator,
    *,
    gain: float = 1.0,
    activation: type[nn.Module] = nn.Tanh,
) -> nn.Sequential:
    """Build a network with orthogonal weights (Saxe et al. 2014): (..., width) to (..., out).

    Args:
        width: numbers that go in
        hidden: widths of the hidden layers
        out: numbers that come out
        generator: of the weights
        gain: of the last layer; 0 makes it all zeros
        activation: between layers
    """
    sizes = (width, *hidden, out)
    layers: list[nn.Module] = []
    for at, (before, after) in enumerate(pairwise(sizes)):
        last = at == len(sizes) - 2
        linear = nn.Linear(before, after, device="meta", dtype=torch.float32)
        linear = linear.to_empty(device="cpu")  # no draw from the global generator
        nn.init.orthogonal_(linear.weight, gain=gain if last else math.sqrt(2), generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, activation()]
    return nn.Sequential(*layers)


def tower_shapes(name: str, width: int, hidden: tuple[int, ...], out: int) -> Shapes:
    """Shapes of the tensors of a `tower` that a model calls `name`."""
    found: Shapes = {}
    for at, (before, after) in enumerate(pairwise((width, *hidden, out))):
        found |= {f"{name}.{2 * at}.weight": (after, before), f"{name}.{2 * at}.bias": (after,)}
    return found


# ---- files ----


def write_model(path: Path | str, model: nn.Module, kind: str, told: Mapping[str, Any]) -> None:
    """Write a model's weights and, in the same file, what it is built from, atomically.

    Args:
        path: of the file
        model: its weights are written
        kind: of the model, for `read_model`
        told: what it is built from; goes into the metadata as JSON

    Raises:
        OSError: If the file cannot be written; the file that was there before stays whole.
    """
    described = json.dumps({"kind": kind, "told": told}, allow_nan=False)
    write_tensors(
        path, model.state_dict(), {DESCRIBED: described}
    )  # one key: their order in the file is random


def read_model(
    path: Path | str, kind: str, keys: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and description as `write_model` wrote them, with these keys and no others.

    Raises:
        TypeError: If `path` is no path.
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such model, or a number in it is not finite; the sentence names it.
    """
    path = checks.path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file, but it must be one of a {kind}.")
    tensors, metadata = read_tensors(path)
    try:
        described = checks.mapping("its description", json.loads(metadata.get(DESCRIBED, "null")))
        checks.choice("kind", described.get("kind"), (kind,))
        if unknown := sorted(described.keys() - {"kind", "told"}):
            raise ValueError(f"its description has the unknown keys {unknown}")
        told = checks.mapping("told", described.get("told"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no file of a {kind}: {error}") from None
    if told.keys() != set(keys):
        raise ValueError(
            f"{path} is described by {sorted(told)}, but it must be by {sorted(keys)}."
        )
    for name, value in tensors.items():
        if value.is_floating_point() and not bool((finite := value.isfinite()).all()):
            at = (~finite).nonzero()[0].tolist()
            found = value[tuple(at)].item()
            raise ValueError(
                f"{path}: the tensor {name!r} holds {found} at {at}, but must be finite."
            )
    return tensors, told


def check_shapes(
    path: Path | str, tensors: Mapping[str, Tensor], shapes: Shapes, whole: tuple[str, ...] = ()
) -> None:
    """Check the tensors of a file against its description, before a model is made of it.

    Args:
        path: of the file, for messages
        tensors: what the file holds
        shapes: what its description asks for
        whole: names of the tensors of whole numbers (int64); all others are float32

    Raises:
        ValueError: If a tensor is missing, unknown, or of another shape or type.
    """
    for name in sorted({*tensors, *shapes}):
        if name not in tensors or name not in shapes:
            raise ValueError(
                f"{path}: the tensor {name!r} is {'missing' if name in shapes else 'not known'}."
            )
        try:
            dtype = torch.int64 if name in whole else torch.float32
            checks.tensor(f"the tensor {name!r}", tensors[name], shapes[name], dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
