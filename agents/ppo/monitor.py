"""Monitoring of a training: TensorBoard, a progress line, evaluations and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from agents.evaluate import Evaluation, evaluate
from agents.keeper import Clock
from agents.ppo.algorithm import SlatePPO, policy_of
from agents.ppo.checkpoints import LAST, save
from agents.progress import Progress
from recsim_env import rendering
from recsim_env.rollout import draws_for
from recsim_env.settings import ONE_OR_MORE, SEED, settle
from recsim_env.simulator import SlateSimulator
from recsim_env.types import Observation, Policy

NOT_TENSORBOARD = ("stdout", "log", "json", "csv")
"""Formats of SB3's logger that support neither hyper-parameters nor pictures."""
PER_VISIT = ("visits", "days", "lapsed", "return")
"""Columns of an evaluation that are not reported per visit as well."""


@dataclass(frozen=True)
class MonitorConfig:
    """How closely a training is monitored."""

    evaluate_every: int = 10
    """Number of updates between two evaluations. There is also one before the first update and one
    after the last."""
    episodes: int = 256
    """Number of episodes of an evaluation, played once with the most likely and once with sampled
    actions."""
    batch: int = 128
    """Number of shoppers that are served at once in an evaluation."""
    first_seed: int = 10_000_000
    """First seed of the episodes of evaluations, which differ from those of reports."""
    pictures: int = 2
    """Number of sample slates that are drawn as pictures at each evaluation; 0 draws none."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a field is outside its range.
        """
        settle(
            self,
            evaluate_every=ONE_OR_MORE,
            episodes=ONE_OR_MORE,
            batch=ONE_OR_MORE,
            first_seed=SEED,
        )


def figures(result: Evaluation) -> dict[str, float]:
    """Means over episodes, of sums also per visit, with coverage and inequality of exposure."""
    rows = result.rows
    totals = {
        name: float(rows[name].cast(float).to_numpy().mean())
        for name in rows.columns
        if name != "seed"
    }
    visits = totals["visits"]
    per_visit = {
        f"{name}_per_visit": total / visits
        for name, total in totals.items()
        if name not in PER_VISIT
    }
    return {**totals, **per_visit, "coverage": result.coverage, "gini": result.gini}


@torch.no_grad()
def sample_slates(
    policy: Policy, simulator: SlateSimulator, seeds: Tensor, visits: int = 3
) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) of the last of some visits of each seed, one above the other.

    Args:
        policy: the policy that chooses the slates
        simulator: the simulator, which is reset
        seeds: (S,) int64, one picture each
        visits: number of visits, at least 1
    """
    observation = simulator.reset(seeds.to(simulator.device))
    scenes: list[rendering.Scene] = []
    for _ in range(visits):
        at = simulator.episodes
        before = [rendering.arrival(simulator, row) for row in range(len(seeds))]
        slates = policy(observation, draws_for(policy, at.seed, at.visit, at.number))
        outcome = simulator.advance(slates)
        scenes = [
            rendering.visit(simulator, row, scene, slates, outcome)
            for row, scene in enumerate(before)
        ]
        done = outcome.ended.nonzero().squeeze(1)
        if len(done):
            simulator.restart(done)
        observation = simulator.observe()
    return np.concatenate([rendering.as_picture(scene) for scene in scenes])


@dataclass(frozen=True)
class Counted:
    """A policy that reports how many slates it makes, while it is evaluated."""

    policy: Policy
    """The policy that makes the slates."""
    tell: Callable[[int], None]
    """Called with the number of slates after every call of the policy."""

    @property
    def draws(self) -> int:
        """The number of uniform numbers that the policy takes."""
        return self.policy.draws

    def __call__(self, observation: Observation, draws: Tensor) -> Tensor:
        """The slates (B, K) of the policy."""
        slates = self.policy(observation, draws)
        self.tell(len(slates))
        return slates


class Monitor(BaseCallback):
    """Writes the log, evaluates the policy at intervals, and saves the last checkpoint.

    Everything about an update (its rollout, its losses, the evaluation after it) is one point of
    each curve, at the number of visits so far. The point is written before the checkpoint, so the
    log contains whatever precedes a checkpoint. A training that resumes from it removes the later
    points (`agents.ppo.events`) and writes them again.

    Episodes are averaged over the rollout in which they began (`SimulatorVecEnv.pop_statistics`):
    `rollout/ep_rew_mean` and `rollout/ep_len_mean` are their return and visits, `episodes/*` the
    other means. Such a point is logged when the last of these episodes has ended.

    `SlatePPO.learn` has to be called with `log_interval=None`: otherwise it writes the log itself,
    before each update.

    Args:
        config: how closely the training is monitored
        simulator: the simulator of evaluations; None evaluates nothing
        folder: where the checkpoint is saved; None saves none
        parameters: hyper-parameters for TensorBoard
        title: start of the progress line
        goes_on: whether the training resumes from a checkpoint

    Raises:
        ValueError: At the start of a training where `log_interval` is not None.
    """

    model: SlatePPO
    _progress: Progress
    _hook: RemovableHandle

    def __init__(
        self,
        config: MonitorConfig,
        simulator: SlateSimulator | None,
        folder: Path | None,
        parameters: Mapping[str, bool | str | float | None],
        *,
        title: str = "training",
        goes_on: bool = False,
    ) -> None:
        super().__init__()
        self._config = config
        self._simulator = simulator
        self._folder = folder
        self._parameters = parameters
        self._title = title
        self._goes_on = goes_on
        self._clock = Clock()
        self._written: int | None = None  # visits at which everything is written
        self.returns: list[float] = []
        """Mean return of every evaluation by this monitor, at the policy's most likely action."""
        self.explored: list[tuple[int, float]] = []
        """Visits so far, and the mean return of the episodes that a rollout completed, as the
        policy explores: `rollout/ep_rew_mean`."""
        self.losses: dict[str, float] = {}
        """What SB3 logged under `train/` at the last update."""

    def _on_training_start(self) -> None:
        interval = self.locals["log_interval"]
        if interval is not None:
            raise ValueError(
                f"log_interval is {interval}, but it must be None: the monitor writes the log."
            )
        if self._goes_on:
            self._written = self.num_timesteps
        else:
            metrics = {"evaluation/return": 0.0, "rollout/ep_rew_mean": 0.0}
            self.logger.record(
                "hparams", HParam(self._parameters, metrics), exclude=NOT_TENSORBOARD
            )
        total = self.model._total_timesteps
        stops = self._stops(total)
        coming = sum(self._due(visits, total) for visits in stops)
        made = stops[-1] if stops else self.num_timesteps  # whole rollouts
        self._progress = Progress(self._title, made, self.num_timesteps, evaluations=coming)
        self._hook = self.model.policy.optimizer.register_step_post_hook(
            lambda *_: self._progress.learned()
        )

    def _on_rollout_start(self) -> None:
        """Complete the point of the update before, or of the untrained policy."""
        self._settle()

    def _on_step(self) -> bool:
        self._progress.trained(self.training_env.num_envs)
        return True

    def _on_rollout_end(self) -> None:
        if "return" in self.model.statistics:
            self.explored.append((self.num_timesteps, self.model.statistics["return"]))
        for name, value in self.model.statistics.items():
            if name not in (
                "return",
                "visits",
            ):  # those are `rollout/ep_rew_mean` and `ep_len_mean`
                self.logger.record(f"episodes/{name}", value)
        actor = self.model.policy.actor
        if isinstance(log_std := getattr(actor, "log_std", None), Tensor):
            self.logger.record("train/std", float(log_std.detach().exp().mean()))

    def _on_training_end(self) -> None:
        self._settle()
        self._hook.remove()
        self._progress.close()

    def _settle(self) -> None:
        """Evaluate if it is time to, write the log, and then save the checkpoint."""
        visits = self.num_timesteps
        if visits == self._written:
            return
        self.losses = {
            name.removeprefix("train/"): float(value)
            for name, value in self.logger.name_to_value.items()
            if name.startswith("train/")
        }
        if self._due(visits, self.model._total_timesteps):
            self.evaluate()
        if visits:
            self.model.dump_logs(self._updates(visits))
        else:
            self.logger.dump(visits)
        self._written = visits
        if visits >= self.model._total_timesteps or self._clock.due():
            self._keep()

    def _keep(self) -> None:
        if self._folder is not None:
            began = time.perf_counter()
            save(self.model, self._folder / LAST)
            self._clock.kept(began)

    def _updates(self, visits: int) -> int:
        return visits // (self.model.n_steps * self.model.n_envs)

    def _stops(self, total: int) -> list[int]:
        """Numbers of visits at the points that are still to be written."""
        rollout = self.model.n_steps * self.model.n_envs
        last = math.ceil((total - self.num_timesteps) / rollout)
        stops = [self.num_timesteps + update * rollout for update in range(last + 1)]
        return stops[1:] if self._goes_on else stops

    def _due(self, visits: int, total: int) -> bool:
        """Whether the policy is evaluated after so many visits."""
        if self._simulator is None:
            return False
        return visits >= total or self._updates(visits) % self._config.evaluate_every == 0

    def evaluate(self) -> None:
        """Evaluate the policy, deterministic and sampled, and draw pictures of its slates."""
        assert self._simulator is not None
        first, config = self._config.first_seed, self._config
        seeds = torch.arange(first, first + config.episodes)
        with self._progress.evaluating() as tell:
            for name, deterministic in (("evaluation", True), ("evaluation_sampled", False)):
                policy = Counted(policy_of(self.model, deterministic=deterministic), tell)
                found = figures(evaluate(policy, self._simulator, seeds, batch=config.batch))
                for figure, value in found.items():
                    self.logger.record(f"{name}/{figure}", value)
                if deterministic:
                    self.returns.append(found["return"])
            if config.pictures > 0:
                picture = sample_slates(
                    policy_of(self.model), self._simulator, seeds[: config.pictures]
                )
                self.logger.record("slates", Image(picture, "HWC"), exclude=NOT_TENSORBOARD)
        self._progress.note(f"return {self.returns[-1]:.2f}")
