"""Where the global generators stand, to see that nobody moved them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def generators() -> tuple[Any, ...]:
    """Return the states of the global generators of torch, numpy and Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    states = (state.numpy().tobytes() for state in (torch.get_rng_state(), *cuda))
    return (*states, random.getstate(), name, np.asarray(keys).tobytes(), *rest)
