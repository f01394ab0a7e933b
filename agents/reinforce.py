"""Top-K off-policy REINFORCE: a softmax policy over items, learned from a log alone.

The method is that of Chen et al. 2019, "Top-K off-policy correction for a REINFORCE recommender
system". Let pi(a | s) be the policy, beta(a | s) the policy of the shop that made the log, and R_t
the discounted reward from visit t on. The gradient is the mean over the log of

    min(pi / beta, cap)  lambda_K  R_t  grad log pi(a_t | s_t),    lambda_K = K (1 - pi)^(K - 1)

(equations 6, 7 and 8: top-K correction and weight capping). For a single visit it is the gradient
of the sum over items of R (1 - (1 - pi)^K), in which 1 - (1 - pi)^K is the probability that an item
is among K independent draws. Without the top-K correction lambda_K = 1 (equation 3).

**Actions.** Every position of a logged slate is an action. Only positions with a response train pi,
each with the whole R_t of its visit; all positions train beta (section 4.2). The softmax of the
policy runs over the composer's pool, so pi = 0 for a logged item outside of it: its importance
weight is exactly 0, and leaving it out changes nothing. As in the paper, nothing corrects for the
fact that lower positions are examined less often.
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

from agents.base import TrainedAgent, TrainingSetup, register_agent
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
from recsim_env.catalog import Catalog
from recsim_env.logs.sessions import Sessions, replay
from recsim_env.rewards import Reward, RewardInputs
from recsim_env.rewards.inputs import catalog_tables
from recsim_env.settings import ONE_OR_MORE, POSITIVE, RATE, SHARE, WIDTH, settle
from recsim_env.simulator import SlateSimulator
from recsim_env.tensors import first_places
from recsim_env.types import Observation

CHUNK = 2048
"""Logged visits whose features are computed together, which bounds the memory for N scores each."""


@dataclass(frozen=True)
class ReinforceConfig:
    """Options of top-K off-policy REINFORCE."""

    pool: int = 64
    """Number P of candidates, the best by predicted click rate, from which a slate is drawn."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the state network; the last layer is the state that both heads
    use."""
    scale: float = tunable(1.0, 0.5, 8.0)
    """Inverse temperature: the policy starts as the softmax of this number times the CTR logits."""
    discount: float = tunable(0.9, 0.0, 0.99)
    """Discount of the reward per visit."""
    cap: float = tunable(20.0, 1.0, 1000.0, log=True)
    """Largest importance weight pi / beta."""
    top_k: bool = True
    """Whether to correct for slates of K items; without it, the gradient is that of showing one
    item."""
    behaviour: Literal["estimated", "logged"] = "estimated"
    """Source of beta: "estimated" takes it from a head of the network, "logged" from the propensity
    of the log where it has one. A log holds the probability of a whole slate; an item gets its K-th
    root, which is exact for K = 1 and close where K is far below N."""
    behaviour_dims: int = 16
    """Number of principal components of the item embedding in the behaviour head, which also has a
    bias for each item."""
    warm_up: int = 1
    """Number of passes over the log in which only beta is learned, so that weights start sound."""
    epochs: int = 2
    """Number of passes over the log in which both pi and beta are learned."""
    batch_size: int = 512
    """Number of logged slates in a minibatch."""
    learning_rate: float = tunable(3e-4, 3e-5, 3e-3, log=True)
    """Learning rate of Adam for the policy."""
    behaviour_rate: float = 1e-3
    """Learning rate of Adam for the behaviour head."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
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


# ---- the estimator -------------------------------------------------------------------------------


def top_k_multiplier(log_pi: Tensor, size: int) -> Tensor:
    """lambda_K = K (1 - pi)^(K - 1) (equation 7), the derivative of 1 - (1 - pi)^K.

    Args:
        log_pi: log-probabilities of any shape, which is the shape of the result
        size: K
    """
    missed: Tensor = (1 - log_pi.exp()).clamp(min=0) ** (size - 1)
    return size * missed


def importance_weight(log_pi: Tensor, log_beta: Tensor, cap: float) -> Tensor:
    """min(pi / beta, cap) (equation 8), for log-probabilities of any one shape."""
    return (log_pi - log_beta).clamp(max=math.log(cap)).exp()


def surrogate(log_pi: Tensor, log_beta: Tensor, reward: Tensor, *, size: int, cap: float) -> Tensor:
    """A loss of each action whose gradient is minus the corrected policy gradient (equation 6).

    `log_beta` and `reward` are treated as constants.

    Shapes: `log_pi`, `log_beta` and `reward` have any one shape, which is that of the result.
    """
    fixed = log_pi.detach()
    factor = importance_weight(fixed, log_beta.detach(), cap) * top_k_multiplier(fixed, size)
    return -(factor * reward) * log_pi


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """R_t = r_t + discount R_(t + 1), with nothing after the last visit.

    Shapes:
        rewards: (S, T), 0 at padding
        returns: (S, T)
    """
    returns = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, :1]).squeeze(1)
    for visit in reversed(range(rewards.shape[1])):
        following = rewards[:, visit] + discount * following
        returns[:, visit] = following
    return returns


# ---- behaviour -----------------------------------------------------------------------------------


class Behaviour(nn.Module):
    """Estimates beta(a | s), the probability that the shop put an item into a slate.

    It is a softmax over the whole catalogue of bias_i + v_i . q(s) with a linear q, and it starts
    uniform. The gradient stops at the state (section 4.2).

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
        """Log-probabilities (B, N) of all items, for states (B, S)."""
        scores: Tensor = self.bias + self.query(state.detach()) @ self.vectors.T
        return scores.log_softmax(dim=1)


def state_of(actor: PlackettLuceActor, features: Tensor) -> Tensor:
    """The last hidden layer (B, S) of the policy's network, from features (B, F)."""
    state: Tensor = actor.tower[:-1](actor.standardize(features))
    return state


# ---- the log, as it is learned from --------------------------------------------------------------


@dataclass(frozen=True)
class Decisions:
    """T logged slates, each with what the shop knew.

    Shapes: T slates, P pool items, K positions, J cues, F features.
    """

    features: Tensor
    """(T, F) float32 features of the state."""
    pool: Tensor
    """(T, P) int32 item ids, -1 = absent."""
    logits: Tensor
    """(T, P) float32, 0 where absent."""
    cues: Tensor
    """(T, P, J) float32 cues of each pool item."""
    slates: Tensor
    """(T, K) int64 item ids, -1 = nothing shown."""
    clicks: Tensor
    """(T, K) bool, which positions got a response."""
    returns: Tensor
    """(T,) float32, the discounted rewards R_t."""
    log_propensity: Tensor
    """(T,) float32 log-probability of the ordered slate, NaN where unknown."""

    def __len__(self) -> int:
        return len(self.slates)

    def take(self, rows: Tensor) -> Decisions:
        """The decisions of some rows."""
        return Decisions(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def seen(self) -> Observation:
        """The observation from which a `PlackettLuceActor` computes its scores."""
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


def logged_rewards(log: Sessions, reward: Reward, catalog: Catalog) -> Tensor:
    """The reward of every logged slate, 0 at padding: (S, T) float32, on the catalogue's device.

    A term on what followed the visit, such as `kept`, is refused: a log does not tell it of all.
    """
    tables: dict[str, Any] = catalog_tables(catalog)
    embedding = catalog.embedding
    slates, clicks = log.slates.to(embedding.device), log.clicks.to(embedding.device)
    total = torch.zeros(slates.shape[:2], device=embedding.device)
    for visit in range(slates.shape[1]):  # one at a time: all pairs of all slates would not fit
        shown = first_places(slates[:, visit])
        bought = None if log.purchases is None else log.purchases[:, visit].to(shown.device) & shown
        inputs = RewardInputs(
            slates[:, visit].clamp(min=0),
            shown,
            clicks[:, visit] & shown,
            purchases=bought,
            **tables,
        )
        total[:, visit] = reward(inputs)[0]
    return total * log.real.to(total.device)


@torch.no_grad()
def decisions_of(
    log: Sessions, composer: Composer, simulator: SlateSimulator, discount: float
) -> Decisions:
    """Compute what the policy would observe at every logged visit, and what followed it.

    Raises:
        ValueError: If slates or items of the log do not fit the simulator, or the policy needs an
            observation key that a log cannot provide.
    """
    _check_log(log, simulator)
    catalog = simulator.catalog.to(simulator.device)
    rewards = logged_rewards(log, simulator.reward, catalog)
    returns = discounted_returns(rewards, discount)
    propensity = log.propensity.to(simulator.device)

    # the log is played back visit by visit, in chunks that fit into memory
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
            f"log has slates of {log.slates.shape[2]} items, but the simulator's have "
            f"{simulator.slate_size}."
        )
    if int(log.slates.max()) >= len(simulator.catalog):
        raise ValueError(
            f"log names item {int(log.slates.max())}, but the items are 0 to "
            f"{len(simulator.catalog) - 1}."
        )


def _check_keys(observation: Observation, simulator: SlateSimulator) -> None:
    missing = sorted(simulator.observation_space.keys() - observation.keys())
    if missing:
        raise ValueError(
            f"log cannot give the observation keys {missing}, but the simulator's observation "
            "has them."
        )


# ---- learning ------------------------------------------------------------------------------------


class Reinforce:
    """Fits a policy and a behaviour head to logged decisions.

    Args:
        actor: the policy, trained in place
        behaviour: the behaviour head, trained in place
        config: options of the training
        slate_size: K of the top-K correction, which is used where `config.top_k` is True
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
        """The state of networks and optimizers, for `restore`."""
        return {
            "actor": dict(self._actor.state_dict()),
            "behaviour": dict(self._behaviour.state_dict()),
            "of_policy": optimizer_state(self._of_policy),
            "of_behaviour": optimizer_state(self._of_behaviour),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state`.

        Raises:
            ValueError: If the state of an optimizer belongs to another network.
        """
        restore_optimizer(self._of_policy, state["of_policy"])
        restore_optimizer(self._of_behaviour, state["of_behaviour"])
        self._actor.load_state_dict(state["actor"])
        self._behaviour.load_state_dict(state["behaviour"])

    def epoch(
        self, decisions: Decisions, generator: torch.Generator, *, policy: bool = True
    ) -> dict[str, float]:
        """Learn from every decision once.

        Args:
            decisions: the log
            generator: draws the order; a CPU generator
            policy: whether the policy is trained as well as beta

        Returns:
            Means: `behaviour_loss` per shown position in nats, `weight` per action, and `capped`,
            the share of actions whose weight reached the cap. The last two are 0 where `policy` is
            False or no action could be learned from.
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
        """Take a step on the negative log-likelihood of the shown items.

        Returns:
            log beta (B, K) as it was before the step.
        """
        with torch.no_grad():
            state = state_of(self._actor, batch.features)
        log_beta: Tensor = self._behaviour(state).gather(1, batch.slates.clamp(min=0))
        loss = -(log_beta * batch.shown).sum()
        positions = batch.shown.sum()
        _step(self._of_behaviour, loss / positions.clamp(min=1))
        sums[:2] += torch.stack([loss.detach(), positions])
        return log_beta.detach()

    def _learn_policy(self, batch: Decisions, log_beta: Tensor, sums: Tensor) -> None:
        """Take a step along the corrected policy gradient of the positions with a response."""
        log_beta = self._known(batch, log_beta)
        losses, weights, used = self._losses(batch, log_beta)
        _step(self._of_policy, losses.sum() / len(batch))
        sums[2:] += torch.stack(
            [(weights * used).sum(), ((weights >= self._config.cap) & used).sum(), used.sum()]
        )

    def _losses(self, batch: Decisions, log_beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Surrogate loss, importance weight and use of every position, (B, K) each."""
        places = places_of(batch.pool.long(), batch.slates)
        used = batch.clicks & (places >= 0)
        scores = self._actor.scores(batch.seen)
        log_pi = scores.log_softmax(dim=1).gather(1, places.clamp(min=0)).where(used, 0.0)
        reward = batch.returns.unsqueeze(1) * used
        losses = surrogate(log_pi, log_beta, reward, size=self._size, cap=self._config.cap)
        return losses, importance_weight(log_pi.detach(), log_beta, self._config.cap), used

    def _known(self, batch: Decisions, log_beta: Tensor) -> Tensor:
        """Log beta (B, K): that of the log if it is to be used and known, else the estimate."""
        if self._config.behaviour == "estimated":
            return log_beta
        logged = (batch.log_propensity / batch.slates.shape[1]).unsqueeze(1)
        return torch.where(logged.isfinite(), logged, log_beta)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@register_agent("reinforce", ReinforceConfig, needs_log=True)
def reinforce(setup: TrainingSetup, config: ReinforceConfig) -> TrainedAgent:
    """Learn from the log, without serving shoppers.

    The deterministic policy shows the K items with the largest pi, and the sampled one K draws from
    pi without replacement.

    Raises:
        ValueError: If there is no log, or it does not fit the simulator.
    """
    log = setup.need_log("reinforce")
    composer = Composer(setup.inputs, ComposerConfig(pool=config.pool))
    decisions = decisions_of(log, composer, setup.simulator, config.discount)
    generator = torch.Generator().manual_seed(setup.seed)
    actor = _actor(decisions, composer, config, generator)
    vectors = principal(setup.simulator.catalog.embedding, config.behaviour_dims)
    behaviour = Behaviour(config.hidden[-1], vectors, generator).to(setup.simulator.device)
    policies = _policies_of(actor, composer)
    untrained = policies()
    learning = Reinforce(actor, behaviour, config, composer.slate_size)
    first, facts, generator = _goes_on(setup, config, learning, generator)

    # in the warm-up beta alone is learned
    for epoch in range(first, config.warm_up + config.epochs):
        setup.keeper.keep(partial(_state, epoch, facts, learning, generator))
        if epoch == config.warm_up:
            setup.watch(0, untrained[0])
        found = learning.epoch(decisions, generator, policy=epoch >= config.warm_up)
        if epoch >= config.warm_up:
            facts = found
            setup.watch(0, policies()[0])

    if config.epochs == 0:
        setup.watch(0, untrained[0])
    policy, sampled = policies()
    facts |= {"slates": float(len(decisions)), "mean_return": float(decisions.returns.mean())}
    return TrainedAgent(policy, sampled, *untrained, steps=0, facts=facts)


def _goes_on(
    setup: TrainingSetup, config: ReinforceConfig, learning: Reinforce, generator: torch.Generator
) -> tuple[int, dict[str, float], torch.Generator]:
    """The epoch to continue with, the facts of the one before, and the generator.

    They are those of an interrupted training if one was saved, else those of a new one.
    """
    like = _state(0, {}, learning, generator)
    like["learning"] |= {"of_policy": None, "of_behaviour": None}
    found = setup.keeper.found(setup.about(config), like, setup.simulator.device)
    if found is None:
        return 0, {}, generator
    learning.restore(found["learning"])
    return found["epoch"], found["facts"], found["generator"]


def _state(
    epoch: int, facts: dict[str, float], learning: Reinforce, generator: torch.Generator
) -> dict[str, Any]:
    """What `reinforce` needs to continue with an epoch."""
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
    """A function that copies the policy as it stands: at its most likely action, and sampled."""

    def policies() -> tuple[PlackettLucePolicy, PlackettLucePolicy]:
        frozen = copy.deepcopy(actor).requires_grad_(False)
        return PlackettLucePolicy(composer, frozen), PlackettLucePolicy(
            composer, frozen, deterministic=False
        )

    return policies
