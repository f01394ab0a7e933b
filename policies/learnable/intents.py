"""A Gaussian over the intents of a composer: the learnable policy that explores in intents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policies.composer import Composer, View
from policies.learnable.kinds import ActorInputs, register_learnable
from policies.observations import check_draws
from policies.pool import Pool
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
    """Log of the standard deviation at the start, in units of intent; -0.7 is half a unit."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self, log_std=LOG_STD)


class IntentActor(nn.Module):
    """A Gaussian over intents whose mean depends on the state.

    The mean starts at 0, which is the slate that is greedy in the reward. The standard deviation is
    learned, and the same in every state. Both are in units of the actor's own, in which all numbers
    of an intent weigh alike (`policies.units`).

    Shapes: B shoppers, F features, A intent.
        features: (B, F) float32, `Composer.features`
        units:    (A,), of the actor in those of the composer; 1 until they are fitted
        mean:     (B, A)
    """

    units: Tensor

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
        self.register_buffer("units", torch.ones(intent_size, dtype=torch.float32))
        self.draws = intent_size

    def mean(self, features: Tensor) -> Tensor:
        """Mean of the intents in states (B, F), in units of the actor: (B, A)."""
        mean: Tensor = self.tower(self.standardize(features))
        return mean

    def move(self, intent: Tensor) -> None:
        """Add an intent (A,), in units of the actor, to the mean of every state."""
        with torch.no_grad():
            last = self.tower[-1]
            assert isinstance(last, nn.Linear)
            last.bias.add_(intent.to(last.bias))

    def explore(self, log_std: float) -> None:
        """Set the log of the standard deviation of every number of an intent."""
        with torch.no_grad():
            self.log_std.fill_(log_std)

    def scale(self, factor: float) -> None:
        """Multiply the mean of every state by a factor."""
        with torch.no_grad():
            last = self.tower[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(factor)
            last.bias.mul_(factor)

    def act(self, observation: Observation, draws: Tensor | None) -> Tensor:
        """Choose intents (B, A): the mean, or a sample by the uniform numbers draws (B, A)."""
        mean = self.mean(observation["features"])
        own = mean if draws is None else mean + self.log_std.exp() * normal(draws)
        return own * self.units

    def judge(self, observation: Observation, intent: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of intents (B, A) in units of the actor, and its entropy: (B,) each."""
        z = (intent / self.units - self.mean(observation["features"])) / self.log_std.exp()
        log_volume = (self.log_std + 0.5 * math.log(2 * math.pi)).sum()
        entropy = log_volume + 0.5 * len(self.log_std)
        return -0.5 * z.square().sum(dim=1) - log_volume, entropy.expand(len(z))


class ComposerPolicy:
    """An `IntentActor` that steers a `Composer`.

    Args:
        composer: composes the slates
        actor: chooses the intents
        deterministic: whether it takes the mean of the intents, and not a sample

    Raises:
        TypeError: If an argument is of another class.
    """

    def __init__(
        self, composer: Composer, actor: IntentActor, *, deterministic: bool = True
    ) -> None:
        checks.instance("composer", composer, Composer)
        checks.instance("actor", actor, IntentActor)
        self.composer = composer
        self.actor = actor
        self.draws = 0 if deterministic else actor.draws

    def view(self, observation: Observation, pool: Pool | None = None) -> View:
        """Look at a visit, as `Composer.view` does."""
        return self.composer.view(observation, pool)

    @torch.no_grad()
    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """Compose slates (B, K)."""
        view = self.view(observation)
        if self.draws:
            check_draws(draws, len(view.features), self.draws)
        intent = self.actor.act({"features": view.features}, draws if self.draws else None)
        return self.composer.compose_view(view, intent)


@register_learnable("composer", IntentConfig, ComposerPolicy, intents=True)
def intent_actor(inputs: ActorInputs, config: IntentConfig) -> IntentActor:
    """Build an untrained actor over intents."""
    intent_size = inputs.composer.intent_size
    return IntentActor(inputs.width, intent_size, inputs.hidden, config.log_std, inputs.generator)
