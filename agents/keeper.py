"""Saves the state of a training, so that an interrupted one continues as if it had not stopped.

The state is a tree of `recsim_env.trees` in one file that is replaced as a whole: networks,
optimizers, memories, generators, and the state of every shopper. On one thread, a resumed training
gives bit for bit the result of an uninterrupted one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from recsim_env.files import read_tensors, write_tensors
from recsim_env.trees import Flat, flat, restored

SHARE = 0.05
"""Share of the time that saving may take: a large state is saved less often."""


class Notes(Protocol):
    """Something that is saved and restored with a training, for example a learning curve."""

    def state(self) -> Any:
        """The state, as values that JSON can represent."""

    def restore(self, state: Any) -> None:
        """Continue from the result of `state`."""


class Clock:
    """Decides when to save: first at once, then so that saving takes at most `share` of the time.

    Args:
        share: share of the time, above 0
    """

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.perf_counter() >= self._next

    def kept(self, began: float) -> None:
        """Note that saving has just finished, and began at `began` of `time.perf_counter`."""
        now = time.perf_counter()
        self._next = now + (now - began) / self._share


class Keeper:
    """Saves the state of one training.

    Args:
        path: the file; None saves nothing
        notes: what is saved and restored with the training
        share: share of the time that saving may take
    """

    def __init__(
        self, path: Path | None = None, notes: Notes | None = None, share: float = SHARE
    ) -> None:
        self._path = path
        self._notes = notes
        self._clock = Clock(share)
        self._about: dict[str, str] = {}

    def found(
        self, about: Mapping[str, object], like: Any, device: torch.device | str = "cpu"
    ) -> Any:
        """The saved state, as a tree like `like` (see `trees.restored`); None if there is none.

        If the file cannot be read, or was written by a training with other settings, a line on
        stderr says that the training begins anew, and None is returned.

        Args:
            about: what the training depends on: its seed and its settings
            like: a tree of the same structure
            device: where the tensors are put
        """
        self._about = {name: str(value) for name, value in about.items()}
        if self._path is None or not self._path.exists():
            return None

        # everything is checked before `notes` changes
        try:
            tensors, metadata = read_tensors(self._path)
            told, outline, notes = (
                json.loads(metadata.get(name, "{}")) for name in ("about", "outline", "notes")
            )
            if wrong := [name for name, value in tensors.items() if value.isnan().any()]:
                raise ValueError(f"{self._path}: the tensor {wrong[0]!r} holds NaN.")
            if other := sorted(
                key
                for key in told.keys() | self._about.keys()
                if told.get(key) != self._about.get(key)
            ):
                raise ValueError(
                    f"{self._path} was kept with another {' and another '.join(other)}."
                )
            tree = restored(like, Flat(tensors, outline), device)
            if self._notes is not None:
                self._notes.restore(notes)
        except (ValueError, OSError) as error:
            print(f"The training begins anew: {error}", file=sys.stderr)
            return None
        return tree

    def keep(self, state: Callable[[], Any]) -> None:
        """Save the result of `state`, if it is time to.

        If the state cannot be represented as tensors, a line on stderr says so once, and nothing is
        saved from then on.

        Raises:
            OSError: If the file cannot be written; the file that was saved before stays intact.
        """
        if self._path is None or not self._clock.due():
            return
        began = time.perf_counter()
        try:
            written = flat(state())
        except TypeError as error:
            print(
                f"The training cannot be kept, so an interrupted one begins anew: {error}",
                file=sys.stderr,
            )
            self._path = None
            return
        notes = None if self._notes is None else self._notes.state()
        told = {"about": self._about, "outline": written.outline, "notes": notes}
        write_tensors(
            self._path, written.tensors, {name: json.dumps(value) for name, value in told.items()}
        )
        self._clock.kept(began)

    def forget(self) -> None:
        """Remove the file, because the training is complete."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The state of an optimizer as a tree: number of the parameter (a string), name, tensor."""
    entries = optimizer.state_dict()["state"].items()
    return {
        str(at): {name: torch.as_tensor(value) for name, value in entry.items()}
        for at, entry in entries
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Continue from the result of `optimizer_state`; groups and their learning rates stay.

    Raises:
        ValueError: If the number of parameters differs, or a tensor does not fit its parameter.
            Nothing has changed then.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {str(at) for at in range(len(parameters))}
    if state and state.keys() != numbers:
        raise ValueError(
            f"'optimizer' is about {len(state)} parameters, but there are {len(parameters)}."
        )
    for at, entry in state.items():
        for name, value in entry.items():
            shape = parameters[int(at)].shape
            if value.ndim > 0 and value.shape != shape:
                raise ValueError(
                    f"'optimizer/{at}/{name}' is {tuple(value.shape)}, but it must be "
                    f"{tuple(shape)}."
                )
    entries = {int(at): dict(entry) for at, entry in state.items()}
    optimizer.load_state_dict(
        {"state": entries, "param_groups": optimizer.state_dict()["param_groups"]}
    )
