"""PPO over intents that goes on training after each block, on a ranker that stays as it was.

PPO learns from slates of its own sampling, so after a block it serves, as it explores, as many
shoppers of the same days as were served in it, and updates from them; what it earns is that of its
most likely intents before other shoppers.
"""

from __future__ import annotations

from dataclasses import replace

from agents.base import TrainingSetup
from agents.ppo.agents import IN_INTENTS, PPOComposerConfig, untrained_model
from agents.ppo.algorithm import environment_of, frozen_policy_of, make_ppo
from agents.ppo.goals import face_for
from agents.updates.base import Start, Update, register_update
from policies.learnable.intents import IntentConfig
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Policy

RATE = 3e-3
"""Learning rate of every update; it does not fall, because the training has no end."""
UPDATES_A_BLOCK = 2
"""Updates after a block; each begins the shoppers of the block anew."""


@register_update("ppo")
class PPOGoesOn(Update):
    """Serves with intents, and trains them after each block."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        days = max(int(start.simulator.horizon_days), 1)
        visits = days * start.shoppers
        ppo = replace(IN_INTENTS, learning_rate=RATE, n_steps=days, batch_size=max(visits // 2, 1))
        self._config = PPOComposerConfig(ppo=ppo)
        inputs = replace(start.inputs, ranker=start.ranker)
        setup = TrainingSetup(start.simulator, inputs, start.seed, visits, start.shoppers)
        self._model = untrained_model(
            "composer", setup, self._config, IntentConfig(self._config.network.log_std), make_ppo
        )
        self._blocks = 0
        self._policy = frozen_policy_of(self._model)

    @property
    def policy(self) -> Policy:
        """The policy after the last block, at its most likely intents."""
        return self._policy

    def after_block(self, simulator: SlateSimulator) -> None:
        """Train on shoppers of the days of the block."""
        self._blocks += 1
        before = environment_of(self._model)
        env = face_for("composer")(
            simulator,
            before.composer,
            self.start.shoppers,
            self.start.seed + self._blocks,
            self._config.reward,
        )
        self._model.set_env(env)
        for _ in range(UPDATES_A_BLOCK):
            self._model.learn(
                self._config.ppo.n_steps * self.start.shoppers, reset_num_timesteps=False
            )
        self._policy = frozen_policy_of(self._model)
