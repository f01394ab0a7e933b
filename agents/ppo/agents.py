"""PPO as registered agents: over intents, for any weights of goals too, and over slates.

An intent of the composer is a few numbers that determine the whole slate, so PPO over intents
explores in few dimensions. The two agents over slates explore in every position, which makes their
gradients noisier; their defaults are therefore larger batches and fewer epochs. The probability
ratio is clipped for the slate as a whole, because SB3's `PPO.train` cannot clip it per position.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from stable_baselines3.common.utils import FloatSchedule

from agents.base import TrainedAgent, TrainingSetup, register_agent
from agents.ppo.algorithm import (
    SlatePPO,
    StockPPO,
    frozen_policy_of,
    look_around,
    make_ppo,
)
from agents.ppo.checkpoints import restore_model, state_of
from agents.ppo.config import NARROWED, PPOConfig, annealed, annealed_rate
from agents.ppo.goals import check_goals, face_for
from agents.ppo.polish import Judge, choice_of, judge_of, polish, returns_of
from agents.ppo.vec_env import SimulatorVecEnv, TrainingReward
from policies.composer import ComposerConfig
from policies.goals import checked_goals
from policies.learnable.autoregressive import AutoregressiveConfig
from policies.learnable.conditioned import ConditionedConfig
from policies.learnable.intents import IntentConfig
from policies.learnable.kinds import LEARNABLE
from policies.learnable.plackett_luce import PlackettLuceConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.settings import ONE_OR_MORE, SHARE, put, settle
from recsim_env.trees import flat
from recsim_env.types import Policy

Model = TypeVar("Model", bound=StockPPO)
SCALING_VISITS = 10
"""Visits of each shopper, before the first update, that set the scale of the features."""
LONGER = 1.3
"""Factor on the length of an episode in the training, of which the check allows for."""
REPORTED = ("explained_variance", "approx_kl", "clip_fraction")
"""Figures that SB3 logs under `train/` and that the facts of an agent hold."""

_IN_SLATES = PPOConfig(n_steps=32, batch_size=8192, n_epochs=3)
IN_PLACKETT_LUCE = replace(
    _IN_SLATES, learning_rate=3e-4, gamma=0.904, gae_lambda=0.61, ent_coef=0.019
)
IN_AUTOREGRESSIVE = replace(
    _IN_SLATES, learning_rate=0.0186, gamma=0.904, gae_lambda=0.456, ent_coef=0.0176
)
"""Hyper-parameters of PPO over slates: large batches and few epochs. Learning rate, gamma, lambda
and entropy coefficient were chosen by `benchmarks.agents.tune_agents`."""
SCALE = 2.0
"""Inverse temperature of slates; with a larger one, a small step of the weights changes the slate
abruptly."""


@dataclass(frozen=True)
class PPOAgentConfig:
    """Options that the agents share.

    By default rewards are weighted by survival where the shoppers report the probability of
    leaving.
    """

    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Hyper-parameters of the PPO algorithm."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Sizes and initial values of actor and critic."""
    composer: ComposerConfig = field(default_factory=ComposerConfig)
    """How the agent observes a visit, and how intents become slates."""
    reward: TrainingReward = field(default_factory=lambda: TrainingReward(survival=True))
    """How the reward of the simulator becomes the reward that PPO learns from."""
    annealed: float = 0.1
    """Factor on the learning rate at the last update, reached linearly from 1; 1 keeps the rate
    constant."""
    checked: float = 0.1
    """Share of the steps that compare the trained policy with the untrained one at the end, on
    shoppers of their own. The best one is kept, so that a training without a signal does no harm. 0
    keeps what was trained."""
    watch_every: int = 10
    """Number of updates between two calls of `TrainingSetup.watch`. Before the first of them it is
    called after updates 1, 2, 4, ..."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        settle(self, annealed=SHARE, checked=SHARE, watch_every=ONE_OR_MORE)


IN_INTENTS = PPOConfig(
    learning_rate=0.012,
    n_steps=20,
    batch_size=5120,
    n_epochs=5,
    gamma=0.98,
    gae_lambda=0.62,
    ent_coef=0.016,
)
"""Hyper-parameters of PPO over intents. Wide exploration, large batches and rewards weighted by
survival allow so high a learning rate, which is annealed. Gamma, lambda and entropy coefficient
were chosen by `benchmarks.agents.tune_agents` on the market with slates in log-odds
(`ComposerConfig.form`); step and spread are in fitted units (`policies.units`). Less exploration
learns less there: at a spread of e^-1 in place of e^-0.3 the return was lower by about 0.8, and at
e^-1.5 without a bonus for entropy by about 3 (one training each)."""


FOR_ANY_WEIGHTS = replace(IN_INTENTS, learning_rate=6e-3, ent_coef=0.0)
"""Hyper-parameters of PPO for any weights of goals: its trainings have many more updates, and at
twice the rate longer ones end worse (`docs/results/goals.md`)."""


@dataclass(frozen=True)
class PPOIntentConfig(PPOAgentConfig):
    """Options that the agents over intents share.

    `NetworkConfig.log_std` is the width of exploration at the start.
    """

    ppo: PPOConfig = IN_INTENTS
    """Hyper-parameters of the PPO algorithm."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(actor_hidden=(32,), log_std=-0.3)
    )
    """Sizes and initial values of actor and critic."""
    composer: ComposerConfig = field(default_factory=lambda: ComposerConfig(offset_dims=0))
    """How the agent observes a visit, and how intents become slates."""
    narrowed: float = 0.0
    """By how much the log of the width of exploration falls until the last update, linearly: in the
    end PPO learns which mean is best by itself, and no longer which one is amid wide exploration. 0
    lets PPO learn the width."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        super().__post_init__()
        settle(self, narrowed=NARROWED)


@dataclass(frozen=True)
class PPOComposerConfig(PPOIntentConfig):
    """Options of PPO over intents."""

    polished: float = 0.3
    """Share of the steps after the last update with which CMA-ES searches for what to add to the
    intents of all states (`agents.ppo.polish`). 0 leaves them as PPO learned them."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        super().__post_init__()
        settle(self, polished=SHARE)


@dataclass(frozen=True)
class PPOConditionedConfig(PPOIntentConfig):
    """Options of PPO over intents for any weights of several goals.

    What the policies of the result show without being told weights is for those of the reward.
    """

    ppo: PPOConfig = FOR_ANY_WEIGHTS
    """Hyper-parameters of the PPO algorithm."""
    narrowed: float = 1.2
    """By how much the log of the width of exploration falls until the last update, as no search
    follows that would find the mean. 0 lets PPO learn the width."""
    goals: tuple[str, ...] = ()
    """Names of the reward terms that are weighed. By default they are the objectives of the
    simulator, and where it has none the terms of its reward."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range, or a goal is unknown or stands there twice.
        """
        super().__post_init__()
        put(self, goals=checked_goals("goals", self.goals))


@dataclass(frozen=True)
class PPOPlackettLuceConfig(PPOAgentConfig):
    """Options of PPO over Plackett-Luce slates."""

    ppo: PPOConfig = IN_PLACKETT_LUCE
    """Hyper-parameters of the PPO algorithm."""
    start: PlackettLuceConfig = field(default_factory=lambda: PlackettLuceConfig(SCALE))
    """How the scores of items start."""


@dataclass(frozen=True)
class PPOAutoregressiveConfig(PPOAgentConfig):
    """Options of PPO over autoregressive slates."""

    ppo: PPOConfig = IN_AUTOREGRESSIVE
    """Hyper-parameters of the PPO algorithm."""
    start: AutoregressiveConfig = field(default_factory=lambda: AutoregressiveConfig(SCALE))
    """How the scores of items start."""


@register_agent("ppo_composer", PPOComposerConfig)
def ppo_composer(setup: TrainingSetup, config: PPOComposerConfig) -> TrainedAgent:
    """Learn the intents from which the composer makes slates."""
    return _learn("composer", setup, config, IntentConfig(config.network.log_std))


@register_agent("ppo_conditioned", PPOConditionedConfig)
def ppo_conditioned(setup: TrainingSetup, config: PPOConditionedConfig) -> TrainedAgent:
    """Learn the intents for any weights of several goals (`agents.ppo.goals`).

    Its policies are `policies.learnable.conditioned.ConditionedPolicy`: `at` gives them other
    weights. No search follows, because what is best to add to the intents differs by the weights.
    """
    told = setup.simulator.objectives
    goals = config.goals or (tuple(setup.simulator.reward.weights) if told is None else told.names)
    check_goals(setup.simulator, goals)
    return _learn("conditioned", setup, config, ConditionedConfig(config.network.log_std, goals))


@register_agent("ppo_plackett_luce", PPOPlackettLuceConfig)
def ppo_plackett_luce(setup: TrainingSetup, config: PPOPlackettLuceConfig) -> TrainedAgent:
    """Learn slates whose items are drawn by scores that do not depend on each other."""
    return _learn("plackett_luce", setup, config, config.start)


@register_agent("ppo_autoregressive", PPOAutoregressiveConfig)
def ppo_autoregressive(setup: TrainingSetup, config: PPOAutoregressiveConfig) -> TrainedAgent:
    """Learn slates whose items are drawn by scores that depend on the items above."""
    return _learn("autoregressive", setup, config, config.start)


def _learn(kind: str, setup: TrainingSetup, config: PPOAgentConfig, start: Any) -> TrainedAgent:
    """Train with as many whole updates as `setup.steps` allows.

    The visits that set the scale of the features count as steps, and so do those of the search and
    of the check at the end.

    Raises:
        ValueError: If `setup.steps` does not allow one update.
    """
    looked, rollout = SCALING_VISITS * setup.shoppers, config.ppo.n_steps * setup.shoppers
    polished = config.polished if isinstance(config, PPOComposerConfig) else 0.0
    share = polished + config.checked
    updates = (setup.steps - round(share * setup.steps) - looked) // rollout
    if updates < 1:
        fewest = math.ceil((looked + rollout) / (1 - share)) if share < 1 else math.inf
        raise ValueError(
            f"steps is {setup.steps}, but PPO needs {looked} to scale the features, {rollout} for "
            f"each update and a share of {share:g} for what follows: {fewest} or more."
        )

    # the model before its first update, or as an interrupted training left it
    began = time.perf_counter()
    model = untrained_model(kind, setup, config, start, make_ppo)
    contenders = {"untrained": frozen_pair(model)}
    about = (kind, config, start)
    facts, watched = learn_updates(setup, config, model, about, updates, looked)
    length = model.statistics.get("visits", float(updates * config.ppo.n_steps))
    steps = looked + updates * rollout

    # intents are moved alike in all states, and the best of all is kept
    contenders["trained"] = frozen_pair(model)
    if polished:
        better, taken = polish(setup, model, round(polished * setup.steps))
        steps += taken
        contenders |= {"polished": frozen_pair(model)} if better else {}
    facts["minutes"] = (time.perf_counter() - began - watched) / 60
    kept, earned, taken = _compared(setup, config, contenders, length, judge_of(model))
    facts |= {f"return_{name}": value for name, value in earned.items()}
    policy, sampled = contenders[kept]
    setup.watch(steps + taken, policy)
    trained = contenders["trained"][0] if "polished" in contenders else None
    return TrainedAgent(
        policy, sampled, *contenders["untrained"], steps + taken, facts, unpolished=trained
    )


def learn_updates(
    setup: TrainingSetup,
    config: PPOAgentConfig,
    model: SlatePPO,
    about: object,
    updates: int,
    before: int,
) -> tuple[dict[str, float], float]:
    """Do PPO's updates, from the one that an interrupted training was saved before.

    The policy is watched between updates, not in a callback, which SB3 would call while its private
    random state is installed.

    Args:
        setup: what the agent learns from
        config: its options
        model: PPO before its first update
        about: what an interrupted training must have had in common with this one
        updates: number of updates of the whole training
        before: steps that were taken before the first update

    Returns:
        `REPORTED` figures of the last update, and the seconds that watching took.
    """
    untrained = frozen_policy_of(model)
    first = _goes_on(setup, about, model)
    watched = setup.watched(0, untrained) if first == 1 else 0.0
    for update in range(first, updates + 1):
        if update > 1:
            setup.keeper.keep(partial(_state, update, model))
        learn_update(model, config, update, updates)
        # powers of two, because learning curves are steep at first
        early = update < config.watch_every and update & (update - 1) == 0
        if (early or update % config.watch_every == 0) and update < updates:
            steps = before + update * config.ppo.n_steps * setup.shoppers
            watched += setup.watched(steps, frozen_policy_of(model))
    facts = {name: float(model.logger.name_to_value[f"train/{name}"]) for name in REPORTED}
    return facts, watched


def _compared(
    setup: TrainingSetup,
    config: PPOAgentConfig,
    contenders: Mapping[str, tuple[Policy, Policy]],
    visits: float,
    judge: Judge = returns_of,
) -> tuple[str, dict[str, float], int]:
    """Which policy earns most from new shoppers (`agents.ppo.polish.choice_of`).

    Args:
        setup: what the agent learned from
        config: its options
        contenders: policies by name, at their most likely action and as they explore, the
            untrained one first
        visits: mean length of an episode, as far as it is known
        judge: tells what each policy earns

    Returns:
        The name of the policy to keep, what each earned, and the steps that were taken. Where they
        do not suffice for two shoppers, the last one is kept.
    """
    names = list(contenders)
    budget = round(config.checked * setup.steps)
    shoppers = int(budget / (len(names) * LONGER * visits))
    if shoppers < 2:
        return names[-1], {}, 0
    policies = [policy for policy, _ in contenders.values()]
    returns, steps = judge(setup, policies, shoppers)
    earned = dict(zip(names, returns.mean(dim=1).tolist(), strict=True))
    return names[choice_of(returns)], earned, steps


def _goes_on(setup: TrainingSetup, config: object, model: SlatePPO) -> int:
    """The update to continue with: the one before which the training was saved, else 1."""
    found = setup.keeper.found(setup.about(config), {"update": 0, "model": None})
    if found is None:
        return 1
    restore_model(model, found["model"])
    update: int = found["update"]
    return update


def _state(update: int, model: SlatePPO) -> dict[str, object]:
    """What `_learn` needs to continue with an update.

    Raises:
        TypeError: If the state of the shoppers cannot be saved.
    """
    state = state_of(model)
    if state["why_not"]:
        raise TypeError(state["why_not"])
    return {"update": update, "model": flat(state)}


def untrained_model(
    kind: str,
    setup: TrainingSetup,
    config: PPOAgentConfig,
    start: Any,
    make: Callable[..., Model],
    face: Callable[..., SimulatorVecEnv] | None = None,
) -> Model:
    """PPO before its first update.

    Args:
        kind: a name in `policies.learnable.kinds.LEARNABLE`
        setup: what the agent learns from
        config: options of the agent
        start: the configuration of the kind, which says how the actor starts
        make: `make_ppo` or `make_stock_ppo`
        face: makes the environment; None means that of the kind
    """
    composer = LEARNABLE[kind].composer_for(setup.inputs, config.composer, start)
    made = face_for(kind) if face is None else face
    env = made(setup.simulator, composer, setup.shoppers, setup.seed, config.reward)
    device = setup.simulator.device
    model = make(kind, env, config.ppo, config.network, start=start, seed=setup.seed, device=device)
    look_around(model, SCALING_VISITS)
    return model


def learn_update(model: StockPPO, config: PPOAgentConfig, update: int, updates: int) -> None:
    """Collect one rollout and update from it, at the annealed learning rate and width.

    Args:
        model: the model
        config: options of the agent
        update: number of this update, from 1 to `updates`
        updates: number of all updates
    """
    left = 1 - (update - 1) / max(updates - 1, 1)
    model.lr_schedule = FloatSchedule(
        annealed_rate(config.ppo.learning_rate, config.annealed, left)
    )
    if isinstance(config, PPOIntentConfig) and config.narrowed:
        first = config.network.log_std
        model.width_schedule = FloatSchedule(annealed(first, first - config.narrowed, left))
    model.learn(config.ppo.n_steps * model.n_envs, reset_num_timesteps=update == 1)


def frozen_pair(model: SlatePPO) -> tuple[Policy, Policy]:
    """Copies of the policy at its most likely action, and as it explores."""
    return frozen_policy_of(model), frozen_policy_of(model, deterministic=False)
