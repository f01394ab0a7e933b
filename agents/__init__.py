"""Agents that learn.

Importing the package fills the registry `AGENTS`, and registers the environments of `agents.faces`.
"""

from agents import bandits, faces, item_offsets, reinforce
from agents.base import AGENTS, AgentSpec, TrainedAgent, TrainingSetup
from agents.ppo import agents as ppo_agents
from agents.ppo import constrained as ppo_constrained
from agents.search import agents as search_agents
from agents.slateq import agent as slateq_agent

__all__ = [
    "AGENTS",
    "AgentSpec",
    "TrainedAgent",
    "TrainingSetup",
    "bandits",
    "faces",
    "item_offsets",
    "ppo_agents",
    "ppo_constrained",
    "reinforce",
    "search_agents",
    "slateq_agent",
]
