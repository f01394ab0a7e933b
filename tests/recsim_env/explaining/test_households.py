"""Purchases that never were: the same as a log in which they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from recsim_env.catalog import Catalog
from recsim_env.explaining import Case, Cause, explain, without
from recsim_env.explaining.households import visits_before
from recsim_env.explaining.kinds.promotion import placement_in_words
from recsim_env.logs import schema
from recsim_env.logs.complete_journey.sources import FACTS as COMPLETE_JOURNEY
from recsim_env.registration import make_simulator
from recsim_env.shoppers.household.population import LearnedShopper, load_shopper
from recsim_env.shoppers.household.starts import lived_through
from recsim_env.simulator import SlateSimulator
from tests.support.fake_log import FACTS, write_shop
from tests.support.fake_shoppers import member

CPU = torch.device("cpu")
K = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop")
    write_shop(path)
    model = member(path, 1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        model.items.text.normal_(generator=generator)
    model.save_pretrained(path)
    return path


def opened(folder: Path, **options: object) -> SlateSimulator:
    shopper = load_shopper(folder, CPU, K, population="all", start_days=(60, 80), **options)  # type: ignore[arg-type]
    return SlateSimulator(shopper, {"clicks": 1.0})


def favourites(simulator: SlateSimulator) -> Tensor:
    """Slates of what each shopper bought most and of other candidates, (B, K)."""
    observation = simulator.observe()
    slates = []
    for bought, counts, offered in zip(
        observation["bought_items"],
        observation["bought_counts"],
        observation["candidates"],
        strict=True,
    ):
        there = set(offered.tolist())
        mine = [
            i for i in bought[counts.argsort(descending=True)].tolist() if i >= 0 and i in there
        ]
        slates.append((mine[:3] + [i for i in offered.tolist() if i not in mine])[:K])
    return torch.tensor(slates)


def test_an_item_that_was_never_bought_is_one_that_the_log_does_not_have(
    folder: Path, tmp_path: Path
) -> None:
    simulator = opened(folder)
    simulator.reset(torch.arange(3))
    slates = favourites(simulator)
    explained = explain(simulator, slates, kinds=["item", "category"])
    catalog = Catalog.load(folder)
    item = int(slates[0, 0])
    category = int(catalog.category[item])
    gone = {
        Cause("item", item): [item],
        Cause("category", category): (catalog.category == category).nonzero().flatten().tolist(),
    }
    who = int(simulator.shopper.shop.starts.shopper[simulator.hidden.who[0]])  # type: ignore[attr-defined]
    for number, (cause, items) in enumerate(gone.items()):
        # a log in which this shopper bought none of them
        other = tmp_path / str(number)
        shutil.copytree(folder, other)
        baskets = pl.read_parquet(folder / "baskets.parquet")
        kept = pl.col("items").list.eval(pl.element().filter(~pl.element().is_in(items)))
        baskets = baskets.with_columns(
            items=pl.when(pl.col("shopper") == who).then(kept).otherwise(pl.col("items"))
        )
        schema.write_baskets(baskets, other / "baskets.parquet", len(catalog))
        never = opened(other)
        never.reset(torch.arange(3))
        response = never.step(slates).response
        at = explained.causes.index(cause)
        assert explained.rows[at] == 0
        assert torch.allclose(response.probability[0], explained.without_probability[at], atol=1e-5)
        assert (
            float((explained.without_probability[at] - explained.probability[0]).abs().max()) > 1e-3
        )


@pytest.mark.parametrize("newcomers", [0.0, 0.5])
def test_visits_of_the_episode_are_played_again(folder: Path, newcomers: float) -> None:
    simulator = SlateSimulator(opened(folder).shopper, {"clicks": 1.0}, newcomers=newcomers)
    simulator.reset(torch.arange(4), staying=True)
    for _ in range(5):
        simulator.step(favourites(simulator))
    simulator.restart(torch.tensor([2]))  # whose episode is younger than the others'
    simulator.step(favourites(simulator))
    state, shopper = simulator.hidden, simulator.shopper
    past = visits_before(Case(simulator, simulator.question(favourites(simulator))))
    assert isinstance(shopper, LearnedShopper)
    shop = shopper.shop
    memory, caches = lived_through(past, shop.keys, [(m.model, m.vectors) for m in shop.members])
    assert torch.allclose(memory.table, state.memory.table, atol=1e-4)
    assert torch.allclose(caches[0].state, state.caches[0].state, atol=1e-5)
    assert torch.equal(caches[0].count, state.caches[0].count)


def test_a_forgotten_episode_is_said(folder: Path) -> None:
    simulator = opened(folder)
    simulator.reset(torch.arange(2), staying=True)
    for _ in range(simulator.history + 1):
        simulator.step(favourites(simulator))
    slates = favourites(simulator)
    explained = explain(simulator, slates)
    assert {cause.kind for cause in explained.causes} == {"promotion", "text"}
    assert "11 slates were shown, and history is 10" in "\n".join(explained.notes)
    with pytest.raises(ValueError, match=r"kinds\[0\] is 'item', but purchases are told only"):
        explain(simulator, slates, kinds=["item"])


def test_each_promotion_moves_its_own_item_alone(folder: Path) -> None:
    simulator = opened(folder, examination=(1.0, 0.9, 0.8, 0.7, 0.6, 0.5))
    simulator.reset(torch.arange(3))
    slates = favourites(simulator)
    explained = explain(simulator, slates, kinds=["promotion", "position"])
    rounding = 2 * torch.finfo(torch.float32).eps
    for at, cause in enumerate(explained.causes):
        row = int(explained.rows[at])
        changed = (explained.without_probability[at] - explained.probability[row]).abs() > rounding
        if cause.kind == "promotion":
            assert changed.tolist() == (slates[row] == cause.key).tolist()
        else:
            ratio = explained.probability[row] / explained.without_probability[at]
            assert ratio.tolist() == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])

    # all of them together: a store that promotes nothing
    promotions = [
        (row, cause)
        for row, cause in zip(explained.rows.tolist(), explained.causes, strict=True)
        if cause.kind == "promotion"
    ]
    taken = [[cause for row, cause in promotions if row == shopper] for shopper in range(3)]
    assert [{cause.key for cause in some} for some in taken] == [set(s) for s in slates.tolist()]
    probability, _ = without(simulator, slates, taken)
    shopper = simulator.shopper
    assert isinstance(shopper, LearnedShopper)
    state = simulator.hidden
    state.row = torch.full_like(state.row, len(shopper.shop.promotions.placement) - 1)
    question = simulator.question(slates)
    response = shopper.respond(state, slates, torch.ones_like(question.shown), question.draws)
    assert torch.allclose(response.probability, probability, atol=1e-6)


def test_placements_read_as_a_person_says_them() -> None:
    code = torch.tensor(1 * 11 + 3)
    assert placement_in_words(code, COMPLETE_JOURNEY) == (
        "on display (store front) and in the mailer (front page feature)"
    )
    assert placement_in_words(torch.tensor(3), COMPLETE_JOURNEY) == (
        "in the mailer (front page feature)"
    )
    assert placement_in_words(torch.tensor(2 * 3), FACTS) == "on display (2)"


def test_households_on_whole_visits_are_explained() -> None:
    simulator = make_simulator("recsim_env/CompleteJourneyVisit-v0")
    observation = simulator.reset(torch.arange(16))
    for _ in range(2):
        observation = simulator.step(observation["candidates"][:, :10]).observation
    state, slates = simulator.hidden, observation["candidates"][:, :10].clone()
    slates[:, 0] = state.wanted[:, 0].where(state.wanted[:, 0] >= 0, slates[:, 0])
    explained = explain(simulator, slates)
    response = simulator.step(slates).response
    assert torch.equal(explained.clicks, response.clicks)
    assert {"item", "promotion", "text"} <= {cause.kind for cause in explained.causes}
