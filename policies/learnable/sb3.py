"""Slate policies as Stable-Baselines3 policy classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from policies.composer import Composer
from policies.learnable.intents import LOG_STD
from policies.learnable.kinds import LEARNABLE, Actor, ActorInputs
from policies.rankers.networks import Standardizer, tower
from recsim_env import checks
from recsim_env.catalog import Catalog
from recsim_env.settings import AMOUNT, WIDTH, settle
from recsim_env.types import Observation, Policy

LR_SCALE = "lr_scale"
"""Key of an optimizer group for the factor on the schedule's learning rate."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the actor and the critic, and how they start."""

    actor_hidden: tuple[int, ...] = (64, 64)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[int, ...] = (128, 128)
    """Widths of the critic's hidden layers."""
    critic_lr_scale: float = 1.0
    """Learning rate of the critic as a multiple of the actor's."""
    log_std: float = -0.7
    """Log of the standard deviation of the intents at the start, in units of intent; -0.7 is half a
    unit."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self, actor_hidden=WIDTH, critic_hidden=WIDTH, critic_lr_scale=AMOUNT, log_std=LOG_STD
        )


class Critic(nn.Module):
    """Estimates the value of states: features (B, F) to (B, 1), or (B, G) of G goals."""

    def __init__(
        self, width: int, hidden: tuple[int, ...], generator: torch.Generator, goals: int = 1
    ) -> None:
        super().__init__()
        self.standardize = Standardizer(width)
        self.tower = tower(width, hidden, goals, generator)

    def forward(self, features: Tensor) -> Tensor:
        """Compute values (B, 1) or (B, G) of features (B, F)."""
        value: Tensor = self.tower(self.standardize(features))
        return value


class SlateActorCritic(ActorCriticPolicy):
    """An SB3 actor-critic around an `Actor` and a `Critic` with learning rates of their own.

    SB3's own extractor, networks and distribution are not built. The spaces are those of the
    vector environments in `agents.ppo.vec_env`.

    Args:
        kind: name of the policy in `LEARNABLE`
        composer: looks at a visit
        catalog: the items
        start: how the actor starts, `LEARNABLE[kind].config`; None = its defaults
        network: sizes and start of the networks
        seed: of the initial weights
        survival: whether the observation holds the probability that the shopper is still there, to
            which the value is proportional: the last number of a Box, or the key `survival` (B, 1)
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
        checks.instance("composer", composer, Composer)
        checks.instance("catalog", catalog, Catalog)
        checks.instance("network", NetworkConfig() if network is None else network, NetworkConfig)
        checks.instance(
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
        """The policy of this actor, or of another of its kind; it follows the actor's training."""
        return LEARNABLE[self.kind].policy(
            self.composer, actor or self.actor, deterministic=deterministic
        )

    def _build(self, lr_schedule: Schedule) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        width = self._features_width()
        inputs = ActorInputs(
            self.composer, self.catalog, width, self.network.actor_hidden, generator
        )
        actor = LEARNABLE[self.kind].actor(inputs, self.start)
        self.actor = cast(Actor, actor)
        goals = len(self.composer.goals) or 1
        self.critic = Critic(width, self.network.critic_hidden, generator, goals)
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
        """Choose actions; returns them, values (B, 1) and log-probabilities (B,)."""
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
        """Values of states: (B, 1)."""
        return self._value(self._observation(obs))

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Raise NotImplementedError: an actor judges actions itself."""
        raise NotImplementedError("Slate policies have no SB3 distribution; use actor.judge.")

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Choose actions with torch's generator, as SB3 hands in none (`agents.ppo.algorithm`)."""
        seen = self._observation(observation)
        features = seen["features"]
        draws = (
            None
            if deterministic
            else torch.rand(len(features), self._draws, device=features.device, dtype=torch.float32)
        )
        return self.actor.act(seen, draws)

    def features(self, obs: PyTorchObs) -> Tensor:
        """Features that the networks see of an observation: (B, F)."""
        return self._observation(obs)["features"]

    def _value(self, observation: Observation) -> Tensor:
        """Values (B, 1), or (B, G) of goals, weighted by survival where that is known."""
        value: Tensor = self.critic(observation["features"])
        return value * observation["survival"] if self.survival else value

    def _observation(self, obs: PyTorchObs) -> Observation:
        """Make the dictionary that actors and critics take of what SB3 hands over."""
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
