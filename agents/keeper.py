"""Where a training keeps what it needs to go on after it was killed: one file, replaced whole.

What is kept are trees of `recsim_env.trees`: networks, optimizers, memories, generators, and where
every shopper stands. So a training that goes on does bit for bit what it would have done, on one
thread.
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
"""Share of the time that keeping may take: what is large is kept less often."""


class Notes(Protocol):
    """Something beside the training that goes back with it, a learning curve for example."""

    def state(self) -> Any:
        """What JSON can hold."""

    def restore(self, state: Any) -> None:
        """Take what `state` gave."""


class Clock:
    """Tells when it is time to keep again: the first time, then so that keeping takes at most `share` of the time."""

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time."""
        return time.perf_counter() >= self._next

    def kept(self, began: float) -> None:
        """Note that what was kept just now began at `began` of `time.perf_counter`."""
        now = time.perf_counter()
        self._next = now + (now - began) / self._share


class Keeper:
    """Keeps the state of one training.

    Args:
        path: the file; None keeps nothing
        notes: what goes back with the training
        share: of the time that keeping may take
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
        """What was kept, as a tree like `like` (see `trees.restored`); None where nothing was.

        Where what lies there cannot be read, or was kept by a training about something else, a line
        on stderr says that the training begins anew.

        Args:
            about: what the training depends on: its seed, its settings
        """
        self._about = {name: str(value) for name, value in about.items()}
        if self._path is None or not self._path.exists():
            return None
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
        """Keep what `state` gives, where it is time again; not where it cannot be written down, which stderr says once.

        Raises:
            OSError: If the file cannot be written; what was kept before is whole.
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
        """Remove the file: the training is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Parameter -> name -> tensor; the parameters are numbered, the numbers are strings."""
    entries = optimizer.state_dict()["state"].items()
    return {
        str(at): {name: torch.as_tensor(value) for name, value in entry.items()}
        for at, entry in entries
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Take what `optimizer_state` gave; the groups and their rates stay.

    Errors, before anything changes: ValueError where there is another number of parameters, or a
    tensor does not fit its parameter.
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
                    f"'optimizer/{at}/{name}' is {tuple(value.shape)}, but it must be {tuple(shape)}."
                )
    entries = {int(at): dict(entry) for at, entry in state.items()}
    optimizer.load_state_dict(
        {"state": entries, "param_groups": optimizer.state_dict()["param_groups"]}
    )
