"""What turns an observation into a slate. Importing the package fills the registry `POLICIES`."""

from policies import heuristics, rerankers
from policies.base import POLICIES, PolicyInputs
from policies.rankers import ctr

__all__ = ["POLICIES", "PolicyInputs", "ctr", "heuristics", "rerankers"]
