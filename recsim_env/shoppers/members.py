"""Several fitted networks that answer as one, and how they are run: precision, compilation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from recsim_env import checks

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Type of matrix products, and of the keys and values that attention reads. All else is float32."""
MOST_PESSIMISM = 1e6
"""Largest number of standard deviations that the members' mean is lowered by."""


def mean(parts: Sequence[Tensor]) -> Tensor:
    """Average tensors of one shape, one a member; that of a single member is returned as it is."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).mean(dim=0)


def agreed(chances: Sequence[Tensor], deviations: Tensor | float) -> Tensor:
    """Add so many standard deviations between the members to their mean chance, within 0 and 1.

    This is the penalty of Yu et al. 2020, "MOPO: Model-based offline policy optimization",
    equations 5 and 6, on the chances themselves, so that every reward term feels it. The chances of
    a single member are returned as they are.

    Args:
        chances: (...) float32, one tensor a member
        deviations: a number, or a tensor that broadcasts to (...)
    """
    if len(chances) == 1:
        return chances[0]
    every = torch.stack(list(chances))
    return (every.mean(dim=0) + deviations * every.std(dim=0, correction=0)).clamp(0, 1)


def check_ensemble(ensemble: object) -> int:
    """Check the number of members that answer together.

    Raises:
        ValueError: If it is no whole number above 0.
    """
    return checks.whole("ensemble", ensemble, 1)


def check_pessimism(pessimism: object, ensemble: int) -> float:
    """Check the number of standard deviations that `agreed` takes.

    Args:
        pessimism: the number
        ensemble: how many members answer together

    Raises:
        ValueError: If it is not a number from 0 to `MOST_PESSIMISM`, or if it would do nothing: a
            single member has none to deviate from.
    """
    number = checks.number("pessimism", pessimism, 0, MOST_PESSIMISM)
    if number and ensemble < 2:
        raise ValueError(
            f"pessimism is {checks.told(pessimism)}, but it must be 0 where ensemble is "
            f"{ensemble}: it counts deviations between 2 models or more."
        )
    return number


def check_precision(precision: object) -> str:
    """Check the name of a precision.

    Raises:
        ValueError: If it is none of `PRECISIONS`.
    """
    return checks.choice("precision", precision, PRECISIONS)


def mixed(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Open a context in which matrix products have this precision."""
    return (
        torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    )


def compile_parts(model: nn.Module, parts: tuple[type[nn.Module], ...]) -> None:
    """Have `torch.compile` fuse every module of these types, for any batch size.

    It does so when a module is first called.
    """
    for module in model.modules():
        if isinstance(module, parts):
            module.compile(dynamic=True)
