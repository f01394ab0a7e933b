"""What turns an observation into a slate. Importing the package fills the registry `POLICIES`."""

from policies import heuristics, rankers, rerankers
from policies.base import POLICIES, Policy, PolicyInputs

__all__ = ["POLICIES", "Policy", "PolicyInputs", "heuristics", "rankers", "rerankers"]
