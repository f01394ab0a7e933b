"""Slates served from an index are those of the policy, or close to them; bad input is named."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

pytest.importorskip("faiss")

from agents.evaluate import evaluate
from agents.places.exploring import policy_inputs
from benchmarks.speed import latency
from benchmarks.speed.latency_report import EVERY, ORDER, PLAYED, SERVED, STEPS, quantile, report
from benchmarks.speed.scaled_market import Carried, Shop, enlarge
from policies.composer import Composer
from policies.features import principal
from policies.learnable.intents import ComposerPolicy, IntentActor
from policies.pool import Pooling
from policies.rankers.two_tower import TwoTower, TwoTowerConfig, TwoTowerRanker, tower_inputs
from policies.serving.recommender import Recommender, index_of
from policies.serving.retrieval import CategoryIndex, IndexConfig
from recsim_env.registration import make_simulator
from recsim_env.shoppers.market import MarketConfig
from recsim_env.types import Observation
from tests.support.policy_toys import made_up_ranker

ITEMS, GROUPS, WIDTH, SIZE = 600, 6, 8, 5
MARKET = MarketConfig(items=ITEMS, categories=GROUPS, width=WIDTH)
NO_DRAWS = torch.zeros(1, 0)
COMPARE_ALL = IndexConfig()


@lru_cache(maxsize=1)
def shop() -> Shop:
    """A market, a ranker with made-up weights, and an actor whose intents are not 0."""
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", config=MARKET, slate_size=SIZE)
    generator = torch.Generator().manual_seed(1)
    whole, by_category = tower_inputs(simulator.reset(torch.arange(2)))
    config = TwoTowerConfig(width=8, hidden=16, category_hidden=4)
    catalog = simulator.catalog
    model = TwoTower(
        principal(catalog.embedding, 32),
        catalog.category,
        whole.shape[1],
        by_category.shape[2],
        SIZE,
        config,
    ).requires_grad_(False)
    model.own.normal_(0, 0.2, generator=generator)
    model.bias.normal_(0, 0.3, generator=generator)
    _disturb(model.of_shopper, 0.3, generator)
    model.fatigue.copy_(
        torch.tensor([-0.4, 0.6])
    )  # shown lately: worth less; clicked lately: worth more
    ranker = TwoTowerRanker(model)
    built_from = policy_inputs(simulator, ranker)
    composer = Composer(built_from)
    width = composer.features(simulator.reset(torch.arange(2))).shape[1]
    actor = IntentActor(width, composer.intent_size, (8,), -0.7, generator).requires_grad_(False)
    _disturb(actor.tower, 0.5, generator)
    return Shop(simulator, built_from, ComposerPolicy(composer, actor))


def _disturb(tower: torch.nn.Sequential, deviation: float, generator: torch.Generator) -> None:
    last = tower[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.normal_(0, deviation, generator=generator)


@lru_cache(maxsize=8)
def recommender(config: IndexConfig = COMPARE_ALL, count: int = 24) -> Recommender:
    made = shop()
    return Recommender(made.inputs, made.policy, index_of(made.ranker, config), count=count)


@lru_cache(maxsize=1)
def visits() -> tuple[Observation, ...]:
    """Observations of 24 shoppers at eight visits under the policy; who left starts anew."""
    made = shop()
    seen = [made.simulator.reset(torch.arange(24))]
    for _ in range(7):
        outcome = made.simulator.advance(made.policy(seen[-1], NO_DRAWS))
        made.simulator.restart(outcome.ended.nonzero().squeeze(1))
        seen.append(made.simulator.observe())
    return tuple(
        {name: value for name, value in visit.items() if name != "candidates"} for visit in seen
    )


def queries(number: int = 40) -> Tensor:
    return torch.randn(number, 8, generator=torch.Generator().manual_seed(7))


def best_of_categories(query: Tensor, count: int) -> Tensor:
    """(B, G, count) by comparing everything."""
    model = shop().ranker.model
    scores = query @ model.items().T + model.bias
    of_group = [
        scores.masked_fill(model.category != group, -torch.inf).topk(count, dim=1).indices
        for group in range(GROUPS)
    ]
    return torch.stack(of_group, dim=1)


def recall(found: Tensor, true: Tensor) -> float:
    return float((true.unsqueeze(3) == found.unsqueeze(2)).any(dim=3).float().mean())


# --- the index ---


def test_an_exact_index_finds_what_comparing_everything_finds() -> None:
    assert torch.equal(
        index_of(shop().ranker).search(queries(), 7), best_of_categories(queries(), 7)
    )


def test_looking_into_every_cluster_is_exact() -> None:
    index = index_of(shop().ranker, IndexConfig(lists=10, probes=10))
    assert torch.equal(index.search(queries(), 7), best_of_categories(queries(), 7))


def test_some_clusters_hold_most_of_the_best() -> None:
    for probes, least in ((3, 0.85), (5, 0.95)):
        index = index_of(shop().ranker, IndexConfig(lists=10, probes=probes))
        assert recall(index.search(queries(), 7), best_of_categories(queries(), 7)) > least


def test_one_byte_a_number_finds_nearly_the_same() -> None:
    coarse, exact = index_of(shop().ranker, IndexConfig(int8=True)), index_of(shop().ranker)
    assert recall(coarse.search(queries(), 24), best_of_categories(queries(), 24)) > 0.95
    assert coarse.megabytes < exact.megabytes / 2


def test_a_category_gives_no_more_than_it_has() -> None:
    found = index_of(shop().ranker).search(queries(3), ITEMS // GROUPS + 2)
    assert found.shape == (3, GROUPS, ITEMS // GROUPS + 2)
    assert bool((found[:, :, -2:] == -1).all())
    assert torch.equal(found[0, :, :-2].flatten().sort().values, torch.arange(ITEMS))


def test_building_an_index_again_gives_the_same_answers() -> None:
    config = IndexConfig(lists=10, probes=2)
    first, again = index_of(shop().ranker, config), index_of(shop().ranker, config)
    assert torch.equal(first.search(queries(), 9), again.search(queries(), 9))


@pytest.mark.parametrize(
    ("distinct", "lists", "probes"), [(1, 4, 1), (1, 4, 2), (5, 8, 1), (5, 16, 1), (20, 40, 3)]
)
@pytest.mark.parametrize("int8", [False, True])
def test_items_are_found_where_vectors_are_fewer_than_clusters(
    distinct: int, lists: int, probes: int, int8: bool
) -> None:
    """Every vector occurs 20 times, in two categories, so that many items equal the best one."""
    generator = torch.Generator().manual_seed(distinct + lists)
    vectors = torch.randn(2 * distinct, 4, generator=generator).repeat(20, 1)
    category = (torch.arange(len(vectors)) // distinct) % 2
    index = CategoryIndex(
        vectors, torch.zeros(len(vectors)), category, IndexConfig(lists, probes, int8)
    )
    found = index.search(torch.randn(30, 4, generator=generator), 20)
    assert bool((found >= 0).all())
    assert torch.equal(category[found], torch.tensor([0, 1]).view(1, 2, 1).expand_as(found))
    assert bool((found.sort(dim=2).values.diff(dim=2) > 0).all())  # distinct


def test_four_equal_items_in_four_clusters() -> None:
    same = torch.zeros(4, dtype=torch.int64)
    index = CategoryIndex(torch.ones(4, 2), torch.zeros(4), same, IndexConfig(lists=4, probes=1))
    assert sorted(index.search(torch.ones(1, 2), 4).flatten().tolist()) == [0, 1, 2, 3]


# --- the slates ---


@pytest.mark.parametrize("count", [24, ITEMS // GROUPS])
def test_with_an_exact_index_the_slates_are_those_of_the_policy(count: int) -> None:
    for seen in visits():
        served = recommender(count=count).recommend(seen)
        assert (served.dtype, served.device.type) == (torch.int64, "cpu")
        assert torch.equal(served, shop().policy(seen, NO_DRAWS))


def test_the_pool_is_that_of_ranking_everything() -> None:
    for seen in visits():
        one, true = recommender().pool(seen), shop().policy.composer.pool(seen)
        assert torch.equal(one.items, true.items)
        torch.testing.assert_close(one.logits, true.logits)


def test_a_pool_among_a_few_is_the_pool_of_all() -> None:
    """Where there is nothing but the few, and where the pool does not ask for categories."""
    made, seen = shop(), visits()[-1]
    logits = made.ranker.logits(seen)
    every = torch.arange(ITEMS).expand(len(logits), -1)
    for per_category in (0, 4):
        pooling = Pooling(replace(made.inputs, per_category=per_category))
        few, whole = pooling.among(logits, every), pooling(logits, every)
        assert torch.equal(few.items, whole.items)
        assert torch.equal(few.logits, whole.logits)
    holes = Pooling(made.inputs).among(
        logits[:, :6], torch.tensor([[3, -1, 5, -1, 0, 1]]).expand(len(logits), -1)
    )
    assert holes.items[0].tolist() != []
    assert set(holes.items[0].tolist()) == {3, 5, 0, 1, -1}
    assert bool((holes.logits[holes.items < 0] == -torch.inf).all())


def test_without_an_index_it_is_the_policy() -> None:
    made, seen = shop(), visits()[3]
    assert torch.equal(
        Recommender(made.inputs, made.policy, None).recommend(seen), made.policy(seen, NO_DRAWS)
    )


@pytest.mark.parametrize("config", [IndexConfig(), IndexConfig(lists=10, probes=3, int8=True)])
def test_a_batch_is_its_shoppers_one_by_one(config: IndexConfig) -> None:
    for seen in (visits()[0], visits()[-1]):
        together = recommender(config).recommend(seen)
        alone = [
            recommender(config).recommend({k: v[row : row + 1] for k, v in seen.items()})
            for row in range(24)
        ]
        assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("config", [IndexConfig(), IndexConfig(lists=10, probes=1, int8=True)])
def test_slates_hold_distinct_items(config: IndexConfig) -> None:
    for seen in visits():
        slates = recommender(config).recommend(seen)
        assert slates.shape == (24, SIZE)
        assert bool(((slates >= 0) & (slates < ITEMS)).all())
        assert all(len(set(slate)) == SIZE for slate in slates.tolist())


@lru_cache(maxsize=4)
def alike_shop(groups: int) -> Shop:
    """A shop in which items of a category have one vector: all clusters but one are empty."""
    config = replace(MARKET, items=60, categories=groups, favourites=min(groups, MARKET.favourites))
    simulator = make_simulator("recsim_env/Market-v0", device="cpu", config=config, slate_size=SIZE)
    old, catalog = shop().ranker.model, simulator.catalog
    whole, by_category = tower_inputs(simulator.reset(torch.arange(2)))
    first = torch.stack([(catalog.category == group).nonzero()[0, 0] for group in range(groups)])
    vectors = principal(catalog.embedding, 32)[first][catalog.category]
    model = TwoTower(
        vectors, catalog.category, whole.shape[1], by_category.shape[2], SIZE, old.config
    )
    ranker = TwoTowerRanker(model.requires_grad_(False))
    built_from = policy_inputs(simulator, ranker)
    composer = Composer(built_from)
    width = composer.features(simulator.reset(torch.arange(2))).shape[1]
    actor = IntentActor(width, composer.intent_size, (8,), -0.7, torch.Generator().manual_seed(0))
    return Shop(simulator, built_from, ComposerPolicy(composer, actor.requires_grad_(False)))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    "config", [IndexConfig(4, 1), IndexConfig(8, 1, int8=True), IndexConfig(15, 15)]
)
@pytest.mark.parametrize("count", [4, 24])
def test_slates_hold_distinct_items_where_all_of_a_category_are_alike(
    groups: int, config: IndexConfig, count: int
) -> None:
    made = alike_shop(groups)
    seen = made.simulator.reset(torch.arange(7))
    served = Recommender(made.inputs, made.policy, index_of(made.ranker, config), count=count)
    for _ in range(3):
        slates = served.recommend(seen)
        assert all(len(set(slate)) == SIZE for slate in slates.tolist())
        made.simulator.advance(slates)
        seen = made.simulator.observe()


def test_a_shopper_for_whom_the_clusters_hold_too_few_is_served_from_all_of_them() -> None:
    """With clusters of about one item the slate is that of all items, in a batch as alone."""
    made = alike_shop(1)
    model = made.ranker.model
    generator = torch.Generator().manual_seed(4)
    model.bias.normal_(0, 1.0, generator=generator)  # no two items are equally good
    ranker = TwoTowerRanker(model)
    index = index_of(ranker, IndexConfig(lists=50, probes=1))
    served = Recommender(replace(made.inputs, ranker=ranker), made.policy, index, count=24)
    seen = made.simulator.reset(torch.arange(12))
    slates = served.recommend(seen)
    assert all(len(set(slate)) == SIZE for slate in slates.tolist())
    alone = [
        served.recommend({name: value[row : row + 1] for name, value in seen.items()})
        for row in range(12)
    ]
    assert torch.equal(slates, torch.cat(alone))
    alike_shop.cache_clear()


def test_approximate_slates_hold_mostly_the_same_items() -> None:
    config = IndexConfig(lists=10, probes=4, int8=True)
    shares = [
        float(torch.isin(true, served).float().mean())
        for seen in visits()
        for true, served in zip(
            shop().policy(seen, NO_DRAWS), recommender(config).recommend(seen), strict=True
        )
    ]
    assert sum(shares) / len(shares) > 0.85


def test_asking_again_gives_the_same_and_changes_nothing() -> None:
    seen = visits()[-1]
    kept = {name: value.clone() for name, value in seen.items()}
    first = recommender().recommend(seen)
    assert torch.equal(first, recommender().recommend(seen))
    assert all(torch.equal(kept[name], seen[name]) for name in seen)


def test_no_global_generator_moves() -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    made = shop()
    index = index_of(made.ranker, IndexConfig(lists=4, probes=2, int8=True))
    Recommender(made.inputs, made.policy, index).recommend(visits()[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]  # noqa: NPY002


def test_as_a_policy_it_plays_the_same_episodes() -> None:
    made, seeds = shop(), torch.arange(500, 508)
    served = evaluate(recommender(), made.simulator, seeds).rows
    assert served.equals(evaluate(made.policy, made.simulator, seeds).rows)
    assert served["invalid_items"].sum() == 0


# --- what is refused ---


def wrong(name: str, value: object) -> Observation:
    return {**visits()[2], name: value}  # type: ignore[dict-item]


def test_what_is_wrong_with_an_observation_is_said() -> None:
    seen, served = visits()[2], recommender()
    with pytest.raises(
        ValueError, match=r"^observation has the keys \['category_.*\], but it must have 'taste'"
    ):
        served.recommend({name: value for name, value in seen.items() if name != "taste"})
    with pytest.raises(
        TypeError, match=r"^observation\['visits'\] is \[1.0\], but it must be a float32 tensor of"
    ):
        served.recommend(wrong("visits", [1.0]))
    with pytest.raises(
        TypeError,
        match=r"^observation\['visits'\] is a float64 tensor of .*, but it must be a float32",
    ):
        served.recommend(wrong("visits", seen["visits"].double()))
    with pytest.raises(
        ValueError,
        match=r"^observation\['visits'\] is .* shape \(23, 1\), but it must be of 24 shoppers",
    ):
        served.recommend(wrong("visits", seen["visits"][1:]))
    with pytest.raises(
        ValueError, match=r"shape \(10, 5\), but it must be .* of shape \(\w+, 10, 5\)"
    ):
        served.recommend(wrong("recent_slates", seen["recent_slates"][0]))
    with pytest.raises(
        ValueError,
        match=r"^observation\['recent_slates'\] holds 600, but it must be from -1 to 599\.",
    ):
        served.recommend(
            wrong(
                "recent_slates", seen["recent_slates"].masked_fill(seen["recent_slates"] < 0, 600)
            )
        )
    for name in ("declared", "recent_days"):
        for number in (torch.nan, torch.inf):
            with pytest.raises(
                ValueError,
                match=rf"^observation\['{name}'\] holds a number that is not finite, but",
            ):
                served.recommend(wrong(name, torch.full_like(seen[name], number)))


def test_a_shopper_without_candidates_is_named() -> None:
    seen, served = visits()[2], recommender()
    candidates = torch.arange(ITEMS).repeat(24, 1)
    candidates[3] = -1
    with pytest.raises(ValueError, match=r"candidates'\] holds nothing but -1 in row 3, but there"):
        served.recommend({**seen, "candidates": candidates})


def test_candidates_are_all_items_or_left_out() -> None:
    seen, served = visits()[2], recommender()
    every = torch.arange(ITEMS).expand(24, -1)
    assert torch.equal(served.recommend({**seen, "candidates": every}), served.recommend(seen))
    with pytest.raises(
        ValueError,
        match=r"^observation\['candidates'\] has the shape \(24, 599\) and is not the cata",
    ):
        served.recommend({**seen, "candidates": every[:, 1:]})
    with pytest.raises(
        ValueError,
        match=r"^observation\['candidates'\] has the shape \(24, 600\) and is not the cata",
    ):
        served.recommend(
            {**seen, "candidates": every.clone().index_fill_(1, torch.tensor([599]), -1)}
        )


def test_any_ranker_serves_without_an_index() -> None:
    """The slates are the policy's own, and candidates may be some of the items."""
    made, seen = shop(), visits()[2]
    ranker = made_up_ranker(ITEMS)
    inputs = replace(made.inputs, ranker=ranker)
    policy = ComposerPolicy(Composer(inputs, made.policy.composer.config), made.policy.actor)
    served = Recommender(inputs, policy, None)
    every = torch.arange(ITEMS).expand(24, -1)
    few = every.clone().index_fill_(1, torch.arange(ITEMS // 2, ITEMS), -1)
    for candidates in (every, few):
        visit = {**seen, "candidates": candidates}
        slates = served.recommend(visit)
        assert torch.equal(slates, policy(visit, torch.zeros(24, 0)))
    assert bool((slates < ITEMS // 2).all())
    assert served.megabytes == 0


def test_parts_that_do_not_fit_are_refused() -> None:
    made, index = shop(), index_of(shop().ranker)
    with pytest.raises(
        TypeError, match=r"^built_from.ranker is TableRanker, but an index needs a TwoTowerRanker"
    ):
        Recommender(replace(made.inputs, ranker=made_up_ranker(ITEMS)), made.policy, index)
    sampling = ComposerPolicy(made.policy.composer, made.policy.actor, deterministic=False)
    with pytest.raises(
        ValueError, match=r"^policy takes \d+ draws, but serving needs a deterministic one"
    ):
        Recommender(made.inputs, sampling, index)
    small = CategoryIndex(torch.ones(5, 2), torch.zeros(5), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^index holds 5 items, but the catalogue has 600"):
        Recommender(made.inputs, made.policy, small)
    for count in (3, 4.0, True):
        with pytest.raises(
            ValueError, match=rf"^count is {count!r}, but it must be a whole number of 4 or more"
        ):
            Recommender(made.inputs, made.policy, index, count=count)  # type: ignore[arg-type]


def test_an_index_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^lists is 0, but it must be a whole number from 1"):
        IndexConfig(lists=0)
    with pytest.raises(
        ValueError, match=r"^probes is 3, but it must be a whole number from 1 to 2"
    ):
        IndexConfig(lists=2, probes=3)
    with pytest.raises(ValueError, match=r"^int8 is 'no', but it must be True or False"):
        IndexConfig(int8="no")  # type: ignore[arg-type]
    two = torch.tensor([0, 0, 1])
    with pytest.raises(ValueError, match=r"^lists is 2, but category 1 has 1 items"):
        CategoryIndex(torch.ones(3, 2), torch.zeros(3), two, IndexConfig(lists=2))
    with pytest.raises(
        ValueError, match=r"^bias is a float32 tensor of shape \(2,\), but it must be .*\(3\)"
    ):
        CategoryIndex(torch.ones(3, 2), torch.zeros(2), two)
    with pytest.raises(
        ValueError, match=r"^category is a int64 tensor of shape \(2,\), but it must be .*\(3\)"
    ):
        CategoryIndex(torch.ones(3, 2), torch.zeros(3), two[:2])
    with pytest.raises(
        ValueError, match=r"^category holds -1, but a category is a number of 0 or more"
    ):
        CategoryIndex(torch.ones(3, 2), torch.zeros(3), two - 1)
    with pytest.raises(
        ValueError, match=r"^bias holds inf at \[1\], but every number must be finite"
    ):
        CategoryIndex(torch.ones(3, 2), torch.tensor([0.0, torch.inf, 0.0]), two)
    with pytest.raises(
        ValueError,
        match=r"^vectors is a float32 tensor of shape \(0, 2\), but it must be of one item",
    ):
        CategoryIndex(torch.ones(0, 2), torch.zeros(0), two[:0])
    index = CategoryIndex(torch.ones(3, 2), torch.zeros(3), two)
    with pytest.raises(ValueError, match=r"^count is 0, but it must be a whole number from 1 "):
        index.search(torch.ones(1, 2), 0)
    with pytest.raises(
        ValueError, match=r"^query is a float32 tensor of shape \(1, 3\), but it must be .*\(B, 2\)"
    ):
        index.search(torch.ones(1, 3), 1)


# --- the catalogue blown up ---


def test_a_blown_up_market_keeps_the_items_it_had_and_what_is_known_of_embeddings() -> None:
    made = shop()
    large = enlarge(made.simulator, made.policy, made.ranker, 2 * ITEMS)
    assert len(large.simulator.catalog) == 2 * ITEMS
    torch.testing.assert_close(
        large.simulator.catalog.embedding[:ITEMS], made.simulator.catalog.embedding
    )
    torch.testing.assert_close(
        large.ranker.model.vectors[:ITEMS], made.ranker.model.vectors, rtol=0, atol=1e-4
    )
    old, new = made.policy.composer, large.policy.composer
    torch.testing.assert_close(new.summary.vectors[:ITEMS], old.summary.vectors, rtol=0, atol=1e-4)
    torch.testing.assert_close(new.offset_vectors[:ITEMS], old.offset_vectors, rtol=0, atol=1e-4)
    assert bool((large.ranker.model.own == 0).all())
    assert large.ranker.model.bias.unique().tolist() == pytest.approx(
        [float(made.ranker.model.bias.mean())]
    )
    assert torch.equal(large.ranker.model.fatigue, made.ranker.model.fatigue)


def test_what_cannot_be_carried_over_is_refused() -> None:
    made = shop()
    with pytest.raises(ValueError, match=r"^items is 599, but the market has 600 already"):
        enlarge(made.simulator, made.policy, made.ranker, ITEMS - 1)
    with pytest.raises(ValueError, match=r"^values are not affine in the embeddings"):
        Carried(made.simulator.catalog, made.simulator.catalog)(made.ranker.model.own)


# --- the benchmark ---


def test_there_are_as_many_clusters_as_items_in_each() -> None:
    found = latency.ways(2_000, 20, 0.25)
    assert tuple(found) == ORDER
    assert found[EVERY] is None
    assert found[SERVED] == IndexConfig(int8=True)
    assert found[ORDER[4]] == IndexConfig(lists=10, probes=2, int8=True)


def small_market() -> latency.Small:
    made = shop()
    return latency.Small(made.simulator, made.ranker, made.policy)


def small_config(folder: Path) -> latency.Config:
    return latency.Config(
        items=(2 * ITEMS,),
        episodes=(3,),
        requests=40,
        looked_at=5,
        batch=4,
        batches=2,
        work=folder / "work",
        results=folder,
    )


def test_what_is_measured(tmp_path: Path) -> None:
    size = latency.Size(small_config(tmp_path), small_market(), 2 * ITEMS, 3)
    numbers = {"request": 40, "batch": 2, **dict.fromkeys(STEPS, 5)}
    for way in ORDER:
        rows = latency.measure(size, way)
        played = {"episode": 3} if way in PLAYED else {}
        assert dict(rows.group_by("what").len().iter_rows()) == numbers | played
        exact = way in (EVERY, *ORDER[1:3])
        assert (rows["pool"].drop_nulls().to_list() == [1.0] * 5) == exact
        assert rows["index_mb"].unique().to_list() == [size.recommender(way).megabytes]
        if played and exact:
            seen = rows.filter(pl.col("what") == "episode")
            true = evaluate(
                size.shop.policy,
                size.shop.simulator,
                torch.from_numpy(seen["number"].to_numpy().copy()),
            )
            assert seen["return"].to_list() == true.rows["return"].to_list()


def test_requests_are_visits_of_the_market(tmp_path: Path) -> None:
    """Requests come from two shoppers in turn, newcomers first, 32 visits each; nobody leaves."""
    size = latency.Size(small_config(tmp_path), small_market(), 2 * ITEMS, 3)
    visits = [int(request["visits"]) for request in size.requests]
    assert (len(visits), visits[:2]) == (40, [0, 0])
    assert all(late in (0, early + 1) for early, late in zip(visits, visits[2:], strict=False))


def test_what_was_measured_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "small_market", lambda config: small_market())
    latency.main(small_config(tmp_path))
    first = (tmp_path / "latency" / "rows.csv").read_text()
    monkeypatch.setattr(latency, "measure", lambda size, way: pytest.fail("measured again"))
    latency.main(small_config(tmp_path))
    assert (tmp_path / "latency" / "rows.csv").read_text() == first
    with pytest.raises(
        ValueError,
        match=r"config.json differs in \['count'\]: give the same settings, name another",
    ):
        latency.main(replace(small_config(tmp_path), count=30))


def test_each_size_has_its_episodes() -> None:
    with pytest.raises(ValueError, match=r"^episodes has 3 numbers, but items has 1: one a size"):
        latency.Config(items=(1_000,))


def made_up_rows() -> pl.DataFrame:
    """Ranking all items takes 1 .. 100 ms and earns 10 and 30; serving halves it, for 9 and 29."""
    rows: list[dict[str, object]] = []
    for way, pace, lost in ((EVERY, 1.0, 0.0), (SERVED, 0.5, 1.0)):
        common = dict.fromkeys(latency.ROW) | {
            "items": 100_000,
            "way": way,
            "index_mb": 2.0,
            "load": 1.0,
            "size": 1,
        }
        for number in range(100):
            took = pace * (number + 1)
            rows.append(
                {**common, "what": "request", "number": number, "wall_ms": 2 * took, "cpu_ms": took}
            )
        for step in STEPS:
            found = {"pool": 1.0 - lost / 4, "slate": 1.0} if step == "retrieval" else {}
            rows.append(
                {**common, "what": step, "number": 0, "wall_ms": 2.0, "cpu_ms": pace, **found}
            )
        rows.append(
            {**common, "what": "batch", "number": 0, "size": 64, "wall_ms": 64.0, "cpu_ms": 32.0}
        )
        for seed, earned in ((1, 10.0), (2, 30.0)):
            rows.append({**common, "what": "episode", "number": seed, "return": earned - lost})
    return pl.DataFrame(rows, schema=latency.ROW)


def test_the_report_says_what_the_rows_say() -> None:
    found = report(made_up_rows())
    assert found.summary["p99_ms_100k"].value == pytest.approx(99.01)
    assert found.summary["p99_cpu_ms_100k"].value == pytest.approx(99.01 / 2)
    assert found.summary[f"p99_ms_100k/{EVERY}"].value == pytest.approx(2 * 99.01)
    lost = found.summary["return_lost_100k"]
    assert (lost.value, lost.low, lost.high, lost.n) == pytest.approx((1 / 20, 1 / 20, 1 / 20, 2))
    assert found.summary["pool_recall_100k"].value == 0.75
    assert f"return_lost_100k/{EVERY}" not in found.summary
    lines = found.table.splitlines()
    assert lines[2].startswith(f"| 100,000 | {EVERY} |")
    assert lines[3].startswith(f"| 100,000 | {SERVED} |")
    assert "| 1.0 + 1.0 + 1.0 |" in lines[2]
    assert "| 2,000 |" in lines[3]  # 64 at once in 32 ms
    assert lines[2].endswith("| 100.0 | 100.0 | – |")
    assert lines[3].endswith("| 75.0 | 100.0 | 5.0 |")


def test_a_quantile_lies_in_its_interval() -> None:
    found = quantile(pl.Series(range(1000)).cast(pl.Float64), 0.99)
    assert found.value == pytest.approx(0.99 * 999)
    assert (found.low, found.high) == (984, 996)  # 990 -+ 1.96 sqrt(1000 0.99 0.01)
