"""The batched simulator as an environment of Stable-Baselines3.

Slates are composed on the simulator's device, and what the network sees, the rewards and the flags
stay there unless they are asked for in numpy: see `agents.ppo.torch_vec_env`.

Two kinds of episode are played. After `reset_tensors` rewards are those that an agent learns from,
`TrainingReward`. After `reset`, which is what SB3's `evaluate_policy`, `VecMonitor` and
`EvalCallback` call, rewards are the simulator's own, and shoppers leave when they leave: the sum of
an episode's rewards is its return, as `agents.evaluate` reports it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from agents.ppo.torch_vec_env import Ends, Seen, TorchVecEnv, Turn, as_numpy, as_step
from policies.composer import Composer, View
from policies.learnable.plackett_luce import slate_observation
from recsim_env import noise
from recsim_env.settings import settle
from recsim_env.simulator import Episodes, SlateSimulator
from recsim_env.trees import Flat, flat, restored
from recsim_env.types import Observation, Outcome

INTENT_LIMIT = 10.0
"""Bound of the intent's space: far outside of what a Gaussian of the usual width draws."""
ROULETTE = 0.15
"""Survival below which a shopper goes on with chance survival / ROULETTE, then weighted by
ROULETTE."""


@dataclass(frozen=True)
class TrainingReward:
    """How a simulator's reward becomes the one that an agent learns from. What is reported is the reward itself."""

    scale: float = 0.1
    """Factor: a critic learns returns of the order of 1 faster."""
    expected_clicks: bool = True
    """Learn from the expected number of clicks of a slate where the simulator drew one: the same
    objective with less noise (Rao-Blackwell). Only a simulator can do this."""
    survival: bool = False
    """Carry every shopper on past leaving, and weight each reward by the chance that they would
    still be there: the same expected return, without the noise of when they leave. The network sees
    the weight; the critic's value is proportional to it. A shopper who has become unlikely is let
    go by chance (`ROULETTE`), which changes no expectation. Only a simulator whose shoppers say how
    likely they leave can do this."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(self)


class SimulatorVecEnv(TorchVecEnv):
    """What the two faces below share.

    Args:
        simulator: not used by anyone else; it is reset here
        composer: looks at a visit and, for intents, composes the slate
        num_envs: B
        seed: of all episodes; `SB3.set_random_seed` changes it by `seed()`
        reward: what the agent learns from

    Raises:
        ValueError: If `reward` asks for survival, but the shoppers do not say how likely they
            leave.
        RuntimeError: At a step of one kind in episodes of the other: `step` goes on after `reset`,
            `step_tensors` after `reset_tensors`.
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
        self._reward = reward or TrainingReward()
        if self._reward.survival and not simulator.shopper.tells_leaving:
            raise ValueError(
                f"survival is True, but {type(simulator.shopper).__name__} does not tell how likely "
                "shoppers leave (`tells_leaving`)."
            )
        self._learning = False
        self._survival = torch.ones(num_envs, device=simulator.device)
        self._cohort = torch.zeros(num_envs, dtype=torch.int64, device=simulator.device)
        self._cohorts = 0
        self._seed = seed
        self.generation = 0  # another number, other episodes: a training that goes on after an interruption counts on
        self._view: View | None = None
        self._finished: list[dict[str, Tensor]] = []
        view = composer.view(simulator.reset(torch.zeros(1, dtype=torch.int64)))
        super().__init__(num_envs, self._space(view), self._action_space(), simulator.device)
        self._sums: dict[str, Tensor] = {}

    # ---- what the faces differ in ----

    @abstractmethod
    def _space(self, view: View) -> spaces.Space[Any]:
        """Observation space of one shopper."""

    @abstractmethod
    def _action_space(self) -> spaces.Space[Any]:
        """Action space of one shopper."""

    @abstractmethod
    def _seen(self, view: View, survival: Tensor) -> Seen:
        """What the network sees; survival (B,) is part of it where the reward is weighted by it."""

    @abstractmethod
    def _compose(self, view: View, actions: Tensor) -> Tensor:
        """Slates (B, K) of actions."""

    @property
    def weighs_survival(self) -> bool:
        """Whether the observation ends with, or holds, the chance that the shopper is still there."""
        return self._reward.survival

    # ---- TorchVecEnv: what is learned from ----

    def reset_tensors(self) -> Seen:
        """Start new episodes everywhere, to learn from."""
        return self._begin(learning=True)

    def step_tensors(self, actions: Tensor) -> Turn:
        """Compose the slates, and show them."""
        self._check_kind(learning=True)
        return self._step(actions)

    # ---- in numpy: what is reported ----

    def reset(self) -> VecEnvObs:
        """Start new episodes everywhere, whose rewards add up to their returns."""
        return as_numpy(self._begin(learning=False))

    def step_wait(self) -> VecEnvStepReturn:
        """Compose the slates, and show them; an info for each environment."""
        self._check_kind(learning=False)
        return as_step(self._step(self.actions))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed all episodes from the next `reset` on; None keeps the seed."""
        if seed is not None:
            self._seed = seed
        return [self._seed] * self.num_envs

    # ---- going on after an interruption ----

    def state(self) -> Flat:
        """A copy of where all episodes and the sums over them stand, for `restore`.

        Raises:
            TypeError: If the shoppers cannot be written down.
        """
        return flat({"simulator": self.simulator.state(), **self._own_state()})

    def restore(self, state: Flat) -> Seen:
        """Go on from a `state` of an environment that was built alike; what is seen there.

        Errors, before anything changes: ValueError where it does not fit.
        """
        like = {"simulator": None, **self._own_state(), "sums": {}, "finished": []}
        found = restored(like, state, self.simulator.device)
        rows = len(found["simulator"].tensors.get("episodes/seed", ()))
        if rows != self.num_envs:
            raise ValueError(f"state has {rows} shoppers, but here are {self.num_envs}.")
        self.simulator.restore(found["simulator"])
        self.generation, self._seed = found["generation"], found["seed"]
        self._survival, self._sums, self._finished = (
            found["survival"],
            found["sums"],
            found["finished"],
        )
        self._cohort, self._cohorts = found["cohort"], found["cohorts"]
        self._learning = True
        return self._look(self.simulator.observe())

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

    # ---- statistics ----

    def pop_statistics(self) -> dict[str, float]:
        """Means over the episodes of a cohort: `return` (unscaled), `visits`, `lapsed`, `clicks` and every reward term.

        A cohort is the episodes that began between two calls. It is reported once all of them have
        ended, together with others that are complete by then; {} where none is. The mean over the
        episodes that happened to end since the last call would begin with the short ones, because
        all shoppers start together.
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

    # ---- inside ----

    def _check_kind(self, *, learning: bool) -> None:
        assert self._view is not None, "reset comes first"
        if learning is self._learning:
            return
        if learning:
            raise RuntimeError(
                "step_tensors was called in episodes that `reset` began, but training needs `reset_tensors`: evaluate "
                "in an environment of its own."
            )
        raise RuntimeError(
            "step was called in episodes that `reset_tensors` began, but reporting needs `reset`."
        )

    def _begin(self, *, learning: bool) -> Seen:
        self._learning = learning
        self._sums = {}
        self._finished = []
        self._survival = torch.ones_like(self._survival)
        self._cohort = torch.zeros_like(self._cohort)
        self._cohorts = 0
        key = noise.episode_key(
            torch.tensor([self._seed]),
            torch.tensor([self.generation]),
            stream=noise.Stream.TRAINING,
        )
        seeds = noise.mix(key + torch.arange(self.num_envs))
        staying = learning and self._reward.survival
        return self._look(self.simulator.reset(seeds, staying=staying))

    def _step(self, actions: Tensor) -> Turn:
        assert self._view is not None
        at = self.simulator.episodes
        outcome = self.simulator.advance(self._compose(self._view, actions))
        self._add(outcome)
        rewards = self._training_reward(outcome) if self._learning else outcome.reward.float()
        gone = (
            self._survive(at, outcome)
            if self._learning and self._reward.survival
            else torch.zeros_like(outcome.ended)
        )
        ended = outcome.ended | gone
        done = ended.nonzero().squeeze(1)
        ends = None
        if len(done):
            ends = self._end(done, outcome, gone)
            self.simulator.restart(done)
            self._survival = self._survival.index_fill(0, done, 1.0)
            self._cohort = self._cohort.index_fill(0, done, self._cohorts)
        return Turn(self._look(self.simulator.observe()), rewards, ended, ends)

    def _look(self, observation: Observation) -> Seen:
        self._view = self.composer.view(observation)
        return self._seen(self._view, self._survival)

    def _survive(self, at: Episodes, outcome: Outcome) -> Tensor:
        """Weight the next visit by the chance to come; (B,) bool, who is let go by the roulette.

        Args:
            at: the episodes as they stood before the visit
            outcome: of the visit
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

    def _training_reward(self, outcome: Outcome) -> Tensor:
        reward = outcome.reward
        if self._reward.expected_clicks and "clicks" in self.simulator.reward.weights:
            surplus = outcome.response.probability.sum(dim=1) - outcome.info["clicks"]
            reward = reward + self.simulator.reward.weights["clicks"] * surplus
        return (reward * self._survival * self._reward.scale).float()

    def _add(self, outcome: Outcome) -> None:
        new = {"return": outcome.reward, "visits": torch.ones_like(outcome.reward)}
        new |= {
            name: value for name, value in outcome.info.items() if name not in ("day", "gap_days")
        }
        zeros = torch.zeros_like(outcome.reward)
        self._sums = {
            name: self._sums.get(name, zeros) + value * self._survival
            for name, value in new.items()
        }

    def _end(self, done: Tensor, outcome: Outcome, gone: Tensor) -> Ends:
        """The episodes that ended, with their sums, which begin anew. gone: (B,) bool, let go by the roulette."""
        last = {name: value[done] for name, value in self.simulator.observe().items()}
        survival, truncated = self._survival[done], outcome.truncated[done]

        def seen(which: Tensor) -> Seen:
            return self._seen(
                self.composer.view({name: value[which] for name, value in last.items()}),
                survival[which],
            )

        finished = {name: value[done] for name, value in self._sums.items()}
        stayed = truncated & ~gone[done]
        self._finished.append(
            {**finished, "lapsed": 1 - stayed * survival, "cohort": self._cohort[done]}
        )
        self._sums = {name: value.index_fill(0, done, 0.0) for name, value in self._sums.items()}
        return Ends(done, truncated, finished["return"], finished["visits"], seen)


class IntentVecEnv(SimulatorVecEnv):
    """Acts in intents: action Box(A), observation Box(F), both float32."""

    def _space(self, view: View) -> spaces.Space[Any]:
        return spaces.Box(
            -np.inf, np.inf, (view.features.shape[1] + self.weighs_survival,), np.float32
        )

    def _action_space(self) -> spaces.Space[Any]:
        return spaces.Box(-INTENT_LIMIT, INTENT_LIMIT, (self.composer.intent_size,), np.float32)

    def _seen(self, view: View, survival: Tensor) -> Seen:
        return (
            torch.cat([view.features, survival.unsqueeze(1)], 1)
            if self.weighs_survival
            else view.features
        )

    def _compose(self, view: View, actions: Tensor) -> Tensor:
        return self.composer.compose_view(view, actions)


class SlateVecEnv(SimulatorVecEnv):
    """Acts in slates: action MultiDiscrete((N,) * K), observation `policies.learnable.plackett_luce.slate_observation`."""

    def _space(self, view: View) -> spaces.Space[Any]:
        seen = self._seen(view, torch.ones(len(view.features), device=view.features.device))
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
        return self.simulator.action_space

    def _seen(self, view: View, survival: Tensor) -> dict[str, Tensor]:
        return slate_observation(view) | (
            {"survival": survival.unsqueeze(1)} if self.weighs_survival else {}
        )

    def _compose(self, view: View, actions: Tensor) -> Tensor:
        return actions
