"""What a portrait is worth: the head by hand and on rows whose truth is known."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from benchmarks.shopper import portrait
from policies.features import principal
from recsim_env.shoppers.household.portraits import LEVELS, PORTRAIT
from tests.support.toys import toy_catalog


def test_the_head_finds_the_weights_that_made_the_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    offset = torch.randn(20_000, generator=generator, dtype=torch.float64) - 1.0
    true = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
    chance = torch.sigmoid(offset + inputs @ true)
    label = (torch.rand(20_000, generator=generator) < chance).double()
    found = portrait.fitted(inputs, label, offset, 1.0)
    assert found.tolist() == pytest.approx(true.tolist(), abs=0.08)
    slope = inputs.T @ (label - torch.sigmoid(offset + inputs @ found)) - found
    assert float(slope.abs().max()) < 1e-6
    assert float(portrait.fitted(inputs, label, offset, 1e9).abs().max()) < 1e-3


def test_inputs_are_a_constant_and_numbers_of_deviation_one() -> None:
    catalog = toy_catalog()
    items = portrait.item_inputs(catalog, 4)
    assert items.shape == (len(catalog), 1 + 4 + 2)
    assert torch.equal(items[:, 0], torch.ones(len(catalog), dtype=torch.float64))
    assert torch.equal(items[:, 1:5], principal(catalog.embedding, 4).double())
    known = torch.rand(50, len(PORTRAIT), generator=torch.Generator().manual_seed(0))
    people = portrait.portrait_inputs(known)
    assert people.shape == (50, 1 + len(LEVELS) + 1)
    torch.testing.assert_close(people[:, 1:5].std(dim=0), torch.ones(4, dtype=torch.float64))
    pairs = portrait.products(people[:2], items[:2])
    assert pairs.shape == (2, people.shape[1] * items.shape[1])
    assert pairs[1, items.shape[1] + 2] == people[1, 1] * items[1, 2]


def test_the_table_has_a_line_for_each_head() -> None:
    rows = [
        {
            "setting": portrait.MASKED,
            "model": model,
            "figure": figure,
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
            "households": 9,
            "responses": 30.0,
        }
        for model, figure, value in (
            (portrait.PLAIN, "auc", 0.7),
            (portrait.TOLD, "auc", 0.75),
            (portrait.TOLD, "auc_minus_plain", 0.05),
        )
    ]
    found = portrait.report(pl.DataFrame(rows))
    assert found.summary["masked history/portrait/auc_minus_plain"].value == 0.05
    assert found.summary["masked history/no portrait/auc"].n == 9
    assert len(found.table.strip().splitlines()) == 2 + 2
