"""Slate policies as Stable-Baselines3 policy classes: the one place where the two meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from policies.base import LOG_STD, of_kind
from policies.composer import Composer
from policies.learnable.kinds import LEARNABLE, Actor, Plan
from policies.rankers.networks import Standardizer, tower
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.settings import AMOUNT, WIDTH, settle
from recsim_env.types import Observation, Policy

LR_SCALE = "lr_scale"
"""Key of an optimizer group: its learning rate is this times the schedule's."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and start of an actor and a critic."""

    actor_hidden: tuple[int, ...] = (64, 64)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[int, ...] = (128, 128)
    """Widths of the critic's hidden layers."""
    critic_lr_scale: float = 1.0
    """Learning rate of the critic as a multiple of the actor's."""
    log_std: float = -0.7
    """Log of the standard deviation that the intents start with, in units of intent."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self, actor_hidden=WIDTH, critic_hidden=WIDTH, critic_lr_scale=AMOUNT, log_std=LOG_STD
        )


class Critic(nn.Module):
    """Value of a state: features (B, F) to (B, 1)."""

    def __init__(self, width: int, hidden: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.standardize = Standardizer(width)
        self.tower = tower(width, hidden, 1, generator)

    def forward(self, features: Tensor) -> Tensor:
        value: Tensor = self.tower(self.standardize(features))
        return value


class SlateActorCritic(ActorCriticPolicy):
    """An SB3 actor-critic around an `Actor` and a `Critic` with learning rates of their own.

    SB3's own extractor, networks and distribution are not built. Spaces: those of the face in
    `agents.ppo.vec_env`.

    Args:
        kind: of the policy, a name in `LEARNABLE`
        composer: what looks at a visit
        catalog: the items
        start: how the actor starts, `LEARNABLE[kind].config`; None = its defaults
        network: sizes and start of the networks
        seed: of the initial weights
        survival: the observation holds the chance that the shopper is still there, which the value
            is proportional to: the last number of a Box, or the key `survival` (B, 1)
    """

    actor: Actor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        kind: str,
        composer: Composer,
        catalog: Catalog,
        start: Any = None,
        network: NetworkConfig | None = None,
        seed: int = 0,
        survival: bool = False,
        use_sde: bool = False,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde is True, but slate policies explore with noise of their own.")
        checks.choice("kind", kind, LEARNABLE)
        of_kind("composer", composer, Composer)
        of_kind("catalog", catalog, Catalog)
        of_kind("network", NetworkConfig() if network is None else network, NetworkConfig)
        of_kind(
            "start", LEARNABLE[kind].config() if start is None else start, LEARNABLE[kind].config
        )
        self.kind = kind
        self.composer = composer
        self.catalog = catalog
        self.start = LEARNABLE[kind].config() if start is None else start
        self.network = network or NetworkConfig()
        self.seed = seed
        self.survival = survival
        super().__init__(observation_space, action_space, lr_schedule)

    def in_use(self, *, deterministic: bool = True, actor: Actor | None = None) -> Policy:
        """The policy that this actor, or another one of its kind, is; it follows the actor's training."""
        return LEARNABLE[self.kind].policy(self.composer, actor or self.actor, deterministic)

    def _build(self, lr_schedule: Schedule) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        width = self._features_width()
        plan = Plan(self.composer, self.catalog, width, self.network.actor_hidden, generator)
        actor = LEARNABLE[self.kind].actor(plan, self.start)
        self.actor = cast(Actor, actor)
        self.critic = Critic(width, self.network.critic_hidden, generator)
        groups = [
            {"params": list(actor.parameters()), LR_SCALE: 1.0},
            {"params": list(self.critic.parameters()), LR_SCALE: self.network.critic_lr_scale},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=lr_schedule(1), eps=1e-5)
        self._draws = self.in_use(deterministic=False).draws

    def fit_standardizers(self, features: Tensor) -> None:
        """Fix mean and deviation of the features from examples (S, F), before training."""
        self.actor.standardize.fit(features)
        self.critic.standardize.fit(features)

    # ---- what PPO calls ----

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values (B, 1) and log-probabilities (B,)."""
        observation = self._observation(obs)
        actions = self._predict(obs, deterministic)
        log_probability, _ = self.actor.judge(observation, actions)
        return actions, self._value(observation), log_probability

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities (B,) and entropies (B,) of stored actions."""
        observation = self._observation(obs)
        log_probability, entropy = self.actor.judge(observation, actions)
        return self._value(observation), log_probability, entropy

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """(B, 1)."""
        return self._value(self._observation(obs))

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Not offered: an actor judges actions itself."""
        raise NotImplementedError("Slate policies have no SB3 distribution; use actor.judge.")

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions. SB3 hands in no generator, so torch's own is used: see `agents.ppo.algorithm`."""
        seen = self._observation(observation)
        features = seen["features"]
        draws = (
            None
            if deterministic
            else torch.rand(len(features), self._draws, device=features.device, dtype=torch.float32)
        )
        return self.actor.act(seen, draws)

    def features(self, obs: PyTorchObs) -> Tensor:
        """What the networks see of an observation: (B, F)."""
        return self._observation(obs)["features"]

    def _value(self, observation: Observation) -> Tensor:
        """(B, 1), weighted by survival where that is known."""
        value: Tensor = self.critic(observation["features"])
        return value * observation["survival"] if self.survival else value

    def _observation(self, obs: PyTorchObs) -> Observation:
        """SB3 hands over a tensor (B, F) or a dictionary; actors and critics take a dictionary with `features`."""
        if isinstance(obs, dict):
            return obs
        return (
            {"features": obs[:, :-1], "survival": obs[:, -1:]}
            if self.survival
            else {"features": obs}
        )

    def _features_width(self) -> int:
        space = self.observation_space
        features = space["features"] if isinstance(space, spaces.Dict) else space
        assert isinstance(features, spaces.Box)
        return features.shape[0] - (self.survival and features is space)
