"""A private state of the global random generators, for libraries that draw from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


class PrivateRandomness:
    """A state of the global generators that only the code inside `with randomness():` sees.

    SB3 draws actions from torch's global generator, shuffles minibatches with numpy's, and seeds
    both of them as well as Python's.
    """

    def __init__(self) -> None:
        self._mine = self._read()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Install the private state, and restore that of the caller at the end."""
        theirs = self._read()
        self._write(self._mine)
        try:
            yield
        finally:
            self._mine = self._read()
            self._write(theirs)

    def tensors(self) -> dict[str, Tensor]:
        """The private state of torch's and numpy's generators, as tensors that can be saved."""
        _, key, place, _, _ = self._mine["numpy"]
        saved = {
            "torch": self._mine["torch"],
            "numpy": torch.from_numpy(np.append(key, place).astype(np.int64)),
        }
        saved |= {f"cuda{at}": state for at, state in enumerate(self._mine["cuda"])}
        return saved

    def load(self, saved: dict[str, Tensor]) -> None:
        """Continue with a state that `tensors` returned."""
        numbers = saved["numpy"].numpy()
        self._mine["torch"] = saved["torch"]
        self._mine["numpy"] = ("MT19937", numbers[:-1].astype(np.uint32), int(numbers[-1]), 0, 0.0)
        self._mine["cuda"] = [
            saved.get(f"cuda{at}", state) for at, state in enumerate(self._mine["cuda"])
        ]

    @staticmethod
    def _read() -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        numpy_state = np.random.get_state()  # noqa: NPY002 - the state that SB3 uses is kept from everyone else
        return {
            "torch": torch.get_rng_state(),
            "cuda": cuda,
            "numpy": numpy_state,
            "python": random.getstate(),
        }

    @staticmethod
    def _write(state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        random.setstate(state["python"])
