"""When a basket is complete: looks at baskets, and the fit."""

from __future__ import annotations

import pytest
import torch

from recsim_env.catalog import Catalog
from recsim_env.logs.schema import read_baskets, read_popularity, read_promotions
from recsim_env.shoppers.carts.checkout import fit_checkout, looks, prefixes
from recsim_env.shoppers.carts.examples import CartExamples, scored_visits
from recsim_env.shoppers.carts.model import CartCompletion, CompletionConfig
from recsim_env.shoppers.household.memory import Keys
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.household.replay import Visits
from tests.support.fake_log import ITEMS, write_shop


def test_a_prefix_has_any_number_of_items() -> None:
    baskets = torch.tensor([[4, 7, -1]]).expand(3000, -1)
    kept = prefixes(baskets, torch.rand(3000, 4, generator=torch.Generator().manual_seed(1)))
    assert not kept[:, 2].any()
    shares = torch.bincount(kept.sum(dim=1), minlength=3) / 3000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    empty = prefixes(torch.full((2, 3), -1), torch.rand(2, 4))
    assert not empty.any()


@pytest.fixture(scope="module")
def fitted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[CartCompletion, CartExamples, Catalog]:
    folder = tmp_path_factory.mktemp("log")
    catalog = write_shop(folder)
    visits = Visits.of(read_baskets(folder / "baskets.parquet", ITEMS))
    promotions = StorePromotions.of(
        read_promotions(folder / "promotions.parquet", ITEMS),
        read_popularity(folder / "popularity.parquet", ITEMS),
        ITEMS,
    )
    chosen = scored_visits(visits, visits.week < 20, items=0)
    keys = Keys.of(catalog.kind, catalog.category)
    examples = CartExamples.of(visits, keys, promotions, chosen, torch.Generator().manual_seed(0))
    assert catalog.embedding is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CartCompletion(
            CompletionConfig(ITEMS, catalog.embedding.shape[1], hidden_size=8, head_size=4)
        )
    model.train(False)
    fit_checkout(model, examples, catalog.embedding, seed=0)
    return model, examples, catalog


def test_as_many_baskets_are_complete_as_the_fit_says(
    fitted: tuple[CartCompletion, CartExamples, Catalog],
) -> None:
    model, examples, catalog = fitted
    assert catalog.embedding is not None
    features, label, weight = looks(model, examples, catalog.embedding, seed=0)
    chance = torch.sigmoid(features @ model.checkout.detach())
    # a logistic regression with an intercept is right on average
    assert float((chance * weight).sum()) == pytest.approx(float((label * weight).sum()), rel=0.01)


def test_a_fuller_basket_is_likelier_complete(
    fitted: tuple[CartCompletion, CartExamples, Catalog],
) -> None:
    model, examples, catalog = fitted
    assert catalog.embedding is not None
    # households buy 2.4 items on average, so hardly ever one of nine is not complete
    features, _, _ = looks(model, examples, catalog.embedding, seed=1)
    chance = torch.sigmoid(features @ model.checkout.detach())
    size = features[:, -2].expm1().round()
    assert float(chance[size >= 4].mean()) > float(chance[size == 0].mean()) + 0.2
