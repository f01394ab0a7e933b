"""A Gaussian over the intents of a composer: the learnable policy that explores in intents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policies.composer import Composer
from policies.observations import check_draws
from policies.rankers.networks import Standardizer, tower
from recsim_env import checks
from recsim_env.noise import normal
from recsim_env.settings import Within, settle
from recsim_env.types import Observation

LOG_STD = Within(-20.0, 20.0)
"""Legal logarithms of a standard deviation: outside of them float32 overflows or vanishes."""


@dataclass(frozen=True)
class IntentConfig:
    """How a Gaussian over intents starts."""

    log_std: float = -0.7
    """Log of its standard deviation, in units of intent."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self, log_std=LOG_STD)


class IntentActor(nn.Module):
    """A Gaussian over intents, with a state-dependent mean that starts at 0 (greedy CTR) and a learned deviation.

    Shapes: B shoppers, F features, A intent.
        features: (B, F) float32, `Composer.features`
        mean:     (B, A)
    """

    def __init__(
        self,
        width: int,
        intent_size: int,
        hidden: tuple[int, ...],
        log_std: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.standardize = Standardizer(width)
        self.tower = tower(width, hidden, intent_size, generator, gain=0.0)
        self.log_std = nn.Parameter(torch.full((intent_size,), log_std, dtype=torch.float32))
        self.draws = intent_size

    def mean(self, features: Tensor) -> Tensor:
        """(B, A)."""
        mean: Tensor = self.tower(self.standardize(features))
        return mean

    def act(self, observation: Observation, draws: Tensor | None) -> Tensor:
        """Intents (B, A): the mean, or a sample by the uniform numbers draws (B, A)."""
        mean = self.mean(observation["features"])
        return mean if draws is None else mean + self.log_std.exp() * normal(draws)

    def judge(self, observation: Observation, intent: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of intents (B, A) and the entropy of the distribution: (B,) each."""
        z = (intent - self.mean(observation["features"])) / self.log_std.exp()
        log_volume = (self.log_std + 0.5 * math.log(2 * math.pi)).sum()
        entropy = log_volume + 0.5 * len(self.log_std)
        return -0.5 * z.square().sum(dim=1) - log_volume, entropy.expand(len(z))


class ComposerPolicy:
    """An `IntentActor` steering a `Composer`.

    Raises:
        TypeError: If an argument is of another kind.
    """

    def __init__(
        self, composer: Composer, actor: IntentActor, *, deterministic: bool = True
    ) -> None:
        checks.instance("composer", composer, Composer)
        checks.instance("actor", actor, IntentActor)
        self.composer = composer
        self.actor = actor
        self.draws = 0 if deterministic else actor.draws

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Slates (B, K)."""
        view = self.composer.view(observation)
        if self.draws:
            check_draws(draws, len(view.features), self.draws)
        intent = self.actor.act({"features": view.features}, draws if self.draws else None)
        return self.composer.compose_view(view, intent)
