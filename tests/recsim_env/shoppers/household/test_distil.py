"""Distillation: losses worked out by hand, a student that is its teacher, rows nobody logged."""

import copy
import math

import numpy as np
import polars as pl
import pytest
import torch

from recsim_env.shoppers.household.distil import (
    Distilled,
    as_simulated,
    gap_loss,
    log_chances,
    row_losses,
    with_unlogged,
)
from recsim_env.shoppers.household.examples import Collator
from recsim_env.shoppers.household.model import ROW_KINDS
from tests.support.fake_log import ITEMS
from tests.support.small_shopper import fitted_model, toy_examples, toy_log


def test_hazards_become_chances_that_sum_to_one() -> None:
    """Half return in the first bin, a quarter of the others in the second, the rest lapse."""
    logits = torch.tensor([0.0, math.log(0.25 / 0.75)])
    chances = log_chances(logits).exp()
    torch.testing.assert_close(chances, torch.tensor([0.5, 0.125, 0.375]))
    entropy = -(chances * chances.log()).sum()
    torch.testing.assert_close(gap_loss(logits, logits), entropy)
    assert gap_loss(torch.tensor([1.0, 0.0]), logits) > entropy


def test_row_losses_are_means_by_kind_in_the_sample() -> None:
    """Two rows of a kind that count and one that does not; the offset moves both chances."""
    batch = {
        "learn": torch.tensor([[True, False]]),
        "row_at": torch.tensor([0, 0, 1]),
        "row_kind": torch.tensor([1, 1, 1]),
        "row_offset": torch.tensor([0.0, math.log(3.0), 0.0]),
    }
    logits, told = torch.tensor([0.0, 0.0, 5.0]), torch.tensor([0.0, 0.0, -5.0])
    found = row_losses(logits, told, batch)
    both = (math.log(2.0) - 0.75 * math.log(0.75) - 0.25 * math.log(0.25)) / 2
    assert float(found[ROW_KINDS[1]]) == pytest.approx(both)
    assert all(float(found[name]) == 0 for name in ROW_KINDS if name != ROW_KINDS[1])


def test_nothing_is_to_be_learned_from_oneself() -> None:
    """Where the student is the teacher, and calibration changes nothing, the slope is 0."""
    teacher = fitted_model()
    student = copy.deepcopy(teacher)
    wrapped = Distilled(student, teacher)
    wrapped.train()
    assert not student.training
    assert {name for name, _ in wrapped.named_parameters()} == {
        f"student.{name}" for name, _ in student.named_parameters()
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = wrapped(**Collator(toy_examples(), new_items=False)(range(8)))
    out["loss"].backward()
    slopes = [value.grad.abs().max() for value in student.parameters() if value.grad is not None]
    assert len(slopes) > 20
    assert max(float(slope) for slope in slopes) < 1e-5
    assert all(value.grad is None for value in teacher.parameters())


def test_rows_that_nobody_logged_are_drawn_from_the_whole_catalogue() -> None:
    log = toy_log().impressions["uniform"]
    drawn = with_unlogged(log, ITEMS, torch.Generator().manual_seed(0))
    assert drawn["visit"].equals(log["visit"])
    assert drawn["slate"].list.len().equals(log["slate"].list.len())
    assert drawn.schema == log.schema
    items = drawn["slate"].explode()
    share = np.bincount(items.to_numpy(), minlength=ITEMS) / len(items)
    assert len(share) == ITEMS
    assert 0.8 / ITEMS < share.min() <= share.max() < 1.2 / ITEMS
    for name in ("click", "purchase"):
        if log[name].null_count() < len(log):
            assert drawn[name].list.len().equals(log[name].list.len())
            assert not drawn[name].explode().any()
    again = with_unlogged(log, ITEMS, torch.Generator().manual_seed(0))
    assert again.equals(drawn)
    assert isinstance(drawn, pl.DataFrame)


def test_half_of_what_was_bought_before_is_left_without_promotion() -> None:
    examples = toy_examples()
    found = as_simulated(examples, torch.Generator().manual_seed(0))
    repeat = examples.row_kind == ROW_KINDS.index("repeat")
    assert torch.equal(found.row_placement[~repeat], examples.row_placement[~repeat])
    shown = repeat & (examples.row_placement > 0)
    assert float((found.row_placement[shown] == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    kept = shown & (found.row_placement > 0)
    assert torch.equal(found.row_placement[kept], examples.row_placement[kept])
