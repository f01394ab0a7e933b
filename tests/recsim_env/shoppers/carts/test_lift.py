"""Lift of pairs and what carts say about items, worked out by hand."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from recsim_env.shoppers.carts.lift import PRIOR, PairLift, log_lift, pair_counts
from recsim_env.shoppers.household.replay import Visits

BASKETS = [[0, 1], [0, 1, 2], [0], [3], [2, 3]]


def visits_of(baskets: list[list[int]]) -> Visits:
    """One household that comes once a day."""
    n = len(baskets)
    return Visits.of(
        pl.DataFrame(
            {
                "shopper": [0] * n,
                "day": range(n),
                "week": [0] * n,
                "store": [0] * n,
                "gap": [1] * n,
                "follow_up": [9] * n,
                "items": pl.Series(baskets, dtype=pl.List(pl.Int32)),
            }
        )
    )


@pytest.fixture
def lift() -> PairLift:
    table = torch.tensor(
        [[0.0, 1.0, -1.0, 0.5], [1.0, 0.0, 3.0, 0.0], [-1.0, 3.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]
    )
    return PairLift(table, torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 1]))


def test_pairs_are_counted_in_the_chosen_visits_alone() -> None:
    visits = visits_of(BASKETS)
    counts = pair_counts(visits, torch.arange(5), 4)
    assert counts.tolist() == [[3, 2, 1, 0], [2, 2, 1, 0], [1, 1, 2, 1], [0, 0, 1, 2]]
    assert pair_counts(visits, torch.tensor([0, 3]), 4).sum() == 4 + 1


def test_lift_compares_what_is_bought_together_with_chance() -> None:
    counts = pair_counts(visits_of(BASKETS), torch.arange(5), 4)
    expected = math.log((2 + PRIOR) / (3 * 2 / 5 + PRIOR))
    found = log_lift(counts, 5)
    assert found[0, 1].item() == pytest.approx(expected)
    assert torch.equal(found, found.T)
    assert (found.diagonal() == 0).all()
    assert log_lift(counts, 5, prior=0.0)[0, 1].item() == pytest.approx(math.log(2 / 1.2))


def test_a_basket_does_not_tell_its_own_pairs() -> None:
    counts = pair_counts(visits_of(BASKETS), torch.arange(5), 4)
    expected = math.log((2 - 1 + PRIOR) / (3 * 2 / 5 + PRIOR))
    assert log_lift(counts, 5, left_out=1)[0, 1].item() == pytest.approx(expected)


def test_a_cart_tells_mean_and_largest_lift_and_what_is_alike(lift: PairLift) -> None:
    cart, items = torch.tensor([[0, 1, -1]]), torch.tensor([[2, 3]])
    found = lift.of_carts(cart, items)[0]
    # item 2: lift -1 with item 0 and 3 with item 1, which is of its kind; both are of its category
    assert found[0].tolist() == pytest.approx([(3 - 1) / 2, 3.0, math.log(2), math.log(3)])
    assert found[1].tolist() == pytest.approx([(0.5 + 0) / 2, 0.5, 0.0, 0.0])


def test_an_empty_cart_tells_nothing(lift: PairLift) -> None:
    found = lift.of_carts(torch.full((2, 3), -1), torch.tensor([[0, 1], [2, 3]]))
    assert (found == 0).all()
    assert (lift.of_carts(torch.zeros(2, 0).long(), torch.tensor([[0], [2]])) == 0).all()
