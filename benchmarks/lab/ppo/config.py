"""The options of a training of PPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from agents import AGENTS
from agents.ppo.agents import PPOComposerConfig, PPOIntentConfig
from agents.ppo.config import NARROWED, PPOConfig
from agents.ppo.monitor import MonitorConfig
from agents.ppo.vec_env import TrainingReward
from benchmarks.lab.checked import Checked
from benchmarks.lab.ppo.limit import LimitOptions
from benchmarks.lab.where import Here, Where
from policies.composer import ComposerConfig
from policies.learnable.autoregressive import AutoregressiveConfig
from policies.learnable.plackett_luce import PlackettLuceConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.settings import SHARE, Within, put

CONSTRAINED = "constrained"
"""The agent that has a constraint."""


@dataclass(frozen=True)
class Config(Checked):
    """Train PPO over slates."""

    BOUNDS: ClassVar[Mapping[str, Within]] = {
        "annealed": SHARE,
        "polished": SHARE,
        "narrowed": NARROWED,
    }

    place: Here = field(default_factory=Where)
    """Environment, log and ranker to train with."""
    agent: Literal["composer", "conditioned", "constrained", "plackett_luce", "autoregressive"] = (
        "composer"
    )
    """What PPO acts in: the intents of the slate composer, for one reward (composer), for any
    weights of its terms (conditioned) or with a limit on the mean of a term (constrained), or
    slates themselves, whose items are drawn at once (plackett_luce) or one by one
    (autoregressive)."""
    constraint: LimitOptions = field(default_factory=LimitOptions)
    """The limit of the agent `constrained`, which is told whole or not at all; by default it is at
    least 0.95 times the clicks of greedy CTR."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, each of which is a run of its own. Three show how much runs differ."""
    visits: int | None = None
    """Length of a run in visits, those of all shoppers together. By default it is 300,000, and
    20,000 in environments of others, whose shoppers are served one by one."""
    shoppers: int | None = None
    """Number of shoppers that are served at once. By default it is 512, and 32 in environments of
    others."""
    ppo: PPOConfig = field(default_factory=lambda: PPOComposerConfig().ppo)
    """Hyper-parameters of the PPO algorithm. By default they are those that are registered for the
    agent; where one of them is told, the others are those of `composer`."""
    annealed: float = PPOComposerConfig().annealed
    """Factor on the learning rate at the end, reached linearly from 1; 1 keeps the rate
    constant."""
    narrowed: float | None = None
    """By how much the log of the width of exploration in intents falls until the end, linearly from
    `network.log-std`; 0 lets PPO learn the width. By default it is that which is registered for the
    agent; agents over slates have none."""
    polished: float = PPOComposerConfig().polished
    """Share of the visits with which, after PPO, CMA-ES searches for what to add to the intents of
    all states; 0 leaves them as PPO learned them. Only `composer` and `constrained` have such a
    search."""
    network: NetworkConfig = field(default_factory=lambda: PPOComposerConfig().network)
    """Sizes and initial values of actor and critic."""
    composer: ComposerConfig = field(default_factory=lambda: PPOComposerConfig().composer)
    """What the agent sees of a visit and how it may steer."""
    plackett_luce: PlackettLuceConfig = field(default_factory=PlackettLuceConfig)
    """How the scores of the Plackett-Luce agent start."""
    autoregressive: AutoregressiveConfig = field(default_factory=AutoregressiveConfig)
    """How the scores of the autoregressive agent start."""
    learned_reward: TrainingReward = field(default_factory=lambda: PPOComposerConfig().reward)
    """How the reward of the simulator becomes the reward that PPO learns from."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """Evaluations before the first update, on the way and at the end. In environments of others
    they have 32 episodes unless another number than the default is given."""
    output: Path = Path("runs/train")
    """Folder of the runs: checkpoints and TensorBoard events in `<agent>/seed<k>/`."""

    def __post_init__(self) -> None:
        """Check every option, and take the agent's own hyper-parameters where none is told.

        Raises:
            ValueError: If an option is outside its range, or there is a limit that no agent holds.
        """
        super().__post_init__()
        if self.constraint.told and self.agent != CONSTRAINED:
            raise ValueError(
                f"constraint.{self.constraint.told[0]} is told, but agent is {self.agent!r}: only "
                f"{CONSTRAINED!r} has a limit."
            )
        registered = AGENTS[f"ppo_{self.agent}"].config()
        if self.ppo == PPOComposerConfig().ppo:
            put(self, ppo=registered.ppo)
        if self.narrowed is None and isinstance(registered, PPOIntentConfig):
            put(self, narrowed=registered.narrowed)


def kind_of(config: Config) -> str:
    """The kind of policy that is trained, a name in `LEARNABLE`."""
    return "composer" if config.agent == CONSTRAINED else config.agent


def folder_of(config: Config, seed: int) -> Path:
    """The folder of a training seed's checkpoint and events."""
    return config.output / config.agent / f"seed{seed}"
