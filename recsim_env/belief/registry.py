"""Which belief a folder of fitted shoppers gives: one line for each family.

The fitted user model is the one source of a belief: what simulates the shoppers of a log also
infers what is going on in them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recsim_env import checks
from recsim_env.belief.base import Belief
from recsim_env.registry import Registry
from recsim_env.shop_file import SESSION, ShopFile

BeliefFactory = Callable[..., Belief[Any]]
"""`factory(folder, device, slate_size) -> Belief`."""

BELIEFS: Registry[BeliefFactory] = Registry("belief")
"""The factory of each family of fitted shoppers, by the `kind` of its `shop.json`."""


def register_belief(kind: str) -> Callable[[BeliefFactory], BeliefFactory]:
    """Register the belief of a family: `@register_belief("session")` above a function.

    Args:
        kind: The family of shoppers, as `shop.json` names it.

    Raises:
        ValueError: If other code took the name.
    """

    def add(factory: BeliefFactory) -> BeliefFactory:
        BELIEFS.add(kind, factory, factory)
        return factory

    return add


@register_belief(SESSION)
def session_belief(folder: Path, device: torch.device, slate_size: int) -> Belief[Any]:
    """Open the belief of a session model."""
    from recsim_env.belief.session import load_session_belief  # it imports transformers

    return load_session_belief(folder, device, slate_size)


def load_belief(
    folder: str | os.PathLike[str], device: torch.device | str, slate_size: int | None = None
) -> Belief[Any]:
    """Open the belief that a folder of fitted shoppers gives.

    Args:
        folder: The folder, as `recsim_env.fit` writes it.
        device: Where the belief lives.
        slate_size: Number of slate positions; None means that of the folder.

    Raises:
        FileNotFoundError: If there is no such folder, or a file in it is missing.
        ValueError: If no belief is registered for the family of its shoppers, or a file is broken.
    """
    path = checks.path("folder", folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"folder is {os.fspath(path)!r}, but there is no such folder with fitted shoppers."
        )
    shop = ShopFile.read(path)
    if shop.kind not in BELIEFS:
        raise ValueError(
            f"folder is {os.fspath(path)!r}, which holds {shop.kind} shoppers, but beliefs are "
            f"registered for {sorted(BELIEFS)} shoppers only."
        )
    size = shop.slate_size if slate_size is None else slate_size
    return BELIEFS[shop.kind](path, torch.device(device), size)
