"""A ranker that reads what the shop believes of its shoppers.

The belief itself (`recsim_env.belief`) is kept by the simulator, or for each user by the shop, and
stands in the observation: `belief_logits` are the log-odds of a click on every candidate that is
looked at, `belief_looks` the chances that positions are looked at.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from torch import Tensor

from policies.observations import candidates_of, check_keys
from policies.rankers.networks import DESCRIBED
from recsim_env.files import write_tensors
from recsim_env.types import Observation

KIND = "belief"
"""Description of its file, which holds nothing else: what is believed is in the observation."""
KEYS = ("belief_logits", "belief_looks")
"""Observation keys that the ranker reads."""


class BeliefRanker:
    """Ranks candidates by the belief; a `policies.inputs.Ranker`."""

    def logits(self, observation: Observation) -> Tensor:
        """Log-odds of a response to every candidate that is looked at: (B, C), -inf at padding.

        Raises:
            ValueError: If the observation lacks a key of the belief.
        """
        check_keys(observation, KEYS)
        logits = observation["belief_logits"]
        candidates = candidates_of(observation, logits.shape[1])
        return logits.where(candidates >= 0, -math.inf)

    def looks(self, observation: Observation) -> Tensor:
        """The chance that each shopper looks at each position, (B, K)."""
        return observation["belief_looks"]


def save_belief_ranker(path: Path) -> None:
    """Write that a ranker reads the belief, atomically."""
    write_tensors(path, {}, {DESCRIBED: json.dumps({"kind": KIND})})
