"""Slate policies as Stable-Baselines3 policy classes: the one place where the two meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from policies.composer import IntentActor
from policies.networks import Standardizer, tower
from policies.plackett_luce import PlackettLuceActor, PlackettLuceConfig
from recsim_env.types import Observation

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
    seed: int = 0
    """Of the initial weights."""


class Actor(Protocol):
    """What an SB3 policy needs of a slate policy (an `nn.Module`)."""

    standardize: Standardizer

    def act(self, observation: Observation, draws: Tensor | None) -> Tensor:
        """Actions (B, ...): the most likely ones, or a sample by uniform numbers."""

    def judge(self, observation: Observation, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy, (B,) each."""


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

    Subclasses build the actor. SB3's own extractor, networks and distribution are not built.
    """

    actor: IntentActor | PlackettLuceActor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        network: NetworkConfig | None = None,
        use_sde: bool = False,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde is True, but slate policies explore with noise of their own.")
        self.network = network or NetworkConfig()
        super().__init__(observation_space, action_space, lr_schedule)

    def make_actor(self, width: int, generator: torch.Generator) -> IntentActor | PlackettLuceActor:
        """The actor for F = `width` features, initialised from `generator`."""
        raise NotImplementedError

    def _build(self, lr_schedule: Schedule) -> None:
        generator = torch.Generator().manual_seed(self.network.seed)
        width = _features_space(self.observation_space).shape[0]
        self.actor = self.make_actor(width, generator)
        self.critic = Critic(width, self.network.critic_hidden, generator)
        groups = [
            {"params": list(self.actor.parameters()), LR_SCALE: 1.0},
            {"params": list(self.critic.parameters()), LR_SCALE: self.network.critic_lr_scale},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=lr_schedule(1), eps=1e-5)

    def fit_standardizers(self, features: Tensor) -> None:
        """Fix mean and deviation of the features from examples (S, F), before training."""
        self.actor.standardize.fit(features)
        self.critic.standardize.fit(features)

    # ---- what PPO calls ----

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values (B, 1) and log-probabilities (B,)."""
        observation = _observation(obs)
        actions = self._predict(obs, deterministic)
        log_probability, _ = self.actor.judge(observation, actions)
        return actions, self.critic(observation["features"]), log_probability

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities (B,) and entropies (B,) of stored actions."""
        observation = _observation(obs)
        log_probability, entropy = self.actor.judge(observation, actions)
        return self.critic(observation["features"]), log_probability, entropy

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """(B, 1)."""
        return cast(Tensor, self.critic(_observation(obs)["features"]))

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Not offered: an actor judges actions itself."""
        raise NotImplementedError("Slate policies have no SB3 distribution; use actor.judge.")

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        seen = _observation(observation)
        draws = None if deterministic else self._draw(seen)
        return self.actor.act(seen, draws)

    def _draw(self, observation: Observation) -> Tensor:
        """Uniform numbers for a sample. SB3 hands in no generator, so torch's own is used: see `agents.ppo`."""
        raise NotImplementedError


class ComposerActorCritic(SlateActorCritic):
    """Draws intents; observation Box(F), action Box(A)."""

    actor: IntentActor

    def make_actor(self, width: int, generator: torch.Generator) -> IntentActor:
        """A Gaussian that starts at greedy CTR."""
        assert self.action_space.shape is not None
        network = self.network
        return IntentActor(width, self.action_space.shape[0], network.actor_hidden, network.log_std, generator)

    def _draw(self, observation: Observation) -> Tensor:
        features = observation["features"]
        return torch.rand(len(features), self.actor.draws, device=features.device)


class PlackettLuceActorCritic(SlateActorCritic):
    """Draws slates; observation `policies.plackett_luce.slate_observation`, action MultiDiscrete((N,) * K).

    Args:
        vectors: (N, D) float32 item embeddings
        config: how the scores start
    """

    actor: PlackettLuceActor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        vectors: Tensor,
        config: PlackettLuceConfig | None = None,
        network: NetworkConfig | None = None,
        use_sde: bool = False,
    ) -> None:
        self._vectors = vectors
        self._config = config or PlackettLuceConfig()
        super().__init__(observation_space, action_space, lr_schedule, network=network, use_sde=use_sde)

    def make_actor(self, width: int, generator: torch.Generator) -> PlackettLuceActor:
        """A softmax of the CTR logits, to start with."""
        assert isinstance(self.observation_space, spaces.Dict)
        assert self.action_space.shape is not None
        cues = self.observation_space["cues"].shape
        assert cues is not None
        hidden = self.network.actor_hidden
        size = self.action_space.shape[0]
        return PlackettLuceActor(width, cues[1], self._vectors, size, hidden, self._config, generator)

    def _draw(self, observation: Observation) -> Tensor:
        pool = observation["pool"]
        return torch.rand(pool.shape, device=pool.device)


def _observation(obs: PyTorchObs) -> Observation:
    """SB3 hands over a tensor (B, F) or a dictionary; actors and critics take a dictionary with `features`."""
    return obs if isinstance(obs, dict) else {"features": obs}


def _features_space(space: spaces.Space[Any]) -> spaces.Box:
    features = space["features"] if isinstance(space, spaces.Dict) else space
    assert isinstance(features, spaces.Box)
    return features
