"""What a command says of an error: one sentence where a person can do something about it."""

from __future__ import annotations

import linecache
import traceback

import gymnasium

PACKAGES = ("recsim_env", "policies", "agents", "benchmarks")
"""Packages of this project; the wheel has the first alone."""
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells have it."""
STOPPED = "\nStopped by Ctrl-C. The same command goes on with what is written by now."
"""What such a command says, below the progress bar that it stood at."""


def sentence(error: Exception) -> str | None:
    """The sentence of an error that was raised on purpose, or by the system; None for a fault.

    An error on purpose is one that a `raise` of this project raised, or Gymnasium's own. A fault of
    the program keeps its traceback, for that is what its authors need.
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, (OSError, gymnasium.error.Error)) or _on_purpose(error):
        return str(error)
    return None


def _on_purpose(error: Exception) -> bool:
    """Whether a statement `raise` of this project raised an error."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    code = linecache.getline(frame.f_code.co_filename, line, frame.f_globals).lstrip()
    if package == "__main__":
        spec = frame.f_globals.get("__spec__")
        package = "" if spec is None else spec.name.partition(".")[0]
    return package in PACKAGES and code.startswith("raise ")
