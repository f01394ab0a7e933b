"""What learns. Importing the package fills the registry `AGENTS`."""

from agents import bandits, ppo_agents, reinforce, slateq
from agents.base import AGENTS, AgentSpec, Ground, Learned

__all__ = ["AGENTS", "AgentSpec", "Ground", "Learned", "bandits", "ppo_agents", "reinforce", "slateq"]
