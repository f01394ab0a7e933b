"""The batched simulator as an environment of Stable-Baselines3.

Slates are composed on the device of the simulator. Observations, rewards and flags stay there
unless they are asked for in numpy; see `agents.ppo.torch_vec_env`.

There are two kinds of episodes. After `reset_tensors`, rewards are those that an agent learns from
(`TrainingReward`). After `reset`, which SB3's `evaluate_policy`, `VecMonitor` and `EvalCallback`
call, rewards are those of the simulator and shoppers leave as they do there: the sum of the rewards
of an episode is its return, as `agents.evaluate` reports it.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from agents.base import training_seeds
from agents.ppo.torch_vec_env import (
    BatchObservation,
    BatchStep,
    FinishedEpisodes,
    TorchVecEnv,
    as_numpy,
    as_step,
)
from policies.composer import Composer, View
from policies.learnable.plackett_luce import slate_observation
from recsim_env import noise
from recsim_env.episodes import Episodes
from recsim_env.graphs import Captured, GraphedSimulator
from recsim_env.rewards import is_linear, term_value
from recsim_env.settings import settle
from recsim_env.simulator import SlateSimulator
from recsim_env.trees import Flat, flat, restored
from recsim_env.types import Observation, Outcome

INTENT_LIMIT = 1000.0
"""Bound of the space of intents, far beyond what a Gaussian of the usual width draws, whatever its
units are."""
ROULETTE = 0.15
"""Survival below which a shopper continues with probability survival / ROULETTE, and then with the
weight ROULETTE."""


@dataclass(frozen=True)
class TrainingReward:
    """How the reward of a simulator becomes the one that an agent learns from.

    Reports always show the reward of the simulator itself.
    """

    scale: float = 0.1
    """Factor on the reward: a critic learns returns of the order of 1 faster."""
    expected_clicks: bool = True
    """Whether to learn from the expected responses instead of those that were drawn, in all terms
    that are linear in them, such as clicks and revenue: the objective is the same, with less noise
    (Rao-Blackwell). Only a simulator can do this."""
    survival: bool = False
    """Whether shoppers stay, and each reward is weighted by the probability that they would still
    be there: the expected return is the same, without the noise of when they leave. The network
    observes the weight, and the value of the critic is proportional to it. An episode whose weight
    has become small ends at random, which changes no expectation. It is switched off where the
    shoppers do not report the probability of leaving."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        settle(self)


def weighable(reward: TrainingReward, simulator: SlateSimulator) -> TrainingReward:
    """The reward, not weighted by survival where nobody tells the chance of leaving."""
    if not reward.survival or simulator.shopper.tells_leaving:
        return reward
    print(
        f"Rewards are not weighted by survival: {type(simulator.shopper).__name__} does not tell "
        "how likely shoppers leave (`tells_leaving`).",
        file=sys.stderr,
    )
    return replace(reward, survival=False)


def expected_reward(simulator: SlateSimulator, outcome: Outcome) -> Tensor:
    """The rewards (B,) of a visit with every linear term at the chances in place of the draws."""
    reward = outcome.reward
    weights = {name: value for name, value in simulator.reward.weights.items() if is_linear(name)}
    for name, expected in expected_terms(tuple(weights), outcome).items():
        reward = reward + weights[name] * (expected - outcome.info[f"reward_terms/{name}"])
    return reward


def expected_terms(names: Sequence[str], outcome: Outcome) -> dict[str, Tensor]:
    """The values (B,) float32 of linear terms at the chances of a visit.

    Clicks, purchases and bundles taken whole count by their chance, and who leaves by theirs,
    `Response.leaving`. What the shoppers tell no chance of counts as it fell.
    """
    told = outcome.response
    left = told.left if told.leaving is None else told.leaving
    chance = told.purchase_probability
    purchases = outcome.inputs.purchases if chance is None else chance
    chances = replace(
        outcome.inputs,
        clicks=told.probability,
        purchases=purchases,
        left=left,
        whole=told.whole_probability,
    )
    return {name: term_value(name, chances).float() for name in names}


class SimulatorVecEnv(TorchVecEnv):
    """Common part of the environments whose actions are intents and slates.

    `step` continues episodes that `reset` began, and `step_tensors` those of `reset_tensors`; a
    call of the wrong kind raises RuntimeError.

    Args:
        simulator: the shoppers; it is reset here, and nothing else may use it. Where its steps are
            CUDA graphs, ranking and composing slates are so too
        composer: observes visits and, for intents, composes slates
        num_envs: B, shoppers served at once
        seed: seed of all episodes; SB3 changes it by `seed()`
        reward: how the reward becomes the one that the agent learns from

    Where `reward` weights by survival and the shoppers do not report the probability of leaving,
    that is switched off, which a line on stderr says.
    """

    def __init__(
        self,
        simulator: SlateSimulator,
        composer: Composer,
        num_envs: int,
        seed: int = 0,
        reward: TrainingReward | None = None,
    ) -> None:
        self.simulator = simulator
        self.composer = composer
        self._reward = weighable(reward or TrainingReward(), simulator)
        self._learning = False
        self._survival = torch.ones(num_envs, device=simulator.device)
        self._cohort = torch.zeros(num_envs, dtype=torch.int64, device=simulator.device)
        self._cohorts = 0
        self._seed = seed
        self.generation = 0
        """Another number gives other episodes under the same seed; a training that is resumed
        without the state of its shoppers sets it."""
        self._view: View | None = None
        graphs = isinstance(simulator, GraphedSimulator)
        self._composed = Captured(self._compose) if graphs else self._compose
        self._looked = Captured(self._look) if graphs else self._look
        self._finished: list[dict[str, Tensor]] = []
        view = composer.view(self.seen(simulator.reset(torch.zeros(1, dtype=torch.int64))))
        super().__init__(num_envs, self._space(view), self._action_space(), simulator.device)
        self._sums: dict[str, Tensor] = {}

    # ---- what subclasses implement ----

    @abstractmethod
    def _space(self, view: View) -> spaces.Space[Any]:
        """Observation space of one shopper."""

    @abstractmethod
    def _action_space(self) -> spaces.Space[Any]:
        """Action space of one shopper."""

    @abstractmethod
    def _observe(self, view: View, survival: Tensor) -> BatchObservation:
        """What the network observes; survival (B,) is part of it where it weights the reward."""

    @abstractmethod
    def _compose(self, view: View, actions: Tensor) -> Tensor:
        """The slates (B, K) of actions (B, ...)."""

    def seen(self, observation: Observation) -> Observation:
        """The observation of the running episodes as the composer looks at it."""
        return observation

    @property
    def weighs_survival(self) -> bool:
        """Whether rewards are weighted by survival, which is then part of the observation."""
        return self._reward.survival

    @property
    def reward_scale(self) -> float:
        """Factor on the rewards that are learned from."""
        return self._reward.scale

    # ---- episodes to learn from: tensors ----

    def reset_tensors(self) -> BatchObservation:
        """Start new episodes to learn from, and return their first observations."""
        return self._begin(learning=True)

    def step_tensors(self, actions: Tensor) -> BatchStep:
        """Compose slates from the actions (B, ...), and show them."""
        self._check_kind(learning=True)
        return self._step(actions)

    # ---- episodes to report: numpy ----

    def reset(self) -> VecEnvObs:
        """Start new episodes whose rewards add up to their returns."""
        return as_numpy(self._begin(learning=False))

    def step_wait(self) -> VecEnvStepReturn:
        """Compose slates from the actions, and show them, with an info for each environment."""
        self._check_kind(learning=False)
        return as_step(self._step(self.actions))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of all episodes from the next `reset` on; None keeps the seed."""
        if seed is not None:
            self._seed = seed
        return [self._seed] * self.num_envs

    # ---- resuming an interrupted training ----

    def state(self) -> Flat:
        """A copy of the state of all episodes and of the sums over them, for `restore`.

        Raises:
            TypeError: If the state of the shoppers cannot be saved.
        """
        return flat({"simulator": self.simulator.state(), **self._own_state()})

    def restore(self, state: Flat) -> BatchObservation:
        """Continue from the `state` of an environment that was built in the same way.

        Returns:
            The observations there.

        Raises:
            ValueError: If the state does not fit; nothing has changed then.
        """
        like = {"simulator": None, **self._own_state(), "sums": {}, "finished": []}
        found = restored(like, state, self.simulator.device)
        rows = len(found["simulator"].tensors.get("episodes/seed", ()))
        if rows != self.num_envs:
            raise ValueError(f"state has {rows} shoppers, but here are {self.num_envs}.")
        self.simulator.restore(found["simulator"])
        self._take_own_state(found)
        self._learning = True
        return self.observed()

    def observed(self) -> BatchObservation:
        """What the network observes of the running episodes."""
        return self._observe_next(self.simulator.observe())

    def _own_state(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "seed": self._seed,
            "survival": self._survival,
            "cohort": self._cohort,
            "cohorts": self._cohorts,
            "sums": self._sums,
            "finished": self._finished,
        }

    def _take_own_state(self, found: Mapping[str, Any]) -> None:
        """Continue from what `_own_state` returned."""
        self.generation, self._seed = found["generation"], found["seed"]
        self._survival, self._sums, self._finished = (
            found["survival"],
            found["sums"],
            found["finished"],
        )
        self._cohort, self._cohorts = found["cohort"], found["cohorts"]

    # ---- statistics ----

    def after_rollout(self) -> dict[str, float]:
        """Called after every rollout; returns scalars for the log, by name."""
        return {}

    def pop_statistics(self) -> dict[str, float]:
        """Means over a cohort: `return` (unscaled), `visits`, `lapsed`, `clicks` and reward terms.

        A cohort consists of the episodes that began between two calls. It is reported once, after
        all of them have ended, together with other cohorts that are complete by then. The mean over
        all episodes that ended since the last call would be biased towards short ones at first,
        because all shoppers start together.

        Returns:
            The means by name; empty where no cohort was completed.
        """
        self._cohorts += 1
        if not self._finished:
            return {}
        parts = {
            name: torch.cat([part[name] for part in self._finished]) for name in self._finished[0]
        }
        complete = parts["cohort"] < self._cohort.min()
        self._finished = [{name: value[~complete] for name, value in parts.items()}]
        if not bool(complete.any()):
            return {}
        return {
            name: float(value[complete].mean()) for name, value in parts.items() if name != "cohort"
        }

    # ---- internals ----

    def _check_kind(self, *, learning: bool) -> None:
        assert self._view is not None, "reset comes first"
        if learning is self._learning:
            return
        if learning:
            raise RuntimeError(
                "step_tensors was called in episodes that `reset` began, but training needs "
                "`reset_tensors`: evaluate in an environment of its own."
            )
        raise RuntimeError(
            "step was called in episodes that `reset_tensors` began, but reporting needs `reset`."
        )

    def _begin(self, *, learning: bool) -> BatchObservation:
        self._learning = learning
        self._sums = {}
        self._finished = []
        self._survival = torch.ones_like(self._survival)
        self._cohort = torch.zeros_like(self._cohort)
        self._cohorts = 0
        seeds = training_seeds(self._seed, self.num_envs, self.generation)
        staying = learning and self._reward.survival
        return self._observe_next(self.simulator.reset(seeds, staying=staying))

    def _step(self, actions: Tensor) -> BatchStep:
        """Show the slates of the actions, and start a new episode where one ended."""
        assert self._view is not None

        # one visit of every shopper
        at = self.simulator.episodes
        outcome = self.simulator.advance(self._composed(self._view, actions))
        worth = self._worth(outcome) if self._learning else outcome.reward
        self._add(outcome, worth)
        rewards = self._training_reward(worth) if self._learning else worth.float()
        gone = (
            self._survive(at, outcome)
            if self._learning and self._reward.survival
            else torch.zeros_like(outcome.ended)
        )

        # episodes that ended
        ended = outcome.ended | gone
        done = ended.nonzero().squeeze(1)
        finished = None
        if len(done):
            finished = self._end(done, outcome, gone)
            self.simulator.restart(done)
            self._survival = self._survival.index_fill(0, done, 1.0)
            self._cohort = self._cohort.index_fill(0, done, self._cohorts)
        return BatchStep(self._observe_next(self.simulator.observe()), rewards, ended, finished)

    def _observe_next(self, observation: Observation) -> BatchObservation:
        """Keep the view of the next visits, and return what the network observes of them."""
        self._view, observed = self._looked(self.seen(observation), self._survival)
        return observed

    def _look(self, observation: Observation, survival: Tensor) -> tuple[View, BatchObservation]:
        """Look at visits as the composer does, and as the network does."""
        view = self.composer.view(observation)
        return view, self._observe(view, survival)

    def _survive(self, at: Episodes, outcome: Outcome) -> Tensor:
        """Multiply the weights by the probability of staying, and play the roulette.

        Args:
            at: the episodes as they stood before the visit
            outcome: the outcome of the visit

        Returns:
            (B,) bool, which episodes the roulette ends.
        """
        assert outcome.response.leaving is not None
        alive = self._survival * (1 - outcome.response.leaving)
        draw = noise.uniform(
            noise.episode_key(at.seed, at.number, stream=noise.Stream.ROULETTE), at.visit, 1
        ).squeeze(1)
        doubtful = alive < ROULETTE
        gone = doubtful & (draw >= alive / ROULETTE)
        self._survival = alive.where(~doubtful, ROULETTE)
        return gone

    def _training_reward(self, worth: Tensor) -> Tensor:
        """The rewards (B,) float32 that the agent learns from, of what a visit was worth."""
        return (worth * self._survival * self._reward.scale).float()

    def _worth(self, outcome: Outcome) -> Tensor:
        """What a visit is worth to an agent that learns, before weight and scale: (B,)."""
        if self._reward.expected_clicks:
            return expected_reward(self.simulator, outcome)
        return outcome.reward

    def _add(self, outcome: Outcome, worth: Tensor) -> None:
        """Add a visit, and what it was worth, to the sums of the current episodes."""
        zeros = torch.zeros_like(outcome.reward)
        self._sums = {
            name: self._sums.get(name, zeros) + value * self._survival
            for name, value in self._told(outcome, worth).items()
        }

    def _told(self, outcome: Outcome, worth: Tensor) -> dict[str, Tensor]:
        """What is summed over an episode: (B,) each, by name.

        Args:
            outcome: the visit
            worth: `_worth` of it in episodes to learn from, else its reward
        """
        new = {"return": outcome.reward, "visits": torch.ones_like(outcome.reward)}
        info = outcome.info.items()
        return new | {name: value for name, value in info if name not in ("day", "gap_days")}

    def _end(self, done: Tensor, outcome: Outcome, gone: Tensor) -> FinishedEpisodes:
        """The episodes that ended; their sums start again from 0.

        Args:
            done: (E,) int64, their rows
            outcome: the outcome of their last visit
            gone: (B,) bool, which episodes the roulette ended
        """
        last = {name: value[done] for name, value in self.seen(self.simulator.observe()).items()}
        survival, truncated = self._survival[done], outcome.truncated[done]

        def seen(which: Tensor) -> BatchObservation:
            return self._observe(
                self.composer.view({name: value[which] for name, value in last.items()}),
                survival[which],
            )

        finished = {name: value[done] for name, value in self._sums.items()}
        stayed = truncated & ~gone[done]
        self._finished.append(
            {**finished, "lapsed": 1 - stayed * survival, "cohort": self._cohort[done]}
        )
        self._sums = {name: value.index_fill(0, done, 0.0) for name, value in self._sums.items()}
        return FinishedEpisodes(done, truncated, finished["return"], finished["visits"], seen)


class IntentVecEnv(SimulatorVecEnv):
    """Environment whose actions are intents: action Box(A), observation Box(F), both float32."""

    def _space(self, view: View) -> spaces.Space[Any]:
        return spaces.Box(
            -np.inf, np.inf, (view.features.shape[1] + self.weighs_survival,), np.float32
        )

    def _action_space(self) -> spaces.Space[Any]:
        return spaces.Box(-INTENT_LIMIT, INTENT_LIMIT, (self.composer.intent_size,), np.float32)

    def _observe(self, view: View, survival: Tensor) -> BatchObservation:
        return (
            torch.cat([view.features, survival.unsqueeze(1)], 1)
            if self.weighs_survival
            else view.features
        )

    def _compose(self, view: View, actions: Tensor) -> Tensor:
        return self.composer.compose_view(view, actions)


class SlateVecEnv(SimulatorVecEnv):
    """Environment whose actions are slates: action MultiDiscrete((N,) * K).

    Its observation is `policies.learnable.plackett_luce.slate_observation`.
    """

    def _space(self, view: View) -> spaces.Space[Any]:
        seen = self._observe(view, torch.ones(len(view.features), device=view.features.device))
        bound = dict.fromkeys(seen, np.inf) | {"pool": len(self.simulator.catalog)}
        dtypes = {name: np.int64 if name == "pool" else np.float32 for name in seen}
        return spaces.Dict(
            {
                name: spaces.Box(
                    -1 if name == "pool" else -np.inf,
                    bound[name],
                    tuple(value.shape[1:]),
                    dtypes[name],
                )
                for name, value in seen.items()
            }
        )

    def _action_space(self) -> spaces.Space[Any]:
        items = self.simulator.action_space.nvec[: self.simulator.slate_size]
        return spaces.MultiDiscrete(items)  # bundles are offered without a discount

    def _observe(self, view: View, survival: Tensor) -> dict[str, Tensor]:
        return slate_observation(view) | (
            {"survival": survival.unsqueeze(1)} if self.weighs_survival else {}
        )

    def _compose(self, view: View, actions: Tensor) -> Tensor:
        return actions
