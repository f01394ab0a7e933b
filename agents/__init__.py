"""Agents that learn. Importing the package fills the registry `AGENTS`."""

from agents import bandits, reinforce
from agents.base import AGENTS, AgentSpec, TrainedAgent, TrainingSetup
from agents.ppo import agents as ppo_agents
from agents.slateq import agent as slateq_agent

__all__ = [
    "AGENTS",
    "AgentSpec",
    "TrainedAgent",
    "TrainingSetup",
    "bandits",
    "ppo_agents",
    "reinforce",
    "slateq_agent",
]
