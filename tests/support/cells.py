"""Cells for tests of `benchmarks.lab.playing`: small trainings, one of which kills its process."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from agents import AGENTS, TrainingSetup
from agents.evaluate import evaluate
from agents.keeper import Keeper
from agents.places import seeds
from agents.ppo.config import PPOConfig
from benchmarks.lab.playing import Task, there
from policies import PolicyInputs
from policies.composer import ComposerConfig
from policies.learnable.sb3 import NetworkConfig
from recsim_env.files import write_json
from recsim_env.types import Policy
from tests.support.policy_toys import toy_inputs
from tests.support.toys import toy_simulator

SHOPPERS, VISITS, UPDATES = 8, 4, 12
PPO: dict[str, Any] = {
    "ppo": PPOConfig(n_steps=VISITS, batch_size=16, n_epochs=1),
    "network": NetworkConfig((8,), (8,)),
    "composer": ComposerConfig(pool=8, offset_dims=0),
    "checked": 0.0,
    "polished": 0.0,
    "watch_every": 2,
}
KILLED = "killed.json"
"""What the training that kills its process leaves: the steps at which it had been seen."""


def open_toy() -> PolicyInputs:
    """What agents are built from."""
    return toy_inputs(toy_simulator())


def train(seed: int, folder: Path, path: Path, kills: bool, inputs: PolicyInputs) -> None:
    """Train a toy agent, and write what shoppers pay it and the steps at which it was seen.

    Where it `kills`, the first process that gets to its fourth look is killed there.
    """
    seen: list[int] = []

    def watch(steps: int, policy: Policy) -> None:
        seen.append(steps)
        if kills and len(seen) == 4 and not (path.parent / KILLED).exists():
            write_json(path.parent / KILLED, seen)
            os.kill(os.getpid(), signal.SIGKILL)

    keeper = Keeper(folder / "training.safetensors", share=1e9)  # at every occasion
    steps = SHOPPERS * VISITS * UPDATES
    setup = TrainingSetup(toy_simulator(), inputs, seed, steps, SHOPPERS, None, watch, keeper)
    policy = AGENTS["ppo_composer"].learn(setup, PPO).policy
    rows = evaluate(policy, toy_simulator(), seeds(500, 12), batch=4).rows
    write_json(path.with_suffix(".seen.json"), seen)
    write_json(path, rows["return"].to_list())


def trainings(work: Path, number: int, kills: int | None = None) -> list[Task]:
    """Some trainings as cells.

    Args:
        work: Their folder.
        number: How many.
        kills: The one that kills its process in the middle, once.
    """
    tasks = []
    for seed in range(number):
        folder, path = work / "unfinished" / f"seed{seed}", work / "cells" / f"seed{seed}.json"
        play = partial(train, seed, folder, path, seed == kills)
        tasks.append(Task(f"seed{seed}", folder, "toy", open_toy, play, partial(there, path)))
    return tasks
