"""How what serves learns from what it served: one file for each way.

Importing the package fills the registry `UPDATES`.
"""

from agents.updates import frozen, online, ppo, refit, warm
from agents.updates.base import UPDATES, Start, Update, register_update

__all__ = [
    "UPDATES",
    "Start",
    "Update",
    "frozen",
    "online",
    "ppo",
    "refit",
    "register_update",
    "warm",
]
