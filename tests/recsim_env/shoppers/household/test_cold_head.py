"""Items that nobody knows: prospects by hand, and a head that reads nothing of the item's own."""

import math

import torch

from recsim_env.catalog import Catalog
from recsim_env.shoppers.household.cold_head import TEXT, ColdHead, main_directions
from recsim_env.shoppers.household.config import SlateShopperConfig
from recsim_env.shoppers.household.features import CONTEXT, ITEM_CONTEXT
from recsim_env.shoppers.household.memory import COUNT, LEVELS, STATS
from recsim_env.shoppers.household.promotions import StorePromotions
from recsim_env.shoppers.household.prospects import PROSPECT, prospects
from tests.support.fake_log import FACTS

PATHS = ("a/x/1", "a/x/1", "a/x/2", "b/y/3")
"""Two items of a kind, one alone in its kind, and one alone in its category."""


def catalog(price: list[float]) -> Catalog:
    return Catalog(PATHS, PATHS, torch.tensor(price), torch.eye(4))


def promotions() -> StorePromotions:
    """One week, two stores: item 0 is promoted in both, displayed in one; item 2 in one."""
    placement = torch.tensor([[4, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.uint8)
    context = torch.tensor([[[1.0, 0.1], [3.0, 0.3], [5.0, 0.5], [7.0, 0.7]]])
    return StorePromotions(placement, torch.tensor([[0], [1]]), context)


def test_prospects_by_hand() -> None:
    found = prospects(catalog([2.0, 4.0, 3.0, 1.0]), promotions(), mailers=3)[0]
    of_kind = [[3.0, 0.3], [1.0, 0.1], [2.0, 0.2], [4.0, 0.4]]  # kind, kind, category, all
    torch.testing.assert_close(found[:, :ITEM_CONTEXT], torch.tensor(of_kind))
    assert found[:, 2].tolist() == [1.0, 0.0, 0.5, 0.0]
    assert found[:, 3].tolist() == [0.5, 0.0, 0.0, 0.0]
    torch.testing.assert_close(found[:, 4], torch.tensor([2.0, 2.0, 1.0, 1.0]).log())
    dear = math.log(2.0) - math.log(4.0)
    torch.testing.assert_close(found[:2, 5], torch.tensor([dear, -dear]))


def test_hidden_items_count_in_no_mean_and_those_without_a_price_are_neither_dear_nor_cheap() -> (
    None
):
    hidden = torch.tensor([False, True, False, False])
    found = prospects(catalog([2.0, math.nan, 3.0, 1.0]), promotions(), 3, hidden)[0]
    assert found[0, 0] == 5.0  # its kind has no other item, its category has item 2
    assert found[1, 0] == 1.0
    assert found[1, 5] == 0.0


def head() -> ColdHead:
    config = SlateShopperConfig(n_items=4, n_categories=2, text_width=4, facts=FACTS.to_json())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = ColdHead(config)
    found.text.copy_(main_directions(torch.eye(4)))
    return found


def test_the_head_reads_nothing_that_the_item_left_behind() -> None:
    generator = torch.Generator().manual_seed(1)
    context = torch.rand(1, CONTEXT, generator=generator)
    prospect = torch.rand(1, PROSPECT, generator=generator)
    others = torch.rand(1, LEVELS, STATS, generator=generator) * 5 + 10.0
    others[:, 0] = 0.0
    bought = others.clone()
    bought[:, :, :2] += 3.0  # three purchases of the item move the counters of all levels
    asked = [
        head()(context, stats, prospect, torch.tensor([2]), head().text[1:2])
        for stats in (others, bought)
    ]
    torch.testing.assert_close(*asked)
    more = others.clone()
    more[:, 1:, COUNT] += 20.0
    read = head()(context, more, prospect, torch.tensor([2]), head().text[1:2])
    assert not torch.allclose(asked[0], read)


def test_the_random_effects_of_items_are_none_of_new_ones() -> None:
    changed = head()
    with torch.no_grad():
        changed.of_item.weight.fill_(5.0)
    rows = (
        torch.zeros(4, CONTEXT),
        torch.zeros(4, LEVELS, STATS),
        torch.zeros(4, PROSPECT),
        torch.zeros(4, dtype=torch.int64),
        head().text,
    )
    torch.testing.assert_close(changed(*rows), head()(*rows))


def test_main_directions_keep_distances_and_are_padded() -> None:
    embedding = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    found = main_directions(embedding)
    assert found.shape == (6, TEXT)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(embedding, embedding))
