"""Top-K off-policy REINFORCE: a softmax policy over items, learned from a log alone.

Chen et al. 2019, "Top-K off-policy correction for a REINFORCE recommender system". With the policy
pi(a | s), what the shop did beta(a | s) and the discounted reward R_t from visit t on, the gradient
is the mean over the log of

    min(pi / beta, cap)  lambda_K  R_t  grad log pi(a_t | s_t),    lambda_K = K (1 - pi)^(K - 1)

(equations 6, 7 and 8: top-K correction and weight capping). For one visit it is the gradient of the
sum over items of R (1 - (1 - pi)^K): 1 - (1 - pi)^K is the chance that an item is among K
independent draws. Without the top-K correction lambda_K = 1 (equation 3).

What an action is. Each position of a logged slate is one. Only those with a response teach pi, each
with the whole R_t of its visit; all of them teach beta (section 4.2). The policy's softmax runs
over the composer's pool, so pi = 0 for a logged item outside of it: its importance weight is
exactly 0, and leaving it out changes nothing. That lower positions are looked at less is not
corrected, as in the paper.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agents.base import Ground, Learned, register_agent
from agents.keeper import optimizer_state, restore_optimizer
from policies.composer import Composer, ComposerConfig
from policies.features import principal
from policies.learnable.plackett_luce import (
    PlackettLuceActor,
    PlackettLuceConfig,
    PlackettLucePolicy,
    places_of,
    slate_observation,
)
from policies.parameters import tunable
from policies.rankers.networks import tower
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.rewards import Reward, RewardInputs
from recsim_env.settings import ONE_OR_MORE, POSITIVE, RATE, SHARE, WIDTH, settle
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import first_places
from recsim_env.types import Observation

CHUNK = 2048
"""Logged visits that are looked at together: what is ranked is N numbers each."""


@dataclass(frozen=True)
class ReinforceConfig:
    """Top-K off-policy REINFORCE.

    Raises:
        ValueError: If a number is out of its range.
    """

    pool: int = 64
    """P, how many of the best candidates by CTR the policy draws from."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the state network's hidden layers; the last one is the state that both heads
    see."""
    scale: float = tunable(1.0, 0.5, 8.0)
    """Inverse temperature: the policy starts as a softmax of this times the CTR logits."""
    discount: float = tunable(0.9, 0.0, 0.99)
    """Of the reward, a visit."""
    cap: float = tunable(20.0, 1.0, 1000.0, log=True)
    """Largest importance weight pi / beta."""
    top_k: bool = True
    """Whether to correct for slates of K items; False = as if one item were shown."""
    behaviour: Literal["estimated", "logged"] = "estimated"
    """Where beta comes from: a head of its own, or the log's propensity where it has one. The log
    knows the chance of a whole slate; an item gets its K-th root, which is exact for K = 1 and near
    it where K is far below N."""
    behaviour_dims: int = 16
    """Components of the item embedding that the behaviour head tells items apart by, besides a bias
    for each item."""
    warm_up: int = 1
    """Passes over the log in which only beta is learned."""
    epochs: int = 2
    """Passes over the log in which both are learned."""
    batch_size: int = 512
    """Logged slates in a minibatch."""
    learning_rate: float = tunable(3e-4, 3e-5, 3e-3, log=True)
    """Of Adam, for the policy."""
    behaviour_rate: float = 1e-3
    """Of Adam, for the behaviour head."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            pool=ONE_OR_MORE,
            hidden=WIDTH,
            scale=POSITIVE,
            discount=SHARE,
            cap=POSITIVE,
            behaviour_dims=ONE_OR_MORE,
            batch_size=ONE_OR_MORE,
            learning_rate=RATE,
            behaviour_rate=RATE,
        )
        if not self.hidden:
            raise ValueError("hidden is (), but the state network needs at least one hidden layer.")


# ---- the estimator ---------------------------------------------------------------------------------------------------


def top_k_multiplier(log_pi: Tensor, size: int) -> Tensor:
    """lambda_K = K (1 - pi)^(K - 1), equation 7, the derivative of 1 - (1 - pi)^K; K = `size`, any shape."""
    missed: Tensor = (1 - log_pi.exp()).clamp(min=0) ** (size - 1)
    return size * missed


def importance_weight(log_pi: Tensor, log_beta: Tensor, cap: float) -> Tensor:
    """min(pi / beta, cap), equation 8; any shape."""
    return (log_pi - log_beta).clamp(max=math.log(cap)).exp()


def surrogate(log_pi: Tensor, log_beta: Tensor, reward: Tensor, *, size: int, cap: float) -> Tensor:
    """A loss for each action whose gradient is minus the corrected policy gradient, equation 6.

    Shapes: log_pi, log_beta, reward of any one shape; the same is returned. `log_beta` and `reward`
    are constants.
    """
    fixed = log_pi.detach()
    factor = importance_weight(fixed, log_beta.detach(), cap) * top_k_multiplier(fixed, size)
    return -(factor * reward) * log_pi


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """R_t = r_t + discount R_(t + 1), with nothing after the last visit: rewards (S, T), 0 at padding; (S, T)."""
    returns = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, :1]).squeeze(1)
    for visit in reversed(range(rewards.shape[1])):
        following = rewards[:, visit] + discount * following
        returns[:, visit] = following
    return returns


# ---- behaviour -------------------------------------------------------------------------------------------------------


class Behaviour(nn.Module):
    """beta(a | s): which items of the whole catalogue the shop put into its slates.

    A softmax of bias_i + v_i . q(s), with a linear q; it starts uniform. The gradient stops at the
    state (section 4.2).

    Shapes: B shoppers, S state width, N items, D components.
        state:   (B, S) float32
        returns: (B, N) log-probabilities
    """

    vectors: Tensor

    def __init__(self, state_width: int, vectors: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.bias = nn.Parameter(torch.zeros(len(vectors)))
        self.query = tower(state_width, (), vectors.shape[1], generator, gain=0.0)

    def forward(self, state: Tensor) -> Tensor:
        scores: Tensor = self.bias + self.query(state.detach()) @ self.vectors.T
        return scores.log_softmax(dim=1)


def state_of(actor: PlackettLuceActor, features: Tensor) -> Tensor:
    """The last hidden layer of the policy's network: features (B, F) to (B, S)."""
    state: Tensor = actor.tower[:-1](actor.standardize(features))
    return state


# ---- the log, as it is learned from ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decisions:
    """T logged slates, each with what the shop knew. Shapes: T slates, P pool, K positions, J cues, F features."""

    features: Tensor
    """(T, F) float32."""
    pool: Tensor
    """(T, P) int32 item ids, -1 = absent."""
    logits: Tensor
    """(T, P) float32, 0 where absent."""
    cues: Tensor
    """(T, P, J) float32."""
    slates: Tensor
    """(T, K) int64 item ids, -1 = nothing shown."""
    clicks: Tensor
    """(T, K) bool, the responses."""
    returns: Tensor
    """(T,) float32, R_t."""
    log_propensity: Tensor
    """(T,) float32 log-probability of the ordered slate, NaN where unknown."""

    def __len__(self) -> int:
        return len(self.slates)

    def take(self, rows: Tensor) -> Decisions:
        """Some of them."""
        return Decisions(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def seen(self) -> Observation:
        """What a `PlackettLuceActor` sees."""
        return {
            "features": self.features,
            "pool": self.pool,
            "logits": self.logits,
            "cues": self.cues,
        }

    @property
    def shown(self) -> Tensor:
        """(T, K) bool, False at an empty or repeated position."""
        return first_places(self.slates)


def logged_rewards(log: Sessions, reward: Reward, embedding: Tensor, category: Tensor) -> Tensor:
    """The reward of every logged slate, 0 at padding: (S, T) float32.

    Shapes: embedding (N, E), category (N,); on their device.
    """
    slates, clicks = log.slates.to(embedding.device), log.clicks.to(embedding.device)
    total = torch.zeros(slates.shape[:2], device=embedding.device)
    for visit in range(slates.shape[1]):  # one at a time: all pairs of all slates would not fit
        shown = first_places(slates[:, visit])
        inputs = RewardInputs(
            slates[:, visit].clamp(min=0), shown, clicks[:, visit] & shown, embedding, category
        )
        total[:, visit] = reward(inputs)[0]
    return total * log.real.to(total.device)


@torch.no_grad()
def decisions_of(
    log: Sessions, composer: Composer, simulator: SlateSimulator, discount: float
) -> Decisions:
    """Look at every logged visit as the policy will look at a live one.

    Raises:
        ValueError: If the log's slates or items are not the simulator's, or where the policy needs
            what a log cannot give.
    """
    _check_log(log, simulator)
    catalog = simulator.catalog.to(simulator.device)
    rewards = logged_rewards(log, simulator.reward, catalog.embedding, catalog.category)
    returns = discounted_returns(rewards, discount)
    propensity = log.propensity.to(simulator.device)
    parts = []
    for moment in replay(log, catalog, history=simulator.history):
        _check_keys(moment.observation, simulator)
        for rows in torch.arange(len(moment.rows), device=simulator.device).split(CHUNK):
            seen = slate_observation(
                composer.view({key: value[rows] for key, value in moment.observation.items()})
            )
            episodes = moment.rows[rows]
            parts.append(
                Decisions(
                    features=seen["features"],
                    pool=seen["pool"].int(),
                    logits=seen["logits"],
                    cues=seen["cues"],
                    slates=moment.slates[rows],
                    clicks=moment.clicks[rows],
                    returns=returns[episodes, moment.visit],
                    log_propensity=propensity[episodes, moment.visit],
                )
            )
    return Decisions(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Decisions)}
    )


def _check_log(log: Sessions, simulator: SlateSimulator) -> None:
    if log.n_slates == 0:
        raise ValueError("log has no slates, but reinforce learns from nothing else.")
    if log.slates.shape[2] != simulator.slate_size:
        raise ValueError(
            f"log has slates of {log.slates.shape[2]} items, but the simulator's have {simulator.slate_size}."
        )
    if int(log.slates.max()) >= len(simulator.catalog):
        raise ValueError(
            f"log names item {int(log.slates.max())}, but the items are 0 to {len(simulator.catalog) - 1}."
        )


def _check_keys(observation: Observation, simulator: SlateSimulator) -> None:
    missing = sorted(simulator.observation_space.keys() - observation.keys())
    if missing:
        raise ValueError(
            f"log cannot give the observation keys {missing}, but the simulator's observation has them."
        )


# ---- learning --------------------------------------------------------------------------------------------------------


class Reinforce:
    """Fits a policy and a behaviour head to logged decisions.

    Args:
        actor: the policy, trained in place
        behaviour: the head, trained in place
        config: of the training
        slate_size: K of the correction; 1 where `config.top_k` is False
    """

    def __init__(
        self,
        actor: PlackettLuceActor,
        behaviour: Behaviour,
        config: ReinforceConfig,
        slate_size: int,
    ) -> None:
        self._actor = actor
        self._behaviour = behaviour
        self._config = config
        self._size = slate_size if config.top_k else 1
        self._of_policy = torch.optim.Adam(actor.parameters(), lr=config.learning_rate)
        self._of_behaviour = torch.optim.Adam(behaviour.parameters(), lr=config.behaviour_rate)

    def state(self) -> dict[str, Any]:
        """Networks and optimizers, for `restore`."""
        return {
            "actor": dict(self._actor.state_dict()),
            "behaviour": dict(self._behaviour.state_dict()),
            "of_policy": optimizer_state(self._of_policy),
            "of_behaviour": optimizer_state(self._of_behaviour),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave.

        Raises:
            ValueError: If the optimizers are about other networks.
        """
        restore_optimizer(self._of_policy, state["of_policy"])
        restore_optimizer(self._of_behaviour, state["of_behaviour"])
        self._actor.load_state_dict(state["actor"])
        self._behaviour.load_state_dict(state["behaviour"])

    def epoch(
        self, decisions: Decisions, generator: torch.Generator, *, policy: bool = True
    ) -> dict[str, float]:
        """One pass in an order drawn from `generator` (a CPU one); with `policy` False only beta is learned.

        Returns means: `behaviour_loss` a shown position (nats), `weight` an action and `capped`,
        the share of the actions that met the cap; the last two are 0 where `policy` is False or
        nothing was to be learned.
        """
        device = decisions.slates.device
        order = torch.randperm(len(decisions), generator=generator).to(device)
        sums = torch.zeros(5, device=device)
        for rows in order.split(self._config.batch_size):
            batch = decisions.take(rows)
            log_beta = self._learn_behaviour(batch, sums)
            if policy:
                self._learn_policy(batch, log_beta, sums)
        loss, positions, weight, capped, actions = sums.tolist()
        many = max(actions, 1.0)
        return {
            "behaviour_loss": loss / max(positions, 1.0),
            "weight": weight / many,
            "capped": capped / many,
        }

    def _learn_behaviour(self, batch: Decisions, sums: Tensor) -> Tensor:
        """One step on the negative log-likelihood of every shown item; log beta (B, K) as it was before."""
        with torch.no_grad():
            state = state_of(self._actor, batch.features)
        log_beta: Tensor = self._behaviour(state).gather(1, batch.slates.clamp(min=0))
        loss = -(log_beta * batch.shown).sum()
        positions = batch.shown.sum()
        _step(self._of_behaviour, loss / positions.clamp(min=1))
        sums[:2] += torch.stack([loss.detach(), positions])
        return log_beta.detach()

    def _learn_policy(self, batch: Decisions, log_beta: Tensor, sums: Tensor) -> None:
        """One step on the corrected policy gradient, from the positions with a response."""
        log_beta = self._known(batch, log_beta)
        losses, weights, used = self._losses(batch, log_beta)
        _step(self._of_policy, losses.sum() / len(batch))
        sums[2:] += torch.stack(
            [(weights * used).sum(), ((weights >= self._config.cap) & used).sum(), used.sum()]
        )

    def _losses(self, batch: Decisions, log_beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Surrogate, importance weight and whether it counts, of every position: (B, K) each."""
        places = places_of(batch.pool.long(), batch.slates)
        used = batch.clicks & (places >= 0)
        scores = self._actor.scores(batch.seen)
        log_pi = scores.log_softmax(dim=1).gather(1, places.clamp(min=0)).where(used, 0.0)
        reward = batch.returns.unsqueeze(1) * used
        losses = surrogate(log_pi, log_beta, reward, size=self._size, cap=self._config.cap)
        return losses, importance_weight(log_pi.detach(), log_beta, self._config.cap), used

    def _known(self, batch: Decisions, log_beta: Tensor) -> Tensor:
        """Log beta (B, K): the log's where it is to be used and known, else the estimate."""
        if self._config.behaviour == "estimated":
            return log_beta
        logged = (batch.log_propensity / batch.slates.shape[1]).unsqueeze(1)
        return torch.where(logged.isfinite(), logged, log_beta)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@register_agent("reinforce", ReinforceConfig, needs_log=True)
def reinforce(ground: Ground, config: ReinforceConfig) -> Learned:
    """Learn from the log; no shopper is served. Deterministic: the K items with the largest pi;
    sampled: K draws of pi without replacement.

    Raises:
        ValueError: If there is no log, or it does not fit the simulator.
    """
    log = ground.need_log("reinforce")
    composer = Composer(ground.inputs, ComposerConfig(pool=config.pool))
    decisions = decisions_of(log, composer, ground.simulator, config.discount)
    generator = torch.Generator().manual_seed(ground.seed)
    actor = _actor(decisions, composer, config, generator)
    vectors = principal(ground.simulator.catalog.embedding, config.behaviour_dims)
    behaviour = Behaviour(config.hidden[-1], vectors, generator).to(ground.simulator.device)
    policies = _policies_of(actor, composer)
    untrained = policies()
    learning = Reinforce(actor, behaviour, config, composer.slate_size)
    first, facts, generator = _goes_on(ground, config, learning, generator)
    for epoch in range(first, config.warm_up + config.epochs):
        ground.keeper.keep(partial(_state, epoch, facts, learning, generator))
        if epoch == config.warm_up:
            ground.watch(0, untrained[0])
        found = learning.epoch(decisions, generator, policy=epoch >= config.warm_up)
        if epoch >= config.warm_up:
            facts = found
            ground.watch(0, policies()[0])
    if config.epochs == 0:
        ground.watch(0, untrained[0])
    policy, sampled = policies()
    facts |= {"slates": float(len(decisions)), "mean_return": float(decisions.returns.mean())}
    return Learned(policy, sampled, *untrained, steps=0, facts=facts)


def _goes_on(
    ground: Ground, config: ReinforceConfig, learning: Reinforce, generator: torch.Generator
) -> tuple[int, dict[str, float], torch.Generator]:
    """The epoch to go on with, the facts of the one before and the generator: as kept, or as nothing was learned."""
    like = _state(0, {}, learning, generator)
    like["learning"] |= {"of_policy": None, "of_behaviour": None}
    found = ground.keeper.found(ground.about(config), like, ground.simulator.device)
    if found is None:
        return 0, {}, generator
    learning.restore(found["learning"])
    return found["epoch"], found["facts"], found["generator"]


def _state(
    epoch: int, facts: dict[str, float], learning: Reinforce, generator: torch.Generator
) -> dict[str, Any]:
    """What `reinforce` needs to go on with an epoch."""
    return {"epoch": epoch, "facts": facts, "learning": learning.state(), "generator": generator}


def _actor(
    decisions: Decisions, composer: Composer, config: ReinforceConfig, generator: torch.Generator
) -> PlackettLuceActor:
    """The policy before training: a softmax of the CTR logits, with features scaled by the log."""
    device = decisions.features.device
    actor = PlackettLuceActor(
        decisions.features.shape[1],
        decisions.cues.shape[2],
        composer.offset_vectors,
        composer.slate_size,
        config.hidden,
        PlackettLuceConfig(config.scale),
        generator,
    ).to(device)
    actor.standardize.fit(decisions.features)
    return actor


def _policies_of(
    actor: PlackettLuceActor, composer: Composer
) -> Callable[[], tuple[PlackettLucePolicy, PlackettLucePolicy]]:
    """A function that copies the policy as it stands: most likely action, and sampled."""

    def policies() -> tuple[PlackettLucePolicy, PlackettLucePolicy]:
        frozen = copy.deepcopy(actor).requires_grad_(False)
        return PlackettLucePolicy(composer, frozen), PlackettLucePolicy(
            composer, frozen, deterministic=False
        )

    return policies
