"""The number of CPU threads of all benchmarks."""

from __future__ import annotations

import torch

from recsim_env.checks import whole

THREADS = 1
"""Number of threads of a simulation, and of an agent that learns in one.

The matrix products are small, so two threads wait for each other at every step, and OpenMP waits by
spinning: on an otherwise idle machine two threads make about 1.4 times the visits a second of one,
at 1.4 times the processor time a visit; where other processes want the cores, they make fewer than
one thread does. Only one thread gives the same numbers bit for bit when a training is interrupted
and resumed. `python -m benchmarks.speed.crowded` measures all of this.
"""
FITTING_THREADS = 2
"""Number of threads of fine-tuning and of scoring a log, whose matrix products are large."""


def use_threads(threads: int) -> None:
    """Set the number of threads that torch computes on.

    Raises:
        ValueError: If it is no whole number of 1 or more.
    """
    torch.set_num_threads(whole("threads", threads, 1))
