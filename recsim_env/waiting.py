"""A line on stderr where something takes long, so that nobody thinks it hangs, and none else."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

PATIENCE = 2.0  # seconds


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on stderr what is being done where the block takes longer than `PATIENCE`."""
    told = threading.Timer(
        PATIENCE, lambda: print(f"recsim_env: {what} ..", file=sys.stderr, flush=True)
    )
    told.daemon = True
    told.start()
    try:
        yield
    finally:
        told.cancel()


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers in a block that takes no time."""
    from transformers.utils import logging  # takes seconds: only who uses transformers pays

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
