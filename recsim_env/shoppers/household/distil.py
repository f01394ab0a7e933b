"""Teach a small household model what a fitted one answers (Hinton et al. 2015, section 2).

    teacher and student read the same batch -> cross-entropy between their chances

The student learns the teacher's calibrated chances of a response, row by row, and its chances of
coming back, bin by bin. Labels are not looked at, so rows that nobody logged teach as well: items
drawn from the whole catalogue (`with_unlogged`). The rates of new items are learned from the log
itself, which shows for every item whether it was bought.

    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network"
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsim_env.shoppers.household.examples import Examples
from recsim_env.shoppers.household.model import LOSS_WEIGHTS, ROW_KINDS, SlateShopper

UNKNOWN = 0.1
"""Share of the items of which a batch hides everything, as if they were new."""
UNSHOWN = 0.5
"""Share of the rows of items bought before whose placement is taken away: in a simulation, what the
slate leaves out is not promoted."""


class Distilled(nn.Module):
    """A student that learns from a teacher; its weights alone are trained.

    Neither has dropout: the teacher's chances are what keeps the student from learning by heart.

    Args:
        student: the small model
        teacher: the fitted one, for the same catalogue and the same bins of days
    """

    def __init__(self, student: SlateShopper, teacher: SlateShopper) -> None:
        super().__init__()
        self.student = student.requires_grad_(True)
        self._teacher = [teacher.requires_grad_(False)]  # in a list: it is no part of the student
        teacher.train(False)

    def train(self, mode: bool = True) -> Distilled:
        """Keep the student without dropout, whatever the mode."""
        super().train(mode)
        self.student.train(False)
        return self

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Compute the loss of a batch of `SlateShopper.forward`, and its parts by name."""
        batch = batch | self._hidden(batch)
        teacher = self._teacher[0]
        with torch.no_grad():
            told = teacher(**batch)
        out = self.student(**batch)
        chances = teacher.calibrated(told["logits"], batch["row_known"])
        losses = row_losses(out["logits"], chances, batch)
        gap = told["gap_logits"] + teacher.config.gap_calibration
        losses["gap"] = gap_loss(out["gap_logits"], gap)[batch["learn"]].mean()
        if "new_items" in out:
            losses["new_items"] = out["new_items"]
        loss = sum(
            (LOSS_WEIGHTS[name] * value for name, value in losses.items()),
            torch.zeros((), device=out["loss"].device),
        )
        return {"loss": loss, **losses}

    def _hidden(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw items that nobody met, and make the parts of the batch that differ for it.

        The Trainer seeds the generator that they come from, and keeps its state in checkpoints.
        """
        basket = batch["basket"]
        met = torch.rand(self.student.config.n_items, device=basket.device) >= UNKNOWN
        return {
            "basket": basket.where((basket >= 0) & met[basket.clamp(min=0)], -1),
            "row_known": met[batch["row_item"]].float(),
        }


def row_losses(logits: Tensor, told: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compute the cross-entropy of the student's chances with the teacher's, by kind of row.

    Both are chances in the sample: the offset says how much rarer non-responses are in it.

    Args:
        logits: (R,) of the student
        told: (R,) calibrated, of the teacher
        batch: that of `SlateShopper.forward`
    """
    counted = batch["learn"].flatten()[batch["row_at"]].to(logits.dtype)
    offset = batch["row_offset"]
    each = F.binary_cross_entropy_with_logits(
        logits + offset, torch.sigmoid(told + offset), reduction="none"
    )
    total, number = (
        torch.zeros(len(ROW_KINDS), device=logits.device).index_add(0, batch["row_kind"], part)
        for part in (each * counted, counted)
    )
    return dict(zip(ROW_KINDS, (total / number.clamp(min=1)).unbind(), strict=True))


def gap_loss(logits: Tensor, told: Tensor) -> Tensor:
    """Compute the cross-entropy of two distributions over bins of days, the last bin being never.

    Shapes: hazard logits (..., bins) of student and teacher -> (...,).
    """
    return -(log_chances(told).exp() * log_chances(logits)).sum(-1)


def log_chances(logits: Tensor) -> Tensor:
    """Turn hazard logits (..., bins) into log chances (..., bins + 1), the last one of lapsing."""
    stay = F.logsigmoid(-logits).cumsum(-1)
    before = F.pad(stay, (1, 0))
    return torch.cat([before[..., :-1] + F.logsigmoid(logits), stay[..., -1:]], dim=-1)


def with_unlogged(log: pl.DataFrame, n_items: int, generator: torch.Generator) -> pl.DataFrame:
    """Replace the items of an impression table by items drawn uniformly from the catalogue.

    Nobody responds in it: its labels are not to be learned from.

    Args:
        log: the table, of which visits and lengths of slates stay
        n_items: number of items of the catalogue
        generator: draws the items
    """
    flat = log.select(pl.int_range(pl.len()).alias("row"), "slate").explode("slate")
    drawn = torch.randint(n_items, (len(flat),), generator=generator).numpy()
    slates = (
        flat.with_columns(slate=pl.Series(drawn).cast(pl.Int32))
        .group_by("row", maintain_order=True)
        .agg("slate")
    )
    nobody = [
        pl.col(name).list.eval(pl.element().is_null())
        for name in ("click", "purchase")
        if log[name].null_count() < len(log)
    ]
    return log.with_columns(slates["slate"], *nobody)


def as_simulated(examples: Examples, generator: torch.Generator) -> Examples:
    """Copy examples in which some of the items bought before are not promoted, see `UNSHOWN`."""
    repeat = examples.row_kind == ROW_KINDS.index("repeat")
    drawn = torch.rand(len(examples.row_kind), generator=generator) < UNSHOWN
    return replace(examples, row_placement=examples.row_placement.masked_fill(repeat & drawn, 0))
