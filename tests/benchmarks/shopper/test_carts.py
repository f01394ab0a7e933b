"""The benchmark of carts: ranks and differences by hand, and a tiny run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from benchmarks.lab.run import read_rows, read_summary
from benchmarks.shopper import carts
from benchmarks.shopper.cart_baselines import Carts, Weights
from recsim_env.shoppers.carts.fit import CompletionFit
from recsim_env.shoppers.carts.model import CartCompletion
from recsim_env.shoppers.household.features import CONTEXT, ITEM_CONTEXT
from recsim_env.shoppers.household.memory import COUNT, LEVELS, STATS
from recsim_env.shoppers.weights import load_model
from tests.support.fake_log import ITEMS, SHOPPERS, write_shop


def page(counts: list[float], cart: list[int], hidden: int) -> Carts:
    """One cart in a catalogue of as many items as there are counts."""
    n = len(counts)
    stats = torch.zeros(1, n, LEVELS, STATS)
    stats[0, :, 0, COUNT] = torch.tensor(counts)
    lift = torch.zeros(1, n, 4)
    lift[0, :, 0] = torch.arange(n).float()
    return Carts(
        visit=torch.tensor([0]),
        household=torch.tensor([0]),
        hidden=torch.tensor([hidden]),
        cart=torch.tensor([cart]),
        held=torch.full((1, 2), -1),
        bought=torch.zeros(1, 2),
        context=torch.zeros(1, CONTEXT),
        stats=stats,
        item_context=torch.zeros(1, n, ITEM_CONTEXT),
        promoted=torch.zeros(1, n) > 0,
        lift=lift,
        popularity=torch.full((1, n), 0.5),
    )


def ranks(of: Carts, scores: list[float]) -> list[float]:
    found: tuple[Tensor, Tensor] = of.ranks(torch.tensor([scores]))
    return [float(one) for one in found]


def test_ranks_leave_out_the_cart_and_what_was_bought_before() -> None:
    one = page([3, 0, 0, 1, 0], cart=[4, -1], hidden=2)
    assert bool(one.new)
    # above item 2 stand 0, 3 and 4; 4 is in the cart; 0 and 3 were bought before
    assert ranks(one, [9, 1, 2, 5, 7]) == [2, 0]


def test_equal_scores_count_by_half() -> None:
    one = page([3, 0, 0, 1, 0], cart=[4, -1], hidden=2)
    assert ranks(one, [2, 2, 2, 1, 2]) == [1.0, 0.5]


def test_a_baseline_adds_history_popularity_and_lift() -> None:
    one = page([3, 0], cart=[0, -1], hidden=1)
    found = Weights(popular=4.0, mean=2.0).scores(one)[0]
    expected = [torch.tensor(3 + 4 * 0.5).log(), torch.tensor(4 * 0.5).log() + 2.0 * 1]
    assert found.tolist() == pytest.approx([float(value) for value in expected], abs=1e-5)


def test_the_report_pairs_the_same_carts() -> None:
    places = dict.fromkeys(carts.MODELS, (20.0, 20.0, 20.0, 20.0))
    places[carts.LIFT] = (0.0, 20.0, 20.0, 20.0)
    places[carts.FULL] = (0.0, 9.0, 20.0, 3.0)
    rows = pl.DataFrame(
        [
            {
                "model": name,
                "visit": at,
                "household": at // 2,
                "cart": 1,
                "new": at >= 2,
                "rank": rank,
                "new_rank": 10 * rank,
            }
            for name, of in places.items()
            for at, rank in enumerate(of)
        ]
    )
    pairs = pl.DataFrame({"lift": [0.0, 1, 2], "later_lift": [0.0, 2, 4], "learned": [0.0, -1, -2]})
    found = carts.report(rows, pairs, samples=50)
    assert found.summary["own_history_lift/hit10"].value == pytest.approx(1 / 4)
    assert found.summary["completion/hit10"].value == pytest.approx(3 / 4)
    assert found.summary["visit.cart_hit10_minus_lift"].value == pytest.approx(2 / 4)
    # of the two carts whose hidden item is new, the completion has one in the first 50
    assert found.summary["visit.cart_new_hit50_minus_lift"].value == pytest.approx(1 / 2)
    assert found.summary["pairs/lift_later_lift"].value == pytest.approx(1)
    assert found.summary["pairs/learned_lift"].value == pytest.approx(-1)


def test_a_tiny_run_ranks_the_same_carts_by_every_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carts, "FREQUENT", 3)
    write_shop(tmp_path / "log")
    told = carts.Config(
        log=tmp_path / "log",
        fit=CompletionFit(epochs=4, batch=64, learning_rate=3e-3, hidden_size=8, head_size=8),
        output=tmp_path / "model",
        carts=120,
        tuning_carts=60,
        states=2,
        results=tmp_path / "results",
    )
    carts.main(told)
    rows = read_rows("carts", results=told.results)
    assert set(rows["model"]) == set(carts.MODELS)
    assert rows.group_by("visit", "household", "cart", "new").len()["len"].to_list() == [6] * 120
    assert rows["household"].max() < SHOPPERS  # type: ignore[operator]
    assert rows["rank"].max() < ITEMS  # type: ignore[operator]
    found = read_summary("carts", results=told.results)
    # a household buys its four favourites of forty, so that history hits nine of ten of them
    assert found["own_history/hit10"].value > 0.5
    assert found["completion/hit10"].value > found["popularity/hit10"].value
    assert found["pairs/lift_later_lift"].n > 10
    read = load_model(CartCompletion, told.output)
    assert read.config.n_items == ITEMS
