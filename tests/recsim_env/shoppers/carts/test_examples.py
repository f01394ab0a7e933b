"""Baskets of which a part is hidden, with items that were not bought."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsim_env.catalog import Catalog
from recsim_env.logs.schema import read_baskets, read_popularity, read_promotions
from recsim_env.shoppers.carts.examples import (
    LARGEST_BASKET,
    OTHERS,
    OWN,
    CartExamples,
    masked,
    scored_visits,
)
from recsim_env.shoppers.carts.histories import EARLIER, before
from recsim_env.shoppers.household.memory import COUNT, Keys
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.household.replay import ScoredItems, Visits, replay
from recsim_env.shoppers.household.states import REMEMBERED
from tests.support.fake_log import ITEMS, write_shop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log")
    write_shop(path)
    return path


@pytest.fixture(scope="module")
def visits(folder: Path) -> Visits:
    return Visits.of(read_baskets(folder / "baskets.parquet", ITEMS))


@pytest.fixture(scope="module")
def keys(folder: Path) -> Keys:
    catalog = Catalog.load(folder)
    return Keys.of(catalog.kind, catalog.category)


@pytest.fixture(scope="module")
def chosen(visits: Visits) -> torch.Tensor:
    return scored_visits(visits, visits.week < 20)


@pytest.fixture(scope="module")
def examples(folder: Path, visits: Visits, keys: Keys, chosen: torch.Tensor) -> CartExamples:
    promotions = StorePromotions.of(
        read_promotions(folder / "promotions.parquet", ITEMS),
        read_popularity(folder / "popularity.parquet", ITEMS),
        ITEMS,
    )
    return CartExamples.of(visits, keys, promotions, chosen, torch.Generator().manual_seed(0))


def test_visits_are_scored_once_the_household_is_known(
    visits: Visits, chosen: torch.Tensor
) -> None:
    size = visits.starts.diff()
    assert torch.equal(chosen, (visits.week < 20) & (visits.rank >= EARLIER) & (size >= 1))
    assert bool((size[scored_visits(visits, visits.week < 20, items=2)] >= 2).all())


def test_households_are_as_a_replay_of_the_log_finds_them(
    visits: Visits, keys: Keys, chosen: torch.Tensor
) -> None:
    wanted = chosen & (visits.shopper < 5)
    rows = wanted.nonzero().flatten()
    item = torch.full_like(rows, 7)
    stats, *_ = replay(visits, keys, ScoredItems(rows, item))
    found = {
        int(visit): memory.stats(visits.shopper[now], item[:1].expand(len(now)), day)[at].half()
        for now, memory in before(visits, keys, wanted, 8)
        for day in [visits.day[now].float()]
        for at, visit in enumerate(now)
    }
    assert sorted(found) == rows.tolist()
    assert torch.equal(torch.stack([found[int(visit)] for visit in rows]), stats)


def test_the_basket_stands_first_and_the_others_were_not_bought(
    visits: Visits, chosen: torch.Tensor, examples: CartExamples
) -> None:
    order = torch.cat([(chosen & (visits.rank == rank)).nonzero().flatten() for rank in range(200)])
    assert len(examples) == len(order) == int(chosen.sum())
    for row in (0, 100, len(order) - 1):
        basket = visits.padded(order[row : row + 1])[0]
        first = examples.items[row, :LARGEST_BASKET]
        assert sorted(first[first >= 0].tolist()) == sorted(basket[basket >= 0].tolist())
        others = examples.items[row, LARGEST_BASKET:]
        rest = others[others >= 0].tolist()
        assert len(rest) == len(set(rest)) == ITEMS - int((basket >= 0).sum())  # a small catalogue
        assert not set(rest) & set(basket.tolist())


def test_offsets_say_how_many_items_each_one_stands_for(examples: CartExamples) -> None:
    assert OWN > ITEMS  # all items are drawn, so each one stands for itself
    assert OTHERS > ITEMS
    assert (examples.offset[examples.items >= 0] == 0).all()


def test_counters_are_those_before_the_visit(examples: CartExamples) -> None:
    counts = examples.stats[:, :, 0, COUNT].float()
    held = examples.held[0].tolist()
    for place in range(LARGEST_BASKET, LARGEST_BASKET + OWN):
        item = int(examples.items[0, place])
        if item >= 0:
            assert counts[0, place] == examples.counts[0, held.index(item)]
    assert examples.held.shape[1] == REMEMBERED


def test_masks_hide_one_item_or_more_and_every_number_is_as_likely() -> None:
    baskets = torch.tensor([[4, 7, 9, -1]]).expand(3000, -1)
    stay = masked(baskets, torch.rand(3000, 5, generator=torch.Generator().manual_seed(1)))
    assert not stay[:, 3].any()
    number = stay.sum(dim=1)
    shares = torch.bincount(number, minlength=4) / 3000
    assert shares[3] == 0
    torch.testing.assert_close(shares[:3], torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    # which ones stay is a matter of chance alone: each in a third of (0 + 1 + 2) / 3 places
    torch.testing.assert_close(
        stay[:, :3].float().mean(dim=0), torch.full((3,), 1 / 3), atol=0.03, rtol=0
    )
