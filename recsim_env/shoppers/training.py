"""Training as both learned families do it: the Trainer of transformers, its checkpoints, batches.

Under `torchrun` several processes share each step: a batch comes in parts, and every process
computes as many of them as the others. Gradients are means over parts, so a training of one process
with as many parts ends in the same place, but for rounding and dropout.

A training that is interrupted goes on from the newest whole checkpoint and ends as the unbroken one
would have. Nothing outside notices: the global random generators stand where they stood.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from recsim_env import checks
from recsim_env.files import unwritten
from recsim_env.waiting import without_bars

KEPT = 2
"""Checkpoints that are kept of each training, beside the best one."""
PARTS = ("optimizer.pt", "scheduler.pt")
"""Files of a Trainer's checkpoint besides weights, state and generators."""
GENERATORS = ("rng_state.pth", "rng_state_0.pth")
"""The file of generators in a checkpoint of one process, and that of the first of several."""
VALIDATION = "eval_loss"
"""What the Trainer calls the loss on validation data in its state."""
SHORT = 64
"""Steps up to which episodes of any length share a batch."""
Progress = Callable[[int, int], None]
"""Is called after each step with its number and that of all."""


class ShopperTrainer(Trainer):
    """The Trainer of transformers, which also logs every part of the loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # losses are means: those of parts are averaged

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the loss of a batch, and keep its parts for the next log line."""
        outputs = model(**inputs)
        self.parts = {
            name: value.detach()
            for name, value in outputs.items()
            if value.ndim == 0 and name != "loss"
        }
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the parts of the last batch's loss to a log line."""
        if "loss" in logs:
            logs |= {f"loss_{name}": round(float(value), 4) for name, value in self.parts.items()}
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint, or say why it cannot be written.

        Raises:
            OSError: If the disk is full, with the folder; the checkpoint before is whole.
        """
        try:
            with without_bars():
                super()._save_checkpoint(*args, **kwargs)
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # torch and safetensors have errors of their own
            folder = Path(str(self.args.output_dir))
            after = "; the checkpoint before is whole"
            raise unwritten(folder, error, after) from error


# ---- checkpoints of the Trainer ----


class KeepNewest(TrainerCallback):
    """Removes all checkpoints but the newest ones and the best one.

    A removal that is cut off leaves no checkpoint that looks whole.
    """

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        """Remove old checkpoints after one was written, but for the best one."""
        if not state.is_world_process_zero:
            return
        best = state.best_model_checkpoint
        for old in checkpoints(Path(str(args.output_dir)))[:-KEPT]:
            if best is not None and old.name == Path(best).name:
                continue
            (old / TRAINER_STATE_NAME).unlink(missing_ok=True)
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """List the folders of a Trainer's checkpoints, whole or not, oldest first."""
    found = [
        path
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    ]
    return sorted(found, key=step_of)


def newest_whole(folder: Path) -> Path | None:
    """Find the newest checkpoint to go on from, and remove those that were cut off."""
    for path in checkpoints(folder):
        if not _is_whole(path):
            shutil.rmtree(path)
    return next(reversed(checkpoints(folder)), None)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _is_whole(checkpoint: Path) -> bool:
    """Tell whether a checkpoint is complete: the Trainer writes its state last."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        with safe_open(checkpoint / SAFE_WEIGHTS_NAME, framework="pt") as weights:
            there = all((checkpoint / name).stat().st_size > 0 for name in PARTS)
            there = there and any(_filled(checkpoint / name) for name in GENERATORS)
            return bool(state["global_step"] == step_of(checkpoint) and there and weights.keys())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return False


class TellProgress(TrainerCallback):
    """Tells after each step how far the training is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        """Tell how many steps are done, and how many there are."""
        self.progress(state.global_step, state.max_steps)


class StopEarly(TrainerCallback):
    """Stops once the validation loss has not fallen for so many evaluations in a row.

    Whether it has is read from the Trainer's own history, so that a training that goes on from a
    checkpoint stops where the unbroken one did.

    Args:
        patience: evaluations without a new best one
        least_steps: steps that are made in any case
    """

    def __init__(self, patience: int, least_steps: int) -> None:
        self.patience, self.least_steps = patience, least_steps

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        """Stop the training where patience has run out."""
        if self.is_over(state.global_step, state.log_history):
            control.should_training_stop = True

    def is_over(self, step: int, history: list[dict[str, Any]]) -> bool:
        """Tell whether a training of this history stops after `step` steps."""
        losses = [line[VALIDATION] for line in history if VALIDATION in line]
        if step < self.least_steps or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= self.patience


def train(trainer: Trainer, *, resume: bool = True) -> None:
    """Train, or go on from the newest whole checkpoint in the Trainer's folder.

    Raises:
        OSError: If a checkpoint cannot be written; the one before it is whole.
    """
    output, steps = Path(str(trainer.args.output_dir)), trainer.args.max_steps
    with trainer.args.main_process_first():  # the others find what it has left
        checkpoint = newest_whole(output) if resume else None
    if checkpoint is None:
        trainer.train()
    elif _is_over(trainer, checkpoint, steps):  # from here the Trainer would go one step too far
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        trainer._load_from_checkpoint(str(checkpoint if best is None else output / Path(best).name))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint))


def _is_over(trainer: Trainer, checkpoint: Path, steps: int) -> bool:
    history = json.loads((checkpoint / TRAINER_STATE_NAME).read_text()).get("log_history", [])
    step = step_of(checkpoint)
    stops = [one for one in trainer.callback_handler.callbacks if isinstance(one, StopEarly)]
    return step >= steps or any(one.is_over(step, history) for one in stops)


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def processes() -> int:
    """The number of processes that `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def process() -> int:
    """The number of this process among those of `torchrun`, from 0; the first one writes."""
    return int(os.environ.get("RANK", 0))


def parts_of(parts: int | None) -> int:
    """In how many parts a batch is computed: those asked for, by default one for each process.

    Raises:
        ValueError: If the processes cannot share them equally.
    """
    shared = processes()
    found = checks.whole("parts", shared if parts is None else parts, 1)
    if found % shared:
        raise ValueError(f"parts is {found}, but it must be a multiple of the {shared} processes.")
    return found


def shared_steps(parts: int, device: torch.device | str) -> dict[str, Any]:
    """The options of `TrainingArguments` with which processes compute a batch of so many parts.

    Args:
        parts: the number of parts
        device: where the training runs
    """
    several, on_cpu = processes() > 1, torch.device(device).type == "cpu"
    return {
        "gradient_accumulation_steps": parts // processes(),
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if several and on_cpu else None,
        # Not every batch has rows of all kinds, and parameters that none needs have no gradient.
        "ddp_find_unused_parameters": True if several else None,
    }


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Let the Trainer seed the global generators, and put them back afterwards."""
    state, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(of_numpy)  # noqa: NPY002


def packed(lengths: Tensor, episodes: int, cells: int, generator: torch.Generator) -> list[Tensor]:
    """Pack whole episodes into batches, at random, but long ones with their like.

    Episodes of up to `SHORT` steps are mixed as they come: batches sorted by length learn worse.
    Longer ones stand together with those of up to twice the length, fewer in a batch, so that one
    long episode neither pads the others nor needs more memory than a batch of short ones.

    Args:
        lengths: (S,) steps of each episode, 1 or more
        episodes: most episodes of a batch
        cells: most cells of a batch, its episodes times the longest of them; one long episode may
            exceed it
        generator: the order

    Returns:
        Numbers of episodes (B,) int64, batch by batch in random order.
    """
    doublings = torch.log2(lengths / SHORT).ceil().clamp(min=0).long()
    order = torch.randperm(len(lengths), generator=generator)
    batches: list[Tensor] = []
    for number in doublings.unique().tolist():
        like = order[doublings[order] == number]
        batches += like.split(max(min(episodes, cells // (SHORT * 2**number)), 1))
    mixed = torch.randperm(len(batches), generator=generator).tolist()
    return [batches[at] for at in mixed]
