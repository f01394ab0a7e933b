"""Stable-Baselines3's PPO for slate policies, with rollouts that stay on the device (`agents.ppo.device_ppo`).

Two more things differ from the stock class. Actor and critic have learning rates of their own; and
SB3 seeds and draws from the global generators, which it does here with a private state that is
swapped in and out. What remains: on a GPU, SB3's seeding sets `torch.backends.cudnn.deterministic`
for the whole process.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from agents.ppo.device_ppo import DevicePPO
from agents.ppo.torch_vec_env import TrainingRewards
from agents.ppo.vec_env import IntentVecEnv, SimulatorVecEnv, SlateVecEnv
from policies.base import tuned
from policies.learnable.autoregressive import AutoregressiveConfig
from policies.learnable.kinds import Actor, IntentConfig
from policies.learnable.plackett_luce import PlackettLuceConfig
from policies.learnable.sb3 import LR_SCALE, NetworkConfig, SlateActorCritic
from recsim_env.settings import AMOUNT, ONE_OR_MORE, POSITIVE, SHARE, settle
from recsim_env.types import Policy


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of PPO (Schulman et al. 2017)."""

    learning_rate: float = tuned(1.5e-3, 3e-4, 2e-2, log=True)
    """Of the actor; the critic's is a multiple of it, see `NetworkConfig`."""
    n_steps: int = 20
    """Visits of each shopper between two updates."""
    batch_size: int = 2048
    """Visits in a minibatch."""
    n_epochs: int = 5
    """Passes over the visits of an update."""
    gamma: float = tuned(0.97, 0.9, 0.999)
    """Discount a visit."""
    gae_lambda: float = tuned(0.8, 0.3, 1.0)
    """Trade-off of the advantage estimate: 0 = trust the critic, 1 = trust the sampled return."""
    clip_range: float = 0.2
    """How far a probability may move in an update, as a ratio."""
    ent_coef: float = tuned(0.0, 0.0, 0.02)
    """Reward for entropy."""
    vf_coef: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is not as said.
        """
        settle(
            self,
            learning_rate=SHARE,
            n_steps=ONE_OR_MORE,
            batch_size=ONE_OR_MORE,
            n_epochs=ONE_OR_MORE,
            gamma=SHARE,
            gae_lambda=SHARE,
            clip_range=POSITIVE,
            vf_coef=AMOUNT,
            max_grad_norm=POSITIVE,
        )


# ---- randomness ------------------------------------------------------------------------------------------------------


class PrivateRandomness:
    """A state of the global generators that only the code inside `with randomness():` sees.

    SB3 draws actions from torch's global generator, shuffles minibatches with numpy's and seeds
    both, and Python's.
    """

    def __init__(self) -> None:
        self._mine = self._read()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Swap the private state in, and the caller's back at the end."""
        theirs = self._read()
        self._write(self._mine)
        try:
            yield
        finally:
            self._mine = self._read()
            self._write(theirs)

    def tensors(self) -> dict[str, Tensor]:
        """The private state of torch's and numpy's generators, to be saved."""
        _, key, place, _, _ = self._mine["numpy"]
        saved = {
            "torch": self._mine["torch"],
            "numpy": torch.from_numpy(np.append(key, place).astype(np.int64)),
        }
        saved |= {f"cuda{at}": state for at, state in enumerate(self._mine["cuda"])}
        return saved

    def load(self, saved: dict[str, Tensor]) -> None:
        """Take a saved state."""
        numbers = saved["numpy"].numpy()
        self._mine["torch"] = saved["torch"]
        self._mine["numpy"] = ("MT19937", numbers[:-1].astype(np.uint32), int(numbers[-1]), 0, 0.0)
        self._mine["cuda"] = [
            saved.get(f"cuda{at}", state) for at, state in enumerate(self._mine["cuda"])
        ]

    @staticmethod
    def _read() -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        numpy_state = np.random.get_state()  # noqa: NPY002 - the state that SB3 uses is kept from everyone else
        return {
            "torch": torch.get_rng_state(),
            "cuda": cuda,
            "numpy": numpy_state,
            "python": random.getstate(),
        }

    @staticmethod
    def _write(state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        random.setstate(state["python"])


# ---- algorithm -------------------------------------------------------------------------------------------------------


class StockPPO(PPO):
    """SB3's PPO with private randomness and a learning rate for each optimizer group; rollouts go through numpy.

    What `SlatePPO` is compared with, and its base.
    """

    policy: SlateActorCritic
    randomness: PrivateRandomness

    def _setup_model(self) -> None:
        self.randomness = PrivateRandomness()
        with self.randomness():
            super()._setup_model()

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """As in SB3, with private randomness."""
        with self.randomness():
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """As in SB3, with private randomness."""
        with self.randomness():
            super().train()

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"] *= group[LR_SCALE]


class SlatePPO(StockPPO, DevicePPO):
    """The same with rollouts that stay on the device.

    `ep_info_buffer`, and with it `rollout/ep_rew_mean`, holds the mean of the cohort of episodes
    that the last rollout completed, and nothing where it completed none: see
    `SimulatorVecEnv.pop_statistics`.
    """

    statistics: dict[str, float]
    """All means of that cohort; empty where the last rollout completed none."""

    def _note(self, finished: list[tuple[Tensor, Tensor]]) -> None:
        assert self.ep_info_buffer is not None
        self.statistics = environment_of(self).pop_statistics()
        self.ep_info_buffer.clear()
        if self.statistics:
            self.ep_info_buffer.append(
                {"r": self.statistics["return"], "l": self.statistics["visits"]}
            )


Algorithm = TypeVar("Algorithm", bound=StockPPO)


def make_composer_ppo(
    env: IntentVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> SlatePPO:
    """PPO over the composer's intents; before training it is greedy CTR."""
    return make_ppo(
        "composer",
        env,
        config,
        network,
        start=IntentConfig(network.log_std),
        seed=seed,
        device=device,
    )


def make_plackett_luce_ppo(
    env: SlateVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    *,
    scores: PlackettLuceConfig | None = None,
    seed: int,
    device: torch.device | str = "cpu",
) -> SlatePPO:
    """PPO over slates; before training it draws from a softmax of the CTR logits."""
    return make_ppo("plackett_luce", env, config, network, start=scores, seed=seed, device=device)


def make_autoregressive_ppo(
    env: SlateVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    *,
    scores: AutoregressiveConfig | None = None,
    seed: int,
    device: torch.device | str = "cpu",
) -> SlatePPO:
    """PPO over slates drawn item by item in view of those above; before training as `make_plackett_luce_ppo`."""
    return make_ppo("autoregressive", env, config, network, start=scores, seed=seed, device=device)


def make_ppo(
    kind: str,
    env: SimulatorVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    *,
    start: Any = None,
    seed: int,
    device: torch.device | str = "cpu",
) -> SlatePPO:
    """PPO over a kind of policy.

    Args:
        kind: a name in `policies.learnable.kinds.LEARNABLE`
        env: an `IntentVecEnv` where the kind acts in intents, else a `SlateVecEnv`
        start: how the actor starts, the kind's config; None = its defaults
        seed: of the initial weights, of what is drawn and of the episodes
    """
    return _make(SlatePPO, kind, env, config, network, start, seed, device)


def make_stock_ppo(
    kind: str,
    env: SimulatorVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    *,
    start: Any = None,
    seed: int,
    device: torch.device | str = "cpu",
) -> StockPPO:
    """`make_ppo` with SB3's own loop, which learns from the same rewards, carried into numpy."""
    return _make(StockPPO, kind, env, config, network, start, seed, device)


def _make(
    algorithm: type[Algorithm],
    kind: str,
    env: SimulatorVecEnv,
    config: PPOConfig,
    network: NetworkConfig,
    start: Any,
    seed: int,
    device: torch.device | str,
) -> Algorithm:
    policy = {
        "kind": kind,
        "composer": env.composer,
        "catalog": env.simulator.catalog,
        "start": start,
        "network": network,
        "seed": seed,
        "survival": env.weighs_survival,
    }
    seen = env if issubclass(algorithm, DevicePPO) else TrainingRewards(env)
    return algorithm(
        SlateActorCritic, seen, **asdict(config), policy_kwargs=policy, seed=seed, device=device
    )


def fit_standardizers(model: StockPPO, visits: int = 10) -> None:
    """Play some visits with the untrained policy, and fix the scale of the features from what was seen."""
    env = TrainingRewards(environment_of(model))
    seen = env.reset()
    rows = []
    for _ in range(visits):
        assert not isinstance(seen, tuple)
        rows.append(model.policy.features(model.policy.obs_to_tensor(seen)[0]))
        seen, _, _, _ = env.step(model.policy.predict(seen, deterministic=True)[0])
    model.policy.fit_standardizers(torch.cat(rows))


def environment_of(model: StockPPO) -> SimulatorVecEnv:
    """The environment that a model trains in."""
    env = model.get_env()
    assert env is not None
    inside = env.unwrapped
    assert isinstance(inside, SimulatorVecEnv)
    return inside


def policy_of(model: StockPPO, *, deterministic: bool = True) -> Policy:
    """The policy being trained, as `agents.evaluate` takes it; it follows the training."""
    return model.policy.in_use(deterministic=deterministic)


def frozen_policy_of(model: StockPPO, *, deterministic: bool = True) -> Policy:
    """A copy of the policy as it is now."""
    actor = cast(nn.Module, copy.deepcopy(model.policy.actor)).requires_grad_(False)
    return model.policy.in_use(deterministic=deterministic, actor=cast(Actor, actor))
