"""PPO as registered agents: over the composer's intents, over Plackett-Luce slates and over autoregressive slates.

The composer explores in a few numbers that a whole slate hangs together by, the two others in every
position. Their gradients have more noise for it, so their defaults are larger batches and fewer
epochs. Not offered: a clipped ratio for each position instead of one for the slate, which SB3's
`PPO.train` has no place for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from stable_baselines3.common.utils import FloatSchedule

from agents.base import Ground, Learned, register_agent
from agents.ppo.algorithm import (
    PPOConfig,
    SlatePPO,
    StockPPO,
    fit_standardizers,
    frozen_policy_of,
    make_ppo,
)
from agents.ppo.checkpoints import restore_model, state_of
from agents.ppo.vec_env import IntentVecEnv, SlateVecEnv, TrainingReward
from policies.composer import Composer, ComposerConfig
from policies.learnable.autoregressive import AutoregressiveConfig
from policies.learnable.kinds import LEARNABLE, IntentConfig
from policies.learnable.plackett_luce import PlackettLuceConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.settings import ONE_OR_MORE, SHARE, settle
from recsim_env.trees import flat
from recsim_env.types import Policy

Model = TypeVar("Model", bound=StockPPO)
LOOKING = 10
"""Visits of each shopper from which the scale of the features is learned, before the first
update."""
REPORTED = ("explained_variance", "approx_kl", "clip_fraction")
"""What SB3 logs of an update under `train/` that is worth a row."""

_IN_SLATES = PPOConfig(n_steps=32, batch_size=8192, n_epochs=3)
IN_PLACKETT_LUCE = replace(
    _IN_SLATES, learning_rate=3e-4, gamma=0.904, gae_lambda=0.61, ent_coef=0.019
)
IN_AUTOREGRESSIVE = replace(
    _IN_SLATES, learning_rate=0.0186, gamma=0.904, gae_lambda=0.456, ent_coef=0.0176
)
"""PPO over slates: large batches and few epochs. Learning rate, gamma, lambda and entropy are what
`benchmarks.agents.tune_agents` found."""
SCALE = 2.0
"""Inverse temperature of slates: steeper, and every step of the weights is a leap of the slate."""


@dataclass(frozen=True)
class PPOAgentConfig:
    """What the three agents share.

    Rewards are weighted by survival, which needs shoppers who say how likely they leave: elsewhere
    give another `reward`.
    """

    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Hyper-parameters of PPO."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Sizes and start of actor and critic."""
    composer: ComposerConfig = field(default_factory=ComposerConfig)
    """What the agent sees of a visit."""
    reward: TrainingReward = field(default_factory=lambda: TrainingReward(survival=True))
    """How the reward is learned from."""
    annealed: float = 0.1
    """What is left of the learning rate at the end, on a straight line from 1; 1 = it stays."""
    watch_every: int = 10
    """Updates between two calls of `Ground.watch`; before the first of them it is called after
    update 1, 2, 4, .."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self, annealed=SHARE, watch_every=ONE_OR_MORE)


IN_INTENTS = PPOConfig(
    learning_rate=0.018,
    n_steps=20,
    batch_size=5120,
    n_epochs=5,
    gamma=0.98,
    gae_lambda=0.62,
    ent_coef=0.016,
)
"""PPO over intents: wide exploration, large batches, and rewards weighted by survival, which allow
so high a rate. Learning rate, gamma, lambda and entropy are what `benchmarks.agents.tune_agents`
found."""


@dataclass(frozen=True)
class PPOComposerConfig(PPOAgentConfig):
    """PPO over the composer's intents; how wide it explores at first is `NetworkConfig.log_std`."""

    ppo: PPOConfig = IN_INTENTS
    """Hyper-parameters of PPO."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(actor_hidden=(32,), log_std=0.0)
    )
    """Sizes and start of actor and critic."""
    composer: ComposerConfig = field(default_factory=lambda: ComposerConfig(offset_dims=0))
    """What the agent sees of a visit."""


@dataclass(frozen=True)
class PPOPlackettLuceConfig(PPOAgentConfig):
    """PPO over Plackett-Luce slates."""

    ppo: PPOConfig = IN_PLACKETT_LUCE
    """Hyper-parameters of PPO."""
    start: PlackettLuceConfig = field(default_factory=lambda: PlackettLuceConfig(SCALE))
    """How the scores start."""


@dataclass(frozen=True)
class PPOAutoregressiveConfig(PPOAgentConfig):
    """PPO over autoregressive slates."""

    ppo: PPOConfig = IN_AUTOREGRESSIVE
    """Hyper-parameters of PPO."""
    start: AutoregressiveConfig = field(default_factory=lambda: AutoregressiveConfig(SCALE))
    """How the scores start."""


@register_agent("ppo_composer", PPOComposerConfig)
def ppo_composer(ground: Ground, config: PPOComposerConfig) -> Learned:
    """Learn intents."""
    return _learn("composer", ground, config, IntentConfig(config.network.log_std))


@register_agent("ppo_plackett_luce", PPOPlackettLuceConfig)
def ppo_plackett_luce(ground: Ground, config: PPOPlackettLuceConfig) -> Learned:
    """Learn slates whose items are drawn by scores of their own."""
    return _learn("plackett_luce", ground, config, config.start)


@register_agent("ppo_autoregressive", PPOAutoregressiveConfig)
def ppo_autoregressive(ground: Ground, config: PPOAutoregressiveConfig) -> Learned:
    """Learn slates whose items are drawn in view of those above."""
    return _learn("autoregressive", ground, config, config.start)


def _learn(kind: str, ground: Ground, config: PPOAgentConfig, start: Any) -> Learned:
    """Whole updates only, never more than `ground.steps`; the visits that set the features' scale count as well.

    Raises:
        ValueError: If `ground.steps` is too few for one update.
    """
    looked, rollout = LOOKING * ground.shoppers, config.ppo.n_steps * ground.shoppers
    updates = (ground.steps - looked) // rollout
    if updates < 1:
        raise ValueError(
            f"ground.steps is {ground.steps}, but PPO needs {looked} to look and {rollout} for each update."
        )
    began = time.perf_counter()
    model = untrained_model(kind, ground, config, start, make_ppo)
    untrained, untrained_sampled = _frozen(model)
    first = _goes_on(ground, (kind, config, start), model)
    watched = _watch(ground, 0, untrained) if first == 1 else 0.0
    for update in range(
        first, updates + 1
    ):  # not a callback: SB3 would call it amid its own random numbers
        if update > 1:
            ground.keeper.keep(partial(_state, update, model))
        learn_update(model, config, update, updates)
        early = (
            update < config.watch_every and update & (update - 1) == 0
        )  # powers of two: where curves are steep
        if (early or update % config.watch_every == 0) and update < updates:
            watched += _watch(ground, looked + update * rollout, frozen_policy_of(model))
    facts = {name: float(model.logger.name_to_value[f"train/{name}"]) for name in REPORTED}
    facts["minutes"] = (time.perf_counter() - began - watched) / 60
    policy, sampled = _frozen(model)
    steps = looked + updates * rollout
    _watch(ground, steps, policy)
    return Learned(policy, sampled, untrained, untrained_sampled, steps, facts)


def _goes_on(ground: Ground, config: object, model: SlatePPO) -> int:
    """The update to go on with: the one before which the training was kept, else 1."""
    found = ground.keeper.found(ground.about(config), {"update": 0, "model": None})
    if found is None:
        return 1
    restore_model(model, found["model"])
    update: int = found["update"]
    return update


def _state(update: int, model: SlatePPO) -> dict[str, object]:
    """What `_learn` needs to go on with an update.

    Raises:
        TypeError: If the shoppers cannot be written down.
    """
    state = state_of(model)
    if state["why_not"]:
        raise TypeError(state["why_not"])
    return {"update": update, "model": flat(state)}


def untrained_model(
    kind: str, ground: Ground, config: PPOAgentConfig, start: Any, make: Callable[..., Model]
) -> Model:
    """PPO before its first update, made by `make_ppo` or `make_stock_ppo`."""
    composer = Composer(ground.inputs, config.composer)
    face = IntentVecEnv if LEARNABLE[kind].intents else SlateVecEnv
    env = face(ground.simulator, composer, ground.shoppers, ground.seed, config.reward)
    device = ground.simulator.device
    model = make(
        kind, env, config.ppo, config.network, start=start, seed=ground.seed, device=device
    )
    fit_standardizers(model, LOOKING)
    return model


def learn_update(model: StockPPO, config: PPOAgentConfig, update: int, updates: int) -> None:
    """One rollout and one update, the number `update` of 1 .. `updates`, at the learning rate that is its turn."""
    share = (update - 1) / max(updates - 1, 1)
    model.lr_schedule = FloatSchedule(
        config.ppo.learning_rate * (1 - share * (1 - config.annealed))
    )
    model.learn(config.ppo.n_steps * model.n_envs, reset_num_timesteps=update == 1)


def _frozen(model: SlatePPO) -> tuple[Policy, Policy]:
    """Copies of the policy: at its most likely action, and as it explores."""
    return frozen_policy_of(model), frozen_policy_of(model, deterministic=False)


def _watch(ground: Ground, steps: int, policy: Policy) -> float:
    """Have the policy looked at; the seconds that it took."""
    began = time.perf_counter()
    ground.watch(steps, policy)
    return time.perf_counter() - began
