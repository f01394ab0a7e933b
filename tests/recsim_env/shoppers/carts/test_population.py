"""Whole visits of households: chances of a page, lists, searches, carts, and the checkout."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsim_env.env import SlateEnv
from recsim_env.shoppers.carts.config import CartVisitsConfig
from recsim_env.shoppers.carts.population import (
    COMPLETION,
    HOUSEHOLDS,
    CartShopper,
    CartState,
    load_carts,
)
from recsim_env.shoppers.carts.shop import QUERIES
from recsim_env.shoppers.household.population import load_shopper
from recsim_env.shoppers.household.states import REMEMBERED
from recsim_env.shoppers.visits.pages import CART, HOME, SEARCH
from recsim_env.types import Response

CPU = torch.device("cpu")
B, K = 6, 10
NEVER = 1 - 2**-24
"""The largest draw: what happens by chance does not happen."""


@pytest.fixture(scope="module")
def shopper() -> CartShopper:
    return load_carts(CPU, K)


def arrived(shopper: CartShopper, seed: int = 0) -> CartState:
    draws = torch.rand(B, shopper.start_draws, generator=torch.Generator().manual_seed(seed))
    return shopper.start(draws)


def promoted(shopper: CartShopper, state: CartState, skip: int = 0) -> Tensor:
    """Slates of promoted items, (B, K), from the one at place `skip` on."""
    return shopper.candidates(state)[:, skip : skip + K]


def page(
    shopper: CartShopper, state: CartState, slates: Tensor, *, click: float = NEVER, **given: float
) -> Response:
    """Show a page; `end`, `which` and `what` are the draws of the next one, else `NEVER`."""
    sizes = shopper._page_draws
    told = [click, *(given.get(name, NEVER) for name in ("end", "which", "what")), 0.3, 0.5]
    draws = torch.cat(
        [torch.full((B, size), value) for size, value in zip(sizes, told, strict=True)], dim=1
    )
    return shopper.respond(state, slates, slates >= 0, draws)


def test_a_visit_begins_at_home_with_an_empty_cart_and_a_list(shopper: CartShopper) -> None:
    state = arrived(shopper)
    seen = shopper.observe(state)
    assert (seen["scenario"] == HOME).all()
    assert (seen["page"] == 0).all()
    assert (seen["cart"] == -1).all()
    assert (seen["query"] == 0).all()
    listed = [[item for item in row if item >= 0] for row in state.wanted.tolist()]
    assert any(listed)
    assert all(len(row) == len(set(row)) for row in listed)


def test_the_first_page_sells_as_much_as_a_visit_without_pages(shopper: CartShopper) -> None:
    """An item is on the list with chance q; else the page sells it with (p - q) / (1 - q)."""
    state = arrived(shopper)
    slates = promoted(shopper, state)
    full, now = shopper.chances(state, slates)
    plain = load_shopper(HOUSEHOLDS, CPU, K)
    draws = torch.rand(B, shopper.start_draws, generator=torch.Generator().manual_seed(0))
    same = plain.start(draws[:, :1])
    answer = plain.respond(same, slates, slates >= 0, torch.full((B, plain.visit_draws), NEVER))
    torch.testing.assert_close(full, answer.probability, atol=1e-6, rtol=1e-4)

    listed = (slates.unsqueeze(2) == state.wanted.unsqueeze(1)).any(dim=2)
    assert (now[listed] == 1).all()
    known = state.memory.slots_of(torch.arange(B), slates) != REMEMBERED
    unknown = ~known & ~listed
    torch.testing.assert_close(now[unknown], full[unknown])
    assert (now[known & ~listed] < full[known & ~listed]).all()


def test_showing_an_item_again_is_no_second_chance(shopper: CartShopper) -> None:
    state = arrived(shopper)
    slates = promoted(shopper, state)
    page(shopper, state, slates)
    page(shopper, state, promoted(shopper, state, K))
    listed = (slates.unsqueeze(2) == state.wanted.unsqueeze(1)).any(dim=2)
    inside = (slates.unsqueeze(2) == state.cart.unsqueeze(1)).any(dim=2)
    _, now = shopper.chances(state, slates)
    assert (now[~listed] == 0).all()
    assert (now[inside] == 0).all()


def test_what_is_clicked_is_in_the_cart_and_bought_at_the_checkout(shopper: CartShopper) -> None:
    state = arrived(shopper)
    first, second = promoted(shopper, state), promoted(shopper, state, K)
    wanted = [{item for item in row if item >= 0} for row in state.wanted.tolist()]
    answer = page(shopper, state, first, click=0.0)  # whatever can be clicked is
    assert (answer.days == 0).all()
    assert answer.purchases is not None
    assert not answer.purchases.any()
    assert answer.basket is not None
    assert (answer.basket == -1).all()
    cart = [{item for item in row if item >= 0} for row in state.cart.tolist()]
    assert cart == [set(row[on].tolist()) for row, on in zip(first, answer.clicks, strict=True)]

    answer = page(shopper, state, second, end=0.0)
    assert answer.purchases is not None
    assert answer.carried is not None
    assert answer.basket is not None
    assert torch.equal(answer.purchases, answer.clicks)
    for row in range(B):
        bought = [item for item in answer.basket[row].tolist() if item >= 0]
        now = set(second[row][answer.purchases[row]].tolist())
        assert len(bought) == len(set(bought))
        assert set(bought) == cart[row] | wanted[row] | now
        assert {item for item in answer.carried[row].tolist() if item >= 0} == cart[row]
        assert answer.elsewhere[row] == len(bought) - len(now)
    assert (state.page == 0).all()
    assert (state.cart == -1).all()
    assert (state.scenario == HOME).all()
    counts = state.memory.stats(torch.arange(B), first[:, 0], state.day)[:, 0, 0]
    assert (counts[answer.carried[:, 0] == first[:, 0]] >= 1).all()


def test_a_search_is_for_something_on_the_list_and_finds_it(shopper: CartShopper) -> None:
    state = arrived(shopper)
    away = torch.full((B, K), -1)
    page(shopper, state, away, which=0.0, what=0.0)
    searching = (state.scenario == SEARCH).nonzero().flatten()
    assert len(searching)
    seen, sought = shopper.observe(state), state.sought.clone()
    for row in searching.tolist():
        assert sought[row] in state.wanted[row]
        assert sought[row] not in state.cart[row]
        words = shopper._carts.query_of[sought[row]]
        assert torch.equal(seen["query"][row], shopper._carts.queries[words])
        assert (
            shopper.describe(state, row)["query"]
            == shopper.catalog.text[sought[row]].split("; ")[0]
        )
    torch.testing.assert_close(seen["query"][searching].norm(dim=1), torch.ones(len(searching)))
    page(shopper, state, away)
    answer = page(shopper, state, away, end=0.0)
    assert answer.carried is not None
    assert answer.basket is not None
    assert (answer.carried == -1).all()  # no slate had put it there
    for row in searching.tolist():
        assert sought[row] in answer.basket[row]


def test_a_search_looks_away_from_other_categories(shopper: CartShopper) -> None:
    state = arrived(shopper)
    slates = promoted(shopper, state)
    full, _ = shopper.chances(state, slates)
    state.sought = slates[:, 0].clone()
    state.scenario.fill_(SEARCH)
    during, _ = shopper.chances(state, slates)
    category = shopper.catalog.category[slates]
    other = category != category[:, :1]
    torch.testing.assert_close(during[other], full[other] * shopper.config.stray)
    assert torch.equal(during[~other], full[~other])


def test_the_cart_counts_on_its_own_page_by_the_completion(shopper: CartShopper) -> None:
    state = arrived(shopper)
    slates = promoted(shopper, state)
    state.cart[:, :2] = promoted(shopper, state, K)[:, :2]
    before, _ = shopper.chances(state, slates)
    assert (shopper.cart_shift(state, slates) == 0).all()
    state.scenario[: B // 2] = CART
    shift = shopper.cart_shift(state, slates)
    assert (shift[B // 2 :] == 0).all()
    assert (shift[: B // 2] != 0).any(dim=1).all()
    after, _ = shopper.chances(state, slates)
    torch.testing.assert_close(
        torch.logit(after) - torch.logit(before), shift, atol=1e-3, rtol=1e-3
    )
    state.cart.fill_(-1)
    assert (shopper.cart_shift(state, slates) == 0).all()


def test_what_is_in_a_basket_tells_how_likely_it_is_paid_for(shopper: CartShopper) -> None:
    state = arrived(shopper)
    items = promoted(shopper, state)
    small = shopper.ending(state, items[:, :1])
    large = shopper.ending(state, torch.cat([items, promoted(shopper, state, K)], dim=1))
    assert ((small > 0) & (small < 1) & (small != large)).all()
    state.page.fill_(shopper.config.pages - 1)
    assert (shopper.ending(state, items) == 1).all()


def test_a_visit_of_one_page_is_a_visit() -> None:
    single = load_carts(CPU, K, config=CartVisitsConfig(pages=1))
    state = arrived(single)
    answer = page(single, state, promoted(single, state))
    assert answer.carried is not None
    assert (answer.carried == -1).all()
    assert answer.leaving is not None
    assert (answer.leaving > 0).all()
    assert (state.page == 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pages": 0}, "pages is 0"),
        ({"cart_size": 0}, "cart_size is 0"),
        ({"stray": 2}, "stray is 2"),
        ({"search": 0.6, "cart_page": 0.6}, "together they must be 1 at most"),
    ],
)
def test_a_bad_configuration_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CartVisitsConfig(**values)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        load_carts(CPU, completion=tmp_path)
    with pytest.raises(ValueError, match="config is 3"):
        load_carts(CPU, config=3)  # type: ignore[arg-type]
    shutil.copytree(COMPLETION, tmp_path / "other")
    path = tmp_path / "other" / QUERIES
    tensors = load_file(path)
    tensors["of_item"][7] = 10**6
    save_file(tensors, path)
    with pytest.raises(ValueError, match="of_item goes from 0 to 1000000, but there are 571"):
        load_carts(CPU, completion=tmp_path / "other")


def test_a_frame_tells_what_the_list_bought_from_what_the_pages_sold() -> None:
    env = SlateEnv("recsim_env/CompleteJourneyVisit-v0", device="cpu", render_mode="ansi")
    seen, _ = env.reset(seed=4)
    told = []
    for _ in range(30):
        best = (-seen["popularity"]).argsort(kind="stable")[:K]
        seen, _, ended, _, info = env.step(seen["candidates"][best])
        frame = str(env.render())
        counts = {
            where: int(found[1])
            if (found := re.search(rf"(\d+) more bought {where}", frame))
            else 0
            for where in ("from earlier pages", "elsewhere in the store")
        }
        assert sum(counts.values()) == int(info["elsewhere"])
        told.append(counts)
        if ended:
            break
    assert sum(one["elsewhere in the store"] for one in told) > 0
