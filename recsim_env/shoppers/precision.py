"""How a fitted network is run inside a simulation: in which precision, and compiled or not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from recsim_env import checks

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Of matrix products and of the keys and values that attention reads; everything else is float32 in
both."""


def check_precision(precision: object) -> str:
    """The name of a precision.

    Raises:
        ValueError: If it is none of `PRECISIONS`.
    """
    return checks.choice("precision", precision, PRECISIONS)


def mixed(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context in which matrix products have this precision."""
    return (
        torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    )


def compile_parts(model: nn.Module, parts: tuple[type[nn.Module], ...]) -> None:
    """Let `torch.compile` fuse every module of these types when it is first called; for any number of shoppers."""
    for module in model.modules():
        if isinstance(module, parts):
            module.compile(dynamic=True)
