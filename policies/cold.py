"""What agents read at a cold start: which items are new, and who the shopper is.

The shop tells both where an environment is asked for `new_items` or `portrait`
(`recsim_env.shoppers.cold`, `recsim_env.shoppers.household.portraits`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.cues import CueInputs, cue
from policies.features import StateInputs, state_feature


@cue("new", 1.0, "new_candidates")
def new_item(inputs: CueInputs) -> Tensor:
    """1 for an item that nobody knows yet: a bonus for it is exploration by rule."""
    new = inputs.observation["new_candidates"].gather(1, inputs.pool.columns)
    return new.to(torch.float32) * (inputs.pool.items >= 0)


@state_feature("portrait", "portrait")
def told_portrait(inputs: StateInputs) -> Tensor:
    """Whether anything is known of who the shopper is, and each number around its middle: (B, P).

    What is not known stands in the middle, where it says nothing.
    """
    portrait = inputs.observation["portrait"]
    known = portrait[:, :1]
    return torch.cat([known, (2 * portrait[:, 1:] - 1) * known], dim=1)
