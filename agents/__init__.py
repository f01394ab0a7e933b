"""What learns. Importing the package fills the registry `AGENTS`."""

from agents import bandits, reinforce, slateq
from agents.base import AGENTS, AgentSpec, Ground, Learned
from agents.ppo import agents as ppo_agents

__all__ = [
    "AGENTS",
    "AgentSpec",
    "Ground",
    "Learned",
    "bandits",
    "ppo_agents",
    "reinforce",
    "slateq",
]
