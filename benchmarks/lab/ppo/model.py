"""A training of one seed, and its model before the first update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agents import TrainingSetup
from agents.places.site import Site, is_slow
from agents.ppo.algorithm import SlatePPO, make_ppo
from agents.ppo.config import annealed, annealed_rate
from agents.ppo.constrained import ConstrainedConfig, face_of, planned_for, reference_of
from agents.ppo.goals import face_for
from agents.ppo.vec_env import SimulatorVecEnv
from benchmarks.lab.ppo.config import CONSTRAINED, Config, folder_of, kind_of
from benchmarks.lab.ppo.sizes import Sizes, sizes_of
from policies.learnable.conditioned import ConditionedConfig
from policies.learnable.intents import IntentConfig
from policies.learnable.kinds import LEARNABLE


@dataclass(frozen=True)
class Training:
    """A training of one seed, from its options to the shoppers that it learns from."""

    config: Config
    """Options of the command."""
    site: Site
    """The place in which it learns."""
    setup: TrainingSetup
    """Its shoppers, its seed and its length, the search after PPO included."""
    sizes: Sizes
    """How much is trained and evaluated."""

    @classmethod
    def of(cls, config: Config, seed: int, site: Site | None = None) -> Training:
        """The training of a seed.

        Args:
            config: Its options.
            seed: The seed.
            site: The place, where it is open already.
        """
        site = site or config.place.open()
        simulator = site.simulator("train")
        sizes = sizes_of(config, slow=is_slow(simulator))
        inputs = site.inputs_for(simulator)
        return cls(
            config,
            site,
            TrainingSetup(simulator, inputs, seed, sizes.steps, sizes.shoppers),
            sizes,
        )

    @property
    def folder(self) -> Path:
        """The folder of its checkpoints and events."""
        return folder_of(self.config, self.setup.seed)

    @property
    def title(self) -> str:
        """What lines on it begin with."""
        return f"{self.config.agent}, seed {self.setup.seed}"

    @property
    def constrained(self) -> bool:
        """Whether it holds a limit."""
        return self.config.agent == CONSTRAINED


def make_model(training: Training) -> SlatePPO:
    """Make an agent before its first update."""
    config, setup, inputs = training.config, training.setup, training.setup.inputs

    # what it acts in, which a limit changes
    face: Callable[..., SimulatorVecEnv] = face_for(kind_of(config))
    if training.constrained:
        agent = ConstrainedConfig(constraint=config.constraint.constraint)
        reference = reference_of(setup, agent)
        inputs = planned_for(inputs, reference.limit, agent.multiplier)
        face = face_of(agent, reference)

    # its network
    starts = {
        "composer": IntentConfig(config.network.log_std),
        "conditioned": ConditionedConfig(config.network.log_std),
        "plackett_luce": config.plackett_luce,
        "autoregressive": config.autoregressive,
    }
    start = starts[kind_of(config)]
    composer = LEARNABLE[kind_of(config)].composer_for(inputs, config.composer, start)
    env = face(setup.simulator, composer, setup.shoppers, setup.seed, config.learned_reward)
    model = make_ppo(
        kind_of(config),
        env,
        config.ppo,
        config.network,
        start=start,
        seed=setup.seed,
        device=setup.simulator.device,
    )
    model.lr_schedule = partial(annealed_rate, config.ppo.learning_rate, config.annealed)
    if LEARNABLE[kind_of(config)].intents and config.narrowed:
        first = config.network.log_std
        model.width_schedule = partial(annealed, first, first - config.narrowed)
    return model
