"""The choice model of bundles: by hand, its sums, and without pairs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recsim_env.shoppers.bundles.choice import chances, drawn, subsets

CPU = torch.device("cpu")
ALL = torch.ones(1, 2, dtype=torch.bool)


def pair_of(value: float) -> torch.Tensor:
    return torch.tensor([[[0.0, value], [value, 0.0]]])


def test_the_chances_of_two_items_are_those_worked_out_by_hand() -> None:
    found = chances(torch.tensor([[0.5, -1.0]]), pair_of(0.8), torch.tensor([0.6]), ALL)
    weights = [1.0, math.exp(0.5), math.exp(-1.0), math.exp(0.5 - 1.0 + 0.8 + 0.6)]
    total = sum(weights)
    assert found.subset[0].tolist() == pytest.approx([weight / total for weight in weights])
    assert found.item[0, 0].item() == pytest.approx((weights[1] + weights[3]) / total)
    assert found.item[0, 1].item() == pytest.approx((weights[2] + weights[3]) / total)
    assert found.whole.item() == pytest.approx(weights[3] / total)
    assert found.none.item() == pytest.approx(1 / total)
    assert found.part.item() == pytest.approx((weights[1] + weights[2]) / total)


def test_without_pairs_and_discount_items_are_taken_independently() -> None:
    single = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    shown = torch.ones(5, 4, dtype=torch.bool)
    found = chances(single, torch.zeros(5, 4, 4), torch.zeros(5), shown)
    assert torch.allclose(found.item, single.sigmoid(), atol=1e-6)
    assert torch.allclose(found.whole, single.sigmoid().prod(dim=1), atol=1e-6)


def test_chances_sum_to_one_and_leave_out_what_is_not_shown() -> None:
    generator = torch.Generator().manual_seed(1)
    single, pair = (
        torch.randn(64, 4, generator=generator),
        torch.randn(64, 4, 4, generator=generator),
    )
    shown = torch.rand(64, 4, generator=generator) < 0.6
    found = chances(single, pair, torch.rand(64, generator=generator), shown)
    assert torch.allclose(found.subset.sum(dim=1), torch.ones(64))
    assert torch.allclose(found.whole + found.part + found.none, torch.ones(64), atol=1e-6)
    assert bool((found.item[~shown] == 0).all())
    assert bool((found.whole[shown.sum(dim=1) < 2] == 0).all())
    for row in range(64):  # the whole of what is shown, subset by subset
        at = shown[row].nonzero().squeeze(1).tolist()
        value = {
            kept: sum(single[row, i].item() for i in kept)
            + sum(pair[row, i, j].item() for i, j in itertools.combinations(kept, 2))
            for number in range(len(at) + 1)
            for kept in itertools.combinations(at, number)
        }
        assert len(value) == int((found.subset[row] > 0).sum())


def test_what_is_drawn_comes_as_often_as_its_chance() -> None:
    found = chances(torch.tensor([[0.5, -1.0]]), pair_of(0.8), torch.tensor([0.6]), ALL)
    draws = (torch.arange(20_000) + 0.5) / 20_000
    shown = ALL.expand(len(draws), -1)
    many = chances(
        torch.tensor([[0.5, -1.0]]).expand(len(draws), -1),
        pair_of(0.8).expand(len(draws), -1, -1),
        torch.full((len(draws),), 0.6),
        shown,
    )
    taken, whole = drawn(many, draws, shown)
    assert taken.float().mean(dim=0).tolist() == pytest.approx(found.item[0].tolist(), abs=1e-3)
    assert whole.float().mean().item() == pytest.approx(found.whole.item(), abs=1e-3)
    assert torch.equal(whole, taken.all(dim=1))


def test_the_largest_draw_takes_nothing_that_is_not_shown() -> None:
    shown = torch.tensor([[True, False, True], [False, False, False]])
    found = chances(torch.zeros(2, 3), torch.zeros(2, 3, 3), torch.zeros(2), shown)
    taken, whole = drawn(found, torch.full((2,), 1 - 2**-24), shown)
    assert taken.tolist() == [[True, False, True], [False, False, False]]
    assert whole.tolist() == [True, False]


def test_subsets_are_all_different() -> None:
    assert len(torch.unique(subsets(4, CPU), dim=0)) == 16


def test_a_single_item_has_no_discount() -> None:
    shown = torch.tensor([[True, False], [True, True]])
    single, pair = torch.tensor([[0.5, -1.0]]).expand(2, -1), pair_of(0.8).expand(2, -1, -1)
    found = chances(single, pair, torch.full((2,), 0.6), shown)
    assert found.item[0, 0].item() == pytest.approx(math.exp(0.5) / (1 + math.exp(0.5)))
    assert found.whole[0].item() == 0
    assert found.whole[1].item() > chances(single, pair, torch.zeros(2), shown).whole[1].item()
