"""The environment of agents whose actions are slates together with a level of discount."""

from __future__ import annotations

from gymnasium import spaces

from agents.ppo.vec_env import SlateVecEnv


class OfferVecEnv(SlateVecEnv):
    """Environment whose actions are those of the simulator: a slate, and the level of a bundle.

    Where slates are no bundles it is a `SlateVecEnv`.
    """

    def _action_space(self) -> spaces.MultiDiscrete:
        return self.simulator.action_space
