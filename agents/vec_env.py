"""The batched simulator as a Stable-Baselines3 `VecEnv`.

Slates are composed on the simulator's device; only what the network sees, the rewards and the flags cross to numpy.
An episode that ends is started anew at once. Its last observation stands in `infos[i]["terminal_observation"]`, and
`infos[i]["TimeLimit.truncated"]` is True where the horizon cut it off (the return goes on: bootstrap) and False where
the shopper lapsed (nothing follows).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from policies.composer import Composer, View
from policies.plackett_luce import slate_observation
from recsim_env import noise
from recsim_env.shoppers.base import Shopper, Witness
from recsim_env.simulator import Episodes, SlateSimulator
from recsim_env.types import Observation, Outcome

INTENT_LIMIT = 10.0
"""Bound of the intent's space: far outside of what a Gaussian of the usual width draws."""
TRAINING_STREAM = 2
"""The stream of `noise.episode_key` from which training seeds are made."""
ROULETTE, ROULETTE_STREAM = 0.15, 3
"""Survival below which a shopper goes on with chance survival / ROULETTE, then weighted by ROULETTE; and the noise
stream of that draw."""
Indices = None | int | Iterable[int]


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


class SimulatorVecEnv(VecEnv):
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
        self.render_mode: str | None = None
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
        self._slates: Tensor | None = None
        self._finished: list[dict[str, Tensor]] = []
        view = composer.view(simulator.reset(torch.zeros(1, dtype=torch.int64)))
        super().__init__(num_envs, self._space(view), self._actions())
        self._sums: dict[str, Tensor] = {}

    # ---- what the faces differ in ----

    @abstractmethod
    def _space(self, view: View) -> spaces.Space[Any]:
        """Observation space of one shopper."""

    @abstractmethod
    def _actions(self) -> spaces.Space[Any]:
        """Action space of one shopper."""

    @abstractmethod
    def _seen(self, view: View, survival: Tensor) -> VecEnvObs:
        """What the network sees, in numpy; survival (B,) is part of it where the reward is weighted by it."""

    @abstractmethod
    def _compose(self, view: View, actions: np.ndarray) -> Tensor:
        """Slates (B, K) of actions."""

    @property
    def weighs_survival(self) -> bool:
        """Whether the observation ends with, or holds, the chance that the shopper is still there."""
        return self._reward.survival

    # ---- VecEnv ----

    def reset(self) -> VecEnvObs:
        """Start new episodes everywhere."""
        key = noise.episode_key(torch.tensor([self._seed]), torch.tensor([self.generation]), stream=TRAINING_STREAM)
        self._sums = {}
        self._finished = []
        self._survival = torch.ones_like(self._survival)
        return self._look(self.simulator.reset(noise.mix(key + torch.arange(self.num_envs))))

    def step_async(self, actions: np.ndarray) -> None:
        """Compose the slates."""
        assert self._view is not None, "reset comes first"
        self._slates = self._compose(self._view, actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Show them."""
        assert self._slates is not None, "step_async comes first"
        at = self.simulator.episodes
        outcome = self.simulator.advance(self._slates)
        self._add(outcome)
        rewards = self._training_reward(outcome)
        ended = outcome.ended | self._survive(at) if self._reward.survival else outcome.ended
        done = ended.nonzero().squeeze(1)
        infos: list[dict[str, Any]] = [_NOTHING] * self.num_envs
        if len(done):
            self._end(done, outcome, infos)
            self.simulator.restart(done)
            self._survival = self._survival.index_fill(0, done, 1.0)
        seen = self._look(self.simulator.observe())
        return seen, rewards, ended.cpu().numpy(), infos

    def close(self) -> None:
        """Nothing to close."""

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed all episodes from the next `reset` on; None keeps the seed."""
        if seed is not None:
            self._seed = seed
        return [self._seed] * self.num_envs

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The attribute, once a shopper asked for."""
        return [getattr(self, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Not possible: all shoppers live in one simulator."""
        raise NotImplementedError("All shoppers share one simulator; set its attributes instead.")

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Not possible: all shoppers live in one simulator."""
        raise NotImplementedError("All shoppers share one simulator; call its methods instead.")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Never: no shopper has a wrapper of its own."""
        return [False] * self._count(indices)

    def _count(self, indices: Indices) -> int:
        if indices is None:
            return self.num_envs
        return 1 if isinstance(indices, int) else len(list(indices))

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

    def _look(self, observation: Observation) -> VecEnvObs:
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

    def _training_reward(self, outcome: Outcome) -> np.ndarray:
        reward = outcome.reward
        if self._reward.expected_clicks and "clicks" in self.simulator.reward.weights:
            assert self._witness.last is not None
            surplus = self._witness.last.probability.sum(dim=1) - outcome.info["clicks"]
            reward = reward + self.simulator.reward.weights["clicks"] * surplus
        return (reward * self._survival * self._reward.scale).float().cpu().numpy()

    def _add(self, outcome: Outcome) -> None:
        new = {"return": outcome.reward, "visits": torch.ones_like(outcome.reward)}
        new |= {name: value for name, value in outcome.info.items() if name not in ("day", "gap_days")}
        zeros = torch.zeros_like(outcome.reward)
        self._sums = {name: self._sums.get(name, zeros) + value * self._survival for name, value in new.items()}

    def _end(self, done: Tensor, outcome: Outcome, infos: list[dict[str, Any]]) -> None:
        """Write the infos of the rows that ended, and take their sums."""
        last = {name: value[done] for name, value in self.simulator.observe().items()}
        seen = self._seen(self.composer.view(last), self._survival[done])
        finished = {name: value[done].cpu() for name, value in self._sums.items()}
        finished["lapsed"] = (~outcome.truncated[done]).float().cpu()
        self._finished.append(finished)
        self._sums = {name: value.index_fill(0, done, 0.0) for name, value in self._sums.items()}
        truncated = outcome.truncated[done].tolist()
        returns, visits = finished["return"].tolist(), finished["visits"].int().tolist()
        for at, row in enumerate(done.tolist()):
            infos[row] = {
                "terminal_observation": _row(seen, at),
                "TimeLimit.truncated": truncated[at],
                "episode": {"r": returns[at], "l": visits[at]},
            }


class IntentVecEnv(SimulatorVecEnv):
    """Acts in intents: action Box(A), observation Box(F), both float32."""

    def _space(self, view: View) -> spaces.Space[Any]:
        return spaces.Box(-np.inf, np.inf, (view.features.shape[1] + self.weighs_survival,), np.float32)

    def _actions(self) -> spaces.Space[Any]:
        return spaces.Box(-INTENT_LIMIT, INTENT_LIMIT, (self.composer.intent_size,), np.float32)

    def _seen(self, view: View, survival: Tensor) -> VecEnvObs:
        features = view.features
        return (torch.cat([features, survival.unsqueeze(1)], 1) if self.weighs_survival else features).cpu().numpy()

    def _compose(self, view: View, actions: np.ndarray) -> Tensor:
        return self.composer.compose_view(view, torch.from_numpy(actions).to(view.features.device))


class SlateVecEnv(SimulatorVecEnv):
    """Acts in slates: action MultiDiscrete((N,) * K), observation `policies.plackett_luce.slate_observation`."""

    def _space(self, view: View) -> spaces.Space[Any]:
        seen = self._tensors(view, torch.ones(len(view.features)))
        bound = dict.fromkeys(seen, np.inf) | {"pool": len(self.simulator.catalog)}
        dtypes = {name: np.int64 if name == "pool" else np.float32 for name in seen}
        return spaces.Dict(
            {
                name: spaces.Box(-1 if name == "pool" else -np.inf, bound[name], tuple(value.shape[1:]), dtypes[name])
                for name, value in seen.items()
            }
        )

    def _actions(self) -> spaces.Space[Any]:
        return self.simulator.action_space

    def _seen(self, view: View, survival: Tensor) -> VecEnvObs:
        return {name: value.cpu().numpy() for name, value in self._tensors(view, survival).items()}

    def _tensors(self, view: View, survival: Tensor) -> Observation:
        return slate_observation(view) | ({"survival": survival.unsqueeze(1)} if self.weighs_survival else {})

    def _compose(self, view: View, actions: np.ndarray) -> Tensor:
        return torch.from_numpy(actions).to(view.features.device)


def _carry_on(shopper: Shopper[Any]) -> None:
    """Have nobody leave. Errors: ValueError where the shopper cannot."""
    if not hasattr(shopper, "never_leave"):
        raise ValueError(
            f"survival is True, but {type(shopper).__name__} does not say how likely shoppers leave (`never_leave`)."
        )
    shopper.never_leave = True


_NOTHING: dict[str, Any] = {}
"""The info of every row that goes on: one shared dictionary, which nobody writes into."""


def _row(seen: VecEnvObs, at: int) -> Any:
    if isinstance(seen, dict):
        return {name: value[at] for name, value in seen.items()}
    return cast(np.ndarray, seen)[at]
