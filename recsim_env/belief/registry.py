"""Which belief a folder of fitted shoppers gives: one entry for each family.

The fitted user model is the one source of a belief: what simulates the shoppers of a log also
infers what is going on in them. A belief alone is a folder too, with `shop.json` and the model:
`save_belief` writes it, and `load_belief` reads it as it reads that of the shoppers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recsim_env import checks
from recsim_env.belief.base import Belief
from recsim_env.files import write_json
from recsim_env.registry import Registry
from recsim_env.shop_file import SESSION, SHOP_FILE, ShopFile

OpenBelief = Callable[[Path, torch.device, int], Belief[Any]]
"""`opens(folder, device, slate_size) -> Belief`."""
WriteBelief = Callable[[Any, Path], None]
"""`writes(belief, folder)` writes the model that `opens` reads."""


@dataclass(frozen=True)
class BeliefFamily:
    """How the beliefs of a family of shoppers come from files and go to them."""

    opens: OpenBelief
    """Opens the belief of a folder."""
    writes: WriteBelief
    """Writes a belief's model into a folder."""


BELIEFS: Registry[BeliefFamily] = Registry("belief")
"""Each family of fitted shoppers that gives a belief, by the `kind` of its `shop.json`."""


def register_belief(kind: str, writes: WriteBelief) -> Callable[[OpenBelief], OpenBelief]:
    """Register the belief of a family: `@register_belief("session", writes)` above a function.

    Args:
        kind: The family of shoppers, as `shop.json` names it.
        writes: Writes a belief's model into a folder, so that the function can open it.

    Raises:
        ValueError: If other code took the name.
    """

    def add(opens: OpenBelief) -> OpenBelief:
        BELIEFS.add(kind, BeliefFamily(opens, writes), opens)
        return opens

    return add


def write_session_belief(belief: Any, folder: Path) -> None:
    """Write the session model of a belief as the first model of a folder."""
    from recsim_env.shoppers.weights import save_model  # it imports transformers

    save_model(belief.model, folder / "model0")


@register_belief(SESSION, write_session_belief)
def session_belief(folder: Path, device: torch.device, slate_size: int) -> Belief[Any]:
    """Open the belief of a session model."""
    from recsim_env.belief.session import load_session_belief  # it imports transformers

    return load_session_belief(folder, device, slate_size)


def load_belief(
    folder: str | os.PathLike[str], device: torch.device | str, slate_size: int | None = None
) -> Belief[Any]:
    """Open the belief that a folder of fitted shoppers gives, or one of `save_belief`.

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
    belief = BELIEFS[shop.kind].opens(path, torch.device(device), size)
    belief.kind = shop.kind
    return belief


def save_belief(belief: Belief[Any], folder: str | os.PathLike[str]) -> None:
    """Write a belief into a folder of its own, which `load_belief` opens; `shop.json` comes last.

    Args:
        belief: The belief.
        folder: The folder, which is made where it is missing.

    Raises:
        OSError: If a file cannot be written.
        TypeError: If it is no belief.
        ValueError: If no family is registered for it.
    """
    checks.instance("belief", belief, Belief)
    path = checks.path("folder", folder)
    kind = belief.kind
    if kind is None or kind not in BELIEFS:
        raise ValueError(
            f"belief is {checks.told(belief)} of the kind {kind!r}, but what is kept in a "
            f"folder is of one of the kinds {sorted(BELIEFS)}."
        )
    path.mkdir(parents=True, exist_ok=True)
    BELIEFS[kind].writes(belief, path)
    write_json(path / SHOP_FILE, ShopFile(kind, belief.slate_size).plain())
