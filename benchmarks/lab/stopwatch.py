"""Clocks for benchmarks: the time of some work, and the time spent inside chosen methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass
class Clock:
    """Adds up the wall and processor seconds of pieces of work."""

    device: torch.device
    """Where the work is done; on a GPU the clock waits until nothing is left to do."""
    wall: float = 0.0
    """Seconds of the wall clock."""
    cpu: float = 0.0
    """Seconds of all processors."""

    @property
    def busy(self) -> float:
        """Seconds of all processors; on a GPU, of the wall clock."""
        return self.wall if self.device.type == "cuda" else self.cpu

    def timed(self, work: Callable[[], T]) -> T:
        """Do a piece of work, and add the time that it took."""
        wall, cpu = self._wall(), time.process_time()
        found = work()
        self.wall, self.cpu = self.wall + self._wall() - wall, self.cpu + time.process_time() - cpu
        return found

    def _wall(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Stopwatch:
    """Adds up the seconds that pass inside methods, by part.

    A method that is called inside a timed one counts for the outer one's part.
    """

    def __init__(self, device: torch.device, parts: Sequence[str]) -> None:
        self._device = device
        self._busy = False
        self._watched: list[tuple[Any, str]] = []
        self.seconds = dict.fromkeys(parts, 0.0)

    def now(self) -> float:
        """Seconds of the processor; on a GPU, of the wall clock with nothing left to do."""
        if self._device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def watch(self, part: str, owner: Any, *names: str) -> None:
        """Time methods of an object.

        Args:
            part: The part that their time is added to.
            owner: The object.
            names: The names of the methods.

        Raises:
            AttributeError: If the object lacks one of them, so that a renamed method is noticed.
        """
        for name in names:
            setattr(owner, name, self._timed(part, getattr(owner, name)))
            self._watched.append((owner, name))

    def release(self) -> None:
        """Stop timing all methods."""
        for owner, name in self._watched:
            delattr(owner, name)  # the class's own is behind it
        self._watched.clear()

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._busy:
                return method(*args, **kwargs)
            self._busy, began = True, self.now()
            try:
                return method(*args, **kwargs)
            finally:
                self._busy = False
                self.seconds[part] += self.now() - began

        return timed
