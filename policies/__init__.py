"""What turns an observation into a slate. Importing the package fills the registry `POLICIES`."""

from policies import heuristics, lift_pair, rerankers, visits
from policies.inputs import PolicyInputs
from policies.rankers import ctr
from policies.registry import POLICIES, register_policy

__all__ = [
    "POLICIES",
    "PolicyInputs",
    "ctr",
    "heuristics",
    "lift_pair",
    "register_policy",
    "rerankers",
    "visits",
]
