"""Rewards: weighted sums of named terms, pure functions of a slate and what followed it.

Every term works in float64 inside, so that a reward is the same number whatever the batch size and
the device.
"""

from recsim_env.rewards import responses, shelf, variety  # their terms join the registry
from recsim_env.rewards.inputs import RewardInputs as RewardInputs
from recsim_env.rewards.objectives import Objectives
from recsim_env.rewards.shelf import ShareOf, exposure_toward, share_of
from recsim_env.rewards.terms import (
    REWARD_TERMS,
    SHIPPED,
    Bounds,
    Term,
    bounds_of,
    check_served,
    is_linear,
    needs_of,
    reward_term,
    term_value,
    zero_or_more,
    zero_to_one,
    zero_to_size,
)
from recsim_env.rewards.weighted import MOST_WEIGHT, as_reward
from recsim_env.rewards.weighted import Reward as Reward

SHIPPED.extend(REWARD_TERMS.values())

# `Reward` and `RewardInputs` are not among them: the reference describes these at `recsim_env`
__all__ = [
    "MOST_WEIGHT",
    "REWARD_TERMS",
    "Bounds",
    "Objectives",
    "ShareOf",
    "Term",
    "as_reward",
    "bounds_of",
    "check_served",
    "exposure_toward",
    "is_linear",
    "needs_of",
    "responses",
    "reward_term",
    "share_of",
    "shelf",
    "term_value",
    "variety",
    "zero_or_more",
    "zero_to_one",
    "zero_to_size",
]
