"""A progress line of a training: how far it is, its phase, its speed, and the time left."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

TERMINAL_S, FILE_S = 0.1, 30.0
"""Seconds between two updates of the line: in a terminal, where it is overwritten, and in a file,
where lines add up."""


class Progress:
    """Shows the visits of a training, its phase, visits per second, and the time left.

    A training alternates between visits and evaluations, which differ in duration. The time left is
    the sum of that of both, each at its own measured pace, so that an evaluation does not distort
    it.

    Args:
        title: start of the line
        total: visits of the whole training
        done: visits that an earlier part of it made
        evaluations: number of evaluations to come
        clock: returns seconds
        out: where the line is written; None = stderr
    """

    def __init__(
        self,
        title: str,
        total: int,
        done: int = 0,
        *,
        evaluations: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        out: TextIO | None = None,
    ) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._clock, self._out = clock, out or sys.stderr
        self._every = TERMINAL_S if self._out.isatty() else FILE_S
        self._phase, self._note = "starting", ""
        self._evaluations = evaluations
        self._evaluated: list[tuple[float, int]] = []  # seconds and visits of each evaluation
        self._asked = 0  # visits of the evaluation that is going on
        self._trained_s = 0.0  # seconds of training, without evaluations
        self._last = self._drawn = clock()
        self._draw()

    # ---- events ----

    def trained(self, visits: int) -> None:
        """Count `visits` further visits of training."""
        self._done += visits
        self._train("training")

    def learned(self) -> None:
        """Note that a gradient step was taken."""
        self._train("learning")

    @contextmanager
    def evaluating(self) -> Iterator[Callable[[int], None]]:
        """A context for an evaluation, which calls the yielded function with visits made."""
        began, self._asked = self._clock(), 0
        self._last, self._phase = began, "evaluating"
        self._refresh()

        def more(visits: int) -> None:
            self._asked += visits
            self._refresh()

        yield more

        self._last = self._clock()
        self._evaluated.append((self._last - began, self._asked))
        self._evaluations -= 1

    def note(self, text: str) -> None:
        """Show this text at the end of the line from now on."""
        self._note = text

    def close(self) -> None:
        """Write the line for the last time."""
        self._phase = "finished" if self._done >= self._total else "stopped"
        self._draw()
        if self._out.isatty():
            print(file=self._out, flush=True)

    # ---- output ----

    def left_s(self) -> float | None:
        """Seconds left; None before the first visit.

        The evaluations to come are left out until a first one has been measured.
        """
        visits = self._done - self._first
        if visits == 0:
            return None
        seconds = (self._total - self._done) * self._trained_s / visits
        if self._evaluated:
            of_one = sum(lasted for lasted, _ in self._evaluated) / len(self._evaluated)
            current = self._clock() - self._last if self._phase == "evaluating" else 0.0
            seconds += max(self._evaluations * of_one - current, 0.0)
        return max(seconds, 0.0)

    def line(self) -> str:
        """The text of the line, without the bar."""
        parts = [f"{self._done:,} of {self._total:,} visits", self._doing()]
        if (visits := self._done - self._first) > 0 and self._trained_s > 0:
            parts.append(f"{visits / self._trained_s:,.0f} visits/s")
        if self._phase not in ("finished", "stopped") and (left := self.left_s()) is not None:
            more = "more than " if self._evaluations and not self._evaluated else ""
            parts.append(f"{more}{tqdm.format_interval(left)} left")
        return ", ".join([*parts, self._note] if self._note else parts)

    def _doing(self) -> str:
        if self._phase != "evaluating":
            return self._phase
        of = f" of about {self._evaluated[-1][1]:,}" if self._evaluated else ""
        return f"evaluating ({self._asked:,}{of} visits)"

    # ---- internals ----

    def _train(self, phase: str) -> None:
        now = self._clock()
        self._trained_s += now - self._last
        self._last, self._phase = now, phase
        self._refresh()

    def _refresh(self) -> None:
        if self._clock() - self._drawn >= self._every:
            self._draw()

    def _draw(self) -> None:
        self._drawn = self._clock()
        share = f"{self._title}: {self._done / max(self._total, 1):4.0%}"
        if not self._out.isatty():
            print(f"{share}, {self.line()}", file=self._out, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        bar = "{desc}|{bar}| " + self.line().replace("{", "{{").replace("}", "}}")
        text = tqdm.format_meter(
            self._done, self._total, 0, ncols=width, prefix=share, bar_format=bar
        )
        print(f"\r{text}\033[K", end="", file=self._out, flush=True)
