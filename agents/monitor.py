"""What a person watches while an agent trains: TensorBoard, a progress bar, and checkpoints on the way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image
from torch import Tensor
from tqdm.auto import tqdm

from agents.checkpoints import LAST, save
from agents.evaluate import Evaluation, draws_for, evaluate
from agents.keeper import Clock
from agents.ppo import SlatePPO, environment_of, policy_of
from policies.base import Policy
from recsim_env import rendering
from recsim_env.simulator import SlateSimulator

NOT_TENSORBOARD = ("stdout", "log", "json", "csv")
"""Formats of SB3's logger that know no hyper-parameters and no pictures."""
PER_VISIT = ("visits", "days", "lapsed", "return")
"""Columns of an evaluation that are not reported a visit as well."""


@dataclass(frozen=True)
class MonitorConfig:
    """How closely training is watched."""

    evaluate_every: int = 10
    """Updates between two evaluations."""
    episodes: int = 256
    """Episodes of an evaluation."""
    batch: int = 128
    """Shoppers at a time in an evaluation."""
    first_seed: int = 10_000_000
    """Of the evaluation's episodes: other ones than those that are reported."""
    pictures: int = 2
    """Sample slates drawn at each evaluation."""


def figures(result: Evaluation) -> dict[str, float]:
    """The means over episodes, each summed column a visit as well, and how evenly the catalogue was shown."""
    rows = result.rows
    totals = {name: float(rows[name].cast(float).to_numpy().mean()) for name in rows.columns if name != "seed"}
    visits = totals["visits"]
    per_visit = {f"{name}_per_visit": total / visits for name, total in totals.items() if name not in PER_VISIT}
    return {**totals, **per_visit, "coverage": result.coverage, "gini": result.gini}


@torch.no_grad()
def sample_slates(policy: Policy, simulator: SlateSimulator, seeds: Tensor, visits: int = 3) -> NDArray[np.uint8]:
    """Pictures of the last of some visits of each seed, one above the other: (H, W, 3)."""
    observation = simulator.reset(seeds.to(simulator.device))
    scenes: list[rendering.Scene] = []
    for _ in range(visits):
        at = simulator.episodes
        before = [rendering.arrival(simulator, row) for row in range(len(seeds))]
        slates = policy(observation, draws_for(policy, at.seed, at.visit, at.number))
        outcome = simulator.advance(slates)
        scenes = [rendering.visit(simulator, row, scene, slates, outcome) for row, scene in enumerate(before)]
        done = outcome.ended.nonzero().squeeze(1)
        if len(done):
            simulator.restart(done)
        observation = simulator.observe()
    return np.concatenate([rendering.as_picture(scene) for scene in scenes])


class Monitor(BaseCallback):
    """Logs every update, evaluates every few, and keeps the last checkpoint.

    Args:
        simulator: of the evaluation; None evaluates nothing
        folder: where the checkpoint goes; None keeps none
        parameters: hyper-parameters for TensorBoard
    """

    model: SlatePPO

    def __init__(
        self,
        config: MonitorConfig,
        simulator: SlateSimulator | None,
        folder: Path | None,
        parameters: Mapping[str, bool | str | float | None],
        *,
        title: str = "training",
    ) -> None:
        super().__init__()
        self._config = config
        self._simulator = simulator
        self._folder = folder
        self._parameters = parameters
        self._title = title
        self._bar: tqdm[None] | None = None
        self._rollouts = 0
        self._clock = Clock()

    def _on_training_start(self) -> None:
        metrics = {"evaluation/return": 0.0, "episodes/return": 0.0}
        self.logger.record("hparams", HParam(self._parameters, metrics), exclude=NOT_TENSORBOARD)
        total = self.model._total_timesteps
        self._bar = tqdm(total=total, initial=self.num_timesteps, desc=self._title, unit="visit")
        self._rollouts = self.num_timesteps // (self.model.n_steps * self.model.n_envs)  # of a training that goes on
        for name, (value, excluded) in self.model.recorded.items():
            self.logger.record(name, value, excluded)

    def _on_rollout_start(self) -> None:
        """Comes after an update, except for the first."""
        if self.num_timesteps > self.model._num_timesteps_at_start and self._clock.due():
            self._keep()
        if self._rollouts % self._config.evaluate_every == 0:
            self.evaluate()
        self._rollouts += 1

    def _on_step(self) -> bool:
        assert self._bar is not None
        self._bar.update(self.training_env.num_envs)
        return True

    def _on_rollout_end(self) -> None:
        statistics = environment_of(self.model).pop_statistics()
        for name, value in statistics.items():
            self.logger.record(f"episodes/{name}", value)
        if statistics and self._bar is not None:
            self._bar.set_postfix({"return": f"{statistics['return']:.2f}"}, refresh=False)
        actor = self.model.policy.actor
        if isinstance(log_std := getattr(actor, "log_std", None), Tensor):
            self.logger.record("train/std", float(log_std.detach().exp().mean()))

    def _on_training_end(self) -> None:
        self.evaluate()
        self.logger.dump(self.num_timesteps)
        self._keep()  # last: whatever an interruption takes before is made again
        if self._bar is not None:
            self._bar.close()

    def _keep(self) -> None:
        if self._folder is not None:
            began = time.perf_counter()
            save(self.model, self._folder / LAST)
            self._clock.kept(began)

    def evaluate(self) -> None:
        """Evaluate the policy as it is now, deterministic and sampled, and draw some of its slates."""
        if self._simulator is None:
            return
        first, config = self._config.first_seed, self._config
        seeds = torch.arange(first, first + config.episodes)
        for name, deterministic in (("evaluation", True), ("evaluation_sampled", False)):
            policy = policy_of(self.model, deterministic=deterministic)
            for figure, value in figures(evaluate(policy, self._simulator, seeds, batch=config.batch)).items():
                self.logger.record(f"{name}/{figure}", value)
        if config.pictures > 0:
            picture = sample_slates(policy_of(self.model), self._simulator, seeds[: config.pictures])
            self.logger.record("slates", Image(picture, "HWC"), exclude=NOT_TENSORBOARD)
