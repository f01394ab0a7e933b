"""The batched simulator as an environment of Stable-Baselines3.

Slates are composed on the simulator's device, and what the network sees, the rewards and the flags stay there unless
they are asked for in numpy: see `agents.torch_vec_env`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.torch_vec_env import Ends, Seen, TorchVecEnv, Turn
from policies.composer import Composer, View
from policies.plackett_luce import slate_observation
from recsim_env import noise
from recsim_env.shoppers.base import Shopper, Witness
from recsim_env.simulator import Episodes, SlateSimulator
from recsim_env.trees import Flat, flat, restored
from recsim_env.types import Observation, Outcome

INTENT_LIMIT = 10.0
"""Bound of the intent's space: far outside of what a Gaussian of the usual width draws."""
TRAINING_STREAM = 2
"""The stream of `noise.episode_key` from which training seeds are made."""
ROULETTE, ROULETTE_STREAM = 0.15, 3
"""Survival below which a shopper goes on with chance survival / ROULETTE, then weighted by ROULETTE; and the noise
stream of that draw."""


@dataclass(frozen=True)
class TrainingReward:
    """How a simulator's reward becomes the one that an agent learns from. Evaluation always uses the reward itself."""

    scale: float = 0.1
    """Factor: a critic learns returns of the order of 1 faster."""
    expected_clicks: bool = True
    """Learn from the expected number of clicks of a slate where the simulator drew one: the same objective with less
    noise (Rao-Blackwell). Only a simulator can do this."""
    survival: bool = False
    """Carry every shopper on past leaving, and weight each reward by the chance that they would still be there: the
    same expected return, without the noise of when they leave. The network sees the weight; the critic's value is
    proportional to it. A shopper who has become unlikely is let go by chance (`ROULETTE`), which changes no
    expectation. Only a simulator whose shoppers say how likely they leave can do this."""


class SimulatorVecEnv(TorchVecEnv):
    """What the two faces below share.

    Args:
        simulator: not used by anyone else; it is reset here
        composer: looks at a visit and, for intents, composes the slate
        num_envs: B
        seed: of all episodes; `SB3.set_random_seed` changes it by `seed()`
        reward: what the agent learns from
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
        self._witness = Witness(simulator.shopper)
        if self._reward.survival:
            _carry_on(simulator.shopper)
        if self._reward.expected_clicks or self._reward.survival:
            simulator.shopper = cast("Shopper[Any]", self._witness)
        self._survival = torch.ones(num_envs, device=simulator.device)
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

    # ---- TorchVecEnv ----

    def reset_tensors(self) -> Seen:
        """Start new episodes everywhere."""
        key = noise.episode_key(torch.tensor([self._seed]), torch.tensor([self.generation]), stream=TRAINING_STREAM)
        self._sums = {}
        self._finished = []
        self._survival = torch.ones_like(self._survival)
        return self._look(self.simulator.reset(noise.mix(key + torch.arange(self.num_envs))))

    def step_tensors(self, actions: Tensor) -> Turn:
        """Compose the slates, and show them."""
        assert self._view is not None, "reset comes first"
        at = self.simulator.episodes
        outcome = self.simulator.advance(self._compose(self._view, actions))
        self._add(outcome)
        rewards = self._training_reward(outcome)
        ended = outcome.ended | self._survive(at) if self._reward.survival else outcome.ended
        done = ended.nonzero().squeeze(1)
        ends = None
        if len(done):
            ends = self._end(done, outcome)
            self.simulator.restart(done)
            self._survival = self._survival.index_fill(0, done, 1.0)
        return Turn(self._look(self.simulator.observe()), rewards, ended, ends)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed all episodes from the next `reset` on; None keeps the seed."""
        if seed is not None:
            self._seed = seed
        return [self._seed] * self.num_envs

    # ---- going on after an interruption ----

    def state(self) -> Flat:
        """A copy of where all episodes and the sums over them stand, for `restore`.

        Errors: TypeError where the shoppers cannot be written down.
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
        self._survival, self._sums, self._finished = found["survival"], found["sums"], found["finished"]
        return self._look(self.simulator.observe())

    def _own_state(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "seed": self._seed,
            "survival": self._survival,
            "sums": self._sums,
            "finished": self._finished,
        }

    # ---- statistics ----

    def pop_statistics(self) -> dict[str, float]:
        """Means over the episodes that ended since the last call: `return` (unscaled), `visits`, `lapsed`, `clicks` and
        every reward term; empty where none ended."""
        if not self._finished:
            return {}
        names = self._finished[0]
        means = {name: float(torch.cat([part[name] for part in self._finished]).mean()) for name in names}
        self._finished = []
        return means

    # ---- inside ----

    def _look(self, observation: Observation) -> Seen:
        self._view = self.composer.view(observation)
        return self._seen(self._view, self._survival)

    def _survive(self, at: Episodes) -> Tensor:
        """Weight the next visit by the chance to come; (B,) bool, who is let go by the roulette. `at`: before it."""
        assert self._witness.last is not None
        assert self._witness.last.leaving is not None
        alive = self._survival * (1 - self._witness.last.leaving)
        draw = noise.uniform(noise.episode_key(at.seed, at.number, stream=ROULETTE_STREAM), at.visit, 1).squeeze(1)
        doubtful = alive < ROULETTE
        gone = doubtful & (draw >= alive / ROULETTE)
        self._survival = alive.where(~doubtful, ROULETTE)
        return gone

    def _training_reward(self, outcome: Outcome) -> Tensor:
        reward = outcome.reward
        if self._reward.expected_clicks and "clicks" in self.simulator.reward.weights:
            assert self._witness.last is not None
            surplus = self._witness.last.probability.sum(dim=1) - outcome.info["clicks"]
            reward = reward + self.simulator.reward.weights["clicks"] * surplus
        return (reward * self._survival * self._reward.scale).float()

    def _add(self, outcome: Outcome) -> None:
        new = {"return": outcome.reward, "visits": torch.ones_like(outcome.reward)}
        new |= {name: value for name, value in outcome.info.items() if name not in ("day", "gap_days")}
        zeros = torch.zeros_like(outcome.reward)
        self._sums = {name: self._sums.get(name, zeros) + value * self._survival for name, value in new.items()}

    def _end(self, done: Tensor, outcome: Outcome) -> Ends:
        """The episodes that ended, with their sums, which begin anew."""
        last = {name: value[done] for name, value in self.simulator.observe().items()}
        survival, truncated = self._survival[done], outcome.truncated[done]

        def seen(which: Tensor) -> Seen:
            return self._seen(self.composer.view({name: value[which] for name, value in last.items()}), survival[which])

        finished = {name: value[done] for name, value in self._sums.items()}
        finished["lapsed"] = (~truncated).float()
        self._finished.append(finished)
        self._sums = {name: value.index_fill(0, done, 0.0) for name, value in self._sums.items()}
        return Ends(done, truncated, finished["return"], finished["visits"], seen)


class IntentVecEnv(SimulatorVecEnv):
    """Acts in intents: action Box(A), observation Box(F), both float32."""

    def _space(self, view: View) -> spaces.Space[Any]:
        return spaces.Box(-np.inf, np.inf, (view.features.shape[1] + self.weighs_survival,), np.float32)

    def _action_space(self) -> spaces.Space[Any]:
        return spaces.Box(-INTENT_LIMIT, INTENT_LIMIT, (self.composer.intent_size,), np.float32)

    def _seen(self, view: View, survival: Tensor) -> Seen:
        return torch.cat([view.features, survival.unsqueeze(1)], 1) if self.weighs_survival else view.features

    def _compose(self, view: View, actions: Tensor) -> Tensor:
        return self.composer.compose_view(view, actions)


class SlateVecEnv(SimulatorVecEnv):
    """Acts in slates: action MultiDiscrete((N,) * K), observation `policies.plackett_luce.slate_observation`."""

    def _space(self, view: View) -> spaces.Space[Any]:
        seen = self._seen(view, torch.ones(len(view.features), device=view.features.device))
        bound = dict.fromkeys(seen, np.inf) | {"pool": len(self.simulator.catalog)}
        dtypes = {name: np.int64 if name == "pool" else np.float32 for name in seen}
        return spaces.Dict(
            {
                name: spaces.Box(-1 if name == "pool" else -np.inf, bound[name], tuple(value.shape[1:]), dtypes[name])
                for name, value in seen.items()
            }
        )

    def _action_space(self) -> spaces.Space[Any]:
        return self.simulator.action_space

    def _seen(self, view: View, survival: Tensor) -> dict[str, Tensor]:
        return slate_observation(view) | ({"survival": survival.unsqueeze(1)} if self.weighs_survival else {})

    def _compose(self, view: View, actions: Tensor) -> Tensor:
        return actions


def _carry_on(shopper: Shopper[Any]) -> None:
    """Have nobody leave. Errors: ValueError where the shopper cannot."""
    if not hasattr(shopper, "never_leave"):
        raise ValueError(
            f"survival is True, but {type(shopper).__name__} does not say how likely shoppers leave (`never_leave`)."
        )
    shopper.never_leave = True
