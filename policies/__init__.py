"""What turns an observation into a slate. Importing the package fills the registry `POLICIES`."""

from policies import cold, heuristics, lift_pair, rerankers, visits
from policies.inputs import PolicyInputs
from policies.rankers import ctr
from policies.registry import POLICIES, register_policy

__all__ = [
    "POLICIES",
    "PolicyInputs",
    "cold",
    "ctr",
    "heuristics",
    "lift_pair",
    "register_policy",
    "rerankers",
    "visits",
]
